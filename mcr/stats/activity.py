"""Notes since when rules have matched nothing. It does so every few seconds, so a packet costs nothing."""

from collections.abc import Collection, Mapping

import attrs

from mcr.relay.placement import PlacedRule
from mcr.stats.readings import Reading


@attrs.frozen
class _Last:
    """Packets that a rule had matched at the last note, and when the last growth was noted, or the rule was added."""

    tag: int
    matched: int
    time: float


class Activity:
    """One note for each rule."""

    def __init__(self) -> None:
        self._last: Mapping[str, _Last] = {}

    def note(self, now: Reading, rules: Collection[PlacedRule]) -> None:
        """Note which rules have matched more since the last time. One thread at a time may call it."""
        self._last = {placed.rule.rule_id: self._look(now, placed) for placed in rules}

    def idle(self, now: Reading, rules: Collection[PlacedRule]) -> dict[str, float]:
        """Seconds for which each rule has matched nothing, at least; 0 if it has since the last note."""
        return {placed.rule.rule_id: now.time - self._look(now, placed).time for placed in rules}

    def _look(self, now: Reading, placed: PlacedRule) -> _Last:
        matched = now.rule_matched(placed)
        last = self._last.get(placed.rule.rule_id)
        if last is not None and (last.tag, last.matched) == (placed.tag, matched):
            return last
        return _Last(placed.tag, matched, now.time)
