"""Puts what comes from several places in the order of time."""

from bisect import bisect_right
from collections.abc import Iterable
from operator import attrgetter
from typing import Final, Generic, Protocol, TypeVar

MOST_HELD: Final = 1 << 15
"""Things that wait for earlier ones. Where more would, the earliest leave, and may be out of order."""


class Timed(Protocol):
    """Something that happened at a time."""

    @property
    def time(self) -> int:
        """In nanoseconds."""


_T = TypeVar("_T", bound=Timed)
_time = attrgetter("time")


class Merging(Generic[_T]):
    """Holds things back until no place can have earlier ones.

    What one place gives comes in the order of time.
    """

    def __init__(self, places: int) -> None:
        """`places`: how many there are."""
        self._complete = [0] * places
        self._held: list[_T] = []

    @property
    def holds(self) -> bool:
        """Whether something waits."""
        return bool(self._held)

    def add(self, place: int, those: Iterable[_T], complete: int) -> None:
        """Take what a place gives; it will give nothing else up to the time `complete`."""
        self._held += those
        self._complete[place] = max(self._complete[place], complete)

    def take(self) -> list[_T]:
        """What waits for nothing, in order."""
        self._held.sort(key=_time)
        known = bisect_right(self._held, min(self._complete), key=_time)
        return self._cut(max(known, len(self._held) - MOST_HELD))

    def rest(self) -> list[_T]:
        """All that is left, in order: no place has anything more."""
        self._held.sort(key=_time)
        return self._cut(len(self._held))

    def _cut(self, count: int) -> list[_T]:
        taken, self._held = self._held[:count], self._held[count:]
        return taken
