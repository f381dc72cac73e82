"""The plan of a run: its stages, each a set of rigs, and the work done on them."""

import attrs

from bench.rig import Traffic
from bench.subjects import BY_WORKERS, DELIVERING, Work

EVERYONE = ("mcr", BY_WORKERS, "kernel", "mmsg", "uring", "recvsend", "socat")
ESSENTIAL = ("mcr", BY_WORKERS, "kernel", "mmsg", "uring")
SATURATED = ("mcr", BY_WORKERS, DELIVERING, "kernel", "mmsg", "uring")
SEARCHED = ("mcr", "mmsg", "uring", "socat")
WAYS_IN = ("mcr", "in_mmsg", "in_multishot", "in_v2", "in_v3")
FLAT_OUT = 0.0
FEW_RULES, MANY_RULES = "mcr-1-rule", "mcr-10000-rules"


@attrs.frozen
class Workload:
    """Traffic, and a name for it in tables."""

    name: str
    traffic: Traffic


@attrs.frozen
class Stage:
    """Relays set up side by side, and all that is measured on them.

    Attributes:
        name: in tables.
        subjects: kinds of relay.
        outputs: of each.
        workloads: in turn, in each round.
        work: what each relay is told; `works` for single ones that are told something else.
        latency: whether the sinks take the time, instead of counting at XDP.
        search: whether to search the highest rate without loss.
        overload: whether to offer MCR twice that rate.
        interrupt: whether frames interrupt the relay's processor, rather than being brought by the generator's.
    """

    name: str
    subjects: tuple[str, ...]
    outputs: int = 1
    workloads: tuple[Workload, ...] = ()
    work: Work = attrs.field(factory=Work)
    works: dict[str, Work] = attrs.field(factory=dict)
    latency: bool = False
    search: bool = False
    overload: bool = False
    interrupt: bool = False


def rate(packets: float, size: int = 1316, seconds: float = 1.0, *, checksums: bool = False, **more: int) -> Workload:
    """Make a workload of one rate, named for it."""
    speed = f"{packets / 1000:g} kpps" if packets else "flat out"
    speed += f" in bursts of {more['burst']}" if more.get("burst") else ""
    speed += f" + {packets * more['noise'] / 1000:g} kpps that match nothing" if more.get("noise") else ""
    kind = f"{size} B, UDP checksums" if checksums else f"{size} B"
    return Workload(f"{speed}, {kind}", Traffic(packets, size=size, seconds=seconds, checksums=checksums, **more))


def quick() -> tuple[Stage, ...]:
    """Take about two and a half minutes: the main ratios."""
    short = 0.8
    paced = (rate(20_000, 1316, short), rate(100_000, 1316, short))
    return (
        Stage("1 output", ESSENTIAL, 1, paced, interrupt=True),
        Stage("8 outputs", ESSENTIAL, 8, paced[:1], interrupt=True),
        Stage("1 output at saturation", SATURATED, 1, (rate(FLAT_OUT, 1316, short),)),
        Stage("8 outputs at saturation", ESSENTIAL, 8, (rate(FLAT_OUT, 1316, short),)),
    )


def full() -> tuple[Stage, ...]:
    """Take everything that docs/performance.md shows."""
    small = (rate(20_000, 188), rate(100_000, 188))
    sweep = tuple(rate(packets) for packets in (5_000, 20_000, 50_000, 100_000, 150_000))
    bursts = (rate(100_000, burst=16),)
    eight = (rate(20_000), rate(40_000, burst=16), rate(100_000, 188), *bursts)
    noise = (rate(50_000, 188), rate(50_000, 188, noise=8))
    latencies = tuple(rate(packets) for packets in (2_000, 20_000, 50_000, 100_000))
    flat = (rate(FLAT_OUT), rate(FLAT_OUT, 188))
    checksums = [(rate(packets), rate(packets, checksums=True)) for packets in (20_000, FLAT_OUT)]
    return (
        Stage("1 output", EVERYONE, 1, small + sweep + bursts, interrupt=True),
        Stage("2 outputs", ESSENTIAL, 2, (rate(20_000),), interrupt=True),
        Stage("4 outputs", ESSENTIAL, 4, (rate(20_000),), interrupt=True),
        Stage("8 outputs", ESSENTIAL, 8, eight, interrupt=True),
        Stage("1 output, until packets are lost", SEARCHED, 1, interrupt=True, search=True, overload=True),
        Stage("4 outputs, until packets are lost", SEARCHED, 4, interrupt=True, search=True, overload=True),
        Stage("1 output at saturation", (*EVERYONE, DELIVERING), 1, flat),
        Stage("2 outputs at saturation", ESSENTIAL, 2, flat[:1]),
        Stage("4 outputs at saturation", EVERYONE, 4, flat[:1]),
        Stage("8 outputs at saturation", SATURATED, 8, flat),
        Stage("latency", (*ESSENTIAL, "recvsend"), 1, latencies, interrupt=True, latency=True),
        Stage("ways to receive", WAYS_IN, 1, (rate(20_000), rate(100_000)), interrupt=True),
        Stage("ways to receive, at saturation", WAYS_IN, 1, flat[:1]),
        Stage("ways to receive, latency", WAYS_IN, 1, latencies[:2], interrupt=True, latency=True),
        Stage("traffic that matches nothing", ("mcr", "mmsg", "uring", "nobody"), 1, noise, interrupt=True),
        Stage("checksums to verify", ("mcr",), 1, checksums[0], interrupt=True),
        Stage("checksums to verify, at saturation", ("mcr",), 1, checksums[1]),
        Stage(
            "1,000 flows",
            ("mcr", "mmsg"),
            1,
            (rate(50_000, flows=1000), rate(100_000, flows=1000)),
            Work(1000),
            interrupt=True,
        ),
        Stage(
            "1,000 flows at saturation",
            ("mcr", DELIVERING, "mmsg"),
            1,
            (rate(FLAT_OUT, flows=1000),),
            Work(1000),
        ),
        Stage(
            "rules",
            (FEW_RULES, MANY_RULES),
            1,
            (rate(100_000),),
            works={MANY_RULES: Work(rules=10_000)},
            interrupt=True,
        ),
    )
