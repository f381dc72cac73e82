"""Rules that get their places one at a time."""

from collections.abc import Collection

from mcr.model.rule import Rule
from mcr.relay.placement import Key, PlacedRule, Placement, Ways


def place(placement: Placement, rule: Rule, ways: Ways, neighbours: Collection[Key]) -> PlacedRule:
    """Give a rule its slots."""
    (placed,) = placement.place([rule], ways, neighbours)
    return placed
