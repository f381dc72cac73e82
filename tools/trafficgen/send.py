"""Sending: every packet of a schedule, in order, none of them early, none of them skipped.

The loop is open: what is late is sent at once and keeps its due time, so that a delay shows in the latency of
every packet it delayed (no coordinated omission).
"""

import ctypes
import errno
import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Event

import attrs
from scapy.packet import Packet

from trafficgen.frame import Frame
from trafficgen.interface import open_interface, send_error
from trafficgen.latency import summarize
from trafficgen.mmsg import MessageBuffers
from trafficgen.payload import DEFAULT_SIZE, flow_id
from trafficgen.report import SendReport
from trafficgen.schedule import AtOnce, Paced, Schedule

PROGRESS_INTERVAL_NS = 250_000_000
"""Between two reports of progress."""

_PR_SET_TIMERSLACK = 29
_SECOND_NS = 1_000_000_000
_BATCH = 64  # packets a system call, at most; more gains nothing
_NAP_LIMIT_S = 0.05  # a stop is noticed so soon
_FULL_QUEUE_NAP_S = 0.0001  # room in a full transmit queue cannot be waited for, only tried for again

_libc = ctypes.CDLL(None)


@attrs.frozen
class Flow:
    """A numbered series of packets."""

    name: str
    """What receivers know it by: it travels, as a number, in the payload."""
    template: Packet
    """The headers, see `trafficgen.frame.multicast_template`."""


def send(
    interface: str,
    flows: Sequence[Flow],
    *,
    count: int,
    rate: float,
    size: int = DEFAULT_SIZE,
    stop: Event | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> SendReport:
    """Send packets 0 to count - 1 of every flow, the flows in turn, in this thread's network namespace.

    Args:
        interface: where they leave; it has to be up.
        flows: one or more.
        count: packets of each flow.
        rate: packets per second of all flows together; 0 for as fast as possible, each due when it is sent.
        size: bytes of UDP payload.
        stop: set it to end early.
        on_progress: called every 0.25 s, and at the end, with the number of packets sent so far.

    Raises:
        UsageError: there is no such interface, or the payload cannot have that size.
        SystemFault: the system refuses: no permission, the interface is down, a frame is too long for it.
    """
    # Naps end some 45 µs late instead of 100 when the kernel may not put this thread's timers off.
    _libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1))
    train = _Train(flows, size)
    planned = count * len(flows)
    stop = stop or Event()
    sent = refused = 0
    late: Counter[int] = Counter()
    with open_interface(interface) as sock:
        start_ns = progressed_ns = time.monotonic_ns()
        schedule: Schedule = Paced(rate, start_ns) if rate else AtOnce()
        while sent < planned and not stop.is_set():
            now_ns = time.monotonic_ns()
            if on_progress and now_ns - progressed_ns >= PROGRESS_INTERVAL_NS:
                on_progress(sent)
                progressed_ns = now_ns
            ready = min(schedule.due_by(now_ns), planned) - sent
            if ready <= 0:
                time.sleep(min((schedule.due_ns(sent) - now_ns) / _SECOND_NS, _NAP_LIMIT_S))
                continue
            dues_ns = [schedule.due_ns(index) for index in range(sent, sent + min(ready, train.room(sent)))]
            try:
                taken = train.send(sock, sent, dues_ns)
            except OSError as error:
                if error.errno not in {errno.ENOBUFS, errno.EINTR}:
                    raise send_error(interface, error) from None
                refused += error.errno == errno.ENOBUFS
                time.sleep(_FULL_QUEUE_NAP_S)
                continue
            sent += taken
            late[(time.monotonic_ns() - dues_ns[0]) // 1000] += taken
        seconds = (time.monotonic_ns() - start_ns) / _SECOND_NS
    if on_progress:
        on_progress(sent)
    return SendReport(planned, sent, seconds, sent / seconds, refused, summarize(late))


class _Train:
    """The frames of all flows in turn, in a row of slots: packet i of the run is in slot i modulo its size."""

    def __init__(self, flows: Sequence[Flow], size: int) -> None:
        rounds = math.ceil(_BATCH / len(flows))
        self._flows = len(flows)
        self._slots = [(Frame.build(flow.template, size), flow_id(flow.name)) for flow in flows] * rounds
        self._buffers = MessageBuffers([len(frame.data) for frame, _ in self._slots])
        for (frame, _), offset in zip(self._slots, self._buffers.offsets, strict=True):
            self._buffers.memory[offset : offset + len(frame.data)] = frame.data

    def room(self, first: int) -> int:
        """How many packets from `first` on one call of `send` can take."""
        return min(_BATCH, len(self._slots) - first % len(self._slots))

    def send(self, sock: socket.socket, first: int, dues_ns: Sequence[int]) -> int:
        """Send packets from `first` on, one a due time; return how many the kernel took, at least 1."""
        start = first % len(self._slots)
        for offset, due_ns in enumerate(dues_ns):
            frame, flow = self._slots[start + offset]
            sequence = (first + offset) // self._flows
            frame.stamp_into(self._buffers.memory, self._buffers.offsets[start + offset], flow, sequence, due_ns)
        return self._buffers.send(sock, start, len(dues_ns))
