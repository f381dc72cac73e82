"""Owns the rules: applies each change, one after the other, and has interfaces that are back used again."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain, takewhile
from typing import Self, assert_never

import attrs
import trio

from mcr.actors.mailbox import Reply, ask
from mcr.actors.network_watch import NetworkWatch
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.errors import McrError
from mcr.logs.logger import get_logger
from mcr.logs.standing_reason import StandingReason
from mcr.model.log import Facility, Level
from mcr.model.rule import Rule, RuleChange, RuleView
from mcr.net.interfaces import name_in_rules
from mcr.net.network import Network
from mcr.rules.catalog import Catalog, Entry
from mcr.rules.conditions import Conditions, Standing, judge, view_of
from mcr.rules.hop_cache import HopCache, find_silent
from mcr.rules.host_log import HostLog
from mcr.rules.store import Drop, Put, RuleFile

log = get_logger(Facility.RULES)
network_log = get_logger(Facility.NETWORK)

ACTIVATION_SECONDS = 2.0
"""How long `RuleStore.add` waits for the workers; a rule they have not acknowledged by then is still pending."""

_MANY = 200  # rules: others get their turn while so many are shown
_RETRY_SECONDS = 5.0  # until an interface that could not be used again is tried once more
_HOSTS_SECONDS = 1.0  # between two times that the log is told of hosts, if anything changes
_HOSTS_PATIENCE = 10.0  # if nothing does: for rules that have changed, and what was held back
_HOSTS_SHARE = 0.05  # of the time at most, where there are many


@attrs.frozen
class _Applied:
    """A change that was applied: the rules it added and removed, and their state then."""

    entries: tuple[Entry, ...]
    generation: int
    standing: Standing


@attrs.frozen
class _Add:
    rules: tuple[Rule, ...]
    wait: bool
    reply: Reply[_Applied]


@attrs.frozen
class _Remove:
    rule_id: str | None
    name: str | None
    reply: Reply[_Applied]


@attrs.frozen
class _List:
    reply: Reply[tuple[Entry, ...]]


_Change = _Add | _Remove
_Command = _Change | _List


@attrs.frozen
class RuleStore:
    """Handle of the store."""

    _inbox: trio.MemorySendChannel[_Command]
    _workers: WorkerSupervisor
    _network: NetworkWatch
    _hops: HopCache
    _well: dict[str, tuple[Entry, RuleView]] = attrs.field(factory=dict, init=False)
    """The view of rules that lack nothing."""

    async def add(self, rules: tuple[Rule, ...], *, wait: bool = False) -> tuple[RuleView, ...]:
        """Add all of these rules or none, and wait a little for the workers to forward by them.

        Args:
            rules: to be added.
            wait: also for interfaces that are not there: the rules are used once they are.

        Raises:
            RuleExists: an input tuple, id or name is taken, or given twice.
            SystemFault: they can't be saved, so they are not added.
            McrError: from `WorkerSupervisor.apply`.
        """
        applied: _Applied = await ask(self._inbox, lambda reply: _Add(rules, wait, reply))
        return await self._views(applied.entries, await self._settle(applied))

    async def remove(self, *, rule_id: str | None = None, name: str | None = None) -> RuleView:
        """Remove one rule by its id or its name, and wait a little for the workers to forget it.

        Raises:
            RuleNotFound: no rule has it.
            SystemFault: that can't be saved, so the rule stays.
        """
        applied: _Applied = await ask(self._inbox, lambda reply: _Remove(rule_id, name, reply))
        (view,) = await self._views(applied.entries, await self._settle(applied))
        self._well.pop(view.rule_id, None)
        return view

    async def list(self) -> tuple[RuleView, ...]:
        """Every rule, in the order in which they were added."""
        entries: tuple[Entry, ...] = await ask(self._inbox, _List)
        return await self._views(entries, await self._workers.standing())

    async def check(self) -> None:
        """Return if the store answers."""
        await ask(self._inbox, _List)

    async def _settle(self, applied: _Applied) -> Standing:
        """Wait a little for the workers to forward by a change; the state then."""
        with trio.move_on_after(ACTIVATION_SECONDS):
            acknowledged = await self._workers.settled(applied.generation)
            return attrs.evolve(applied.standing, acknowledged=acknowledged)
        return await self._workers.standing()

    async def _views(self, entries: tuple[Entry, ...], standing: Standing) -> tuple[RuleView, ...]:
        network = await self._network.snapshot()
        hosts = chain.from_iterable(each.hosts for each in entries)
        hops = await self._hops.find(hosts, standing.outputs, network)
        # In a thread: the kernel tells it under its lock of the network's configuration, which others hold for long.
        silent = await trio.to_thread.run_sync(find_silent, hops, standing.outputs, network) if hops else ()
        conditions = judge(standing, network, hops, silent)
        if len(entries) > _MANY:
            return await trio.to_thread.run_sync(self._show, entries, conditions)
        return self._show(entries, conditions)

    def _show(self, entries: tuple[Entry, ...], conditions: Conditions) -> tuple[RuleView, ...]:
        return tuple(self._show_one(each, conditions) for each in entries)

    def _show_one(self, entry: Entry, conditions: Conditions) -> RuleView:
        if entry.generation > conditions.acknowledged or conditions.concern(entry.rule):
            return view_of(entry.rule, entry.generation, conditions)
        known, view = self._well.get(entry.rule.rule_id, (None, None))
        if known is not entry or view is None:
            view = view_of(entry.rule, entry.generation, conditions)
            self._well[entry.rule.rule_id] = entry, view
        return view


async def run_rule_store(
    workers: WorkerSupervisor,
    network: NetworkWatch,
    file: RuleFile | None,
    *,
    task_status: trio.TaskStatus[RuleStore] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve rules until cancelled. Starts with those of the file, if they are kept in one; it stays the caller's."""
    send, receive = trio.open_memory_channel[_Command](0)
    changes_send, changes = trio.open_memory_channel[_Change](math.inf)  # at most one of each client
    state, hops = _State(workers, file), HopCache()
    await state.restore()
    async with trio.open_nursery() as nursery:
        with receive:
            nursery.start_soon(_keep_renewed, state, workers, network)
            nursery.start_soon(_keep_hosts_logged, workers, network, hops, send)
            nursery.start_soon(_make_changes, state, changes)
            task_status.started(RuleStore(send, workers, network, hops))
            await _serve(state, receive, changes_send)


