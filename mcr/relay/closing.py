"""Sockets and slots that rules no longer use but workers may: not closed, and not free, yet."""

from collections.abc import Iterable
from socket import socket
from typing import Protocol

import attrs

from mcr.net.patience import close_all
from mcr.relay.slots import Slots


class Attached(Protocol):
    """Sockets that workers know by a slot: a capture, an output interface, a neighbour."""

    @property
    def slot(self) -> int:
        """Number of it among its kind."""

    @property
    def all_sockets(self) -> tuple[socket, ...]:
        """Every socket that goes with it."""


@attrs.frozen
class _LetGo:
    """Something that no rule uses from a generation on."""

    generation: int
    what: Attached
    slots: Slots


class Closing:
    """Keeps all of it until every worker forwards by a generation without it."""

    def __init__(self) -> None:
        self._list: list[_LetGo] = []

    def __len__(self) -> int:
        return len(self._list)

    def add(self, generation: int, slots: Slots, those: Iterable[Attached]) -> None:
        """Take over what no rule uses from this generation on. `slots`: theirs."""
        self._list.extend(_LetGo(generation, each, slots) for each in those)

    def release(self, generation: int) -> list[Attached]:
        """Free the slots of what no worker uses any more, once all forward by this generation.

        Returns:
            What had them: the caller closes its sockets.
        """
        released = [each for each in self._list if each.generation <= generation]
        if released:
            self._list = [each for each in self._list if each.generation > generation]
        for each in released:
            each.slots.give(each.what.slot)
        return [each.what for each in released]

    def close(self) -> None:
        """Close every socket, at the end."""
        close_all([each for let_go in self._list for each in let_go.what.all_sockets])
        self._list = []
