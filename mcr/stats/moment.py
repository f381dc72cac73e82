"""What statistics of one moment are made of."""

from collections.abc import Iterable, Mapping

import attrs

from mcr.model.health import Health, StreamHealth
from mcr.model.stats import RuleStats, Stats
from mcr.net.filter.tap import StreamTap
from mcr.relay.placement import PlacedRule
from mcr.stats.columns import RuleColumns
from mcr.stats.readings import Former, Reading


@attrs.frozen
class Counts:
    """What rules have matched, and these rules. Counters of outputs need not be in it."""

    now: Reading
    rules: tuple[PlacedRule, ...]


@attrs.frozen
class Moment:
    """The readings that statistics are made of: all but those of rules, and where those come from."""

    stats: Stats
    now: Reading
    past: Reading
    rules: tuple[PlacedRule, ...]
    former: Mapping[int, Former]
    last: Mapping[int, float]
    tap: StreamTap = attrs.field(factory=StreamTap)

    def only(self, rule_id: str) -> "Moment":
        """The same with one rule alone."""
        return attrs.evolve(self, rules=tuple(each for each in self.rules if each.rule.rule_id == rule_id))

    @property
    def columns(self) -> RuleColumns:
        """What rules have counted; `health` is apart."""
        return RuleColumns.of(self.now, self.past, self.rules, self.former, self.last)

    def of_rules(self) -> tuple[RuleStats, ...]:
        """Those of rules."""
        stats = self.columns.stats()
        found = self.health()
        return tuple(attrs.evolve(each, health=found.get(each.rule_id)) for each in stats) if found else stats

    def health(self) -> dict[str, StreamHealth]:
        """Of the streams that are watched, by the ids of their rules."""
        return {placed.rule.rule_id: each for placed, each in healths(self.rules, self.tap)}


def healths(rules: Iterable[PlacedRule], tap: StreamTap) -> list[tuple[PlacedRule, StreamHealth]]:
    """Of the rules whose streams are watched."""
    watched = (each for each in rules if each.rule.health is not Health.NONE)
    return [(each, tap.read(each.slot, each.rule.health)) for each in watched]
