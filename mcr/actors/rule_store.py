"""Owns the rules: applies each change, one after the other, and follows the interfaces that have the names in them."""

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from operator import attrgetter
from typing import assert_never

import attrs
import trio

from mcr.actors.mailbox import Reply, ask
from mcr.actors.network_watch import NetworkWatch
from mcr.actors.rule_changes import RuleSet, make_changes
from mcr.actors.rule_requests import Add, Applied, Change, Edit, Hold, Remove, TryAgain, Use
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.config.difference import RunTimeDifference
from mcr.config.file import FileRule
from mcr.errors import ShuttingDown
from mcr.logs.logger import get_logger
from mcr.model.edit import RuleEdit
from mcr.model.log import Facility
from mcr.model.rule import Rule, RuleView
from mcr.model.selection import Selection
from mcr.net.network import Network
from mcr.rules.advice import advice
from mcr.rules.catalog import MANY, Entry
from mcr.rules.conditions import Standing, judge
from mcr.rules.file_rules import FileRules, RunTimeRules, Yielding
from mcr.rules.hop_cache import HopCache, find_silent
from mcr.rules.host_log import HostLog
from mcr.rules.store import RuleFile
from mcr.rules.views import Views

network_log = get_logger(Facility.NETWORK)

ACTIVATION_SECONDS = 2.0
"""How long `RuleStore.add` waits for the workers; a rule they have not acknowledged by then is still pending."""

_RETRY_SECONDS = 5.0  # until an interface, or a rule, that could not be used is tried once more
_MOST_SECONDS = 60.0  # where that takes long
_HOSTS_SECONDS = 1.0  # between two times that the log is told of hosts, if anything changes
_HOSTS_PATIENCE = 10.0  # if nothing does: for rules that have changed, and what was held back
_SHARE = 0.05  # of the time at most, where there are many


@attrs.frozen
class _List:
    rule: str | None
    """One alone, by its id or name; None: all."""
    reply: Reply[tuple[Entry, ...]]


@attrs.frozen
class _Yielding:
    reply: Reply[tuple[Yielding, ...]]


@attrs.frozen
class _RunTime:
    reply: Reply[RunTimeRules]


_Command = _List | _Yielding | _RunTime


@attrs.frozen
class Held:
    """The rules of run time, none of which is changed meanwhile."""

    rules: tuple[Rule, ...]
    _taken: trio.MemorySendChannel[None]

    def take(self) -> None:
        """Refuse every further change: another mcrd has them."""
        self._taken.send_nowait(None)


