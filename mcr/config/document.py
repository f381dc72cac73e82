"""A TOML file: its values, and the line on which each of them stands.

The standard library reads the values. It tells no lines, so where something is wrong a second parser says where.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

if TYPE_CHECKING:
    from tree_sitter import Node

Path = tuple[str | int, ...]
"""Where a value is: keys of tables, and indices of arrays from 0."""

_MOST_FAULTS: Final = 100
_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_TWICE: Final = re.compile(r"Cannot declare \((.*)\) twice")
_HEADER: Final = re.compile(r"\s*\[")
_STATEMENT: Final = re.compile(r"""\s*(?:\[\[?[^\[\],]+\]\]?\s*(?:\#.*)?$|(?:[\w.\ -]|"[^"]*"|'[^']*')+=)""")
_PAIR: Final = re.compile(r"[^#\[]*=")
_LONG_TEXT: Final = re.compile(r"""\"{3}|'{3}""")
_LONG_NUMBER: Final = re.compile(r"\d[\d_]{1000,}")
_MEANING: Final = {
    "Illegal character '\\n'": "the text does not end: a quotation mark is missing",
    "Cannot overwrite a value": "the key stands there already",
    "Expected '=' after a key in a key/value pair": "not `key = value`, a [table] or a # comment",
    "Unclosed array": "a comma or a ] is missing",
    "Invalid statement": "not `key = value`, a [table] or a # comment",
    "Invalid value": "not a value of TOML: text stands in quotation marks",
}


@attrs.frozen(order=True)
class Fault:
    """Something that is wrong in a file. `line` counts from 1; 0: the file as a whole."""

    line: int
    message: str


@attrs.frozen
class Document:
    """A file that has been read.

    Attributes:
        values: of what could be read.
        faults: of what could not; what else may be wrong is for others to say.
    """

    text: str
    values: dict[str, Any]
    faults: tuple[Fault, ...] = ()
    _lines: dict[Path, int] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    @classmethod
    def of(cls, values: dict[str, Any], lines: Mapping[Path, int]) -> Self:
        """Values of another notation, whose lines are known; that of the empty path is among them."""
        document = cls("", values)
        document._lines.update(lines)
        return document

    def line(self, path: Path) -> int:
        """The line of a value; for one that is missing, that of what it is missing from."""
        if not self._lines:
            self._lines.update(_lines_of(self.text))
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]


def read_document(text: str) -> Document:
    """Read a text, and whatever of it can be read where something is wrong."""
    lines, faults = text.split("\n"), []
    while True:
        remaining = "\n".join(lines)
        try:
            values = tomllib.loads(remaining)
        except RecursionError:
            return Document("", {}, (Fault(0, "tables or arrays are nested too deeply"),))
        except ValueError as error:
            fault, end = _told(error, lines)
            faults.append(fault)
            if len(faults) == _MOST_FAULTS or not _leave_out(lines, fault.line - 1, end):
                return Document(remaining, {}, tuple(faults))
        else:
            return Document(remaining, values, tuple(faults))


def _told(error: ValueError, lines: list[str]) -> tuple[Fault, int]:
    """What is wrong, and the index behind the last line that is part of it."""
    text = str(error)
    place = _PLACE.search(text)
    message = text[: place.start()] if place else text
    if not isinstance(error, tomllib.TOMLDecodeError):  # of Python: a number with thousands of digits
        index = next((index for index, line in enumerate(lines) if _LONG_NUMBER.search(line)), 0)
        return Fault(index + 1, "a number has too many digits"), index + 1
    row, column = (int(place[1]) - 1, int(place[2])) if place and place[1] else (len(lines), 1)
    if message == "Unterminated string" and row == len(lines):
        opened = max((index for index, line in enumerate(lines) if _LONG_TEXT.search(line)), default=row - 1)
        end = next((index for index in range(opened + 1, row) if _STATEMENT.match(lines[index])), row)
        return Fault(opened + 1, "the text that begins here does not end"), end
    above = _opened_above(lines, row, column)
    if above is not None and message in {"Invalid value", "Unclosed array"}:
        return Fault(above + 1, "the array that begins here does not end"), row
    while row and (row == len(lines) or not lines[row].strip()):
        row -= 1  # what does not end is told at the end of the file
    if twice := _TWICE.match(message):
        keys = re.findall(r"'([^']*)'", twice[1])
        return Fault(row + 1, f"the table [{'.'.join(keys)}] stands there already"), row + 1
    return Fault(row + 1, _MEANING.get(message, message[:1].lower() + message[1:])), row + 1


def _opened_above(lines: list[str], row: int, column: int) -> int | None:
    """Where the array begins, if a line that looks like a new statement, or the end, was read as a part of one."""
    if row < len(lines) and (lines[row][: column - 1].strip("[ \t") or not _STATEMENT.match(lines[row])):
        return None
    return next((index for index in range(row - 1, -1, -1) if _PAIR.match(lines[index])), None)


def _leave_out(lines: list[str], start: int, end: int) -> bool:
    """Blank lines that can't be read, with all of a table whose header is one of them. Whether there were any."""
    anything = any(line.strip() for line in lines[start:end])
    if _HEADER.match(lines[start]):
        while end < len(lines) and not _HEADER.match(lines[end]):
            end += 1
    lines[start:end] = [""] * (end - start)
    return anything


def _lines_of(text: str) -> Iterator[tuple[Path, int]]:
    import tree_sitter_toml  # noqa: PLC0415 - needed only where something is wrong
    from tree_sitter import Language, Parser  # noqa: PLC0415

    yield (), 0
    counts: dict[Path, int] = defaultdict(int)
    for node in Parser(Language(tree_sitter_toml.language())).parse(text.encode()).root_node.named_children:
        yield from _statement(node, counts)


def _statement(node: "Node", counts: dict[Path, int]) -> Iterator[tuple[Path, int]]:
    match node.type:
        case "pair":
            yield from _pair(node, ())
        case "table" | "table_array_element":
            header, *pairs = node.named_children
            path = _newest(_keys(header), counts)
            if node.type == "table_array_element":
                if path not in counts:
                    yield path, node.start_point.row + 1
                counts[path] += 1
                path = (*path, counts[path] - 1)
            yield path, node.start_point.row + 1
            for pair in pairs:
                if pair.type == "pair":
                    yield from _pair(pair, path)
        case _:  # a comment, or what could not be read
            pass


def _newest(keys: list[str], counts: dict[Path, int]) -> Path:
    """The path that a header means: of an array of tables the last one until now."""
    path: Path = ()
    for index, key in enumerate(keys):
        path = (*path, key)
        if index < len(keys) - 1 and path in counts:
            path = (*path, counts[path] - 1)
    return path


def _pair(node: "Node", outer: Path) -> Iterator[tuple[Path, int]]:
    key, *values = node.named_children
    path = outer
    for part in _keys(key):
        path = (*path, part)
        yield path, node.start_point.row + 1
    for value in values:
        yield from _value(value, path)


def _value(node: "Node", path: Path) -> Iterator[tuple[Path, int]]:
    if node.type == "inline_table":
        for pair in node.named_children:
            if pair.type == "pair":
                yield from _pair(pair, path)
    elif node.type == "array":
        items = (item for item in node.named_children if item.type != "comment")
        for index, item in enumerate(items):
            yield (*path, index), item.start_point.row + 1
            yield from _value(item, (*path, index))


def _keys(node: "Node") -> list[str]:
    if node.type == "dotted_key":
        return [key for part in node.named_children for key in _keys(part)]
    text = (node.text or b"").decode()
    return list(tomllib.loads(f"{text} = 0")) if node.type == "quoted_key" else [text]
