"""The rules' resources (sockets, group memberships, slots in shared memory), and the commands to workers about them.

A change is prepared, which may fail and then is undone, and committed, which cannot fail. A relay belongs to one actor.
Calls that may wait in the kernel (opening and closing capture sockets) run in a thread.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from socket import socket
from typing import Self

import attrs
import trio

from mcr.config.settings import Settings
from mcr.errors import SystemFault
from mcr.logs.logger import get_logger
from mcr.model.flow import without_source
from mcr.model.log import Facility
from mcr.model.rule import Rule, RuleChange
from mcr.net.filter.path import wait_for_packets
from mcr.net.filter.tap import StreamTap
from mcr.relay import commands, ranges
from mcr.relay.attach import Attach
from mcr.relay.captures import Capture
from mcr.relay.closing import Closing
from mcr.relay.inputs import InputInterfaces
from mcr.relay.kernel_path import KernelRules
from mcr.relay.lookup import find_interfaces
from mcr.relay.neighbours import JUST_GONE, Neighbour, Neighbours, find_neighbours
from mcr.relay.outputs import Egress, OutputInterfaces, tagless
from mcr.relay.placement import Key, LeavingOutput, PlacedRule, Placement, Replacement
from mcr.relay.refusals import Refusal
from mcr.relay.routing import Routing, concerns
from mcr.rules.catalog import MANY
from mcr.rules.conditions import Standing
from mcr.rules.interface_log import Users
from mcr.shm.kept import Kept
from mcr.shm.records import Command

log = get_logger(Facility.NETWORK)


@attrs.frozen
class Step:
    """The result of a change of the rules.

    Attributes:
        placed: new and changed rules.
        captures: new ones; one that another mcrd has left is not new.
        commands: to workers.
        leaving: outputs that rules have no more, to be forgotten when it is noted what they have sent.
        later: new rules that the kernel path is to have once workers know them (`KernelRules.use`).
    """

    placed: tuple[PlacedRule, ...]
    captures: tuple[Capture, ...]
    commands: tuple[Command, ...]
    leaving: tuple[LeavingOutput, ...] = ()
    later: tuple[PlacedRule, ...] = ()


@attrs.frozen
class Released:
    """What no worker uses any more: to be counted a last time; sockets to be closed, those of captures among them."""

    captures: tuple[Capture, ...]
    outputs: tuple[LeavingOutput, ...]
    sockets: tuple[socket, ...]


@attrs.frozen
class _Prepared:
    """Everything that rules need and that could be refused: what is opened here is not in use yet.

    Attributes:
        grown: rules that are changed, with the outputs alone that are new or leave in another way.
        awaited: neighbours that new outputs wait for, new or not.
    """

    grown: tuple[Rule, ...]
    awaited: frozenset[Key]
    captures: Mapping[str, Capture]
    egress: Mapping[str, Egress]
    neighbours: Mapping[Key, Neighbour]


@attrs.frozen
class _Names:
    """The names behind the numbers in a worker's log: `mcr.logs.worker_records.Names`."""

    inputs: InputInterfaces
    placement: Placement

    def capture(self, slot: int) -> str:
        """Name of the input interface of a capture slot."""
        return self.inputs.name(slot)

    def rule(self, slot: int) -> str:
        """Id and name of the rule in a rule slot."""
        return self.placement.rule_name(slot)

    def output(self, slot: int) -> str:
        """Destination of an output slot."""
        return self.placement.output_name(slot)


