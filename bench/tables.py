"""The results as tables, in Markdown: they read well on a terminal too."""

from collections.abc import Iterator, Sequence
from typing import Any

from bench.findings import Finding, Row, findings, noise_costs, zero_loss
from bench.subjects import LABELS
from bench.sums import Spread

NAMES = LABELS | {"mcr-1-rule": "MCR, 1 rule", "mcr-10000-rules": "MCR, 10,000 rules"}
METHOD = (
    "Medians of the rounds, and in brackets the lowest and highest. CPU: nanoseconds for each packet that left by all "
    "outputs. Ratios: MCR's figure to this one's, round by round. ⚠ n: rounds in which somebody else had too much of "
    "the machine, at every attempt. They are left out; where fewer than three others remain they are not, and a "
    "question mark says that the figure is worth nothing."
)


def render(found: dict[str, Any]) -> str:
    """Write everything."""
    machine = found["machine"]
    on = f"{machine['cpus']} processors ({machine['cpu']}), Linux {machine['kernel']}"
    lines = [f"{on}, MCR {machine['mcr']}; {found['rounds']} rounds.", "", METHOD]
    for stage in found["stages"]:
        for finding in findings(stage):
            lines += ["", f"### {finding.stage}: {finding.workload}", "", *_finding(finding)]
        lines += [*_noise(stage), *_zero_loss(stage), *_overloads(stage), *_rest(stage)]
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Draw one; numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    yield line(header)
    yield "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    for row in rows:
        yield line(row)


def number(spread: Spread | None, scale: float = 1.0, digits: int = 0) -> str:
    """Write a median and its spread."""
    if spread is None:
        return "-"
    return f"{spread.median * scale:,.{digits}f} ({spread.low * scale:,.{digits}f}-{spread.high * scale:,.{digits}f})"


def _finding(finding: Finding) -> Iterator[str]:
    timed = bool(finding.rows[0].latency)
    header = ["relay", "p50 µs", "p99 µs", "p99.9 µs"] if timed else ["relay", "CPU ns", "MCR's CPU to it"]
    return table([*header, "offered kpps", "forwarded kpps", "lost"], [_row(row, timed=timed) for row in finding.rows])


def _row(row: Row, *, timed: bool) -> list[str]:
    name = NAMES.get(row.subject, row.subject) + (f" ⚠ {row.disturbed}" if row.disturbed else "")
    measured = (
        [number(row.latency.get(quantile), digits=1) for quantile in ("p50", "p99", "p999")]
        if timed
        else [number(row.cost), number(row.ratio, digits=2)]
    )
    if row.doubtful:
        measured = [f"? {each}" for each in measured]
    lost = "0" if row.lost.high <= 0 else f"{row.lost.median:.2%}"
    return [name, *measured, f"{row.offered.median / 1e3:,.0f}", f"{row.forwarded.median / 1e3:,.0f}", lost]


def _noise(stage: dict[str, Any]) -> Iterator[str]:
    rows = [[NAMES.get(kind, kind), number(cost), f"{lost:.3%}"] for kind, cost, lost in noise_costs(stage)]
    if rows:
        yield from ("", f"### {stage['stage']['name']}: what each such packet costs", "")
        yield from table(["relay", "CPU ns", "most lost of the stream"], rows)


def _zero_loss(stage: dict[str, Any]) -> Iterator[str]:
    rows = [
        [NAMES.get(kind, kind), number(rate, 1e-3), number(ratio, digits=2)] for kind, rate, ratio in zero_loss(stage)
    ]
    if rows:
        yield from ("", f"### {stage['stage']['name']}: highest rate without loss", "")
        yield from table(["relay", "kpps", "MCR's to it"], rows)


def _overloads(stage: dict[str, Any]) -> Iterator[str]:
    found = stage["overloads"]
    if not found:
        return

    def spread(name: str) -> Spread:
        return Spread.of(each[name] for each in found)

    yield from ("", f"### {stage['stage']['name']}: MCR offered twice that, or what the generator can", "")
    yield from table(
        ["", "median (lowest-highest)"],
        [
            ["offered, kpps", number(spread("offered"), 1e-3)],
            ["forwarded, kpps", number(spread("forwarded"), 1e-3)],
            ["of the rate without loss", number(Spread.of(o["forwarded"] / o["zero_loss"] for o in found), digits=2)],
            ["packets in that no counter has", number(spread("unaccounted_in"))],
            ["datagrams out that no counter has", number(spread("unaccounted_out"))],
            ["counted as sent, not arrived", number(spread("undelivered"))],
            ["longest wait for `stats` on the socket, ms", number(spread("stats_ms"))],
            ["longest run of `mcrctl ping`, ms", number(spread("mcrctl_ms"))],
        ],
    )


def _rest(stage: dict[str, Any]) -> Iterator[str]:
    if stage["idle"]:
        yield ""
    for kind, share in stage["idle"].items():
        yield f"{NAMES.get(kind, kind)}, idle: {share:.3%} of a processor."
    for kind, sizes in stage["memory"].items():
        private = sizes["Private_Dirty"] + sizes["Private_Clean"]
        kind_name, _, when = kind.partition(", ")
        subject = NAMES.get(kind_name, kind_name) + (f", {when}" if when else "")
        yield f"Worker of {subject}: {sizes['Rss']:,} KiB resident, {private:,} KiB of it its own."