async def _keep_renewed(state: "_State", workers: WorkerSupervisor, network: NetworkWatch) -> None:
    """Use interfaces again that are back."""
    now, patience = Network(), math.inf
    while True:
        links = now.links
        with trio.move_on_after(patience):
            while now.links is links:
                now = await network.changed(now.version)
        if (await workers.standing()).returned:
            await state.try_to_renew()
        patience = _RETRY_SECONDS if (await workers.standing()).returned else math.inf


async def _keep_hosts_logged(
    workers: WorkerSupervisor, network: NetworkWatch, hops: HopCache, inbox: trio.MemorySendChannel[_Command]
) -> None:
    """Log it when hosts that outputs send to stop answering ARP, and when they answer again."""
    host_log, seen = HostLog(), (tuple[Entry, ...](), Network())
    while True:
        begun = trio.current_time()
        entries, now = await ask(inbox, _List), await network.snapshot()
        if entries != seen[0] or now.neighbours is not seen[1].neighbours or now.routes != seen[1].routes:
            seen = entries, now
            hosts = [*chain.from_iterable(each.hosts for each in entries)]
            outputs = (await workers.standing()).outputs if hosts else {}
            reached = await hops.find(hosts, outputs, now)
            host_log.note(hosts, reached, outputs, now)
        for level, line in host_log.lines(trio.current_time()):
            network_log.log(level, "%s", line)
        await trio.sleep(max(_HOSTS_SECONDS, (trio.current_time() - begun) / _HOSTS_SHARE))
        with trio.move_on_after(_HOSTS_PATIENCE):
            await network.changed(now.version)


async def _serve(
    state: "_State", receive: trio.MemoryReceiveChannel[_Command], changes: trio.MemorySendChannel[_Change]
) -> None:
    async for command in receive:
        match command:
            case _Add() | _Remove():
                changes.send_nowait(command)
            case _List(listing):
                with listing:
                    listing.resolve(state.all())
            case _:
                assert_never(command)


async def _make_changes(state: "_State", changes: trio.MemoryReceiveChannel[_Change]) -> None:
    """Beside what only looks: the disk may be slow. What waits together is written together."""
    with _Queue(changes) as queue:
        while True:
            alike = await queue.take_alike()
            with ExitStack() as replies:
                for change in alike:
                    replies.enter_context(change.reply)
                await state.add([each for each in alike if isinstance(each, _Add)])
                await state.remove([each for each in alike if isinstance(each, _Remove)])


class _Queue:
    """Changes that wait. Leaving it releases those who asked for them."""

    def __init__(self, changes: trio.MemoryReceiveChannel[_Change]) -> None:
        self._changes = changes
        self._waiting: list[_Change] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._take_waiting()
        for change in self._waiting:
            with change.reply:
                pass

    async def take_alike(self) -> list[_Change]:
        """The next change, and those of its kind that follow it already."""
        if not self._waiting:
            self._waiting.append(await self._changes.receive())
        self._take_waiting()
        kind = type(self._waiting[0])
        alike = [*takewhile(lambda each: type(each) is kind, self._waiting)]
        del self._waiting[: len(alike)]
        return alike

    def _take_waiting(self) -> None:
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._waiting.append(self._changes.receive_nowait())


