"""`make bench`: run MCR and its peers on the same work, interleaved, and write what came of it."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import click

from bench import plan
from bench.document import write
from bench.measure import Patience, StageResult, run_stage
from bench.plan import Stage
from bench.plots import draw_all
from bench.prerequisites import check
from bench.subjects import Tools
from bench.tables import render
from lab import enter_user_namespace
from mcr.cli.failure import run
from mcr.errors import UsageError

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "bench"
PATIENCE_S, QUICK_PATIENCE_S = 600.0, 30.0  # in all, for others to leave the machine alone


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="The main ratios, in about two and a half minutes.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Of every workload.")
@click.option("--stage", "only", multiple=True, metavar="NAME", help="Only this stage; repeat for more.")
@click.option("--subject", "subjects", multiple=True, metavar="NAME", help="Only these peers, where they take part.")
@click.option("--mcr", default=Path(sys.executable).parent, type=click.Path(path_type=Path), help="Where mcrd is.")
@click.option("--output", default=BUILD / "results.json", type=click.Path(path_type=Path), help="JSON results.")
@click.option("--document", type=click.Path(path_type=Path), help="Write tables and pictures into this Markdown file.")
@click.option("--redraw", is_flag=True, help="Measure nothing: take the results of the last time.")
@click.option("--verbose", is_flag=True, help="A line for each trial.")
def main(
    *,
    quick: bool,
    rounds: int,
    only: tuple[str, ...],
    subjects: tuple[str, ...],
    mcr: Path,
    output: Path,
    document: Path | None,
    redraw: bool,
    verbose: bool,
) -> int:
    """Measure."""
    begun = time.monotonic()

    def say(line: str) -> None:
        if verbose:
            click.echo(f"{time.monotonic() - begun:6.0f} s  {line}", err=True)

    if not redraw:
        check(BUILD)
        enter_user_namespace()
        stages = chosen(plan.quick() if quick else plan.full(), only, subjects)
        patience = Patience(QUICK_PATIENCE_S if quick else PATIENCE_S)
        measure(stages, rounds, Tools(BUILD, mcr, Path()), patience=patience, output=output, say=say)
    found = json.loads(output.read_text(encoding="utf-8"))
    tables = render(found)
    click.echo(tables)
    if document:
        write(document, tables, draw_all(found, document.parent / "performance"))
    click.echo(f"{time.monotonic() - begun:.0f} s; every reading: {output}")
    return 0


def chosen(stages: Sequence[Stage], only: Sequence[str], subjects: Sequence[str]) -> list[Stage]:
    """Leave out what was not asked for.

    Raises:
        UsageError: nothing is left.
    """
    left = [
        attrs.evolve(stage, subjects=tuple(kind for kind in stage.subjects if not subjects or kind in subjects))
        for stage in stages
        if not only or stage.name in only
    ]
    left = [stage for stage in left if stage.subjects]
    if not left:
        raise UsageError("Nothing to measure", f"stages: {', '.join(stage.name for stage in stages)}")
    return left


def measure(
    stages: Sequence[Stage], rounds: int, tools: Tools, *, patience: Patience, output: Path, say: Callable[[str], None]
) -> None:
    """Run the stages, and keep what they found after each."""
    found: dict[str, Any] = {"machine": machine(), "rounds": rounds, "stages": []}
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="mcr-bench-") as directory:
        tools = attrs.evolve(tools, directory=Path(directory))
        for stage in stages:
            result = StageResult(stage)
            try:
                run_stage(result, rounds, tools, patience, say)
            finally:  # what was measured until an error or Ctrl-C counts
                found["stages"].append(attrs.asdict(result))
                output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Say on what this was measured."""
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
        if line.startswith("model name")
    )
    commit = subprocess.run(
        ["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    cpus = len([*Path("/sys/devices/system/cpu").glob("cpu[0-9]*")])
    return {"cpu": model, "cpus": cpus, "kernel": platform.release(), "mcr": commit.stdout.strip()}


if __name__ == "__main__":
    sys.exit(run(main, "bench"))
