"""Adds up what arrived at the capture sockets, by interface and worker."""

import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import add
from typing import Any

import attrs

from mcr.model.numbers import values_of
from mcr.model.stats import InterfaceStats, ParseErrors, error_counts
from mcr.net.capture import read_count
from mcr.net.filter.base import Rejected
from mcr.net.patience import close_all
from mcr.relay.captures import Capture
from mcr.shm.kernel_counters import KernelCounters, Taken
from mcr.shm.segment import Segment

KERNEL = -1
"""Where a worker's id stands: the kernel path."""


@attrs.frozen
class Watched:
    """A capture whose counters are read: its sockets, one per worker, and what its filter rejected."""

    interface: str
    sockets: tuple[socket.socket, ...]
    rejected: Rejected


def watched(capture: Capture) -> Watched:
    """What is read of a capture of the relay's."""
    return Watched(capture.interface.name, capture.group.watched, capture.rejected)


@attrs.frozen
class Backlog:
    """Frames that wait for a worker, and frames that it has taken so far."""

    waiting: int
    taken: int


@attrs.frozen
class _Former:
    """A capture of another mcrd: its interface, the state of its filter's count, and that count."""

    interface: str
    filter_state: int
    rejected: int


@attrs.frozen
class _Fates:
    """What became of datagrams that arrived, but for parse errors."""

    matched: int = 0
    no_match: int = 0
    buf_exhaust: int = 0

    def __add__(self, other: "_Fates") -> "_Fates":
        return _Fates(*map(add, _fates(self), _fates(other)))


_fates = values_of(_Fates)


