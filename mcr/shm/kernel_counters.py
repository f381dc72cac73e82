"""What the kernel path counts: eBPF maps in the layout of a worker's counters. They outlive mcrd, as a segment does."""

import mmap
import os
from contextlib import ExitStack
from operator import add
from typing import Any, Final, Self

import attrs

from mcr._native import ffi, lib
from mcr.errors import check_result
from mcr.model.numbers import values_of
from mcr.model.stats import ParseErrors
from mcr.process.descriptor_store import DescriptorStore
from mcr.shm.segment import Counters, CountsRules, Totals

_PREFIX: Final = "kernel."
_MAPS: Final = ("taken", "rules", "outputs")  # of struct mcr_bpf_counters; so are they called in the store
_HANDS: Final = ("hand", "gates")  # of struct mcr_bpf_path, likewise: they tell what is lost, and nobody has counted
_NEVER = 0xFFFF_FFFF  # an epoch that no gate has


@attrs.frozen
class Taken:
    """What the kernel path has done, in datagrams (bytes: payload bytes).

    Attributes:
        matched: forwarded to all outputs of their rules.
        checksum: the UDP checksum was wrong.
        lost: another program at the interface's ingress took them first.
        sent, errors, bytes: over all outputs.
    """

    matched: int = 0
    checksum: int = 0
    lost: int = 0
    sent: int = 0
    errors: int = 0
    bytes: int = 0

    def __add__(self, other: "Taken") -> "Taken":
        return Taken(*map(add, _taken(self), _taken(other)))

    @property
    def received(self) -> int:
        """All that it has looked at."""
        return self.matched + self.checksum

    @property
    def totals(self) -> Totals:
        """The same, as a worker counts."""
        return Totals(
            recv=self.received,
            matched=self.matched,
            parse_err=self.checksum,
            no_match=0,
            buf_exhaust=0,
            submitted=self.sent + self.errors,
            sent=self.sent,
            errors=self.errors,
            in_doubt=0,
            bytes=self.bytes,
            log_dropped=0,
        )

    @property
    def parse_errors(self) -> ParseErrors:
        """The parts of `parse_err`."""
        return ParseErrors(checksum=self.checksum)


_taken = values_of(Taken)


