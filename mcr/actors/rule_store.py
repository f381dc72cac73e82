"""Owns the rules: checks them against each other, numbers the generations, has each change applied."""

import difflib
import shlex
from typing import assert_never

import attrs
import trio

from mcr.actors.mailbox import Reply, ask
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.errors import McrError, RuleExists, RuleNotFound
from mcr.logs import get_logger
from mcr.model import Facility, Input, Level, Rule, RuleChange, RuleState, RuleView

log = get_logger(Facility.RULES)

ACTIVATION_SECONDS = 2.0
"""How long `RuleStore.add` waits for the workers; a rule they have not acknowledged by then is still pending."""


@attrs.frozen
class _Held:
    """A rule, and the generation that brought it in."""

    rule: Rule
    generation: int


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


_Command = _Add | _Remove | _List


@attrs.frozen
class RuleStore:
    """Handle of the store."""

    _inbox: trio.MemorySendChannel[_Command]
    _workers: WorkerSupervisor

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
        return (await self._views((held,)))[0]

    async def list(self) -> tuple[RuleView, ...]:
        """Every rule, in the order in which they were added."""
        return await self._views(await ask(self._inbox, _List))

    async def _views(self, held: tuple[_Held, ...]) -> tuple[RuleView, ...]:
        acknowledged = await self._workers.acknowledged()
        return tuple(
            RuleView(
                rule_id=each.rule.rule_id,
                name=each.rule.name,
                input=each.rule.input,
                outputs=each.rule.outputs,
                state=RuleState.ACTIVE if each.generation <= acknowledged else RuleState.PENDING,
            )
            for each in held
        )


async def run_rule_store(
    workers: WorkerSupervisor, *, task_status: trio.TaskStatus[RuleStore] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve rules until cancelled. Starts without any."""
    send, receive = trio.open_memory_channel[_Command](0)
    state = _State(workers)
    with receive:
        task_status.started(RuleStore(send, workers))
        async for command in receive:
            with command.reply:
                match command:
                    case _Add(rules, reply):
                        reply.resolve(await state.add(rules))
                    case _Remove(rule_id, name, removal):
                        removal.resolve(await state.remove(rule_id, name))
                    case _List(listing):
                        listing.resolve(state.all())
                    case _:
                        assert_never(command)


class _State:
    def __init__(self, workers: WorkerSupervisor) -> None:
        self._workers = workers
        self._generation = 1
        self._by_id: dict[str, _Held] = {}
        self._by_input: dict[Input, str] = {}
        self._by_name: dict[str, str] = {}

    def all(self) -> tuple[_Held, ...]:
        return tuple(self._by_id.values())

    async def add(self, rules: tuple[Rule, ...]) -> tuple[_Held, ...] | McrError:
        try:
            self._check(rules)
            await self._workers.apply(RuleChange(self._generation + 1, added=rules))
        except McrError as error:
            return error
        self._generation += 1
        for rule in rules:
            self._by_id[rule.rule_id] = _Held(rule, self._generation)
            self._by_input[rule.input] = rule.rule_id
            if rule.name is not None:
                self._by_name[rule.name] = rule.rule_id
            level = Level.INFO if len(rules) == 1 else Level.DEBUG
            log.log(level, "rule %s added: %s to %s", rule.rule_id, rule.input, ", ".join(map(str, rule.outputs)))
        if len(rules) != 1:
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
        nearest = difflib.get_close_matches(asked or "", known, n=1)
        hints = [f"did you mean {nearest[0]}?"] if nearest else []
        raise RuleNotFound(f"No rule has the {what} {asked!r}", *hints, "see the rules: mcrctl list")
