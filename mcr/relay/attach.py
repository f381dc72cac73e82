"""Tells workers of rules: by which sockets their outputs leave, or whether they do.

Belongs to the relay.
"""

from collections.abc import Sequence

import attrs

from mcr.model.columns import FEW
from mcr.model.rule import Output
from mcr.relay import commands
from mcr.relay.inputs import InputInterfaces
from mcr.relay.neighbours import Neighbours
from mcr.relay.outputs import Egress, OutputInterfaces, is_away
from mcr.relay.placement import Key, PlacedRule, Way
from mcr.shm.records import Command


@attrs.frozen
class Attach:
    """Makes the commands. What they name is in use."""

    _inputs: InputInterfaces
    _outputs: OutputInterfaces
    _neighbours: Neighbours

    def one(self, placed: PlacedRule) -> Command:
        """That of one rule."""
        capture = self._inputs[placed.rule.input.interface].slot
        outputs = [self._outputs[output.interface] for output in placed.rule.outputs]
        slots = [self._neighbours.egress_slot(each) if each else None for each in placed.neighbours]
        leave = [*map(_leaves_by, placed.rule.outputs, outputs, placed.ways, placed.neighbours, slots)]
        return commands.attach_rule(placed, capture, [slot for slot, _ in leave], [leaves for _, leaves in leave])

    def all(self, those: Sequence[PlacedRule]) -> list[Command]:
        """Those of rules, of which there may be thousands, in their order."""
        if len(those) <= FEW:
            return [*map(self.one, those)]
        are_plain = [*map(commands.is_plain, those)]
        captures = {capture.interface.name: capture.slot for capture in self._inputs}
        egress = {each.interface.name: (each.slot, each.carrier) for each in self._outputs}
        plain = [placed for placed, is_plain in zip(those, are_plain, strict=True) if is_plain]
        made = iter(commands.attach_plain(plain, captures, egress))
        return [next(made) if is_plain else self.one(each) for each, is_plain in zip(those, are_plain, strict=True)]


def _leaves_by(
    output: Output, egress: Egress, way: Way | None, neighbour: Key | None, slot: int | None
) -> tuple[int, bool]:
    """Slot of the sockets that an output leaves by, and whether it leaves at all; `slot`: the neighbour's."""
    if neighbour and slot is None:
        return egress.slot, False
    if slot is None or output.vlan:  # in a VLAN its raw frames leave by the interface: the others reserve the port
        waits = output.vlan and way is None and is_away(egress)
        return egress.slot, egress.carrier and not waits
    return slot, egress.carrier
