"""Text from other programs, made fit for a terminal and a log."""

from operator import is_not
from typing import Any


def visible(text: str) -> str:
    """The text with everything spelled out that ends a line, moves a cursor, or reverses or hides what is read.

    Such as line feed, escape, line separator, right-to-left override, and half a surrogate pair, which could not even
    be written.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def all_visible(value: Any) -> Any:
    """A value of JSON with all of its strings visible; where they are, the same object, which takes no room."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list):
        parts = [all_visible(each) for each in value]
        return parts if any(map(is_not, parts, value)) else value
    if isinstance(value, dict):
        members = {visible(name): all_visible(each) for name, each in value.items()}
        same = members.keys() == value.keys() and not any(map(is_not, members.values(), value.values()))
        return value if same else members
    return value
