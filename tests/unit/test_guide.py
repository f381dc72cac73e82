"""The table of the guide's claims names tests that exist."""

import ast
import functools
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = (TESTS / "guide.md").read_text()
ROWS = [line.split("|")[1:4] for line in TABLE.splitlines() if line.startswith("| ") and "shown by" not in line]


@functools.cache
def functions_of(file: str) -> set[str]:
    return {each.name for each in ast.walk(ast.parse((TESTS / file).read_text())) if isinstance(each, ast.FunctionDef)}


def test_every_claim_has_a_test() -> None:
    shown_by = {claim.strip(): re.findall(r"`([^`]+)`", tests) for claim, tests, _ in ROWS}
    assert len(shown_by) == len(ROWS)
    assert [claim for claim, names in shown_by.items() if not names] == []
    named = [name.partition("::") for names in shown_by.values() for name in names]
    assert [f"{file} has no {test}" for file, _, test in named if test not in functions_of(file)] == []


def test_the_table_is_whole() -> None:
    """A line that is no row would not be checked."""
    assert len(ROWS) == TABLE.count("\n| ") - TABLE.count("shown by |")
    assert len(ROWS) > 50
