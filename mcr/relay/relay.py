"""What the rules take: sockets, group memberships, slots in shared memory; and how workers are told of it.

Belongs to one actor. What may wait in the kernel (opening and closing capture sockets) is done in a thread.
"""

from collections.abc import Collection, Container, Iterable, Sequence
from contextlib import ExitStack
from itertools import chain
from socket import socket
from typing import Self

import attrs
import trio

from mcr.config.settings import Settings
from mcr.errors import LimitReached, McrError
from mcr.logs.logger import get_logger
from mcr.model.limits import MAX_OUTPUTS, MAX_RULES
from mcr.model.log import Facility
from mcr.model.rule import Rule, RuleChange
from mcr.net.filter.suppress import Absorber
from mcr.net.interfaces import Interface, find_interface, is_there, look_again
from mcr.net.network import Network
from mcr.relay.inputs import Capture, InputInterfaces
from mcr.relay.neighbours import Neighbour, Neighbours, find_neighbours
from mcr.relay.outputs import Egress, OutputInterfaces
from mcr.relay.placement import Key, PlacedRule, Sources, neighbours_of, sources_of
from mcr.relay.slots import Slots
from mcr.rules.conditions import Standing
from mcr.rules.interface_log import Users
from mcr.shm import records

log = get_logger(Facility.NETWORK)

_NAMED = 5  # rules in a hint


@attrs.frozen
class Step:
    """What one change of the rules came to: where new rules stand, new captures, and what to tell workers."""

    added: tuple[PlacedRule, ...]
    captures: tuple[Capture, ...]
    commands: tuple[records.Command, ...]


@attrs.frozen
class _Opened:
    """Sockets for the interfaces that a change is the first to use."""

    captures: dict[str, Capture] = attrs.field(factory=dict)
    egress: dict[str, Egress] = attrs.field(factory=dict)
    neighbours: dict[Key, Neighbour] = attrs.field(factory=dict)


