"""The places of rules in shared memory: the numbers by which workers and statistics know them."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import attrs

from mcr.model.flow import Address
from mcr.model.limits import MAX_OUTPUTS, MAX_RULES
from mcr.model.rule import Rule
from mcr.relay.slots import Slots

Sources = Mapping[tuple[Address, int, str], Address]
"""By an output's destination: the address that raw frames to it come from, where they may be sent."""


Key = tuple[str, Address]
"""A neighbour: an output interface, and the host, or the group with a gateway, that is sent to by it."""


@attrs.frozen
class PlacedRule:
    """A rule and its slots.

    Attributes:
        rule: what the operator asked for.
        tag: unique to this placing; tells a slot's counters from those of the slot's last rule.
        slot: of the rule's counters.
        outputs: slots of the outputs' counters, in the rule's order.
        sources: of raw frames to the outputs, in the same order; None: an output gets none.
        neighbours: that outputs wait for, in the same order; None: an output waits for nobody.
    """

    rule: Rule
    tag: int
    slot: int
    outputs: tuple[int, ...]
    sources: tuple[Address | None, ...]
    neighbours: tuple[Key | None, ...]


def sources_of(rule: Rule, sources: Sources, neighbours: Sequence[Key | None]) -> tuple[Address | None, ...]:
    """Those of a rule's outputs: raw frames wait for no neighbour."""
    return tuple(
        None if neighbour else sources.get(output.destination)
        for output, neighbour in zip(rule.outputs, neighbours, strict=True)
    )


def neighbours_of(rule: Rule, neighbours: Collection[Key]) -> tuple[Key | None, ...]:
    """Those of a rule's outputs."""
    keys = ((output.interface, output.group) for output in rule.outputs)
    return tuple(key if key in neighbours else None for key in keys)


class Placement:
    """All placed rules, by their ids, and the slots that they have."""

    def __init__(self) -> None:
        self._by_id: dict[str, PlacedRule] = {}
        self._tags = 0
        self._rule_slots = Slots(MAX_RULES, "rules")
        self._output_slots = Slots(MAX_OUTPUTS, "outputs")
        self._rule_names: dict[int, str] = {}
        self._output_names: dict[int, str] = {}

    def __iter__(self) -> Iterator[PlacedRule]:
        return iter(self._by_id.values())

    def place(self, rule: Rule, sources: Sources, neighbours: Collection[Key]) -> PlacedRule:
        """Give a rule its slots. There are enough: `mcr.rules.catalog` admits no more rules."""
        self._tags += 1
        slot, outputs = self._rule_slots.take(), tuple(self._output_slots.take() for _ in rule.outputs)
        waits_for = neighbours_of(rule, neighbours)
        placed = PlacedRule(rule, self._tags, slot, outputs, sources_of(rule, sources, waits_for), waits_for)
        self._by_id[rule.rule_id] = placed
        self._rule_names[slot] = rule.rule_id
        self._output_names |= zip(outputs, map(str, rule.outputs), strict=True)
        return placed

    def replace(self, placed: PlacedRule) -> None:
        """Have it stand in the place of the one with its id: in the same slots."""
        self._by_id[placed.rule.rule_id] = placed

    def displace(self, rule: Rule) -> PlacedRule:
        """Take a rule's slots back."""
        placed = self._by_id.pop(rule.rule_id)
        del self._rule_names[placed.slot]
        self._rule_slots.give(placed.slot)
        for slot in placed.outputs:
            del self._output_names[slot]
            self._output_slots.give(slot)
        return placed

    def naming(self, interface: str) -> list[str]:
        """Ids of the rules that name an interface."""
        return [rule_id for rule_id, placed in self._by_id.items() if interface in placed.rule.interfaces]

    def rule_name(self, slot: int) -> str:
        """Id of the rule in a rule slot."""
        return self._rule_names.get(slot, f"{slot} (gone)")

    def output_name(self, slot: int) -> str:
        """Destination of an output slot."""
        return self._output_names.get(slot, f"output {slot} (gone)")
