"""Receiving: sockets, a judge for each, and when to stop."""

import math
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from threading import Event
from typing import TextIO

import attrs

from mcr.errors import UsageError
from trafficgen.judge import SocketJudge
from trafficgen.latency import summarize
from trafficgen.mmsg import MessageBuffers
from trafficgen.report import ReceiveReport, SocketReport, Tally
from trafficgen.subscription import Subscription, kernel_drops, open_subscription

DEFAULT_RCVBUF = 32 << 20
"""Bytes. A datagram of 1316 takes some 2,300 of them."""

_SECOND_NS = 1_000_000_000
_SLOTS = 64  # datagrams a system call: few enough to stay in the L2 cache
_SLOT_SIZE = 65_536  # any datagram
_NAP_S = 0.05  # a stop, and the end, are noticed so soon
_PROGRESS_NS = 250_000_000
_SETTLE_NS = 100_000_000  # all is here: how long to listen on for what should not come


@attrs.frozen
class ReceiveProgress:
    """What came so far."""

    received: int
    """Expected ones, each counted once."""
    missing: int
    """Overtaken by later ones of their flow, and not here."""


@attrs.frozen
class _Listener:
    """A subscription at work."""

    subscription: Subscription
    sock: socket.socket
    judge: SocketJudge

    def take(self, buffers: MessageBuffers) -> int:
        """Judge what waits, a system call's worth; return how many were new."""
        try:
            datagrams = buffers.receive(self.sock)
        except BlockingIOError:  # what woke us had a wrong checksum
            return 0
        now_ns = time.monotonic_ns()
        return sum(self.judge.take(datagram, now_ns) for datagram in datagrams)

    def report(self) -> SocketReport:
        tally, flows = self.judge.report()
        return SocketReport(str(self.subscription), tally, kernel_drops(self.sock), flows)


def receive(
    subscriptions: Sequence[Subscription],
    *,
    idle_timeout_s: float = 5.0,
    rcvbuf: int = DEFAULT_RCVBUF,
    stop: Event | None = None,
    total: TextIO | None = None,
    on_ready: Callable[[], None] | None = None,
    on_progress: Callable[[ReceiveProgress], None] | None = None,
) -> ReceiveReport:
    """Receive until all that is expected has come, and then 0.1 s more for what is not expected.

    Args:
        subscriptions: one or more; their sockets are opened in this thread's network namespace.
        idle_timeout_s: give up when nothing new came for so many seconds; not before `total` has said how many.
        rcvbuf: bytes of receive buffer wanted for each socket.
        stop: set it to end early.
        total: says in a line how many packets of each flow there are to be, once that is known: at most as many as
            are expected. A pipe, a socket or a terminal; None: as many as are expected.
        on_ready: called when every socket is open and joined.
        on_progress: called every 0.25 s.

    Raises:
        UsageError: an interface or address does not exist here, or `total` does not say a number.
        SystemFault: the system refuses.
    """
    stop = stop or Event()
    buffers = MessageBuffers([_SLOT_SIZE] * _SLOTS)
    with ExitStack() as closing:
        poll = closing.enter_context(select.epoll())
        listeners: dict[int, _Listener] = {}
        for subscription in subscriptions:
            sock = closing.enter_context(open_subscription(subscription, rcvbuf))
            judge = SocketJudge(subscription.expected, any_flow=subscription.any_flow)
            listeners[sock.fileno()] = _Listener(subscription, sock, judge)
            poll.register(sock, select.EPOLLIN)
        if total:
            poll.register(total, select.EPOLLIN)
        if on_ready:
            on_ready()
        heard = 0
        first_ns = last_ns = told_ns = time.monotonic_ns()
        while not stop.is_set():
            ready = [fd for fd, _ in poll.poll(_NAP_S)]
            new = sum(listeners[fd].take(buffers) for fd in ready if fd in listeners)
            if total and total.fileno() in ready:
                poll.unregister(total)
                _expect(total.readline(), listeners.values())
                total, last_ns = None, time.monotonic_ns()
            now_ns = time.monotonic_ns()
            if new:
                first_ns = first_ns if heard else now_ns
                last_ns = now_ns
                heard += new
            elif _is_over(now_ns - last_ns, math.inf if total else idle_timeout_s, listeners.values()):
                break
            if on_progress and now_ns - told_ns >= _PROGRESS_NS:
                on_progress(ReceiveProgress(heard, sum(listener.judge.missing for listener in listeners.values())))
                told_ns = now_ns
        return _report(listeners.values(), (last_ns - first_ns) / _SECOND_NS)


def _expect(line: str, listeners: Collection[_Listener]) -> None:
    if not line.strip().isdecimal():
        raise UsageError(f"Invalid number of packets: {line.strip()!r}", "a line with how many were sent of each flow")
    for listener in listeners:
        listener.judge.expect(int(line))


def _is_over(quiet_ns: int, idle_timeout_s: float, listeners: Collection[_Listener]) -> bool:
    if quiet_ns >= idle_timeout_s * _SECOND_NS:
        return True
    return quiet_ns >= _SETTLE_NS and all(listener.judge.complete for listener in listeners)


def _report(listeners: Collection[_Listener], seconds: float) -> ReceiveReport:
    sockets = tuple(listener.report() for listener in listeners)
    tally = sum((report.tally for report in sockets), Tally())
    return ReceiveReport(
        tally=tally,
        kernel_drops=sum(report.kernel_drops for report in sockets),
        seconds=seconds,
        pps=tally.unique / seconds if seconds else 0.0,
        latency_us=summarize(sum((listener.judge.latencies for listener in listeners), Counter())),
        sockets=sockets,
    )