class KernelCounters(CountsRules):
    """All of them. A context manager: leaving it closes the maps, which go with the last who has them.

    Attributes:
        maps: cffi pointer to ``struct mcr_bpf_counters``.
    """

    def __init__(self, maps: Any, store: DescriptorStore) -> None:
        """Own the maps, which are left in the store."""
        self.maps = maps
        self._store = store
        self._path: Any = ffi.NULL
        self._former: Any = ffi.NULL  # what the filters of another mcrd hand over by
        self._strays = _no_strays()
        self._rules = map_values(maps.rules, "struct mcr_rule_counters", lib.MCR_MAX_RULES)
        self._outputs = map_values(maps.outputs, "struct mcr_output_counters", lib.MCR_MAX_OUTPUTS)

    @classmethod
    def make(cls, store: DescriptorStore) -> Self:
        """Make the maps, and leave them to the next mcrd.

        Raises:
            OSError: this process may not, or this kernel can't.
        """
        store.close_inherited(_PREFIX)
        maps = ffi.new("struct mcr_bpf_counters *")
        check_result(lib.mcr_bpf_counters_open(maps))
        return cls._left(maps, store)

    @classmethod
    def adopt(cls, store: DescriptorStore) -> Self | None:
        """Go on with those that another mcrd has left; None: it has left none.

        Raises:
            ValueError: what it has left is something else.
        """
        if not store.inherited(_PREFIX):
            return None
        maps = ffi.new("struct mcr_bpf_counters *", (-1, -1, -1))
        with ExitStack() as undo:
            for name in _MAPS:
                fd = store.take(_PREFIX + name)
                if fd is None:
                    raise ValueError(f"the kernel path's counters of {name} are missing")
                undo.callback(store.refuse, _PREFIX + name, fd)
                setattr(maps, name, fd)
            if lib.mcr_bpf_counters_check(maps):
                raise ValueError("the kernel path's counters have another layout")
            undo.pop_all()
        counters = cls._left(maps, store)
        counters.look_back()
        return counters

    @classmethod
    def _left(cls, maps: Any, store: DescriptorStore) -> Self:
        try:
            counters = cls(maps, store)
        except OSError:
            lib.mcr_bpf_counters_close(maps)
            raise
        for name in _MAPS:
            store.put(_PREFIX + name, getattr(maps, name))
        return counters

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._rules, self._outputs = None, None  # the mappings go with them
        for fd in self._former_hands().values():  # what they tell is left to the next mcrd
            os.close(fd)
        self._former = ffi.NULL
        lib.mcr_bpf_counters_close(self.maps)

    @property
    def rule_counters(self) -> Any:
        """``struct mcr_rule_counters *``."""
        return self._rules

    def start_rule(self, slot: int, tag: int) -> None:
        """Count for another rule in this slot, from zero; on for one that has it."""
        if self._rules[slot].tag != tag:
            self._rules[slot].matched = 0
            self._rules[slot].tag = tag

    def start_output(self, slot: int, tag: int) -> None:
        """Count for another output in this slot, from zero; on for one that has it."""
        if self._outputs[slot].tag != tag:
            ffi.memmove(self._outputs + slot, bytes(_OUTPUT_BYTES), _OUTPUT_BYTES)
            self._outputs[slot].tag = tag

    def start_capture(self, capture: int) -> None:
        """Count for another capture in this slot, from zero."""
        if self._former:
            gates = map_values(self._former.gates, "struct mcr_bpf_gate", lib.MCR_MAX_INTERFACES)
            gates[capture].first = _NEVER
        check_result(lib.mcr_bpf_counters_start(self.maps, capture))

    def read(self, rules: int = 0, outputs: int = 0) -> Counters:
        """Copy the counters of the first so many rule and output slots."""
        return Counters(self._rules, self._outputs, rules, outputs)

    def watch(self, path: Any) -> None:
        """Look also at what this kernel path's filters hand over (``struct mcr_bpf_path *``); NULL: at nothing more."""
        self._path = path
        self._leave_hands()

    def look(self) -> None:
        """Find what is lost though no packet has followed on its processor: known half a second after a look."""
        if path := self._former or self._path:
            check_result(lib.mcr_bpf_path_look(path, self._strays))

    def look_at_last(self, capture: int) -> None:
        """Count at once what a capture has lost that closes, if it seems to have: it takes some milliseconds."""
        if any(each.since and each.capture == capture for each in self._strays):
            lib.mcr_bpf_path_look_back(self._former or self._path, self._strays)

    def settle(self) -> None:
        """The filters of another mcrd run no more, and deal with no packet: count for good what they have lost.

        Without memory for that it is not counted.
        """
        if self._former:
            lib.mcr_bpf_path_settle(self._former)
            self._strays = _no_strays()
            self._forget_former()
            self._leave_hands()

    def look_back(self) -> None:
        """Count at once what the filters of another mcrd have lost: no reading may give less than that one's last."""
        former = ffi.new("struct mcr_bpf_path *", {"counters": self.maps[0], "hand": -1, "gates": -1})
        for name in _HANDS:
            if (fd := self._store.take(_PREFIX + name)) is not None:
                setattr(former, name, fd)
        self._former = former
        if lib.mcr_bpf_path_check(former):
            self._forget_former()
        else:
            for name, fd in self._former_hands().items():
                self._store.put(name, fd)  # to the next mcrd, if this one ends before it has settled
            lib.mcr_bpf_path_look_back(former, self._strays)

    def _forget_former(self) -> None:
        for name, fd in self._former_hands().items():
            self._store.refuse(name, fd)
        self._former = ffi.NULL

    def _former_hands(self) -> dict[str, int]:
        """Descriptors, by their names in the store."""
        if not self._former:
            return {}
        fds = {_PREFIX + name: getattr(self._former, name) for name in _HANDS}
        return {name: fd for name, fd in fds.items() if fd >= 0}

    def _leave_hands(self) -> None:
        """To the next mcrd, unless it has to know first what another one's filters have lost."""
        for name in _HANDS if self._path and not self._former else ():
            self._store.put(_PREFIX + name, getattr(self._path, name))

    def taken(self, capture: int) -> Taken:
        """What was done with a capture's datagrams so far."""
        found = ffi.new("struct mcr_bpf_taken *")
        check_result(lib.mcr_bpf_counters_taken(self.maps, capture, self._strays, found))
        return Taken(found.matched, found.checksum, found.lost, found.sent, found.errors, found.bytes)


_OUTPUT_BYTES: Final = ffi.sizeof("struct mcr_output_counters")


def _no_strays() -> Any:
    """``struct mcr_bpf_stray[]``, by processor."""
    return ffi.new("struct mcr_bpf_stray[]", lib.MCR_BPF_MAX_CPUS)


def map_values(fd: int, ctype: str, count: int) -> Any:
    """A map's values in memory; they stay there as long as what is returned."""
    page = mmap.PAGESIZE
    size = -(-ffi.sizeof(ctype) * count // page) * page
    return ffi.from_buffer(f"{ctype}[{count}]", mmap.mmap(fd, size))
