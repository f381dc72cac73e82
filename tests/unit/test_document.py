"""TOML files: values, the line of each, and every fault at once."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.config.document import Fault, read_document

TEXT = """\
a.b."c d" = 1
[settings]
x = { y = 1, "z" = [1, { q = 2 }] }

[[rule]]
name = "n"
outputs = [
  "a",   # the first
  # another
  { group = "g", port = 5 },
]
[rule.input]
interface = "e"

[[rule]]
'na me' = 1
[rule.input]
port = 7
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a", "b", "c d"), 1),
        (("settings",), 2),
        (("settings", "x", "z", 1, "q"), 3),
        (("rule", 0), 5),
        (("rule", 0, "outputs", 0), 8),
        (("rule", 0, "outputs", 1, "group"), 10),
        (("rule", 0, "input", "interface"), 13),
        (("rule", 1), 15),
        (("rule", 1, "na me"), 16),
        (("rule", 1, "input", "port"), 18),
        (("rule", 1, "input", "group"), 17),  # missing
        (("rule", 1, "outputs"), 15),  # missing
        (("no", "such"), 0),
    ],
)
def test_each_value_has_its_line(path: tuple[str | int, ...], line: int) -> None:
    document = read_document(TEXT)
    assert document.faults == ()
    assert document.line(path) == line


def test_every_fault_is_told_at_once_and_the_rest_is_read() -> None:
    document = read_document(
        """\
[settings]
workers = two
stats_interval_ms 5
stats_interval_ms = 5
stats_interval_ms = 6
[[rule]
name = "lost with its header"
[[rule]]
name = "read"
name = "twice"
outputs = ["a", "b"
"""
    )
    assert sorted(fault.line for fault in document.faults) == [2, 3, 5, 6, 10, 11]
    assert document.values == {"settings": {"stats_interval_ms": 5}, "rule": [{"name": "read"}]}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = 1\na = 2", Fault(2, "the key stands there already")),
        ("a", Fault(1, "not `key = value`, a [table] or a # comment")),
        ("a = b", Fault(1, "not a value of TOML: text stands in quotation marks")),
        ("a = 1\nb = " + "1" * 10_000, Fault(2, "a number has too many digits")),
        ("[a]\n[a]", Fault(2, "the table [a] stands there already")),
        ('a = "b\nc = 1', Fault(1, "the text does not end: a quotation mark is missing")),
        ('a = """b\nand so on\nc = 1', Fault(1, "the text that begins here does not end")),
        ("a = [\n1\n2\n]", Fault(3, "a comma or a ] is missing")),
        ("a = [\n1,\nb = 2\n[c]\nd = 3", Fault(1, "the array that begins here does not end")),
        ("a = [\n1,\n[[c]]\nd = 3", Fault(1, "the array that begins here does not end")),
        ("a = [1,\n\n", Fault(1, "the array that begins here does not end")),
        ("a = " + "[" * 100_000, Fault(0, "tables or arrays are nested too deeply")),
    ],
)
def test_a_fault_is_worded_for_who_wrote_the_file(text: str, fault: Fault) -> None:
    assert read_document(text).faults == (fault,)


def lines_exist(document: Any, value: Any, path: tuple[str | int, ...], last: int) -> None:
    assert 0 <= document.line(path) <= last
    if isinstance(value, dict):
        for key, inner in value.items():
            lines_exist(document, inner, (*path, key), last)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            lines_exist(document, inner, (*path, index), last)


@given(st.text(st.sampled_from(list("ab.=[]{}\"'#,\n 1-:T\\\t")), max_size=60))
def test_whatever_stands_in_a_file_it_is_read_or_told(text: str) -> None:
    document = read_document(text)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assert document.faults
    else:
        assert document.faults == ()
        assert document.values == values
    lines_exist(document, document.values, (), text.count("\n") + 1)
