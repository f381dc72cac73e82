"""A message that is forgotten in a match is a type error, for each match over messages ends with `assert_never`."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import mcr

ROOT = Path(mcr.__file__).parent

ROOMS = ("actors", "control", "shm")
"""Where messages are defined and matched."""


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py"))


@functools.cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def members(node: ast.expr) -> Iterator[str]:
    """Names in ``A | B | records.C``, without their modules."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield from members(left)
            yield from members(right)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            yield name
        case _:
            pass


def unions(source: str) -> dict[str, set[str]]:
    """The unions that a module defines, by name."""
    return {
        name: set(members(value))
        for statement in parsed(source).body
        if isinstance(statement, ast.Assign)
        for name, value in [(ast.unparse(statement.targets[0]), statement.value)]
        if isinstance(value, ast.BinOp)
    }


def matched(pattern: ast.pattern) -> set[str]:
    """Names of the classes in a pattern, without their modules."""
    classes = (node.cls for node in ast.walk(pattern) if isinstance(node, ast.MatchClass))
    return {name for each in classes for name in members(each)}


def is_exhaustive(node: ast.Match, messages: set[str]) -> bool:
    """Whether the last case is ``case _: assert_never(subject)``, and those before it name messages, nothing wider."""
    *earlier, last = node.cases
    return (
        all(matched(case.pattern) and matched(case.pattern) <= messages and not case.guard for case in earlier)
        and ast.unparse(last.pattern) == "_"
        and not last.guard
        and [ast.unparse(each) for each in last.body] == [f"assert_never({ast.unparse(node.subject)})"]
    )


def forgetful(source: str, messages: set[str]) -> list[int]:
    """Lines of the matches over messages that a new message could be forgotten in."""
    return [
        node.lineno
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Match)
        and any(matched(case.pattern) & messages for case in node.cases)
        and not is_exhaustive(node, messages)
    ]


@functools.cache
def all_unions() -> dict[str, set[str]]:
    return {f"{path.stem}.{name}": found for path in sources() for name, found in unions(path.read_text()).items()}


def test_every_match_over_messages_is_exhaustive() -> None:
    messages = set().union(*all_unions().values())
    found = {str(path.relative_to(ROOT)): forgetful(path.read_text(), messages) for path in sources()}
    assert len(found) > 30
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_every_actor_has_its_union() -> None:
    """Whoever reads an inbox of several kinds of commands is seen here."""
    commands = {name for name in all_unions() if name.endswith("Command")}
    assert {
        "network_watch._Command",
        "rule_store._Command",
        "stats_requests.Command",
        "worker_supervisor._Command",
    } <= commands


MATCH = """
match command:
    case _Add(rules):
        pass
    case messages._Remove() | _List():
        pass
    {last}
"""


@pytest.mark.parametrize(
    ("last", "forgets"),
    [
        ("case _:\n        assert_never(command)", False),
        ("case _:\n        pass", True),
        ("case _:\n        assert_never(other)", True),
        ("case other:\n        assert_never(other)", True),
        ("case _ if command:\n        assert_never(command)", True),
        ("case object():\n        pass\n    case _:\n        assert_never(command)", True),
        ("case _Renew():\n        pass", True),
        ("case _Renew() if command:\n        pass\n    case _:\n        assert_never(command)", True),
    ],
)
def test_match_that_forgets_is_found(last: str, *, forgets: bool) -> None:
    assert bool(forgetful(MATCH.format(last=last), {"_Add", "_Remove", "_List", "_Renew"})) == forgets
