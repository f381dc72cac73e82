"""Makes thousands of values column by column: each step is a loop of the interpreter's own, and calls no function."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, TypeVar

_T = TypeVar("_T")

Setters = tuple[Callable[[Any, Any], None], ...]
"""What sets the members of a class with `__slots__`, be it frozen or not."""


def setters_of(cls: type, *names: str) -> Setters:
    """Those of these members."""
    return tuple([getattr(cls, name).__set__ for name in names])


FEW = 4
"""Up to as many are made one by one, where there is a way: to begin loops for them takes longer."""


def make_one(cls: type[_T], setters: Setters, *members: Any) -> _T:
    """Make one value, as `make_all` does."""
    made = object.__new__(cls)
    for set_member, member in zip(setters, members, strict=True):
        set_member(made, member)
    return made


def make_all(cls: type[_T], setters: Setters, count: int, *columns: Iterable[Any]) -> list[_T]:
    """Make so many values, unchecked.

    Args:
        cls: their class; it is not called.
        setters: of all of its members.
        count: how many.
        columns: for each member what the values have, in their order; `itertools.repeat` if all have the same.
    """
    made = [*map(object.__new__, repeat(cls, count))]
    for set_member, column in zip(setters, columns, strict=True):
        deque(map(set_member, made, column), 0)
    return made


def in_pieces(values: Sequence[_T], size: int) -> Iterable[Sequence[_T]]:
    """So many at a time: another thread has its turn between two steps, and not within one."""
    if len(values) <= size:
        return (values,)
    return (values[start : start + size] for start in range(0, len(values), size))