class CaptureCounts:
    """Adds up the kernel's counts, which start over at every reading, so nobody else may read them.

    Captures come and go; what they counted stays, by interface.
    """

    def __init__(self, segments: Sequence[Segment], kernel: KernelCounters | None = None) -> None:
        self._segments = segments
        self._kernel = kernel
        self._open: dict[int, Watched] = {}
        self._accepted: Counter[tuple[int, int]] = Counter()  # (capture, worker): went into its ring
        self._dropped: Counter[tuple[str, int]] = Counter()  # (interface, worker)
        self._received: Counter[str] = Counter()  # from captures that are closed, by workers and by filters
        self._fates: dict[str, _Fates] = {}  # of these
        self._errors: dict[str, ParseErrors] = {}  # from captures that are closed
        self._loops: Counter[str] = Counter()  # as of the last update
        self._looped_at: dict[str, float] = {}
        self._rejected: Counter[int] = Counter()  # by the filters of captures that are open
        self._rejected_before = 0  # by those of others
        self._taken: dict[int, Taken] = {}  # by the kernel path, of captures that are open
        self._taken_before = Taken()  # of others
        self._former: dict[int, _Former] = {}  # captures of another mcrd, until they are opened here

    # From one mcrd to the next.

    def save(self) -> dict[str, Any]:
        """What was counted as of the last update."""
        return {
            "accepted": [[*key, count] for key, count in self._accepted.items()],
            "dropped": [[*key, count] for key, count in self._dropped.items()],
            "received": self._received,
            "fates": {name: _fates(fates) for name, fates in self._fates.items()},
            "errors": {name: error_counts(errors) for name, errors in self._errors.items()},
            "rejected_before": self._rejected_before,
            "taken_before": attrs.astuple(self._taken_before),
            "open": [
                *([capture, *attrs.astuple(former)] for capture, former in self._former.items()),
                *(
                    [capture, opened.interface, opened.rejected.state, self._rejected[capture]]
                    for capture, opened in self._open.items()
                ),
            ],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on with what another mcrd has saved. Captures that it had are opened again, then `close_former`.

        Raises:
            ValueError, TypeError, KeyError: it is not what `save` has made; nothing is restored.
        """
        accepted = Counter({(int(capture), int(worker)): int(count) for capture, worker, count in saved["accepted"]})
        dropped = Counter({(str(name), int(worker)): int(count) for name, worker, count in saved["dropped"]})
        received = Counter({str(name): int(count) for name, count in saved["received"].items()})
        fates = {str(name): _Fates(*map(int, parts)) for name, parts in saved["fates"].items()}
        errors = {str(name): ParseErrors(*map(int, parts)) for name, parts in saved["errors"].items()}
        former = {
            int(capture): _Former(str(name), int(state), int(rejected))
            for capture, name, state, rejected in saved["open"]
        }
        taken = Taken(*map(int, saved["taken_before"]))
        self._rejected_before, self._taken_before = int(saved["rejected_before"]), taken
        self._accepted, self._dropped, self._received = accepted, dropped, received
        self._fates, self._errors, self._former = fates, errors, former
        self._loops = Counter({name: each.loop for name, each in self._parse_errors().items()})

    def open(self, capture: int, watched: Watched) -> None:
        """Count a capture from now on. Its sockets are owned, and closed, here."""
        if former := self._former.pop(capture, None):
            watched.rejected.resume(former.filter_state)
        self._open[capture] = watched

    def close(self, capture: int) -> None:
        """Count a capture a last time.

        Packets that its workers have not read by now are lost with the rings, and count as drops.
        """
        self.update()
        self._look_at_last([capture])
        for each in self._close(capture):
            each.close()

    def close_former(self) -> None:
        """Count captures of another mcrd a last time that are not opened here: what waited in them is lost."""
        for capture, former in self._former.items():
            self._count_closed(capture, former.interface, former.rejected)
        self._former = {}

    def close_all(self) -> None:
        """Count every capture a last time."""
        self.update()
        self._look_at_last(self._open)
        close_all([each for capture in [*self._open] for each in self._close(capture)])

    def _look_at_last(self, captures: Iterable[int]) -> None:
        if self._kernel:
            for capture in captures:
                self._kernel.look_at_last(capture)

    def _close(self, capture: int) -> tuple[socket.socket, ...]:
        closing = self._open.pop(capture)
        self._count_closed(capture, closing.interface, self._rejected.pop(capture))
        closing.rejected.close()
        return closing.sockets

    def _count_closed(self, capture: int, interface: str, rejected: int) -> None:
        for worker, segment in enumerate(self._segments):
            frames, datagrams = segment.captured(capture)
            accepted = self._accepted.pop((capture, worker), 0)
            # Workers that outlived their mcrd have taken more than it has counted.
            self._dropped[interface, worker] += max(0, accepted - frames) + segment.held_fragments(capture)
            self._received[interface] += datagrams
        taken = self._taken_of(capture)
        before = self._errors.get(interface, ParseErrors())
        self._errors[interface] = ParseErrors.sum([before, taken.parse_errors, *self._capture_errors(capture)])
        fates = self._capture_fates(capture, rejected, taken)
        self._fates[interface] = self._fates.get(interface, _Fates()) + fates
        self._received[interface] += rejected + taken.received
        self._rejected_before += rejected
        self._taken_before += taken
        self._taken.pop(capture, None)
        self._dropped[interface, KERNEL] += taken.lost

    def update(self) -> None:
        """Read what the kernel counted since the last time."""
        if self._kernel:
            self._kernel.look()
        for capture, opened in self._open.items():
            for worker, each in enumerate(opened.sockets):
                count = read_count(each)
                self._accepted[capture, worker] += count.accepted
                self._dropped[opened.interface, worker] += count.dropped
            self._rejected[capture] = opened.rejected.read()
            self._taken[capture] = self._taken_of(capture)
        loops = Counter({name: errors.loop for name, errors in self._parse_errors().items()})
        self._looped_at |= dict.fromkeys(loops - self._loops, time.monotonic())
        self._loops = loops

    def _taken_of(self, capture: int) -> Taken:
        return self._kernel.taken(capture) if self._kernel else Taken()

    def rejected(self) -> int:
        """Datagrams that no rule wanted, and no worker saw, as of the last update."""
        return self._rejected_before + self._rejected.total()

    def taken(self) -> Taken:
        """What the kernel path has done, as of the last update."""
        return sum(self._taken.values(), self._taken_before)

    def dropped(self, worker: int) -> int:
        """Packets that one worker lost to full rings."""
        return sum(count for (_, of), count in self._dropped.items() if of == worker)

    def dropped_by_interface(self) -> Counter[str]:
        """Packets lost to full rings."""
        dropped: Counter[str] = Counter()
        for (interface, worker), count in self._dropped.items():
            if worker != KERNEL:
                dropped[interface] += count
        return dropped

    def _lost(self) -> Counter[str]:
        """Packets that another program at an interface's ingress took from the kernel path."""
        lost = Counter({interface: count for (interface, of), count in self._dropped.items() if of == KERNEL})
        for capture, taken in self._taken.items():
            lost[self._open[capture].interface] += taken.lost
        return lost

    def backlog(self, worker: int) -> Backlog:
        """How far a worker is behind, as of the last update."""
        waiting = taken = 0
        for capture in self._open:
            frames, _ = self._segments[worker].captured(capture)
            waiting += self._accepted[capture, worker] - frames
            taken += frames
        return Backlog(waiting, taken)

    def _capture_errors(self, capture: int) -> list[ParseErrors]:
        """By worker."""
        return [segment.capture_errors(capture) for segment in self._segments]

    def _capture_fates(self, capture: int, rejected: int, taken: Taken) -> "_Fates":
        """Over all workers, the filter and the kernel path."""
        others = _Fates(taken.matched, rejected)
        return sum((_Fates(*segment.capture_fates(capture)) for segment in self._segments), others)

    def _parse_errors(self) -> dict[str, ParseErrors]:
        """By interface, over all workers."""
        errors = dict(self._errors)
        for capture, opened in self._open.items():
            before = errors.get(opened.interface, ParseErrors())
            taken = self._taken.get(capture, Taken()).parse_errors
            errors[opened.interface] = ParseErrors.sum([before, taken, *self._capture_errors(capture)])
        return errors

    def interfaces(self) -> tuple[InterfaceStats, ...]:
        """Received and dropped of every interface that was ever captured."""
        received, fates = Counter(self._received), dict(self._fates)
        for capture, opened in self._open.items():
            before = fates.get(opened.interface, _Fates())
            rejected, taken = self._rejected[capture], self._taken[capture]
            fates[opened.interface] = before + self._capture_fates(capture, rejected, taken)
            received[opened.interface] += sum(segment.captured(capture)[1] for segment in self._segments)
            received[opened.interface] += rejected + taken.received
        dropped = self.dropped_by_interface() + self._lost()
        errors, now = self._parse_errors(), time.monotonic()
        return tuple(
            InterfaceStats(
                name,
                received[name],
                dropped[name],
                errors.get(name, ParseErrors()),
                round(now - self._looped_at[name], 1) if name in self._looped_at else None,
                *_fates(fates.get(name, _Fates())),
            )
            for name in sorted({*received, *dropped})
        )
