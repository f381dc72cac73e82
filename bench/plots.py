"""The results as pictures (SVG), for docs/performance.md. matplotlib comes with the `bench` extra."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.findings import Finding, Row, findings
from bench.subjects import BY_WORKERS, LABELS
from bench.sums import Spread

COLOURS = {
    "mcr": "#d62728",
    BY_WORKERS: "#ff9896",
    "kernel": "#1f77b4",
    "mmsg": "#2ca02c",
    "uring": "#9467bd",
    "recvsend": "#8c564b",
    "socat": "#7f7f7f",
}

Points = Mapping[str, Sequence[tuple[float, Spread]]]
Value = Callable[[Row], Spread | None]


def collect(found: Sequence[Finding], x: Callable[[Finding], float], y: Value) -> dict[str, list[tuple[float, Spread]]]:
    """Gather one curve for each subject, from left to right."""
    curves: dict[str, list[tuple[float, Spread]]] = {}
    for finding in found:
        for row in finding.rows:
            value = y(row)
            if value is not None and row.subject in COLOURS:
                curves.setdefault(row.subject, []).append((x(finding), value))
    return {kind: sorted(curves[kind], key=lambda point: point[0]) for kind in COLOURS if kind in curves}


def draw(path: Path, title: str, labels: tuple[str, str], curves: Points, *, log: bool = False) -> None:
    """Draw medians as lines, and their spread as bars."""
    import matplotlib as mpl  # noqa: PLC0415 - only who draws needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = "mcr"  # the same results make the same file
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for kind, points in curves.items():
        middle = [value.median for _, value in points]
        spread = [[v.median - v.low for _, v in points], [v.high - v.median for _, v in points]]
        at = [x for x, _ in points]
        axes.errorbar(at, middle, yerr=spread, label=LABELS[kind], color=COLOURS[kind], marker="o", capsize=2)
    axes.set(title=title, xlabel=labels[0], ylabel=labels[1])
    if log:
        axes.set(xscale="log", yscale="log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def draw_all(results: dict[str, Any], directory: Path) -> list[Path]:
    """Draw what the results have enough of; return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    stages = {stage["stage"]["name"]: (stage, findings(stage)) for stage in results["stages"]}
    drawn = []

    def picture(name: str, title: str, labels: tuple[str, str], curves: Points, *, log: bool = False) -> None:
        if curves and max(len(points) for points in curves.values()) > 1:
            draw(directory / name, title, labels, curves, log=log)
            drawn.append(directory / name)

    def offered(finding: Finding) -> float:
        return max(row.offered.median for row in finding.rows) / 1e3

    def of_size(name: str) -> list[Finding]:
        even = [f for f in stages.get(name, (None, []))[1] if "bursts" not in f.workload]
        return [f for f in even if f.workload.endswith("1316 B")]

    one = of_size("1 output")
    picture("cpu.svg", "CPU per packet, 1 output", ("offered, kpps", "ns"), collect(one, offered, lambda r: r.cost))
    picture(
        "throughput.svg",
        "Forwarded, 1 output, everything on one processor",
        ("offered, kpps", "kpps"),
        collect(one, offered, lambda row: _scaled(row.forwarded, 1e-3)),
    )
    for quantile, words in (("p50", "median"), ("p99", "99th percentile")):
        curves = collect(of_size("latency"), offered, lambda row, q=quantile: row.latency.get(q))  # type: ignore[misc]
        picture(f"latency-{quantile}.svg", f"Latency, {words}", ("offered, kpps", "µs"), curves, log=True)
    for ending, file, words in (
        ("", "fan-out.svg", "20 kpps"),
        (" at saturation", "fan-out-saturation.svg", "flat out"),
    ):
        found = [
            (stages[name][0]["stage"]["outputs"], finding)
            for count in ("1 output", "2 outputs", "4 outputs", "8 outputs")
            for name in [count + ending]
            for finding in of_size(name)
            if finding.workload.startswith(words)
        ]
        outputs = {id(finding): float(count) for count, finding in found}
        curves = collect([each for _, each in found], lambda f, o=outputs: o[id(f)], lambda row: row.cost)  # type: ignore[misc]
        picture(file, f"CPU per packet by number of outputs, {words}", ("outputs", "ns"), curves)
    return drawn


def _scaled(spread: Spread, by: float) -> Spread:
    return Spread(spread.median * by, spread.low * by, spread.high * by, spread.count)