@attrs.frozen
class RuleStore:
    """Handle of the store."""

    _inbox: trio.MemorySendChannel[_Command]
    _changes: trio.MemorySendChannel[Change]
    _workers: WorkerSupervisor
    _network: NetworkWatch
    _hops: HopCache
    _shown: Views = attrs.field(factory=Views, init=False)

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
        applied: Applied = await ask(self._changes, lambda reply: Add(rules, wait, False, reply))
        return await _advise(await self._views(applied.entries, await self._settle(applied)), applied)

    async def ensure(
        self, rules: tuple[Rule, ...], *, wait: bool = False
    ) -> tuple[tuple[RuleView, ...], frozenset[str]]:
        """Add those of these rules that are not there, as `add` does.

        Returns:
            All of them, and the ids of those that were there already, with the same input, outputs and name.
        """
        applied: Applied = await ask(self._changes, lambda reply: Add(rules, wait, True, reply))
        return await _advise(await self._views(applied.entries, await self._settle(applied)), applied), applied.there

    async def change(
        self, *, rule_id: str | None = None, name: str | None = None, edit: RuleEdit, wait: bool = False
    ) -> RuleView:
        """Change a rule, found by its id or its name, and wait a little for the workers. What stays goes on.

        Args:
            rule_id: its id.
            name: its name, if there is no id.
            edit: what to change.
            wait: new outputs may name interfaces that are not there.

        Raises:
            RuleNotFound: no rule has it.
            RuleExists: another rule has the new name.
            InvalidParams: it can't be like that.
            SystemFault: that can't be saved, so nothing is changed.
            McrError: from `WorkerSupervisor.apply`; nothing is changed.
        """
        applied: Applied = await ask(self._changes, lambda reply: Edit(rule_id, name, edit, wait, reply))
        (view,) = await _advise(await self._views(applied.entries, await self._settle(applied)), applied)
        return view

    async def remove(self, selection: Selection) -> tuple[RuleView, ...]:
        """Remove all rules that are selected or none, and wait a little for the workers to forget them.

        All are those that do not stand in files. What else is to be said of one is a warning of its view.

        Raises:
            RuleNotFound: no rule is meant by one of the ids, names and patterns.
            SystemFault: that can't be saved, so the rules stay.
        """
        applied: Applied = await ask(self._changes, lambda reply: Remove(selection, reply))
        views = await self._views(applied.entries, await self._settle(applied))
        self._shown.forget([view.rule_id for view in views])
        remarks = {rule_id: (remark,) for rule_id, remark in applied.remarks.items()}
        return await _warn(views, lambda view: remarks.get(view.rule_id, ()))

    async def use(self, rules: tuple[FileRule, ...], kept: str | None = "") -> None:
        """Go by these rules of configuration files instead of those that they said before; or nothing is changed.

        Args:
            rules: of the files.
            kept: text to be kept beside the saved rules from then on; empty: none; None: the one that is kept.

        Rules that keep their ids and inputs are changed in their places. Rules of run time that have the input, id or
        name of one of these are not used for as long as that stands in the files.

        Raises:
            LimitReached: there would be too many.
            SystemFault: the text can't be saved.
            McrError: from `WorkerSupervisor.apply`, or there is no state directory for the text; nothing is changed.
        """
        applied: Applied = await ask(self._changes, lambda reply: Use(rules, kept, reply))
        await self._settle(applied)
        self._shown.forget_all()

    async def list(self) -> tuple[RuleView, ...]:
        """Every rule, in the order in which they were added."""
        entries: tuple[Entry, ...] = await ask(self._inbox, lambda reply: _List(None, reply))
        views = await self._views(entries, await self._workers.standing())
        self._shown.keep(entries)
        return views

    async def yielding(self) -> tuple[Yielding, ...]:
        """Rules of run time that are not used, as they give way to others of files."""
        return await ask(self._inbox, _Yielding)

    async def foresee(self, rules: tuple[FileRule, ...]) -> tuple[RunTimeDifference, ...]:
        """What becomes of rules of run time once configuration files have these."""
        there: RunTimeRules = await ask(self._inbox, _RunTime)
        return await trio.to_thread.run_sync(lambda: there.foresee(FileRules(rules)))  # of thousands

    async def find(self, rule: str) -> RuleView:
        """One rule, by its id or its name.

        Raises:
            RuleNotFound: no rule has it.
        """
        entries: tuple[Entry, ...] = await ask(self._inbox, lambda reply: _List(rule, reply))
        (view,) = await self._views(entries, await self._workers.standing())
        return view

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[Held]:
        """Make no change until this is left: what clients ask for waits."""
        send, taken = trio.open_memory_channel[None](1)
        with send:
            yield Held(await ask(self._changes, lambda reply: Hold(taken, reply)), send)

    async def check(self) -> None:
        """Return if the store answers."""
        await ask(self._inbox, lambda reply: _List(None, reply))

    async def _settle(self, applied: Applied) -> Standing:
        """Wait a little for the workers to forward by a change; the state then."""
        with trio.move_on_after(ACTIVATION_SECONDS):
            acknowledged = await self._workers.settled(applied.generation)
            return attrs.evolve(applied.standing, acknowledged=acknowledged)
        return await self._workers.standing()

    async def _views(self, entries: tuple[Entry, ...], standing: Standing) -> tuple[RuleView, ...]:
        network = await self._network.snapshot()
        hosts = [*chain.from_iterable(map(_hosts, entries))]
        hops = await self._hops.find(hosts, standing.outputs, network) if hosts else {}
        # In a thread: the kernel tells it under its lock of the network's configuration, which others hold for long.
        silent = await trio.to_thread.run_sync(find_silent, hops, standing.outputs, network) if hops else ()
        sources = {*chain.from_iterable(map(_sources, entries))}
        conditions = judge(standing, network, hops, silent, sources)
        if (known := self._shown.known(entries, conditions)) is not None:
            return known
        if len(entries) > MANY:  # others get their turn
            return await trio.to_thread.run_sync(self._shown.make, entries, conditions)
        return self._shown.make(entries, conditions)


_hosts, _sources = attrgetter("hosts"), attrgetter("sources")  # of thousands, at each scrape


async def _advise(views: tuple[RuleView, ...], applied: Applied) -> tuple[RuleView, ...]:
    """The views, with what one should know of rules that were added or changed."""
    more = applied.advice
    return await _warn(
        views, lambda view: (*view.warnings, *advice(view.input, view.outputs), *more.get(view.rule_id, ()))
    )


