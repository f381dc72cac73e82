"""What goes from one rule to another when rules change: of ranges, what others name; of any source, what some name."""

from collections.abc import Iterable, Iterator

import attrs

from mcr.model.flow import Claim, without_source
from mcr.model.overlaps import shared
from mcr.model.rule import Rule, RuleChange
from mcr.relay.placement import PlacedRule, Placement, Replacement


def claims(rules: Iterable[Rule]) -> Iterator[Claim]:
    """What rules take, be it of a range or not."""
    for rule in rules:
        for flow in rule.input.flows:
            yield Claim(rule.input.interface, flow)


def still(change: RuleChange, placement: Placement) -> set[Claim]:
    """What is to be let in, though rules that take it are removed."""
    added = {*claims(change.added)}
    if not placement.has_ranges:
        return added
    gone = {rule.rule_id for rule in change.removed}
    others = (each.rule for each in placement if each.rule.rule_id not in gone)
    return added.union(shared(change.removed, others))


def give_way(
    change: RuleChange, placement: Placement, added: tuple[PlacedRule, ...], changed: list[Replacement]
) -> tuple[tuple[PlacedRule, ...], list[Replacement]]:
    """These, and ranges that take more or less now, as all of them are then."""
    ranges = placement.give_way((*change.added, *change.removed))
    if not ranges:
        return added, changed
    added = tuple(ranges.pop(each.rule.rule_id).now if each.rule.rule_id in ranges else each for each in added)
    changed = [
        attrs.evolve(each, now=ranges.pop(each.now.rule.rule_id).now) if each.now.rule.rule_id in ranges else each
        for each in changed
    ]
    return added, [*changed, *ranges.values()]


def going_on(removed: Iterable[PlacedRule], remaining: Iterable[PlacedRule]) -> Iterator[Claim]:
    """What rules take from any source: from now on also what removed ones have taken from some."""
    if any(each.rule.input.sources for each in removed):
        for placed in remaining:
            if not placed.rule.input.sources:
                yield from map(without_source, placed.rule.input.claims)
