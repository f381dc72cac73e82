"""Where rules stand in shared memory: the numbers that workers and statistics know them by."""

from collections.abc import Mapping

import attrs

from mcr.model import Address, Rule

Sources = Mapping[tuple[Address, int, str], Address]
"""By an output's destination: the address that raw frames to it come from, where they may be sent."""


@attrs.frozen
class PlacedRule:
    """A rule and its slots.

    Attributes:
        rule: what the operator asked for.
        tag: unique to this placing; tells a slot's counters from those of whoever had the slot before.
        slot: of the rule's counters.
        outputs: slots of the outputs' counters, in the rule's order.
        sources: of raw frames to the outputs, in the same order; None: an output gets none.
    """

    rule: Rule
    tag: int
    slot: int
    outputs: tuple[int, ...]
    sources: tuple[Address | None, ...]


def sources_of(rule: Rule, sources: Sources) -> tuple[Address | None, ...]:
    """Those of a rule's outputs."""
    return tuple(sources.get(output.destination) for output in rule.outputs)
