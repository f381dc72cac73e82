"""A worker's shared memory, from the supervisor's side.

The memory is a sealed memfd: it has no name, so nothing of a killed daemon is left to clean up, and nobody can
shrink it under a reader. Layout and sizes are the compiler's (``native/shm_abi.h``); none is typed here.
"""

import fcntl
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter, sub
from typing import Any, Self

import attrs

from mcr._native import ffi, lib
from mcr.model.numbers import values_of
from mcr.model.stats import ParseErrors

ENGINES = {lib.MCR_ENGINE_URING: "io_uring", lib.MCR_ENGINE_POLL: "poll"}
"""How a worker enters the kernel, by its number in the segment's header."""

_STEPS = {
    lib.MCR_STEP_START: "start",
    lib.MCR_STEP_PRIVILEGES: "give up its privileges",
    lib.MCR_STEP_ENGINE: "set up an engine",
    lib.MCR_STEP_RUN: "run",
}

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@attrs.frozen
class Totals:
    """A worker's counters, in packets (bytes: payload bytes). Summed over all workers that have held the segment."""

    recv: int
    matched: int
    parse_err: int
    no_match: int
    buf_exhaust: int
    submitted: int
    sent: int
    errors: int
    in_doubt: int
    bytes: int
    log_dropped: int

    @classmethod
    def sum(cls, parts: Iterable["Totals"]) -> "Totals":
        """Add up, field by field."""
        return cls(*(sum(column) for column in zip(*map(_totals, parts), strict=True)))


_totals = values_of(Totals)


@attrs.frozen
class OutputCounters:
    """One output's counters. `last_error` is when << 16 | errno, the higher the newer; 0 if no send failed."""

    submitted: int
    sent: int
    errors: int
    in_doubt: int
    bytes: int
    last_error: int


class CountsRules(ABC):
    """Memory with counters of rules, whoever writes them."""

    @property
    @abstractmethod
    def rule_counters(self) -> Any:
        """``struct mcr_rule_counters *``."""

    def rule_matched(self, slot: int, tag: int) -> int:
        """Packets that one rule matched; 0 while its slot does not bear its tag."""
        counters = self.rule_counters[slot]
        return int(counters.matched) if counters.tag == tag else 0

    def rules_matched(self, slots: int) -> int:
        """Packets that the rules in so many slots matched, and those before them there: worth a difference, no more."""
        return sum(_words(self.rule_counters, slots * _RULE.words)[_RULE.fields[0] :: _RULE.words])


