"""Arithmetic of the benchmark: pure."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import attrs

_T = TypeVar("_T")


@attrs.frozen
class Spread:
    """Median of some readings, and between what they lay."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Sum readings up; there must be one."""
        known = sorted(values)
        return cls(statistics.median(known), known[0], known[-1], len(known))


def order(subjects: Sequence[_T], round_number: int) -> list[_T]:
    """Say in which order a round measures: each starts elsewhere, and every other goes backwards.

    So no subject has the same predecessor all the time, and a machine that slows down slows all.
    """
    start = round_number // 2 % len(subjects)
    turned = [*subjects[start:], *subjects[:start]]
    return turned if round_number % 2 == 0 else turned[::-1]


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread | None:
    """Compare two subjects round by round; None if they share no round."""
    both = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys() if theirs[number] > 0]
    return Spread.of(both) if both else None


def cost_ns(busy_ns: float, generated: int, generator_ns: float, forwarded: float) -> float | None:
    """Give a relay's cost for each packet it forwarded, the generator's for each that it sent taken off."""
    return (busy_ns - generated * generator_ns) / forwarded if forwarded > 0 else None


def highest_passing(passes: Callable[[float], bool], low: float, high: float, steps: int) -> float:
    """Search the highest rate that passes, halving the interval by ratio.

    Args:
        passes: tries one rate.
        low: assumed to pass; the answer if nothing else does.
        high: the highest rate to try.
        steps: how many to try.
    """
    if passes(high):
        return high
    for _ in range(steps - 1):
        middle = (low * high) ** 0.5
        if passes(middle):
            low = middle
        else:
            high = middle
    return low


def burst_for(rate: float, longest: int = 64) -> int:
    """Packets that leave together at a rate: those of 0.1 ms, as a generator can't sleep much less."""
    return max(1, min(longest, round(rate / 10_000)))


def spinning_burst(rate: float) -> int:
    """Give the same for a generator that waits without sleeping: one by one, as far as it keeps up."""
    return max(1, round(rate / 200_000))
