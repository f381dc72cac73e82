"""Lines of a batch: read fast, and as the command line would read them."""

from pathlib import Path

import attrs
import pytest

from mcr.cli import batch
from mcr.control.structure import structure
from mcr.model.rule import Rule
from mcr.rules.catalog import Catalog

RULES_PAGE = Path(__file__).parents[2] / "docs" / "rules.md"

LINE = "--input-interface eth0 --input-group 239.1.1.1 --input-port 5000 --outputs 239.2.2.2:5001:eth1"


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        f"{LINE} --outputs 239.9.9.9:1:eth3 --rule-id one --name two",
        f"--name two {LINE}",
        "--outputs 239.9.9.9:1:eth3",
    ],
)
def test_plain_lines_of_a_batch_are_read_as_click_would(line: str) -> None:
    words = line.split()
    assert batch._plain_options(words) == batch._batch_line.make_context("mcrctl add", words).params


@pytest.mark.parametrize("end", ["--name", "--name=x", "--name -x", "--nam x", "x", "--name a --name b"])
def test_other_lines_are_left_to_click(end: str) -> None:
    assert batch._plain_options([*LINE.split(), *end.split()]) is None


@attrs.frozen
class Rules:
    rules: tuple[Rule, ...]


def test_the_rules_of_the_page_can_be_had_together(tmp_path: Path) -> None:
    """Whoever types one after another is refused none, and none sends to what another one sends to."""
    lines = [line.strip() for line in RULES_PAGE.read_text().replace("\\\n", " ").splitlines()]
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ mcrctl add ")]
    file = tmp_path / "typed"
    file.write_text("\n".join(typed))
    read, faults = batch.read_batch(str(file))
    assert (len(read.rules), faults) == (len(typed), [])
    rules = structure({"rules": read.rules}, Rules).rules
    Catalog().plan_addition(rules)
    outputs = [(output.group, output.port, output.interface, output.vlan) for rule in rules for output in rule.outputs]
    assert len(set(outputs)) == len(outputs)