async def _warn(views: tuple[RuleView, ...], warnings: Callable[[RuleView], tuple[str, ...]]) -> tuple[RuleView, ...]:
    """The views with these warnings, and no others."""

    def warn() -> tuple[RuleView, ...]:
        told = ((view, warnings(view)) for view in views)
        return tuple(view if view.warnings == these else attrs.evolve(view, warnings=these) for view, these in told)

    return await trio.to_thread.run_sync(warn) if len(views) > MANY else warn()


async def run_rule_store(
    workers: WorkerSupervisor,
    network: NetworkWatch,
    file: RuleFile | None,
    rules: Sequence[FileRule] = (),
    handed_over: Sequence[Rule] = (),
    *,
    task_status: trio.TaskStatus[RuleStore] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve rules until cancelled.

    Args:
        workers: that forward by them.
        network: of this machine.
        file: where rules of run time are saved, and were; it stays the caller's. None: nowhere.
        rules: of configuration files.
        handed_over: of run time, that another mcrd had, and did not save where this one does.
        task_status: takes the handle.
    """
    send, receive = trio.open_memory_channel[_Command](0)
    changes_send, changes = trio.open_memory_channel[Change](math.inf)  # at most one of each client
    state, hops = RuleSet(workers, file), HopCache()
    await state.restore(rules, handed_over)
    async with trio.open_nursery() as nursery:
        with receive:
            nursery.start_soon(_keep_renewed, state, workers, network, changes_send)
            nursery.start_soon(_keep_hosts_logged, workers, network, hops, send)
            nursery.start_soon(make_changes, state, changes)
            task_status.started(RuleStore(send, changes_send, workers, network, hops))
            await _serve(state, receive)


async def _keep_renewed(
    state: RuleSet, workers: WorkerSupervisor, network: NetworkWatch, changes: trio.MemorySendChannel[Change]
) -> None:
    """Use the interfaces that have the names in rules now, and rules that could not be used before."""
    now, patience = Network(), math.inf
    while True:
        links, addresses6 = now.links, now.addresses6
        with trio.move_on_after(patience):
            while now.links is links and now.addresses6 == addresses6:  # groups of IPv6 may take an address
                now = await network.changed(now.version)
        if (await workers.standing()).stale:
            await state.try_to_renew()
        begun = trio.current_time()
        while state.lacks_rules and await _try_again(changes):
            pass
        lacks = state.lacks_rules or (await workers.standing()).stale
        took = trio.current_time() - begun
        patience = min(max(_RETRY_SECONDS, took / _SHARE), _MOST_SECONDS) if lacks else math.inf


async def _try_again(changes: trio.MemorySendChannel[Change]) -> bool:
    try:
        return await ask(changes, TryAgain)
    except ShuttingDown:  # another mcrd has the rules
        return False


async def _keep_hosts_logged(
    workers: WorkerSupervisor, network: NetworkWatch, hops: HopCache, inbox: trio.MemorySendChannel[_Command]
) -> None:
    """Log it when hosts that outputs send to stop answering ARP, and when they answer again."""
    host_log, seen = HostLog(), (tuple[Entry, ...](), Network())
    while True:
        begun = trio.current_time()
        entries: tuple[Entry, ...] = await ask(inbox, lambda reply: _List(None, reply))
        now = await network.snapshot()
        if entries != seen[0] or now.neighbours is not seen[1].neighbours or now.routes != seen[1].routes:
            seen = entries, now
            hosts = [*chain.from_iterable(each.hosts for each in entries)]
            outputs = (await workers.standing()).outputs if hosts else {}
            reached = await hops.find(hosts, outputs, now)
            host_log.note(hosts, reached, outputs, now)
        for level, line in host_log.lines(trio.current_time()):
            network_log.log(level, "%s", line)
        await trio.sleep(max(_HOSTS_SECONDS, (trio.current_time() - begun) / _SHARE))
        with trio.move_on_after(_HOSTS_PATIENCE):
            await network.changed(now.version)


async def _serve(state: RuleSet, receive: trio.MemoryReceiveChannel[_Command]) -> None:
    async for command in receive:
        match command:
            case _List(rule, listing):
                with listing:
                    listing.resolve(state.all() if rule is None else state.find(rule))
            case _Yielding(reply):
                with reply:
                    reply.resolve(state.yielding())
            case _RunTime(asked):
                with asked:
                    asked.resolve(state.run_time())
            case _:
                assert_never(command)
