"""Finds workers that have let packets wait for some seconds without taking one."""

from collections.abc import Iterable

import attrs

from mcr.stats.captures import Backlog

_TICKS = 3  # without a step while packets wait: it hangs


@attrs.frozen
class _Stall:
    """A worker's backlog at the last tick, and for how many it has not moved."""

    backlog: Backlog = attrs.field(factory=lambda: Backlog(0, 0))
    ticks: int = 0


class Stalls:
    """Of so many workers."""

    def __init__(self, workers: int) -> None:
        self._stalls = [_Stall()] * workers

    def note(self, backlogs: Iterable[Backlog]) -> None:
        """Compare their backlogs, in the order of their ids, with those of the last tick."""
        for worker, backlog in enumerate(backlogs):
            before = self._stalls[worker]
            stuck = backlog.waiting > 0 and backlog.taken == before.backlog.taken
            self._stalls[worker] = _Stall(backlog, before.ticks + 1 if stuck else 0)

    def take(self) -> tuple[int, ...]:
        """Ids of those that hang; each is found once."""
        found = tuple(worker for worker, stall in enumerate(self._stalls) if stall.ticks >= _TICKS)
        for worker in found:
            self._stalls[worker] = attrs.evolve(self._stalls[worker], ticks=0)
        return found
