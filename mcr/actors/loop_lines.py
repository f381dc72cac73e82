"""How loud the log speaks of loops: one that comes and goes is told of once a minute, and in `debug` meanwhile."""

from typing import Final

import trio

_APART: Final = 60.0  # seconds between two of a rule's loops that are told of, at the least


class LoopLines:
    """Of all rules, by their tags."""

    def __init__(self) -> None:
        """No loop was told of."""
        self._told: dict[int, float] = {}
        self._is_quiet: dict[int, bool] = {}  # of loops that are told of

    def begin(self, tag: int) -> None:
        """Something is told of a loop, which may have begun before."""
        if tag in self._is_quiet:
            return
        now = trio.current_time()
        self._told = {each: time for each, time in self._told.items() if now < time + _APART}
        self._is_quiet[tag] = tag in self._told
        self._told.setdefault(tag, now)

    def is_late(self, tag: int) -> bool:
        """Whether a loop that was told of in `debug` goes on once the minute is over: it is told of aloud, once."""
        now = trio.current_time()
        if not self.are_quiet(tag) or now < self._told.get(tag, float("-inf")) + _APART:
            return False
        self._is_quiet[tag], self._told[tag] = False, now
        return True

    def end(self, tag: int) -> None:
        """It is over."""
        self._is_quiet.pop(tag, None)

    def are_quiet(self, tag: int) -> bool:
        """Whether lines about it are to be in `debug`."""
        return self._is_quiet.get(tag, False)
