"""Notes when rules have matched packets. It samples their counters once per second, so a packet costs nothing."""

from collections.abc import Mapping
from typing import Final

import attrs

from mcr.relay.placement import PlacedRule
from mcr.shm.segment import Cells
from mcr.stats.readings import Reading

SILENT_SECONDS: Final = 60
"""A rule that had packets, and none for as long, is silent."""


@attrs.frozen
class FeedNews:
    """Rules that have become silent, and rules that no longer are, with the seconds for which they were."""

    silent: tuple[PlacedRule, ...] = ()
    back: tuple[tuple[PlacedRule, float], ...] = ()


class Activity:
    """One note for each rule, by its tag. One thread at a time may use it.

    Args:
        from_zero: the counters of each rule were zero when this mcrd placed it.
    """

    def __init__(self, *, from_zero: bool) -> None:
        self._from_zero = from_zero
        self._rules: tuple[PlacedRule, ...] = ()
        self._tags: tuple[int, ...] = ()
        self._cells = Cells.of_rules(())
        self._matched: tuple[int, ...] = ()  # at the last sample
        self._since: dict[int, float] = {}  # that a rule has been looked at
        self._last: dict[int, float] = {}  # that it was seen to have matched more
        self._silent: set[int] = set()

    def note(self, now: Reading, rules: tuple[PlacedRule, ...]) -> FeedNews:
        """Note which rules have matched more since the last time; what is new of silent ones."""
        if rules is not self._rules:
            self._take_up(now, rules)
        matched = now.rules_matched(self._cells)
        back = []
        for placed, tag, count, before in zip(rules, self._tags, matched, self._matched, strict=True):
            if count != before:
                if tag in self._silent:
                    back.append((placed, now.time - self._last[tag]))
                self._last[tag] = now.time
        self._matched = matched
        limit = now.time - SILENT_SECONDS
        silent = {tag for tag, last in self._last.items() if last <= limit}
        fresh, self._silent = silent - self._silent, silent
        return FeedNews(tuple(each for each in rules if each.tag in fresh) if fresh else (), tuple(back))

    def _take_up(self, now: Reading, rules: tuple[PlacedRule, ...]) -> None:
        before = dict(zip(self._tags, self._matched, strict=True))
        self._rules, self._tags = rules, tuple(each.tag for each in rules)
        self._cells = Cells.of_rules((each.slot, each.tag) for each in rules)
        counts = now.rules_matched(self._cells)
        self._matched = tuple(
            before.get(tag, 0 if self._from_zero else count) for tag, count in zip(self._tags, counts, strict=True)
        )
        self._since = {tag: self._since.get(tag, now.time) for tag in self._tags}
        self._last = {tag: self._last[tag] for tag in self._tags if tag in self._last}

    def last(self) -> Mapping[int, float]:
        """When each rule that has matched since it is looked at was seen to have; stays as it is."""
        return self._last.copy()

    def idle(self, now: Reading, rules: tuple[PlacedRule, ...]) -> dict[str, float]:
        """Seconds for which each rule has matched nothing, or been looked at."""
        self.note(now, rules)
        return {each.rule.rule_id: now.time - self._last.get(each.tag, self._since[each.tag]) for each in rules}
