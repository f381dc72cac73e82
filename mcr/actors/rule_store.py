"""Owns the rules: checks them against each other, numbers the generations, has each change applied."""

import difflib
import math
import shlex
from collections.abc import Mapping
from itertools import chain
from typing import assert_never

import attrs
import trio

from mcr.actors.mailbox import Reply, ask
from mcr.actors.network_watch import NetworkWatch
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.errors import McrError, RuleExists, RuleNotFound
from mcr.logs.logger import get_logger
from mcr.logs.standing_reason import StandingReason
from mcr.model.flow import Address, Input
from mcr.model.log import Facility
from mcr.model.rule import Rule, RuleChange, RuleView
from mcr.net.interfaces import name_in_rules
from mcr.net.network import Network
from mcr.rules.conditions import Conditions, judge, view_of
from mcr.rules.hop_cache import HopCache, find_silent
from mcr.rules.host_log import HostLog

log = get_logger(Facility.RULES)
network_log = get_logger(Facility.NETWORK)

_COMPARED = 500  # ids or names that a wrong one is compared with, at most: it takes a while

ACTIVATION_SECONDS = 2.0
"""How long `RuleStore.add` waits for the workers; a rule they have not acknowledged by then is still pending."""

_MANY = 200  # rules: others get their turn while so many are shown
_RETRY_SECONDS = 5.0  # until an interface that could not be used again is tried once more
_HOSTS_SECONDS = 1.0  # between two times that the log is told of hosts, if anything changes
_HOSTS_PATIENCE = 10.0  # if nothing does: for rules that have changed, and what was held back
_HOSTS_SHARE = 0.05  # of the time at most, where there are many


@attrs.frozen
class _Held:
    """A rule, the generation that brought it in, and the hosts that it sends to, with their interfaces."""

    rule: Rule
    generation: int
    hosts: tuple[tuple[Address, str], ...]


@attrs.frozen
class _Add:
    rules: tuple[Rule, ...]
    reply: Reply[tuple[_Held, ...]]


@attrs.frozen
class _Remove:
    rule_id: str | None
    name: str | None
    reply: Reply[_Held]


@attrs.frozen
class _List:
    reply: Reply[tuple[_Held, ...]]


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
    _well: dict[str, tuple[_Held, RuleView]] = attrs.field(factory=dict, init=False)
    """How rules are shown that lack nothing."""

    async def add(self, rules: tuple[Rule, ...]) -> tuple[RuleView, ...]:
        """Add all of these rules or none, and wait a little for the workers to forward by them.

        Raises:
            RuleExists: an input tuple, id or name is taken, or given twice.
            McrError: from `WorkerSupervisor.apply`.
        """
        held: tuple[_Held, ...] = await ask(self._inbox, lambda reply: _Add(rules, reply))
        with trio.move_on_after(ACTIVATION_SECONDS):
            await self._workers.settled(max((each.generation for each in held), default=0))
        return await self._views(held)

    async def remove(self, *, rule_id: str | None = None, name: str | None = None) -> RuleView:
        """Remove one rule by its id or its name, and wait a little for the workers to forget it.

        Raises:
            RuleNotFound: no rule has it.
        """
        held: _Held = await ask(self._inbox, lambda reply: _Remove(rule_id, name, reply))
        with trio.move_on_after(ACTIVATION_SECONDS):
            await self._workers.settled(held.generation)
        (view,) = await self._views((held,))
        self._well.pop(view.rule_id, None)
        return view

    async def list(self) -> tuple[RuleView, ...]:
        """Every rule, in the order in which they were added."""
        return await self._views(await ask(self._inbox, _List))

    async def check(self) -> None:
        """Return if the store answers."""
        await ask(self._inbox, _List)

    async def _views(self, held: tuple[_Held, ...]) -> tuple[RuleView, ...]:
        standing, network = await self._workers.standing(), await self._network.snapshot()
        hosts = chain.from_iterable(each.hosts for each in held)
        hops = await self._hops.find(hosts, standing.outputs, network)
        # In a thread: the kernel tells it under its lock of the network's configuration, which others hold for long.
        silent = await trio.to_thread.run_sync(find_silent, hops, standing.outputs, network) if hops else ()
        conditions = judge(standing, network, hops, silent)
        if len(held) > _MANY:
            return await trio.to_thread.run_sync(self._show, held, conditions)
        return self._show(held, conditions)

    def _show(self, held: tuple[_Held, ...], conditions: Conditions) -> tuple[RuleView, ...]:
        return tuple(self._show_one(each, conditions) for each in held)

    def _show_one(self, held: _Held, conditions: Conditions) -> RuleView:
        if held.generation > conditions.acknowledged or conditions.concern(held.rule):
            return view_of(held.rule, held.generation, conditions)
        known, view = self._well.get(held.rule.rule_id, (None, None))
        if known is not held or view is None:
            view = view_of(held.rule, held.generation, conditions)
            self._well[held.rule.rule_id] = held, view
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
    """Have interfaces used again that are back."""
    now, patience = Network(), math.inf
    while True:
        links = now.links
        with trio.move_on_after(patience):
            while now.links is links:
                now = await network.changed(now.version)
        if await workers.has_returned():
            await ask(inbox, _Renew)
        patience = _RETRY_SECONDS if await workers.has_returned() else math.inf


async def _keep_hosts_logged(
    workers: WorkerSupervisor, network: NetworkWatch, hops: HopCache, inbox: trio.MemorySendChannel[_Command]
) -> None:
    """Log it when hosts that outputs send to stop answering ARP, and when they answer again."""
    host_log, seen = HostLog(), (tuple[_Held, ...](), Network())
    while True:
        begun = trio.current_time()
        held, now = await ask(inbox, _List), await network.snapshot()
        if held != seen[0] or now.neighbours is not seen[1].neighbours or now.routes != seen[1].routes:
            seen = held, now
            hosts = [*chain.from_iterable(each.hosts for each in held)]
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


