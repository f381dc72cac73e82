"""Walks one rule from wire to wire."""

from mcr.findings import Finding
from mcr.model import RuleView, Stats


def walk(rule: RuleView, stats: Stats) -> tuple[Finding, ...]:
    """Find the first thing that is wrong with a rule."""
    raise NotImplementedError
