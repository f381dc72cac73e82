"""Where rules stand in shared memory: the numbers that workers and statistics know them by."""

import attrs

from mcr.model import Rule


@attrs.frozen
class PlacedRule:
    """A rule and its slots.

    Attributes:
        rule: what the operator asked for.
        tag: unique to this placing; tells a slot's counters from those of whoever had the slot before.
        slot: of the rule's counters.
        outputs: slots of the outputs' counters, in the rule's order.
    """

    rule: Rule
    tag: int
    slot: int
    outputs: tuple[int, ...]