class Segment(CountsRules):
    """One worker's segment, created and owned by the supervisor. Use as a context manager.

    Attributes:
        fd: the memfd, to be handed to the worker.
        shared: cffi pointer to ``struct mcr_segment``; invalid after `close`.
    """

    def __init__(
        self, worker_id: int, hold_us: int = 0, batch: int = 32, *, workers: int = 1, inherited: int | None = None
    ) -> None:
        """Make one; or go on with one that another mcrd has left, whose worker may still run.

        Raises:
            ValueError: `inherited` is none of this layout; it stays the caller's.
        """
        size = ffi.sizeof("struct mcr_segment")
        self.fd = _make(worker_id, size) if inherited is None else _checked(inherited, size)
        self._memory = mmap.mmap(self.fd, size)
        self.shared: Any = ffi.from_buffer("struct mcr_segment *", self._memory)
        self._worker_id = worker_id
        self._workers = workers
        self._hold_us = hold_us
        self._batch = batch
        if inherited is None:
            self.write_header()
            return
        header = self.shared.header
        if (header.version, header.length, header.worker_id) != (lib.MCR_ABI_VERSION, size, worker_id):
            found = header.version
            ffi.release(self.shared)
            self._memory.close()
            raise ValueError(f"shared memory has layout {found}, this mcrd has {lib.MCR_ABI_VERSION}")

    def write_header(self) -> None:
        """Write the fields that a worker checks first. Before each start: the last worker may have overwritten them."""
        header = self.shared.header
        header.length = ffi.sizeof("struct mcr_segment")
        header.worker_id = self._worker_id
        header.workers = self._workers
        header.hold_ns = 1000 * self._hold_us
        header.batch = self._batch
        header.step = lib.MCR_STEP_START
        header.version = lib.MCR_ABI_VERSION

    def close(self) -> None:
        """Unmap and release. The worker's own mapping stays valid."""
        ffi.release(self.shared)  # before the mapping goes, or mmap refuses to close
        self._memory.close()
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def captured(self, capture: int) -> tuple[int, int]:
        """Frames the worker has taken from a capture ring, and datagrams in them."""
        counters = self.shared.captures[capture]
        return counters.cursor, counters.recv

    def held_fragments(self, capture: int) -> int:
        """Frames of them that wait for other fragments, and are not counted as datagrams yet."""
        return int(self.shared.captures[capture].fragments)

    def capture_fates(self, capture: int) -> tuple[int, int, int]:
        """Of the datagrams of a capture ring: matched, no_match and buf_exhaust."""
        counters = self.shared.captures[capture]
        return counters.matched, counters.no_match, counters.buf_exhaust

    def capture_errors(self, capture: int) -> ParseErrors:
        """Why datagrams of a capture ring were not relayed."""
        return ParseErrors(*self.shared.captures[capture].causes)

    @property
    def rule_counters(self) -> Any:
        """``struct mcr_rule_counters *``."""
        return self.shared.rules

    def refused(self, place: int) -> int:
        """Datagrams of the refused flows that had this place; of a batch that a worker died over, twice."""
        return int(self.shared.refused[place])

    @property
    def heard(self) -> int:
        """Bytes of commands that the worker has ever read."""
        return int(self.shared.rule_ring.head)

    @property
    def engine(self) -> str | None:
        """What the worker runs on; None before the first has started."""
        return ENGINES.get(self.shared.header.engine)

    @property
    def step(self) -> str:
        """How far the last worker came, in words. It may have written anything there."""
        return _STEPS.get(self.shared.header.step, "an unknown step")

    def settle(self, capture: int) -> None:
        """Finish a dead worker's batch of a capture that no successor will get. Only while no worker reads it."""
        lib.mcr_journal_settle(self.shared, capture)

    def start_capture(self, capture: int) -> None:
        """Start a new ring's count at zero. Only while no worker holds the slot.

        A worker of another mcrd may have died over a batch of the ring before it.
        """
        self.settle(capture)
        size = ffi.sizeof("struct mcr_capture_counters")
        ffi.memmove(self.shared.captures + capture, bytes(size), size)

    def read(self, rules: int = 0, outputs: int = 0) -> "WorkerCounters":
        """Copy the worker's counters: totals, and those of the first so many rule and output slots."""
        return WorkerCounters(self.shared, rules, outputs)


