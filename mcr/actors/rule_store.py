"""Owns the rules: applies each change, one after the other, and has interfaces that are back used again."""

import math
from collections.abc import Mapping
from itertools import chain
from typing import assert_never

import attrs
import trio

from mcr.actors.mailbox import Reply, ask
from mcr.actors.network_watch import NetworkWatch
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.errors import McrError
from mcr.logs.logger import get_logger
from mcr.logs.standing_reason import StandingReason
from mcr.model.log import Facility
from mcr.model.rule import Rule, RuleChange, RuleView
from mcr.net.interfaces import name_in_rules
from mcr.net.network import Network
from mcr.rules.catalog import Catalog, Entry
from mcr.rules.conditions import Conditions, Standing, judge, view_of
from mcr.rules.hop_cache import HopCache, find_silent
from mcr.rules.host_log import HostLog

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
    reply: Reply[_Applied]


@attrs.frozen
class _Remove:
    rule_id: str | None
    name: str | None
    reply: Reply[_Applied]


@attrs.frozen
class _List:
    reply: Reply[tuple[Entry, ...]]


@attrs.frozen
class _Renew:
    reply: Reply[None]


_Command = _Add | _Remove | _List | _Renew


@attrs.frozen
class RuleStore:
    """Handle of the store."""

    _inbox: trio.MemorySendChannel[_Command]
    _workers: WorkerSupervisor
    _network: NetworkWatch
    _hops: HopCache
    _well: dict[str, tuple[Entry, RuleView]] = attrs.field(factory=dict, init=False)
    """The view of rules that lack nothing."""

    async def add(self, rules: tuple[Rule, ...]) -> tuple[RuleView, ...]:
        """Add all of these rules or none, and wait a little for the workers to forward by them.

        Raises:
            RuleExists: an input tuple, id or name is taken, or given twice.
            McrError: from `WorkerSupervisor.apply`.
        """
        applied: _Applied = await ask(self._inbox, lambda reply: _Add(rules, reply))
        return await self._views(applied.entries, await self._settle(applied))

    async def remove(self, *, rule_id: str | None = None, name: str | None = None) -> RuleView:
        """Remove one rule by its id or its name, and wait a little for the workers to forget it.

        Raises:
            RuleNotFound: no rule has it.
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
    *,
    task_status: trio.TaskStatus[RuleStore] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve rules until cancelled. Starts without any."""
    send, receive = trio.open_memory_channel[_Command](0)
    state, hops = _State(workers), HopCache()
    async with trio.open_nursery() as nursery:
        with receive:
            nursery.start_soon(_keep_renewed, workers, network, send)
            nursery.start_soon(_keep_hosts_logged, workers, network, hops, send)
            task_status.started(RuleStore(send, workers, network, hops))
            await _serve(state, receive)


async def _keep_renewed(
    workers: WorkerSupervisor, network: NetworkWatch, inbox: trio.MemorySendChannel[_Command]
) -> None:
    """Use interfaces again that are back."""
    now, patience = Network(), math.inf
    while True:
        links = now.links
        with trio.move_on_after(patience):
            while now.links is links:
                now = await network.changed(now.version)
        if (await workers.standing()).returned:
            await ask(inbox, _Renew)
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


async def _serve(state: "_State", receive: trio.MemoryReceiveChannel[_Command]) -> None:
    async for command in receive:
        with command.reply:
            match command:
                case _Add(rules, reply):
                    reply.resolve(await state.add(rules))
                case _Remove(rule_id, name, removal):
                    removal.resolve(await state.remove(rule_id, name))
                case _List(listing):
                    listing.resolve(state.all())
                case _Renew(renewal):
                    await state.try_to_renew()
                    renewal.resolve(None)
                case _:
                    assert_never(command)


class _State:
    def __init__(self, workers: WorkerSupervisor) -> None:
        self._workers = workers
        self._catalog = Catalog()
        self._not_renewed = StandingReason()

    def all(self) -> tuple[Entry, ...]:
        return tuple(self._catalog)

    async def add(self, rules: tuple[Rule, ...]) -> _Applied | McrError:
        try:
            standing = await self.renew()  # what is added may need what is just back
            applied = await self._apply(self._catalog.plan_addition(_with_real_names(rules, standing)))
        except McrError as error:
            return error
        if len(rules) == 1:
            (rule,) = (each.rule for each in applied.entries)
            log.info("rule %s added: %s to %s", rule.rule_id, rule.input, ", ".join(map(str, rule.outputs)))
        else:
            log.info("%d rules added together", len(rules))
        return applied

    async def remove(self, rule_id: str | None, name: str | None) -> _Applied | McrError:
        try:
            applied = await self._apply(self._catalog.plan_removal(rule_id, name))
        except McrError as error:
            return error
        for each in applied.entries:
            log.info("rule %s removed: %s", each.rule.rule_id, each.rule.input)
        return applied

    async def _apply(self, change: RuleChange) -> _Applied:
        standing = await self._workers.apply(change)
        return _Applied(self._catalog.note(change), change.generation, standing)

    async def try_to_renew(self) -> None:
        """The same as `renew`; what hinders it is logged, once for as long as it does."""
        hindrance = ""
        try:
            await self.renew()
        except McrError as error:
            hindrance = error.message
        if self._not_renewed.is_news(hindrance):
            log.warning("interfaces that are back cannot be used yet: %s", hindrance)

    async def renew(self) -> Standing:
        """Use interfaces again that were lost and are back, if there are any; the state then."""
        standing = await self._workers.standing()
        if not standing.returned:
            return standing
        return (await self._apply(self._catalog.plan_renewal())).standing


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
