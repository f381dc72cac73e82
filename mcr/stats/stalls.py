"""Finds workers that have let packets wait for some seconds without taking one."""

from collections.abc import Iterable, Sequence

import attrs

from mcr.stats.captures import Backlog

_CHECKS = 3  # without a step while packets wait, and it could have taken some: it hangs


@attrs.frozen
class Checked:
    """Ids of workers that hang, each once, and of those that may."""

    hung: tuple[int, ...] = ()
    suspected: tuple[int, ...] = ()


@attrs.frozen
class _Stall:
    """A worker's backlog at the last tick; whether it has not moved, which no check has counted; how many have."""

    backlog: Backlog = attrs.field(factory=lambda: Backlog(0, 0))
    stuck: bool = False
    checks: float = 0


class Stalls:
    """Of so many workers."""

    def __init__(self, workers: int) -> None:
        self._stalls = [_Stall()] * workers

    def note(self, backlogs: Iterable[Backlog]) -> None:
        """Compare their backlogs, in the order of their ids, with those of the last tick."""
        for worker, backlog in enumerate(backlogs):
            before = self._stalls[worker]
            stuck = backlog.waiting > 0 and backlog.taken == before.backlog.taken
            self._stalls[worker] = _Stall(backlog, stuck, before.checks if stuck else 0)

    def check(self, weights: Sequence[float]) -> Checked:
        """Which hang. What was noted counts once, however often this is called.

        Args:
            weights: of this check, for each, as `mcr.process.turns.Turns.weight` has it.
        """
        for worker, (stall, weight) in enumerate(zip(self._stalls, weights, strict=True)):
            if stall.stuck:
                self._stalls[worker] = attrs.evolve(stall, stuck=False, checks=stall.checks + weight)
        found = tuple(worker for worker, stall in enumerate(self._stalls) if stall.checks >= _CHECKS)
        for worker in found:
            self._stalls[worker] = attrs.evolve(self._stalls[worker], checks=0)
        return Checked(found, tuple(worker for worker, stall in enumerate(self._stalls) if stall.checks))
