"""From readings to costs and ratios: pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from bench import sums
from bench.sums import Spread

BASELINE = "none"
FEWEST = 3  # undisturbed readings that make a figure
OURS = "mcr"

Reading = Mapping[str, Any]  # one of results.json


@attrs.frozen
class Row:
    """One subject at one workload. Costs in nanoseconds for each packet that came out of all outputs."""

    subject: str
    cost: Spread | None
    ratio: Spread | None  # of MCR's cost to this one's
    offered: Spread
    forwarded: Spread
    lost: Spread  # share of what was sent
    latency: dict[str, Spread]
    disturbed: int
    doubtful: bool  # too few undisturbed readings: the others had to be taken too


@attrs.frozen
class Finding:
    """One workload of one stage."""

    stage: str
    workload: str
    rows: tuple[Row, ...]


def undisturbed(readings: Sequence[Reading]) -> Sequence[Reading]:
    """Leave out what others disturbed, if enough remains."""
    quiet = [reading for reading in readings if not reading["disturbed"]]
    return quiet if len(quiet) >= FEWEST else readings


def _frames(reading: Reading) -> int:
    return int(reading["sent"]) + int(reading["noise"])


def _generator_ns(readings: Sequence[Reading]) -> dict[int, float]:
    return {reading["round"]: reading["busy_ns"] / _frames(reading) for reading in readings}


def costs(subject: Sequence[Reading], baseline: Sequence[Reading]) -> dict[int, float]:
    """Give a subject's cost by round, the generator's of the same round taken off, if there is one."""
    own = _generator_ns(undisturbed(baseline))
    typical = Spread.of(own.values()).median if own else 0.0
    found = {}
    for reading in undisturbed(subject):
        forwarded = reading["delivered"] / reading["outputs"]
        cost = sums.cost_ns(reading["busy_ns"], _frames(reading), own.get(reading["round"], typical), forwarded)
        if cost is not None:
            found[reading["round"]] = cost
    return found


def findings(stage: Mapping[str, Any]) -> list[Finding]:
    """Sum one stage up."""
    readings: list[Reading] = stage["readings"]
    workloads = dict.fromkeys(reading["workload"] for reading in readings)
    return [_finding(stage["stage"], name, [r for r in readings if r["workload"] == name]) for name in workloads]


def _finding(stage: Mapping[str, Any], workload: str, readings: Sequence[Reading]) -> Finding:
    by_subject = {
        kind: [reading for reading in readings if reading["subject"] == kind] for kind in (*stage["subjects"], BASELINE)
    }
    baseline = by_subject.pop(BASELINE)
    cost = {kind: costs(each, baseline) for kind, each in by_subject.items()}
    ours = OURS if OURS in cost else next(iter(cost))
    rows = [
        _row(kind, by_subject[kind], cost[kind], sums.ratios(cost[ours], cost[kind]))
        for kind in cost
        if by_subject[kind]
    ]
    return Finding(stage["name"], workload, tuple(rows))


def _row(kind: str, readings: Sequence[Reading], cost: Mapping[int, float], ratio: Spread | None) -> Row:
    used = undisturbed(readings)

    def spread(values: Iterable[float]) -> Spread:
        return Spread.of(values)

    timed = [reading["latency"] for reading in used if reading["latency"]]
    return Row(
        kind,
        Spread.of(cost.values()) if cost else None,
        ratio,
        spread(r["sent"] / r["seconds"] for r in used),
        spread(r["delivered"] / r["outputs"] / r["seconds"] for r in used),
        spread(1 - r["delivered"] / r["outputs"] / r["sent"] for r in used),
        {name: spread(each[name] for each in timed) for name in (timed[0] if timed else {})},
        sum(reading["disturbed"] for reading in readings),
        any(reading["disturbed"] for reading in used),
    )


def noise_costs(stage: Mapping[str, Any]) -> list[tuple[str, Spread, float]]:
    """Give what each packet that matches nothing cost, and the stream's worst loss beside them.

    It is what a round with noise took more than the one without, of the same rate; the generator has a processor of
    its own.
    """
    found = []
    for kind in stage["stage"]["subjects"]:
        readings = [reading for reading in stage["readings"] if reading["subject"] == kind]
        noisy = undisturbed([reading for reading in readings if reading["noise"]])
        quiet = {r["round"]: r["busy_ns"] / r["sent"] for r in readings if not r["noise"]}
        extra = [(r["busy_ns"] - quiet[r["round"]] * r["sent"]) / r["noise"] for r in noisy if r["round"] in quiet]
        if extra:
            lost = max(1 - r["delivered"] / r["outputs"] / r["sent"] for r in noisy)
            found.append((kind, Spread.of(extra), lost))
    return found


def zero_loss(stage: Mapping[str, Any]) -> list[tuple[str, Spread, Spread | None]]:
    """Give each subject's highest rate without loss, and the ratio of MCR's to it."""
    rates: dict[str, dict[int, float]] = {}
    for found in stage["zero_loss"]:
        rates.setdefault(found["subject"], {})[found["round"]] = found["rate"]
    names = [kind for kind in (*stage["stage"]["subjects"], BASELINE) if kind in rates]
    return [(kind, Spread.of(rates[kind].values()), sums.ratios(rates.get(OURS, {}), rates[kind])) for kind in names]
