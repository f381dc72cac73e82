"""The table of the guide's claims names tests that exist."""

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = (TESTS / "guide.md").read_text()
ROWS = [line.split("|")[1:4] for line in TABLE.splitlines() if line.startswith("| ") and "shown by" not in line]


@functools.cache
def functions_of(file: str) -> set[str]:
    return {each.name for each in ast.walk(ast.parse((TESTS / file).read_text())) if isinstance(each, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_every_claim_has_a_test(row: list[str]) -> None:
    shown_by = re.findall(r"`([^`]+)`", row[1])
    assert shown_by
    for name in shown_by:
        file, _, test = name.partition("::")
        assert test in functions_of(file), f"{file} has no {test}"


def test_the_table_is_whole() -> None:
    """A line that is no row would not be checked."""
    assert len(ROWS) == TABLE.count("\n| ") - TABLE.count("shown by |")
    assert len(ROWS) > 50
