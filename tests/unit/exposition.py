"""What the official parsers make of metrics."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as open_metrics_parser

from mcr.metrics.exposition import Format

PROMTOOL = shutil.which("promtool", path=f"{Path(sys.executable).parent}:/usr/bin")

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="there is no promtool: make setup gets it, as root on Debian"
)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str, chosen: Format) -> Samples:
    """By name and labels; each stands there once."""
    parse = (
        open_metrics_parser.text_string_to_metric_families
        if chosen is Format.OPEN_METRICS
        else parser.text_string_to_metric_families
    )
    found: Samples = {}
    for family in parse(text):
        assert family.documentation
        for each in family.samples:
            key = each.name, frozenset(each.labels.items())
            assert key not in found
            found[key] = each.value
    return found


def value(found: Samples, called: str, **labels: object) -> float:
    return found[called, frozenset((label, str(text)) for label, text in labels.items())]


def sums(found: Samples, called: str, *labels: str) -> Counter[tuple[str, ...]]:
    """Over all samples of a name whose values of these labels are the same."""
    added = Counter[tuple[str, ...]]()
    for (name, pairs), each in found.items():
        if name == called:
            added[tuple(dict(pairs)[label] for label in labels)] += int(each)
    return added


def total(found: Samples, called: str, **labels: object) -> float:
    """Over all samples that have these labels."""
    wanted = {(label, str(text)) for label, text in labels.items()}
    return sum(each for (name, pairs), each in found.items() if name == called and wanted <= pairs)


def promtool(*words: str | Path, given: Iterable[str] = ()) -> str:
    """What promtool prints, if it finds nothing wrong."""
    assert PROMTOOL is not None
    command = [PROMTOOL, *map(str, words)]
    done = subprocess.run(command, input="".join(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