class Relay:
    """All of it, for a number of workers. A context manager: leaving it closes every socket.

    Attributes:
        inputs: the input interfaces that are captured.
        outputs: the output interfaces that are sent by.
        kernel: the rules that the kernel path forwards by.
        routing: how outputs leave.
        names: behind the numbers in a worker's log.
    """

    def __init__(self, settings: Settings, kept: Kept, kernel: KernelRules, tap: StreamTap | None = None) -> None:
        self._kept = kept
        self.kernel = kernel
        self.inputs = InputInterfaces(settings, kept.store, kept.captures.read(), kernel.path, tap or StreamTap())
        self.outputs = OutputInterfaces(settings)
        self._neighbours = Neighbours(settings)
        bound = self.outputs.__getitem__, self._neighbours.port, self.inputs.local.serves
        self.kernel.bind(lambda name: self.inputs[name].slot, *bound)
        self._placement = Placement(kept.places, wait_for_packets if kernel.path else None)
        self._closing = Closing()
        self._attach = Attach(self.inputs, self.outputs, self._neighbours)
        parts = self.outputs, self._neighbours, self._placement, self.kernel, self._attach.one
        self.routing = Routing(*parts, local=self.inputs.local)
        self.names = _Names(self.inputs, self._placement)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for each in (self.inputs, self.outputs, self._neighbours, self._closing):
            each.close()

    # The transaction.

    async def apply(self, change: RuleChange) -> Step:
        """Take the resources that added rules and outputs need, and release those of the removed ones.

        Raises:
            InterfaceNotFound, SystemFault, LimitReached: nothing has changed.
        """
        # It may wait in the kernel, or take long: others get their turn meanwhile.
        if change.renew:
            step = await trio.to_thread.run_sync(self._renew, change.generation)
        else:
            step = await trio.to_thread.run_sync(self._apply, change)
        if step.captures:
            _start_counting(step.captures, self._kept, self.kernel)
            self._leave_note()
        return step

    async def give_up_former(self, generation: int) -> None:
        """Let go of captures that another mcrd has left and that no rule uses. `generation`: the newest."""
        unused = await trio.to_thread.run_sync(self.inputs.give_up_former)
        self._closing.add(generation, self.inputs.slots, unused)
        self._leave_note()

    async def take_over(self) -> None:
        """Forward by the rules that there are now, instead of those of another mcrd."""
        await trio.to_thread.run_sync(self.inputs.take_over)
        self.kernel.take_over()
        self._placement.forget_former()
        self._leave_note()

    def _leave_note(self) -> None:
        """Tell the next mcrd which captures there are."""
        self._kept.note_captures(self.inputs.note())

    def _apply(self, change: RuleChange) -> Step:
        with ExitStack() as undo:
            given_up = self.inputs.refusals.give_way(change, undo)  # before others admit the same
            try:
                prepared = self._prepare_all(change)
            except SystemFault as error:
                if not change.wait or error.errno not in JUST_GONE:
                    raise
                prepared = self._prepare_all(change)  # what has gone since it was found is waited for
            undo.pop_all()
        step = self._commit(change, prepared)
        return attrs.evolve(step, commands=(*given_up, *step.commands))

    def _prepare_all(self, change: RuleChange) -> _Prepared:
        with ExitStack() as undo:
            prepared = self._prepare(change, undo)
            undo.pop_all()
        return prepared

    def _prepare(self, change: RuleChange, undo: ExitStack) -> _Prepared:
        added, grown = change.added, tuple(filter(None, map(self._placement.growth, change.changed)))
        fresh = (*added, *grown)
        new = _outputs(added) + sum(map(self._placement.count_new, change.changed))
        self._placement.check_room(new - _outputs(change.removed))
        named = [*(rule.interfaces for rule in added), *(rule.interfaces[1:] for rule in grown)]
        interfaces = find_interfaces(named, self.inputs, self.outputs, self._placement, wait=change.wait)
        awaited = find_neighbours(fresh, interfaces)
        outputs = {output.interface for rule in fresh for output in rule.outputs}
        egress = self.outputs.open(outputs, interfaces, undo)
        neighbours = self._neighbours.open(awaited, interfaces, undo, wait=change.wait)
        sources = [rule.input for rule in added]
        captures = self.inputs.open(sources, interfaces, undo)  # late: packets wait in rings from here on
        self.inputs.want(sources, captures, undo)
        return _Prepared(grown, awaited, captures, egress, neighbours)

    def _commit(self, change: RuleChange, prepared: _Prepared) -> Step:
        self.inputs.adopt(prepared.captures)
        self.outputs.adopt(prepared.egress)
        neighbours = self._neighbours.adopt(prepared.neighbours)
        ways = self.outputs.ways((*change.added, *prepared.grown), prepared.awaited)
        still = ranges.still(change, self._placement)
        self.inputs.unwant(claim for claim in ranges.claims(change.removed) if claim not in still)
        removed = tuple(self._placement.displace(rule) for rule in change.removed)
        for placed in reversed(removed):  # the kernel looks for the group to be left from the newest one on
            self._leave(placed)
        self.inputs.local.change((each.input for each in change.added), (each.input for each in change.removed))
        self.kernel.forget(removed, {*map(without_source, still), *ranges.going_on(removed, self._placement)})
        added = self._placement.place(change.added, ways, prepared.awaited)
        self._use(added)
        changed = [self._placement.change(rule, ways, prepared.awaited) for rule in change.changed]
        added, changed = ranges.give_way(change, self._placement, added, changed)
        changes = [*chain.from_iterable(self._follow(each, change.generation) for each in changed)]
        later = added if len(added) > MANY and not changed else ()  # workers can forward by thousands much sooner
        if not later:
            self.kernel.use(added, changed)
        self.inputs.watched.change(removed, (*added, *(each.now for each in changed)))
        told = (
            *map(commands.attach_capture, prepared.captures.values()),
            *chain.from_iterable(map(commands.attach_egress, prepared.egress.values())),
            *map(commands.attach_neighbour, neighbours),
            *map(commands.detach_rule, removed),
            *changes,  # before what is added, which takes from ranges, and after what is removed
            *self._attach.all(added),
            *self._drop_unused(change.generation),
        )
        opened = tuple(each for each in prepared.captures.values() if not each.inherited)
        leaving = tuple(chain.from_iterable(each.leaving for each in changed))
        return Step((*added, *(each.now for each in changed)), opened, told, leaving, later)

    def forget(self, leaving: Iterable[LeavingOutput]) -> None:
        """Let no next mcrd know these outputs: what they have sent is in the sums of their rules."""
        self._placement.forget(leaving)

    def _renew(self, generation: int) -> Step:
        """Open interfaces again. One that cannot be opened now is tried again later, and takes nothing else down."""
        egress = self.outputs.renew()
        neighbours = self._neighbours.renew([fresh.interface for _, fresh in egress])
        captures = self.inputs.renew([placed.rule.input for placed in self._placement])
        old_captures, old_egress = [old for old, _ in captures], [old for old, _ in egress]
        self._closing.add(generation, self.inputs.slots, old_captures)
        self._closing.add(generation, self.outputs.slots, old_egress)
        self._closing.add(generation, self._neighbours.slots, neighbours.dropped)
        inputs, outputs = _names_of(captures), _names_of(egress) | neighbours.interfaces
        told = (
            *chain.from_iterable(commands.attach_egress(fresh) for _, fresh in egress),
            *map(commands.attach_neighbour, neighbours.opened),
            *self.routing.renew(outputs),
            # What waits in a ring is read by the rules as they are: they follow to the new ones after that.
            *map(commands.detach_capture, old_captures),
            *(commands.attach_capture(fresh) for _, fresh in captures),
            *(self._attach.one(placed) for placed in self._placement if concerns(placed.rule, inputs, outputs)),
            *map(commands.detach_egress, old_egress),
            *map(commands.detach_neighbour, neighbours.dropped),
        )
        self.kernel.follow(placed for placed in self._placement if concerns(placed.rule, inputs, outputs))
        return Step((), tuple(fresh for _, fresh in captures), told)

    def _use(self, added: Sequence[PlacedRule]) -> None:
        for name, count in Counter([placed.rule.input.interface for placed in added]).items():
            self.inputs[name].users += count
        self._use_outputs(added)

    def _leave(self, placed: PlacedRule) -> None:
        self.inputs.leave(placed.rule.input)
        self._leave_outputs(placed)

    def _use_outputs(self, those: Sequence[PlacedRule]) -> None:
        sent = chain.from_iterable([placed.rule.outputs for placed in those])
        for name, count in Counter([output.interface for output in sent]).items():
            self.outputs[name].users += count
        self._neighbours.use(chain.from_iterable([placed.neighbours for placed in those]))

    def _leave_outputs(self, placed: PlacedRule) -> None:
        for output in placed.rule.outputs:
            self.outputs[output.interface].users -= 1
        self._neighbours.leave(placed.neighbours)

    def _follow(self, replacement: Replacement, generation: int) -> Iterable[Command]:
        """Have a changed rule's outputs in use; what to tell workers, if it concerns them."""
        self._use_outputs([replacement.now])
        former, now = self._attach.one(replacement.before), self._attach.one(replacement.now)
        self._leave_outputs(replacement.before)
        self._closing.add(generation, self._placement.output_slots, replacement.leaving)
        return () if now == former else (now,)

    def _drop_unused(self, generation: int) -> Iterable[Command]:
        """Release what no rule uses from this generation on; the commands to workers."""
        egress, neighbours = self.outputs.drop_unused(), self._neighbours.drop_unused()
        captures = self.inputs.drop_unused()
        self._closing.add(generation, self.outputs.slots, egress)
        self._closing.add(generation, self._neighbours.slots, neighbours)
        self._closing.add(generation, self.inputs.slots, captures)
        return (
            *map(commands.detach_egress, egress),
            *map(commands.detach_neighbour, neighbours),
            *map(commands.detach_capture, captures),
        )

    @property
    def lets_go(self) -> bool:
        """Whether there is something that no rule uses, and workers may."""
        return bool(self._closing)

    def release(self, generation: int) -> Released:
        """Free the slots of what no worker uses any more, once all forward by this generation."""
        released = self._closing.release(generation)
        captures = tuple(each for each in released if isinstance(each, Capture))
        if captures:
            self._leave_note()
        outputs = tuple(each for each in released if isinstance(each, LeavingOutput))
        return Released(captures, outputs, tuple(chain.from_iterable(each.all_sockets for each in released)))

    def refuse(self, wanted: Iterable[Refusal]) -> Command:
        """Refuse these flows and no others; what to tell the workers."""
        return self.inputs.refusals.change(wanted, [*self._placement])

    def used(self) -> set[int]:
        """Indices of the interfaces that are captured or sent by."""
        return {each.interface.index for each in (*self.inputs, *self.outputs)}

    def standing(self, acknowledged: int) -> Standing:
        """Input and output interfaces, and whether sockets still stand for them."""
        inputs = {capture.interface.name: capture.attachment for capture in self.inputs}
        outputs = {egress.interface.name: egress.attachment for egress in self.outputs}
        faults = self._neighbours.faults()
        stale = (
            any(each.stale for each in chain(inputs.values(), outputs.values()))
            or any(each.fault and not each.lost for each in inputs.values())  # groups that could not be joined
            or bool(self._neighbours.unrenewed)
            or bool(faults)
        )
        paths = self.kernel.paths({each.interface.name: self.inputs.why_not_kernel(each) for each in self.inputs})
        without = tagless(self.outputs, self._placement.tagged())
        return Standing(acknowledged, inputs, outputs, paths=paths, faults=faults, tagless=without, stale=stale)

    def users(self) -> dict[str, Users]:
        """How much depends on each interface."""
        rules = {capture.interface.name: capture.users for capture in self.inputs}
        outputs = {egress.interface.name: egress.users for egress in self.outputs}
        return {name: Users(rules.get(name, 0), outputs.get(name, 0)) for name in rules | outputs}


def _start_counting(captures: Iterable[Capture], kept: Kept, kernel: KernelRules) -> None:
    """Have no capture start where the one before it in its slot ended: not for a next mcrd that is told of it."""
    for capture in captures:
        for each in kept.segments:
            each.start_capture(capture.slot)
        if counts := kernel.path or kernel.counters:
            counts.start_capture(capture.slot)


def _names_of(renewed: Iterable[tuple[object, Capture | Egress]]) -> set[str]:
    return {fresh.interface.name for _, fresh in renewed}


def _outputs(rules: Iterable[Rule]) -> int:
    return sum(len(rule.outputs) for rule in rules)
