"""JSON5 (https://spec.json5.org): its values, and the line on which each of them stands."""

import re
from collections.abc import Iterator
from typing import Any, Final

import attrs

from mcr.config.document import Document, Fault, Path

_DEEPEST: Final = 100
_LONGEST_NUMBER: Final = 400
_TOKEN: Final = re.compile(
    r"""
    (?P<space>   [\s\ufeff]+ | //[^\n\r\u2028\u2029]* | /\*.*?\*/ )
    | (?P<mark>  [{}\[\]:,] )
    | (?P<text>  "(?:[^"\\\n\r] | \\(?:\r\n|.))*" | '(?:[^'\\\n\r] | \\(?:\r\n|.))*' )
    | (?P<number> [+-]?(?: 0[xX][0-9a-fA-F]+ | (?:\d+\.?\d* | \.\d+)(?:[eE][+-]?\d+)? | Infinity | NaN )(?![\w$]) )
    | (?P<word>  [^\W\d][\w$]* | \$[\w$]* )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(\r\n|.))", re.DOTALL)
_SHORT: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0"}
_WORDS: Final = {"true": True, "false": False, "null": None}


class NotJson5(ValueError):
    """A text that is none. `fault` says where."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(line, message)


@attrs.frozen
class _Token:
    kind: str
    text: str
    line: int


def read_json5(text: str, array: str = "") -> Document:
    """Read a text.

    Args:
        text: an object.
        array: the key whose value an array is taken for that stands in the place of the object; empty: there is none.

    Raises:
        NotJson5: it is none.
    """
    reader = _Reader(_tokens(text))
    outer: Path = (array,) if array and reader.next.text == "[" else ()
    value = reader.value(outer, 0)
    if reader.next.kind:
        raise NotJson5(reader.next.line, f"{reader.next.text!r} stands behind the end")
    if outer:
        value = {array: value}
    elif not isinstance(value, dict):
        raise NotJson5(1, "not an object: { … }")
    return Document.of(value, reader.lines)


def _tokens(text: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise NotJson5(line, f"nothing of JSON5 begins with {text[at]!r}")
        if found.lastgroup != "space":
            yield _Token(found.lastgroup or "", found[0], line)
        line += found[0].count("\n")
        at = found.end()
    yield _Token("", "the end", line)


class _Reader:
    """Takes tokens one by one.

    Attributes:
        next: the one that is not taken yet.
        lines: of the values until now.
    """

    def __init__(self, tokens: Iterator[_Token]) -> None:
        self._tokens = tokens
        self.next = next(tokens)
        self.lines: dict[Path, int] = {(): 0}

    def _take(self) -> _Token:
        taken = self.next
        self.next = next(self._tokens, taken)
        return taken

    def _takes(self, mark: str) -> bool:
        """Whether this mark comes next, which is taken then."""
        return self.next.text == mark and bool(self._take())

    def value(self, path: Path, depth: int) -> Any:
        """The next value."""
        if depth > _DEEPEST:
            raise NotJson5(self.next.line, "objects or arrays are nested too deeply")
        if path:
            self.lines[path] = self.next.line
        token = self._take()
        match token.kind, token.text:
            case "mark", "{":
                return self._object(path, depth)
            case "mark", "[":
                return self._array(path, depth)
            case "text", _:
                return _unquoted(token.text)
            case "number", _:
                return _number(token)
            case "word", text if text in _WORDS:
                return _WORDS[text]
            case "word", "Infinity" | "NaN":
                return _number(token)
            case _:
                raise NotJson5(token.line, f"a value is missing before {token.text!r}")

    def _object(self, path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._takes("}"):
            key = self._take()
            if key.kind not in ("text", "word"):
                raise NotJson5(key.line, f"a key is missing before {key.text!r}")
            name = _unquoted(key.text) if key.kind == "text" else key.text
            if name in found:
                raise NotJson5(key.line, f"the key {name!r} stands there already")
            if not self._takes(":"):
                raise NotJson5(self.next.line, f"a colon is missing behind {name!r}")
            found[name] = self.value((*path, name), depth + 1)
            self._end_member("}")
        return found

    def _array(self, path: Path, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self._takes("]"):
            found.append(self.value((*path, len(found)), depth + 1))
            self._end_member("]")
        return found

    def _end_member(self, end: str) -> None:
        if self.next.text != end and not self._takes(","):
            raise NotJson5(self.next.line, f"a comma or {end} is missing before {self.next.text!r}")


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(_meant, text[1:-1])


def _meant(escape: re.Match[str]) -> str:
    four, two, other = escape.groups()
    if four or two:
        return chr(int(four or two, 16))
    return "" if other in ("\n", "\r\n", "\r") else _SHORT.get(other, other)


def _number(token: _Token) -> int | float:
    text = token.text
    if len(text) > _LONGEST_NUMBER:
        raise NotJson5(token.line, "a number has too many digits")
    if "x" in text.lower():
        return int(text, 16)
    digits = text.lstrip("+-")
    return int(text) if digits.isascii() and digits.isdecimal() else float(text.replace("Infinity", "inf"))
