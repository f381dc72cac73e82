"""No file, class or function is longer than one can take in."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

FILE, CLASS, C_FUNCTION = 450, 250, 45
"""Lines, at most."""

MADE = {"mcr/native/bpf/programs.h", "mcr/_native.c"}
"""Tables that no one writes."""

_CLASS = re.compile(r"^class (\w+)[^\n]*((?:\n(?:[ )\]][^\n]*)?)*)", re.MULTILINE)
_BODY = re.compile(r"^(\w[^\n]*)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)


def sources(*endings: str) -> dict[str, str]:
    """The text of each file of the project's own, by its path."""
    rooms = ("mcr", "tests", "tools", "bench")
    paths = [path for room in rooms for path in (ROOT / room).rglob("*.*") if path.suffix in endings]
    named = {path.relative_to(ROOT).as_posix(): path for path in paths}
    return {name: path.read_text() for name, path in named.items() if name not in MADE}


def classes(text: str) -> Iterator[tuple[str, int]]:
    """Of Python: to the last line that is indented, as ruff formats them."""
    for name, body in _CLASS.findall(text):
        yield name, 1 + body.rstrip().count("\n")


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Of C: the line that ends before the brace, and the lines between the braces."""
    for head, lines in _BODY.findall(text):
        yield head, lines.count("\n")


def test_no_file_is_too_long() -> None:
    lengths = {name: text.count("\n") for name, text in sources(".py", ".c", ".h", ".sh").items()}
    assert len(lengths) > 400
    assert {name: length for name, length in lengths.items() if length > FILE} == {}


def test_no_class_is_too_long() -> None:
    found = [(file, *each) for file, text in sources(".py").items() for each in classes(text)]
    assert len(found) > 300
    assert [each for each in found if each[2] > CLASS] == []


def test_no_function_in_c_is_too_long() -> None:
    found = [(file, *each) for file, text in sources(".c", ".h").items() for each in functions(text)]
    assert len(found) > 400
    assert [each for each in found if each[2] > C_FUNCTION] == []
