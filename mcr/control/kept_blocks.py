"""What was made of many values, kept for as long as they stay the same."""

from collections.abc import Callable, Sequence
from itertools import chain
from operator import is_
from typing import Final, Generic, TypeVar
from weakref import ref

V = TypeVar("V")
M = TypeVar("M")

BLOCK: Final = 256
"""Values of which something is made anew if one of them is another."""


class KeptBlocks(Generic[V, M]):
    """Makes something of each value. Several threads may use it.

    It holds what it has made, and not the values: those that are gone may be.

    Args:
        make: of some values, something for each.
    """

    def __init__(self, make: Callable[[Sequence[V]], list[M]]) -> None:
        self._make = make
        self._blocks: Sequence[tuple[list[ref[V]], list[M]]] = ()

    def of(self, values: Sequence[V]) -> list[M]:
        """What was made of these, or is now. Others are forgotten."""
        before, blocks = self._blocks, []
        for number, start in enumerate(range(0, len(values), BLOCK)):
            those = values[start : start + BLOCK]
            known, made = before[number] if number < len(before) else ([], [])
            if len(known) != len(those) or not all(map(is_, those, [each() for each in known])):
                known, made = [*map(ref, those)], self._make(those)
            blocks.append((known, made))
        self._blocks = blocks
        return [*chain.from_iterable(made for _, made in blocks)]
