"""Where rules stand in shared memory: the numbers that workers and statistics know them by."""

from collections.abc import Collection, Mapping, Sequence

import attrs

from mcr.model.flow import Address
from mcr.model.rule import Rule

Sources = Mapping[tuple[Address, int, str], Address]
"""By an output's destination: the address that raw frames to it come from, where they may be sent."""


Key = tuple[str, Address]
"""A neighbour: an output interface, and the host, or the group with a gateway, that is sent to by it."""


@attrs.frozen
class PlacedRule:
    """A rule and its slots.

    Attributes:
        rule: what the operator asked for.
        tag: unique to this placing; tells a slot's counters from those of whoever had the slot before.
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