def _make(worker_id: int, size: int) -> int:
    fd = os.memfd_create(f"mcr-worker-{worker_id}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def _checked(fd: int, size: int) -> int:
    """A descriptor of memory that nobody can shrink, of this size."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise ValueError("shared memory is something else") from None
    if seals & _SEALS != _SEALS or os.fstat(fd).st_size != size:
        raise ValueError("shared memory has another size")
    return fd


class Counters:
    """A copy of the counters of rules and outputs, all read within microseconds of each other.

    Each value is whole; they add up exactly when traffic rests.
    """

    def __init__(self, rules: Any, outputs: Any, rule_count: int, output_count: int) -> None:
        # Copied as a whole, and made into numbers only where they are asked for: most readings are for later rates.
        self.rule_words = _words(rules, rule_count * _RULE.words)
        self._outputs = _words(outputs, output_count * _OUTPUT.words)

    def rule_matched(self, slot: int, tag: int) -> int:
        """Packets a rule matched; 0 while the slot does not bear its tag yet."""
        (matched,) = _fields(self.rule_words, _RULE, slot, tag)
        return matched

    def rules_grown(self, before: "Counters", least: float) -> set[int]:
        """Slots whose rules have matched so many more packets since then, or more; whoever has them."""
        if self.rule_words.obj == before.rule_words.obj:
            return set()
        now, past = (each.rule_words[_RULE.fields[0] :: _RULE.words].tolist() for each in (self, before))
        past += [0] * (len(now) - len(past))
        return {slot for slot, grown in enumerate(map(sub, now, past)) if grown >= least}

    def output(self, slot: int, tag: int) -> OutputCounters:
        """An output's counters; zeros while the slot does not bear its rule's tag yet."""
        return OutputCounters(*_fields(self._outputs, _OUTPUT, slot, tag))

    def of_rules(self, cells: "Cells") -> Iterator[tuple[int, ...]]:
        """The counters of many rules at once, field by field; as in `rule_matched`."""
        return _columns(self.rule_words, cells)

    def of_outputs(self, cells: "Cells") -> Iterator[tuple[int, ...]]:
        """The counters of many outputs at once, field by field; as in `output`."""
        return _columns(self._outputs, cells)


class WorkerCounters(Counters):
    """One worker's, with its totals."""

    def __init__(self, shared: Any, rules: int, outputs: int) -> None:
        super().__init__(shared.rules, shared.outputs, rules, outputs)
        totals = shared.totals
        self.totals = Totals(*(getattr(totals, field.name) for field in attrs.fields(Totals)))
        self.parse_errors = ParseErrors(*totals.causes)


@attrs.frozen
class _Layout:
    """Where a structure of 64-bit words has its tag and the fields that are read; as the compiler laid it out."""

    words: int
    tag: int
    fields: tuple[int, ...]

    @classmethod
    def of(cls, ctype: str, *names: str) -> "_Layout":
        offsets = [ffi.offsetof(f"struct {ctype}", name) // 8 for name in ("tag", *names)]
        return cls(ffi.sizeof(f"struct {ctype}") // 8, offsets[0], tuple(offsets[1:]))


_RULE = _Layout.of("mcr_rule_counters", "matched")
SENDING = ("sent", "errors", "in_doubt", "bytes")
"""Fields of `OutputCounters` that many outputs are asked for at once."""

_SENDING = _Layout.of("mcr_output_counters", *SENDING)
_FAILING = _Layout.of("mcr_output_counters", "errors", "last_error")
_OUTPUT = _Layout.of("mcr_output_counters", *(field.name for field in attrs.fields(OutputCounters)))


@attrs.frozen
class Cells:
    """Where the counters of some slots are, so that many are read at once.

    Attributes:
        tags: that the slots have to bear.
        first_words: gives, of all words, the first one of each slot; of all but the first so many, those behind them.
        layout: of a slot.
        end: behind all of these.
    """

    tags: tuple[int, ...]
    first_words: Callable[[memoryview], tuple[int, ...]]
    layout: _Layout
    end: int

    @classmethod
    def of_rules(cls, places: Iterable[tuple[int, int]]) -> Self:
        """Of rules by their slots and tags: what they matched."""
        return cls._of(_RULE, places)

    @classmethod
    def of_outputs(cls, places: Iterable[tuple[int, int]]) -> Self:
        """Of outputs by their slots and tags: `SENDING`."""
        return cls._of(_SENDING, places)

    @classmethod
    def of_whole_outputs(cls, places: Iterable[tuple[int, int]]) -> Self:
        """Of outputs by their slots and tags: the fields of `OutputCounters`."""
        return cls._of(_OUTPUT, places)

    @classmethod
    def of_failures(cls, places: Iterable[tuple[int, int]]) -> Self:
        """Of outputs by their slots and tags: errors, and the last one as in `OutputCounters`."""
        return cls._of(_FAILING, places)

    @property
    def sending(self) -> "Cells":
        """Of these outputs: `SENDING`."""
        return attrs.evolve(self, layout=_SENDING)

    @classmethod
    def _of(cls, layout: _Layout, places: Iterable[tuple[int, int]]) -> Self:
        slots, tags = [], []
        for slot, tag in places:
            slots.append(slot * layout.words)
            tags.append(tag)
        return cls(tuple(tags), _getter(slots), layout, max(slots, default=0) + layout.words)


def _getter(places: Sequence[int]) -> Callable[[memoryview], tuple[int, ...]]:
    """Gives the words at these places. An `itemgetter` takes a third of the time, but gives a tuple only of several."""
    return itemgetter(*places) if len(places) > 1 else lambda words: tuple(words[place] for place in places)


def _columns(words: memoryview, cells: Cells) -> Iterator[tuple[int, ...]]:
    if cells.end > len(words):  # read before some of the slots were in use
        words = memoryview(bytes(words) + bytes(8 * (cells.end - len(words)))).cast("Q")
    tags = cells.first_words(words[cells.layout.tag :])
    others = None if tags == cells.tags else [tag != wanted for tag, wanted in zip(tags, cells.tags, strict=True)]
    for field in cells.layout.fields:
        values = cells.first_words(words[field:])
        if others:
            values = tuple([0 if other else value for value, other in zip(values, others, strict=True)])
        yield values


def _words(memory: Any, count: int) -> memoryview:
    return memoryview(bytes(ffi.buffer(ffi.cast("uint8_t *", memory), 8 * count))).cast("Q")


def _fields(words: memoryview, layout: _Layout, slot: int, tag: int) -> tuple[int, ...]:
    at = slot * layout.words
    if at >= len(words) or words[at + layout.tag] != tag:
        return (0,) * len(layout.fields)
    return tuple(words[at + field] for field in layout.fields)