class Relay:
    """All of it, for a number of workers. A context manager: leaving it closes every socket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inputs = InputInterfaces(settings)
        self._outputs = OutputInterfaces(settings)
        self._neighbours = Neighbours(settings)
        self._placed: dict[str, PlacedRule] = {}
        self._tags = 0
        self._rule_slots = Slots(MAX_RULES, "rules")
        self._output_slots = Slots(MAX_OUTPUTS, "outputs")
        self._rule_names: dict[int, str] = {}
        self._output_names: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._inputs.close()
        self._outputs.close()
        self._neighbours.close()

    async def apply(self, change: RuleChange) -> Step:
        """Take what the added rules need and let go of what the removed ones did.

        Raises:
            InterfaceNotFound, SystemFault, LimitReached: nothing has changed.
        """
        # It may wait in the kernel, or take long: others get their turn meanwhile.
        if change.renew:
            return await trio.to_thread.run_sync(self._renew, change.generation)
        return await trio.to_thread.run_sync(self._apply, change)

    def _apply(self, change: RuleChange) -> Step:
        self._check_room(change)
        interfaces = self._find_interfaces(change.added)
        neighbours = find_neighbours(change.added, interfaces)
        with ExitStack() as undo:
            opened = self._open(change.added, interfaces, undo)
            opened.neighbours.update(self._neighbours.open(neighbours, interfaces, undo))
            self._inputs.want([rule.input for rule in change.added], opened.captures, interfaces, undo)
            undo.pop_all()
        self._inputs.adopt(opened.captures)
        self._outputs.adopt(opened.egress)
        neighbour_puts = self._neighbours.adopt(opened.neighbours)
        sources = self._outputs.sources(change.added)
        still = {rule.input for rule in change.added}
        self._inputs.unwant(rule.input for rule in change.removed if rule.input not in still)
        added = tuple(self._place(rule, sources, neighbours) for rule in change.added)
        removed = tuple(self._displace(rule) for rule in change.removed)
        commands = (
            *(capture.put() for capture in opened.captures.values()),
            *chain.from_iterable(egress.put() for egress in opened.egress.values()),
            *neighbour_puts,
            *(records.rule_drop(placed.slot) for placed in removed),
            *(self._put(placed) for placed in added),
            *self._outputs.drop_unused(change.generation),
            *self._neighbours.drop_unused(change.generation),
            *self._inputs.drop_unused(change.generation),
        )
        return Step(added, tuple(opened.captures.values()), commands)

    def _renew(self, generation: int) -> Step:
        """Open interfaces again. Whatever can't be had now is tried again later, and takes nothing else down."""
        renewed = self._outputs.renew(generation)
        names, puts, drops = self._neighbours.renew([fresh.interface for _, fresh in renewed], generation)
        captures = self._inputs.renew([placed.rule.input for placed in self._placed.values()], generation)
        inputs = {fresh.interface.name for _, fresh in captures}
        outputs = {fresh.interface.name for _, fresh in renewed}
        outputs |= names
        concerned = [placed for placed in self._placed.values() if concerns(placed.rule, inputs, outputs)]
        commands = (
            *chain.from_iterable(fresh.put() for _, fresh in renewed),
            *puts,
            # What waits in a ring is read by the rules as they are: they follow to the new ones after that.
            *(records.capture_drop(old.slot) for old, _ in captures),
            *(fresh.put() for _, fresh in captures),
            *(self._put(placed) for placed in concerned),
            *(records.egress_drop(old.slot) for old, _ in renewed),
            *drops,
        )
        for name in sorted(inputs | outputs):
            log.notice("%s was deleted, or elsewhere, and is back: it is used again", name)
        return Step((), tuple(fresh for _, fresh in captures), commands)

    def has_returned(self) -> bool:
        """Whether there are interfaces to be opened again, or groups to be joined."""
        return bool(
            self._inputs.returned() or self._inputs.incomplete or self._outputs.returned() or self._neighbours.unrenewed
        )

    def release_outputs(self, generation: int) -> list[socket]:
        """Free the slots of output interfaces that no worker sends by once all forward by `generation`.

        Returns:
            Their sockets, to be closed.
        """
        return self._outputs.release(generation) + self._neighbours.release(generation)

    def captures_to_release(self, generation: int) -> list[Capture]:
        """Captures that no worker reads any more once all forward by `generation`; release them next."""
        return self._inputs.to_release(generation)

    def release_capture(self, capture: Capture) -> tuple[socket, ...]:
        """Free a capture's slot; its sockets, to be closed."""
        return self._inputs.release(capture)

    def reject_input(self) -> None:
        """Let nothing more in; what has arrived can still be read."""
        self._inputs.reject()

    def show_unmatched(self, *, show: bool) -> None:
        """Whether workers are to see what no rule wants."""
        self._inputs.show_unmatched(show=show)

    @property
    def has_new_outputs(self) -> bool:
        """Whether there are output interfaces that `review_raw` has not seen yet."""
        return self._outputs.is_stale

    async def review_raw(self, bar: str) -> tuple[records.Command, ...]:
        """Find out anew where raw frames may leave; what to tell workers that run.

        Args:
            bar: why nowhere; empty: they may, as far as is known.
        """
        return await trio.to_thread.run_sync(self._review_raw, bar)

    def _review_raw(self, bar: str) -> tuple[records.Command, ...]:
        commands = self._outputs.review(bar)
        if not bar:  # where none leave the sources that outputs had don't matter, and may do again
            commands += self._follow_routes()
        return tuple(commands)

    def _follow_routes(self) -> list[records.Command]:
        """Where outputs come from, and whom they wait for, as routes are now."""
        rules = [placed.rule for placed in self._placed.values()]
        interfaces = {egress.interface.name: egress.interface for egress in self._outputs}
        sources, neighbours = self._outputs.sources(rules), find_neighbours(rules, interfaces)
        commands = self._neighbours.open_now(neighbours, interfaces)
        neighbours &= self._neighbours.keys()
        for rule_id, placed in self._placed.items():
            waits_for = neighbours_of(placed.rule, neighbours)
            found = sources_of(placed.rule, sources, waits_for)
            if (found, waits_for) != (placed.sources, placed.neighbours):
                self._neighbours.use(waits_for)
                self._neighbours.leave(placed.neighbours)
                self._placed[rule_id] = attrs.evolve(placed, sources=found, neighbours=waits_for)
                commands.append(self._put(self._placed[rule_id]))
        return commands

    @property
    def absorber(self) -> Absorber | None:
        """Spares the IP stack what rules take, for who looks for bystanders; None: nothing does."""
        return self._inputs.absorber

    def input_interfaces(self) -> tuple[str, ...]:
        """Names of the interfaces that are captured."""
        return tuple(sorted(capture.interface.name for capture in self._inputs))

    def used(self) -> set[int]:
        """Indices of the interfaces that are captured or sent by."""
        return {each.interface.index for each in (*self._inputs, *self._outputs)}

    def standing(self, acknowledged: int) -> Standing:
        """Input and output interfaces, and whether sockets still stand for them."""
        return Standing(
            acknowledged,
            {capture.interface.name: capture.attachment for capture in self._inputs},
            {egress.interface.name: egress.attachment for egress in self._outputs},
        )

    def users(self) -> dict[str, Users]:
        """How much depends on each interface."""
        rules = {capture.interface.name: capture.users for capture in self._inputs}
        outputs = {egress.interface.name: egress.users for egress in self._outputs}
        return {name: Users(rules.get(name, 0), outputs.get(name, 0)) for name in rules | outputs}

    def suspect(self, before: Network, now: Network) -> list[records.Command]:
        """Send no raw frames by interfaces that have changed, until `review_raw` has seen them."""
        return self._outputs.suspect(before, now)

    # What the numbers in a worker's log stand for (`mcr.logs.worker_records.Names`).

    def capture(self, slot: int) -> str:
        """Name of the input interface of a capture slot."""
        return self._inputs.name(slot)

    def rule(self, slot: int) -> str:
        """Id of the rule in a rule slot."""
        return self._rule_names.get(slot, f"{slot} (gone)")

    def output(self, slot: int) -> str:
        """Destination of an output slot."""
        return self._output_names.get(slot, f"output {slot} (gone)")

    # Taking.

    def _check_room(self, change: RuleChange) -> None:
        rules = len(self._placed) + len(change.added)
        if rules > MAX_RULES:
            raise LimitReached(f"No room for {rules} rules", f"a relay holds at most {MAX_RULES} rules")
        outputs = self._output_slots.taken + sum(len(rule.outputs) for rule in change.added)
        if outputs > MAX_OUTPUTS:
            raise LimitReached(f"No room for {outputs} outputs", f"a relay holds at most {MAX_OUTPUTS} outputs")

    def _find_interfaces(self, rules: Sequence[Rule]) -> dict[str, Interface]:
        """By the names that rules have for them: those that are in use may be called otherwise now."""
        found: dict[str, Interface] = {}
        for index, rule in enumerate(rules):
            for name in _interface_names(rule):
                if name not in found:
                    try:
                        found[name] = self._used(name) or find_interface(name)
                    except McrError as error:
                        raise error.at(f"rules[{index}]") if len(rules) > 1 else error from None
        return found

    def _used(self, name: str) -> Interface | None:
        for known in (self._inputs.get(name), self._outputs.get(name)):
            if known and not known.attachment.lost:
                return look_again(known.interface)
            if known and is_there(name):
                raise LimitReached(
                    f"Interface {name} was made again, and could not be opened again so far: {known.fault}",
                    f"rules that name it: {self._users(name)}",
                )
        return None

    def _users(self, interface: str) -> str:
        """The rules that name it, in words."""
        using = [rule_id for rule_id, placed in self._placed.items() if interface in _interface_names(placed.rule)]
        more = f" and {len(using) - _NAMED:,} more (mcrctl list)" if len(using) > _NAMED else ""
        return ", ".join(using[:_NAMED]) + more

    def _open(self, rules: Iterable[Rule], interfaces: dict[str, Interface], undo: ExitStack) -> _Opened:
        """Open sockets for the interfaces that are new."""
        opened = _Opened()
        opened.captures.update(self._inputs.open({rule.input.interface for rule in rules}, interfaces, undo))
        outputs = {output.interface for rule in rules for output in rule.outputs}
        opened.egress.update(self._outputs.open(outputs, interfaces, undo))
        return opened

    def _place(self, rule: Rule, sources: Sources, neighbours: Collection[Key]) -> PlacedRule:
        self._tags += 1
        outputs = tuple(self._output_slots.take() for _ in rule.outputs)
        waits_for = neighbours_of(rule, neighbours)
        placed = PlacedRule(
            rule, self._tags, self._rule_slots.take(), outputs, sources_of(rule, sources, waits_for), waits_for
        )
        self._placed[rule.rule_id] = placed
        self._inputs[rule.input.interface].users += 1
        self._rule_names[placed.slot] = rule.rule_id
        for output, slot in zip(rule.outputs, outputs, strict=True):
            self._outputs[output.interface].users += 1
            self._output_names[slot] = str(output)
        self._neighbours.use(placed.neighbours)
        return placed

    # Letting go.

    def _displace(self, rule: Rule) -> PlacedRule:
        placed = self._placed.pop(rule.rule_id)
        self._inputs.leave(rule.input)
        del self._rule_names[placed.slot]
        self._rule_slots.give(placed.slot)
        for output, slot in zip(rule.outputs, placed.outputs, strict=True):
            self._outputs[output.interface].users -= 1
            del self._output_names[slot]
            self._output_slots.give(slot)
        self._neighbours.leave(placed.neighbours)
        return placed

    # Telling.

    def _put(self, placed: PlacedRule) -> records.Command:
        rule = placed.rule
        return records.rule_put(
            tag=placed.tag,
            rule=placed.slot,
            capture=self._inputs[rule.input.interface].slot,
            group=rule.input.group,
            port=rule.input.port,
            outputs=[
                records.OutputPlace(slot, egress, output.group, output.port, output.max_train, source)
                for output, slot, egress, source in zip(
                    rule.outputs, placed.outputs, self._egress_slots(placed), placed.sources, strict=True
                )
            ],
        )

    def _egress_slots(self, placed: PlacedRule) -> Iterable[int]:
        return (
            self._neighbours.egress_slot(neighbour) if neighbour else self._outputs[output.interface].slot
            for output, neighbour in zip(placed.rule.outputs, placed.neighbours, strict=True)
        )


def concerns(rule: Rule, inputs: Container[str], outputs: Container[str]) -> bool:
    """Whether a rule reads from one of these interfaces, or sends by one of those."""
    return rule.input.interface in inputs or any(output.interface in outputs for output in rule.outputs)


def _interface_names(rule: Rule) -> Iterable[str]:
    return (rule.input.interface, *(output.interface for output in rule.outputs))
