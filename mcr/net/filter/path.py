"""The kernel path: eBPF maps by which a program at an interface's ingress forwards.

The capture filter decides for each packet which path it takes (native/bpf/filter.bpf.c). A capture has a gate: while
it is closed all packets go to the workers. Once it is open a flow moves to the kernel path as soon as no worker holds a
frame of that capture, so nothing is overtaken; and back with the next packet after the gate was closed.
"""

import errno
import math
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from mcr._native import ffi, lib
from mcr.errors import check_result
from mcr.model.flow import IPV6, Address, Flow
from mcr.net.filter.refusal import why_refused
from mcr.shm.flows import flow_bytes, make_flow
from mcr.shm.kernel_counters import KernelCounters, map_values

MAX_OUTPUTS: int = lib.MCR_BPF_OUTPUTS
"""Of a rule that the kernel path may forward by."""

LONGEST: int = lib.MCR_BPF_LONGEST
"""IP datagram that it takes, in bytes. Longer ones go to a worker."""

REVIEWED = "reviewed"
"""Who bars the path: the review of what acts on packets between IP and the interfaces."""

SHOWN = "shown"
"""Who bars the path: the workers are to see every packet."""

TRACED = "traced"
"""Who bars the path: the workers are to log every packet that is forwarded."""

INHERITED = "inherited"
"""Who bars the path: captures that another mcrd has left, while its filters are in force there."""

OWN = "own"
"""Who bars the path: sources of this machine that it does not know of."""

_REFUSED = "refused"  # likewise: this kernel, which does not load its programs

# Of a rule in the map (native/bpf/abi.h), which cffi takes thrice as long for: there may be thousands.
_HEAD = struct.Struct("=I4xII")
_OUTPUT = struct.Struct("=12sHBBI4s4sHHBxH")
_OUTPUT6 = struct.Struct("=12sHBBI16s16sHHI")
_RULE_BYTES = ffi.sizeof("struct mcr_bpf_rule")
_RULE6_BYTES = ffi.sizeof("struct mcr_bpf_rule6")

_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)  # of what is short now; EAGAIN: of the verifier
_AGAIN_S = 10.0
_GRACE_SECONDS = 0.05  # where the kernel does not say when all packets have been dealt with


class Target(NamedTuple):
    """Where the kernel path sends one output's datagrams.

    Attributes:
        slot: of the output's counters.
        interface: its index; 0: it has no carrier, and its datagrams count as errors.
        macs: that frames go to, and come from.
        mtu: bytes.
        source: address and port that datagrams come from.
        group, port: of the output.
        ttl, dscp: of its datagrams.
        keeps: MCR_KEEP_…, of the headers that they came with, instead.
        vlan: that frames are tagged with; 0: none.
        by_group, by_port: whether the place of a flow in its rule's range says which of several it goes to.
    """

    slot: int
    interface: int
    macs: bytes
    mtu: int
    source: tuple[Address, int]
    group: Address
    port: int
    ttl: int = 1
    dscp: int = 0
    keeps: int = 0
    vlan: int = 0
    by_group: bool = False
    by_port: bool = False


