"""Numbers for what lives in a table in shared memory."""

import heapq
from collections.abc import Callable, Collection

from mcr.errors import LimitReached
from mcr.model.limits import MAX_INTERFACES


class Slots:
    """Hands out the lowest free number of a table of fixed size."""

    def __init__(self, size: int, what: str, settle: Callable[[], None] | None = None) -> None:
        """Manage numbers 0 to ``size - 1``.

        Args:
            size: of the table.
            what: a plural noun that the limit's error names.
            settle: waits until nobody uses numbers that `rest`; None: nobody does.
        """
        self._size = size
        self._what = what
        self._settle = settle
        self._next = 0
        self._free: list[int] = []
        self._resting: list[int] = []

    @property
    def taken(self) -> int:
        """How many are in use."""
        return self._next - len(self._free) - len(self._resting)

    def take(self) -> int:
        """Take a free number.

        Raises:
            LimitReached: all are in use.
        """
        if not self._free and self._next == self._size:
            self._wake()
        if self._free:
            return heapq.heappop(self._free)
        if self._next == self._size:
            raise LimitReached(f"No room for more {self._what}", f"a relay holds at most {self._size}")
        self._next += 1
        return self._next - 1

    def reserve(self, slots: Collection[int]) -> None:
        """Take these, before any was taken."""
        self._next = max(slots, default=-1) + 1
        self._free = sorted({*range(self._next)} - {*slots})

    def give(self, slot: int) -> None:
        """Give a number back."""
        heapq.heappush(self._free, slot)

    def rest(self, slot: int) -> None:
        """Give one back that somebody may use for a moment longer. To wait takes some 15 ms, so for many at once."""
        self._resting.append(slot)
        if not self._settle or len(self._resting) > self._size // 16:
            self._wake()

    def _wake(self) -> None:
        if self._settle and self._resting:
            self._settle()
        for slot in self._resting:
            self.give(slot)
        self._resting.clear()


def check_interfaces(used: int, more: int, what: str) -> None:
    """Raise `LimitReached` if these would be too many in use; there are slots for more, to open some of them again."""
    if used + more > MAX_INTERFACES:
        raise LimitReached(f"No room for more {what}", f"a relay holds at most {MAX_INTERFACES}")
