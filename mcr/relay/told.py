"""The commands that bring a new worker to the state of the others: the fewest that do.

They are kept as the bytes that were sent, so a worker that starts gets thousands of rules at once, whatever else the
supervisor is doing.
"""

from collections.abc import Iterable
from itertools import chain

from mcr._native import lib
from mcr.shm.records import Command

_ORDER = (
    {lib.MCR_REC_LEVELS},
    {lib.MCR_REC_OWN},
    {lib.MCR_REC_REFUSED},
    {lib.MCR_REC_CAPTURE_PUT, lib.MCR_REC_CAPTURE_DROP},
    {lib.MCR_REC_EGRESS_PUT, lib.MCR_REC_EGRESS_DROP},
    {lib.MCR_REC_RAW_PUT, lib.MCR_REC_RAW_DROP},
    {lib.MCR_REC_RULE_PUT, lib.MCR_REC_RULE_DROP},
    {lib.MCR_REC_GENERATION},
    {lib.MCR_REC_STOP},
)
"""Kinds of commands, each after those that it refers to. Within a kind the order is that of sending."""

_KIND = {record_type: kind for kind, types in enumerate(_ORDER) for record_type in types}
_RAW = _KIND[lib.MCR_REC_RAW_PUT]
_DROPS = frozenset(
    {lib.MCR_REC_CAPTURE_DROP, lib.MCR_REC_EGRESS_DROP, lib.MCR_REC_RAW_DROP, lib.MCR_REC_RULE_DROP},
)


class Told:
    """Of each kind the newest command for each slot that still holds something."""

    def __init__(self) -> None:
        self._held: tuple[dict[int, Command], ...] = tuple({} for _ in _ORDER)

    def note(self, commands: Iterable[Command]) -> None:
        """Take in commands that all workers get now."""
        for command in commands:
            held = self._held[_KIND[command.type]]
            held.pop(command.slot, None)
            if command.type not in _DROPS:
                held[command.slot] = command
            elif command.type == lib.MCR_REC_EGRESS_DROP:
                self._held[_RAW].pop(command.slot, None)

    def whole(self) -> tuple[Command, ...]:
        """All commands that bring a new worker up to date."""
        return tuple(chain.from_iterable(held.values() for held in self._held))