def _hosts(rule: Rule) -> tuple[tuple[Address, str], ...]:
    return tuple((each.group, each.interface) for each in rule.outputs if not each.group.is_multicast)


def _renamed(rule: Rule, known: Mapping[str, str]) -> Rule:
    source = attrs.evolve(rule.input, interface=known[rule.input.interface])
    outputs = tuple(attrs.evolve(each, interface=known[each.interface]) for each in rule.outputs)
    return attrs.evolve(rule, input=source, outputs=outputs)


class _State:
    def __init__(self, workers: WorkerSupervisor) -> None:
        self._workers = workers
        self._generation = 1
        self._by_id: dict[str, _Held] = {}
        self._by_input: dict[Input, str] = {}
        self._by_name: dict[str, str] = {}
        self._not_renewed = StandingReason()

    def all(self) -> tuple[_Held, ...]:
        return tuple(self._by_id.values())

    async def add(self, rules: tuple[Rule, ...]) -> tuple[_Held, ...] | McrError:
        try:
            await self.renew()  # what is added may need what is just back
            rules = await self._with_real_names(rules)
            self._check(rules)
            await self._workers.apply(RuleChange(self._generation + 1, added=rules))
        except McrError as error:
            return error
        self._generation += 1
        for rule in rules:
            self._by_id[rule.rule_id] = _Held(rule, self._generation, _hosts(rule))
            self._by_input[rule.input] = rule.rule_id
            if rule.name is not None:
                self._by_name[rule.name] = rule.rule_id
        if len(rules) == 1:
            log.info("rule %s added: %s to %s", rule.rule_id, rule.input, ", ".join(map(str, rule.outputs)))
        else:
            log.info("%d rules added together", len(rules))
        return tuple(self._by_id[rule.rule_id] for rule in rules)

    async def remove(self, rule_id: str | None, name: str | None) -> _Held | McrError:
        try:
            held = self._find(rule_id, name)
            await self._workers.apply(RuleChange(self._generation + 1, removed=(held.rule,)))
        except McrError as error:
            return error
        self._generation += 1
        del self._by_id[held.rule.rule_id]
        del self._by_input[held.rule.input]
        if held.rule.name is not None:
            del self._by_name[held.rule.name]
        log.info("rule %s removed: %s", held.rule.rule_id, held.rule.input)
        return attrs.evolve(held, generation=self._generation)

    async def try_to_renew(self) -> None:
        """The same as `renew`; what hinders it is logged, once for as long as it does."""
        hindrance = ""
        try:
            await self.renew()
        except McrError as error:
            hindrance = error.message
        if self._not_renewed.is_news(hindrance):
            log.warning("interfaces that are back cannot be used yet: %s", hindrance)

    async def renew(self) -> None:
        """Have interfaces used again that were lost and are back, if there are any."""
        if await self._workers.has_returned():
            await self._workers.apply(RuleChange(self._generation + 1, renew=True))
            self._generation += 1

    async def _with_real_names(self, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        """The rules, with each interface by the one name that other rules have for it, or else its own."""
        names = {name for rule in rules for name in rule.interfaces}
        standing = await self._workers.standing()
        used = {each.index: each.name for each in standing.all() if not each.lost}
        known = {name: name_in_rules(name, used) for name in names}
        if all(name == real for name, real in known.items()):
            return rules
        return tuple(_renamed(rule, known) for rule in rules)

    def _check(self, rules: tuple[Rule, ...]) -> None:
        """Refuse what is taken already, by a rule that is held or by one earlier in the same request."""
        seen: dict[tuple[str, object], int] = {}
        for index, rule in enumerate(rules):
            taken = self._taken(rule)
            if taken:
                raise taken.at(f"rules[{index}]") if len(rules) > 1 else taken
            for what, value in (("input", rule.input), ("id", rule.rule_id), ("name", rule.name)):
                earlier = seen.setdefault((what, value), index)
                if earlier != index and value is not None:
                    raise RuleExists(
                        f"Rule already exists: rules[{index}] has the same {what} as rules[{earlier}], {value}",
                        "every rule needs an input, an id and a name of its own",
                    )

    def _taken(self, rule: Rule) -> RuleExists | None:
        """What of a rule's identity one that is held has already, if any."""
        if rule.input in self._by_input:
            holder = self._by_input[rule.input]
            hint = f"remove it first: mcrctl remove --rule-id {shlex.quote(holder)}"
            return RuleExists(f"Rule already exists: {holder} takes {rule.input}", hint)
        if rule.rule_id in self._by_id:
            return RuleExists(f"Rule already exists: {rule.rule_id}", "give another --rule-id, or none")
        if rule.name is not None and rule.name in self._by_name:
            holder = self._by_name[rule.name]
            return RuleExists(f"Rule already exists: {holder} is named {rule.name!r}", "give another --name, or none")
        return None

    def _find(self, rule_id: str | None, name: str | None) -> _Held:
        wanted = rule_id if rule_id is not None else self._by_name.get(name or "")
        held = self._by_id.get(wanted) if wanted is not None else None
        if held:
            return held
        asked, known = (rule_id, list(self._by_id)) if rule_id is not None else (name, list(self._by_name))
        what = "id" if rule_id is not None else "name"
        nearest = difflib.get_close_matches(asked or "", known, n=1) if len(known) <= _COMPARED else []
        hints = [f"did you mean {nearest[0]}?"] if nearest else []
        raise RuleNotFound(f"No rule has the {what} {asked!r}", *hints, "see the rules: mcrctl list")