class _State:
    def __init__(self, workers: WorkerSupervisor, file: RuleFile | None) -> None:
        self._workers = workers
        self._file = file
        self._thread = trio.CapacityLimiter(1)
        self._catalog = Catalog()
        self._applying = trio.Lock()
        self._not_renewed = StandingReason()

    def all(self) -> tuple[Entry, ...]:
        return tuple(self._catalog)

    # What was saved.

    async def restore(self) -> None:
        """Have the rules of the file again. Those that can't be had now stay in it."""
        if not self._file:
            return
        for notice in self._file.notices:
            log.error("%s", notice)
        if self._file.rules:
            await self._restore(self._file.rules)
            log.notice("%d of %d saved rules are in use again", len(self._catalog), len(self._file.rules))

    async def _restore(self, rules: Sequence[Rule]) -> None:
        """All of these, or, if that can't be, halves of them."""
        try:
            await self._apply(self._catalog.plan_addition(rules, wait=True))
        except McrError as error:
            if len(rules) == 1:
                log.log(Level.ERROR, "rule %s is saved, and cannot be used: %s", rules[0].rule_id, error.message)
                return
            await self._restore(rules[: len(rules) // 2])
            await self._restore(rules[len(rules) // 2 :])

    async def _save(self, changes: Iterable[Put | Drop]) -> McrError | None:
        if not self._file:
            return None
        try:
            await trio.to_thread.run_sync(self._file.write, [*changes], limiter=self._thread)
        except McrError as error:
            log.log(Level.ERROR, "%s", error.message)
            return error
        return None

    # Changes.

    async def add(self, commands: Sequence[_Add]) -> None:
        """Apply each that can be, then save them, else take them back."""
        applied: list[tuple[_Add, _Applied]] = []
        for command in commands:
            try:
                applied.append((command, await self._add(command)))
            except McrError as error:
                command.reply.resolve(error)
        rules = [entry.rule for _, each in applied for entry in each.entries]
        fault = await self._save(map(Put, rules)) if rules else None
        if fault:
            async with self._applying:
                await self._apply(self._catalog.plan_removal(rules))
        for command, each in applied:
            if not fault:
                _log_added([entry.rule for entry in each.entries])
            command.reply.resolve(fault or each)

    async def _add(self, command: _Add) -> _Applied:
        async with self._applying:
            standing = await self._renew()  # what is added may need what is just back
            rules = _with_real_names(command.rules, standing)
            return await self._apply(self._catalog.plan_addition(rules, wait=command.wait))

    async def remove(self, commands: Sequence[_Remove]) -> None:
        """Save that these are gone, then let them go."""
        found: dict[str, tuple[_Remove, Rule]] = {}
        for command in commands:
            try:
                rule = self._catalog.find(command.rule_id, command.name, without=found.keys()).rule
            except McrError as error:
                command.reply.resolve(error)
            else:
                found[rule.rule_id] = command, rule
        if not found:
            return
        rules = [rule for _, rule in found.values()]
        fault = await self._save(Drop(rule.rule_id) for rule in rules)
        if not fault:
            try:
                async with self._applying:
                    applied = await self._apply(self._catalog.plan_removal(rules))
            except McrError as error:
                fault = error
                await self._save(map(Put, rules))
        for command, rule in found.values():
            if fault:
                command.reply.resolve(fault)
                continue
            log.info("rule %s removed: %s", rule.rule_id, rule.input)
            entries = tuple(each for each in applied.entries if each.rule is rule)
            command.reply.resolve(attrs.evolve(applied, entries=entries))

    async def _apply(self, change: RuleChange) -> _Applied:
        standing = await self._workers.apply(change)
        return _Applied(self._catalog.note(change), change.generation, standing)

    # Interfaces that are back.

    async def try_to_renew(self) -> None:
        """Have interfaces used again that are back; what hinders it is logged, once for as long as it does."""
        hindrance = ""
        try:
            async with self._applying:
                await self._renew()
        except McrError as error:
            hindrance = error.message
        if self._not_renewed.is_news(hindrance):
            log.warning("interfaces that are back cannot be used yet: %s", hindrance)

    async def _renew(self) -> Standing:
        """Use interfaces again that were lost and are back, if there are any; the state then."""
        standing = await self._workers.standing()
        if not standing.returned:
            return standing
        return (await self._apply(self._catalog.plan_renewal())).standing


def _log_added(rules: Sequence[Rule]) -> None:
    if len(rules) == 1:
        log.info("rule %s added: %s to %s", rules[0].rule_id, rules[0].input, ", ".join(map(str, rules[0].outputs)))
    else:
        log.info("%d rules added together", len(rules))


def _with_real_names(rules: tuple[Rule, ...], standing: Standing) -> tuple[Rule, ...]:
    """The rules, with each interface by the one name that other rules have for it, or by its own."""
    used = {each.index: each.name for each in standing.all() if not each.lost}
    known = {name: name_in_rules(name, used) for name in {name for rule in rules for name in rule.interfaces}}
    if all(name == real for name, real in known.items()):
        return rules
    return tuple(_renamed(rule, known) for rule in rules)


def _renamed(rule: Rule, known: Mapping[str, str]) -> Rule:
    source = attrs.evolve(rule.input, interface=known[rule.input.interface])
    outputs = tuple(attrs.evolve(each, interface=known[each.interface]) for each in rule.outputs)
    return attrs.evolve(rule, input=source, outputs=outputs)
