"""Latencies of any number of packets, in bounded memory: how many took how many microseconds."""

import math
from collections import Counter

import attrs


@attrs.frozen
class LatencySummary:
    """Percentiles in whole microseconds."""

    p50: int
    p90: int
    p99: int
    p99_9: int
    max: int

    def __str__(self) -> str:
        return f"p50 {self.p50}  p90 {self.p90}  p99 {self.p99}  p99.9 {self.p99_9}  max {self.max} µs"


def summarize(latencies: Counter[int]) -> LatencySummary | None:
    """Return the percentiles (nearest rank) of a count of microseconds, or None if it is empty."""
    total = latencies.total()
    if total == 0:
        return None
    ranks = [math.ceil(total * permille / 1000) for permille in (500, 900, 990, 999, 1000)]
    values: list[int] = []
    passed = 0
    for microseconds, count in sorted(latencies.items()):
        passed += count
        while len(values) < len(ranks) and ranks[len(values)] <= passed:
            values.append(microseconds)
    return LatencySummary(*values)
