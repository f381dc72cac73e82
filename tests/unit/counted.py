"""Statistics of one moment, whose counters the test sets."""

from collections.abc import Mapping, Sequence

import attrs

from mcr.model.rule import Rule
from mcr.model.stats import Stats
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.shm.segment import OutputCounters, Segment
from mcr.stats.moment import Moment
from mcr.stats.readings import Reading

SECONDS = 2.0
"""Between the readings that rates are taken from."""

Counts = tuple[int, Sequence[OutputCounters]]
"""What a rule has matched, and what its first outputs have counted; the others have counted nothing."""


def place(rules: Sequence[Rule]) -> tuple[PlacedRule, ...]:
    """Rules in slots of their own."""
    placed, taken = [], 0
    for slot, rule in enumerate(rules):
        slots = tuple(OutputSlot(taken + number, slot + 1) for number in range(len(rule.outputs)))
        none = (None,) * len(slots)
        placed.append(PlacedRule(rule, slot + 1, slot, slots, none, none))
        taken += len(slots)
    return tuple(placed)


def moment(
    stats: Stats,
    rules: Sequence[Rule],
    now: Sequence[Counts] = (),
    last: Mapping[int, float] | None = None,
    past: Sequence[Counts] = (),
) -> Moment:
    """A moment at which these rules have counted this, by one worker; and that `SECONDS` before.

    Args:
        stats: all but those of rules.
        rules: the rules; their tags are 1, 2, and so on.
        now: what they have counted.
        last: when they have matched packets, by their tags; it is `SECONDS` now.
        past: what they had counted before.
    """
    placed = place(rules)
    with Segment(0) as segment:
        readings = [_read(segment, placed, *each) for each in ((past, 0.0), (now, SECONDS))]
    return Moment(stats, readings[1], readings[0], placed, {}, last or {})


def _read(segment: Segment, placed: Sequence[PlacedRule], counts: Sequence[Counts], time: float) -> Reading:
    for each, (matched, outputs) in zip(placed, counts, strict=False):
        segment.shared.rules[each.slot].tag, segment.shared.rules[each.slot].matched = each.tag, matched
        for at, counters in zip(each.outputs, outputs, strict=False):
            cell = segment.shared.outputs[at.slot]
            cell.tag = at.tag
            for name, value in attrs.asdict(counters).items():
                setattr(cell, name, value)
    size = len(placed), sum(len(each.outputs) for each in placed)
    return Reading(time, (segment.read(*size),), 0, 10.0 + time)
