"""A TOML file: its values, and the line on which each of them stands.

The standard library reads the values. It tells no lines, so where something is wrong a second parser says where.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from tree_sitter import Node

Path = tuple[str | int, ...]
"""Where a value is: keys of tables, and indices of arrays from 0."""

_MOST_FAULTS: Final = 100
_PLACE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_HEADER: Final = re.compile(r"\s*\[")
_MEANING: Final = {
    "Cannot overwrite a value": "the key stands there already",
    "Expected '=' after a key in a key/value pair": "not `key = value`, a [table] or a # comment",
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
        except tomllib.TOMLDecodeError as error:
            number, message = _told(error, len(lines))
            faults.append(Fault(number, message))
            if len(faults) == _MOST_FAULTS or not _leave_out(lines, number):
                return Document(remaining, {}, tuple(faults))
        except RecursionError:
            return Document("", {}, (Fault(0, "tables or arrays are nested too deeply"),))
        else:
            return Document(remaining, values, tuple(faults))


def _told(error: tomllib.TOMLDecodeError, lines: int) -> tuple[int, str]:
    text = str(error)
    place = _PLACE.search(text)
    number = int(place[1]) if place and place[1] else lines
    message = text[: place.start()] if place else text
    return number, _MEANING.get(message, message[:1].lower() + message[1:])


def _leave_out(lines: list[str], number: int) -> bool:
    """Blank a line that can't be read, with what belongs to it if it is a table's header. Whether anything is left."""
    start = number - 1
    while start >= 0 and not lines[start].strip():
        start -= 1  # what does not end is told at the end of the file
    if start < 0:
        return False
    is_header = bool(_HEADER.match(lines[start]))
    lines[start] = ""
    while is_header and start + 1 < len(lines) and not _HEADER.match(lines[start + 1]):
        start += 1
        lines[start] = ""
    return True


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