class KernelPath:
    """All of it. A context manager: leaving it closes the maps.

    Attributes:
        maps: cffi pointer to ``struct mcr_bpf_path``.
        counters: of what it forwards; stay the caller's.
        why_refused: why this kernel does not load its programs; empty: it does.
        learn_ipv6: has programs run that take IPv6, or raises OSError. Whoever runs them sets it.

    Raises:
        OSError: this process may not, or this kernel can't.
    """

    def __init__(self, workers: int, counters: KernelCounters) -> None:
        self._workers = workers
        self.counters = counters
        self.maps: Any = ffi.new("struct mcr_bpf_path *")
        check_result(lib.mcr_bpf_path_open(self.maps, workers, counters.maps))
        try:
            self._drains = map_values(self.maps.drains, "struct mcr_bpf_drain", lib.MCR_MAX_INTERFACES * workers)
            self._gates = map_values(self.maps.gates, "struct mcr_bpf_gate", lib.MCR_MAX_INTERFACES)
        except OSError:
            lib.mcr_bpf_path_close(self.maps)
            raise
        counters.watch(self.maps)
        self.learn_ipv6: Callable[[], None] = lambda: None
        self.why_refused = ""
        self._why_no_ipv6: str | None = None  # None: nobody has tried
        self._ipv6_again = math.inf  # when to try it anew, by the monotonic clock
        self._linked: set[int] = set()
        self._open: set[int] = set()
        self._contested: set[int] = set()
        self._held: frozenset[int] = frozenset()
        self._entered: dict[int, list[int]] = {}  # by worker, when the gate of a capture was opened
        self._bars = {REVIEWED, INHERITED}
        self._epoch = 0
        self._flows: set[tuple[int, Flow]] = set()
        self._flows_of: Counter[int] = Counter()  # how many there are, by capture
        self._busy: set[int] = set()  # captures by whose rules a packet may be forwarded just now
        self._freed = False  # memory of rules, while that may be
        self._own: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._drains, self._gates = None, None  # the mappings go with them
        self.counters.watch(ffi.NULL)
        lib.mcr_bpf_path_close(self.maps)

    @property
    def drains_fd(self) -> int:
        """Descriptor of the map in which workers say which of their rings are empty."""
        return int(self.maps.drains)

    # Gates.

    def start_capture(self, capture: int) -> None:
        """Count for another capture in this slot, from zero."""
        self._gates[capture].first = self._epoch + 1  # first: what is handed over, and lost, is another's
        self.counters.start_capture(capture)

    def link(self, capture: int) -> None:
        """The program runs at this capture's interface: its gate may be open."""
        self._linked.add(capture)
        self._open_gates()

    def unlink(self, captures: Iterable[int]) -> None:
        """It is about to run there no more. Returns once all packets that are its have been forwarded."""
        gone = self._linked & {*captures}
        for capture in gone:
            self._gates[capture].sole = False
        self._linked -= gone
        if gone:
            self._close_gates(gone)
            self.wait()  # even if it was closed before: that may have been just now

    def forget(self, capture: int) -> None:
        """Its interface is another's, or nobody's: whatever took its packets first does not matter any more."""
        self.unlink([capture])
        self._contested.discard(capture)

    def hold(self, captures: Iterable[int]) -> None:
        """Forward nothing of these captures, from the next packet on. Others that were held may be forwarded again."""
        if self._held == (held := frozenset(captures)):
            return
        self._held = held
        self._close_gates({*held})
        self._open_gates()

    def is_held(self, capture: int) -> bool:
        """Whether nothing of it may be forwarded, since what the kernel has of its rules could not be changed."""
        return capture in self._held

    def consume(self, captures: Collection[int]) -> None:
        """Consume what is forwarded of these captures: nobody but IP would take it. Of others it goes on its way."""
        for capture in self._linked:
            self._gates[capture].sole = capture in captures

    @contextmanager
    def closed(self, captures: Iterable[int]) -> Generator[None]:
        """Forward nothing of these captures meanwhile. Then each flow moves here anew, once no worker holds a frame."""
        self._close_gates({*captures})
        try:
            yield
        finally:
            self._open_gates()

    def bar(self, who: str) -> None:
        """Forward nothing, from the next packet on."""
        self._bars.add(who)
        self._close_gates(self._open)

    def refuse(self, why: str) -> None:
        """Forward nothing ever: this kernel does not load the programs."""
        self.why_refused = why
        self.bar(_REFUSED)

    def unbar(self, who: str) -> None:
        """Forward again, unless others bar it."""
        self._bars.discard(who)
        self._open_gates()

    def is_barred(self, who: str) -> bool:
        """Whether this one bars it."""
        return who in self._bars

    def is_contested(self, capture: int) -> bool:
        """Whether another program at its interface has taken a packet first: the filter has closed its gate then."""
        return capture in self._contested or (capture in self._open and not self._gates[capture].epoch)

    def is_early(self, capture: int) -> bool:
        """Whether a worker may hold packets that came before its gate was opened, and that matters to a flow.

        Of fragments whose others do not come it holds some for up to two seconds.
        """
        return (
            capture in self._open
            and self._flows_of[capture] > 0
            and any(
                self._drains[capture * self._workers + worker].seen < entered
                for worker, entered in enumerate(self._entered[capture])
            )
        )

    @property
    def is_waiting(self) -> bool:
        """Whether a worker has not said yet that its ring is empty."""
        each = range(self._workers)
        drains = (self._drains[capture * self._workers + worker] for capture in self._open for worker in each)
        return any(drain.entered != drain.seen for drain in drains)

    def _open_gates(self) -> None:
        if self._bars:
            return
        for capture in self._linked - self._open - self._contested - self._held:
            lib.mcr_bpf_path_enter(self._drains, self._workers, capture)
            first = capture * self._workers
            self._entered[capture] = [each.entered for each in self._drains[first : first + self._workers]]
            self._epoch = self._epoch % 0xFFFF_FFFF + 1  # 0 is that of a closed one
            self._gates[capture].epoch = self._epoch
            self._open.add(capture)
            self._busy.add(capture)

    def _close_gates(self, captures: set[int]) -> None:
        for capture in [*captures & self._open]:
            if self.is_contested(capture):
                self._contested.add(capture)
            self._gates[capture].epoch = 0
            self._open.remove(capture)

    def wait(self) -> None:
        """Wait until no packet is dealt with by what has been changed before."""
        wait_for_packets()
        self._busy = {*self._open}
        self._freed = False

    # Rules.

    def why_no_ipv6(self) -> str:
        """Why it takes no IPv6; empty: from the first call on it does.

        What is short now may be there later: then it is tried anew, but not for each of thousands of rules.
        """
        if self._why_no_ipv6 is None or time.monotonic() >= self._ipv6_again:
            self._ipv6_again = math.inf
            try:
                self.learn_ipv6()
            except OSError as error:
                self._why_no_ipv6 = f"the program that takes IPv6 can't be loaded: {why_refused(error)}"
                if error.errno in _PASSING:
                    self._ipv6_again = time.monotonic() + _AGAIN_S
            else:
                self._why_no_ipv6 = ""
        return self._why_no_ipv6

    def forward(self, capture: int, flow: Flow, slot: int, mtu: int, targets: Sequence[Target]) -> None:
        """Forward datagrams of a flow to these targets, if they are not longer; all of it from the same packet on.

        The memory of a rule that was replaced or dropped goes to the next one at once, and a packet that is still being
        sent by it would go on by that one. So that is waited for, unless its gate has been closed and waited for.

        Raises:
            OSError: no memory.
        """
        is_ipv6 = flow.group.version == IPV6
        if self._freed:
            self.wait()
        image = _output6 if is_ipv6 else _output
        rule = b"".join((_HEAD.pack(slot, mtu, len(targets)), *map(image, targets)))
        put, size = (lib.mcr_bpf_path_put6, _RULE6_BYTES) if is_ipv6 else (lib.mcr_bpf_path_put, _RULE_BYTES)
        check_result(put(self.maps, flow_bytes(flow, capture), rule.ljust(size, b"\0")))
        key = capture, flow
        if key in self._flows:
            self._freed |= capture in self._busy
        else:
            self._flows_of[capture] += 1
            self._flows.add(key)

    def drop(self, capture: int, flow: Flow) -> None:
        """Forget a flow."""
        lib.mcr_bpf_path_drop(self.maps, make_flow(flow, capture))
        self._freed |= capture in self._busy
        self._flows_of[capture] -= (capture, flow) in self._flows
        self._flows.discard((capture, flow))

    def set_own(self, keys: bytes) -> None:
        """Leave to the workers what comes from these sources of this machine (`mcr.net.own`).

        Raises:
            OSError: no memory. Some of them are not known.
        """
        own = {each.key for each in ffi.from_buffer("struct mcr_rec_own_key[]", keys)}
        for key in self._own - own:  # first: the map has room for no more than there may be
            lib.mcr_bpf_path_own(self.maps, key, False)
        self._own &= own
        # Before any is added: a bit too many costs a look-up, one too few would hide a key.
        bits = bytearray(lib.MCR_OWN_BITS // 8)
        for key in own:
            bit = lib.mcr_own_bit(key)
            bits[bit // 8] |= 1 << bit % 8
        check_result(lib.mcr_bpf_path_own_bits(self.maps, bytes(bits)))
        for key in own - self._own:
            check_result(lib.mcr_bpf_path_own(self.maps, key, True))
            self._own.add(key)


def _output(target: Target) -> bytes:
    """``struct mcr_bpf_output``."""
    return _OUTPUT.pack(
        target.macs,
        target.slot,
        target.ttl,
        target.dscp << 2,
        target.interface,
        target.source[0].packed,
        target.group.packed,
        socket.htons(target.source[1]),
        socket.htons(target.port),
        target.keeps,
        target.vlan,
    )


def _output6(target: Target) -> bytes:
    """``struct mcr_bpf_output6``."""
    return _OUTPUT6.pack(
        target.macs,
        target.slot,
        target.ttl,
        target.dscp << 2,
        target.interface,
        target.source[0].packed,
        target.group.packed,
        socket.htons(target.source[1]),
        socket.htons(target.port),
        target.keeps,
    )


def group_mac(group: Address) -> bytes:
    """A group's hardware address: its last 23 bits (RFC 1112), in IPv6 32 (RFC 2464, 7).

    All that is no group is a broadcast address.
    """
    if not group.is_multicast:
        return b"\xff" * 6
    if group.version == IPV6:
        return b"\x33\x33" + group.packed[-4:]
    packed = group.packed
    return bytes((1, 0, 0x5E, packed[1] & 0x7F, packed[2], packed[3]))


def wait_for_packets() -> None:
    """Wait until no packet is dealt with by what has been changed before."""
    if lib.mcr_bpf_path_wait():  # this kernel has no way to tell
        time.sleep(_GRACE_SECONDS)


def open_kernel_path(workers: int, counters: KernelCounters) -> KernelPath:
    """Make the maps.

    Raises:
        OSError: this process may not, or this kernel can't.
    """
    if is_realtime():
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return KernelPath(workers, counters)


def is_realtime() -> bool:
    """Whether the interrupts of two packets may interleave on one processor: PREEMPT_RT.

    The file is of its patches; the kernel that has it without them (Linux 6.12) says so only in its version.
    """
    return "PREEMPT_RT" in os.uname().version or os.path.exists("/sys/kernel/realtime")  # noqa: PTH110
