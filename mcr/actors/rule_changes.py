"""How the rule store changes its rules: each change is saved and applied, or neither."""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain, takewhile
from typing import Self

import attrs
import trio

from mcr.actors.mailbox import Reply
from mcr.actors.saved_rules import SavedRules
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.config.file import FileRule
from mcr.errors import McrError
from mcr.logs.logger import get_logger
from mcr.logs.standing_reason import StandingReason
from mcr.model.edit import RuleEdit
from mcr.model.log import Facility, Level
from mcr.model.rule import Output, Rule, RuleChange
from mcr.model.selection import Selection
from mcr.net.interfaces import name_in_rules
from mcr.rules.catalog import Catalog, Entry
from mcr.rules.change_log import describe_change, log_added, log_aside, log_removed
from mcr.rules.conditions import Standing
from mcr.rules.file_rules import FileRules, Precedence
from mcr.rules.store import Drop, Put, RuleFile

log = get_logger(Facility.RULES)


@attrs.frozen
class Applied:
    """A change that was applied: the rules that it is about, and their state then.

    Attributes:
        there: ids of those that were there already.
    """

    entries: tuple[Entry, ...]
    generation: int
    standing: Standing
    there: frozenset[str] = frozenset()


@attrs.frozen
class Add:
    """Add all of these. `idempotent`: but for those that are there."""

    rules: tuple[Rule, ...]
    wait: bool
    idempotent: bool
    reply: Reply[Applied]


@attrs.frozen
class Edit:
    """Change one rule in its place."""

    rule_id: str | None
    name: str | None
    edit: RuleEdit
    wait: bool
    reply: Reply[Applied]


@attrs.frozen
class Remove:
    """Remove all of these."""

    selection: Selection
    reply: Reply[Applied]


@attrs.frozen
class Use:
    """Go by these rules of configuration files, and no longer by those that these said before."""

    rules: tuple[FileRule, ...]
    reply: Reply[Applied]


Change = Add | Edit | Remove | Use


async def make_changes(state: "RuleSet", changes: trio.MemoryReceiveChannel[Change]) -> None:
    """Beside what only looks: the disk may be slow. What waits together is written together."""
    with _Queue(changes) as queue:
        while True:
            alike = await queue.take_alike()
            with ExitStack() as replies:
                for change in alike:
                    replies.enter_context(change.reply)
                await state.add([each for each in alike if isinstance(each, Add)])
                await state.change([each for each in alike if isinstance(each, Edit)])
                await state.remove([each for each in alike if isinstance(each, Remove)])
                for each in alike:
                    if isinstance(each, Use):
                        await state.use(each)


class _Queue:
    """Changes that wait. Leaving it releases those who asked for them."""

    def __init__(self, changes: trio.MemoryReceiveChannel[Change]) -> None:
        self._changes = changes
        self._waiting: list[Change] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._take_waiting()
        for change in self._waiting:
            with change.reply:
                pass

    async def take_alike(self) -> list[Change]:
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


@attrs.frozen
class _Planned:
    """A rule as it is, and as it will be."""

    command: Edit
    before: Rule
    now: Rule


class RuleSet:
    """The rules, and what keeps them. One task changes them; another may have interfaces used again."""

    def __init__(self, workers: WorkerSupervisor, file: RuleFile | None) -> None:
        self._workers = workers
        self._saved = SavedRules(file)
        self._catalog = Catalog()
        self._precedence = Precedence()
        self._applying = trio.Lock()
        self._not_renewed = StandingReason()

    def all(self) -> tuple[Entry, ...]:
        """Every rule, in the order in which they were added."""
        return tuple(self._catalog)

    def find(self, rule: str) -> tuple[Entry] | McrError:
        """One, by its id or its name."""
        try:
            return (self._catalog.find_either(rule),)
        except McrError as error:
            return error

    # What was saved.

    async def restore(self, rules: Sequence[FileRule]) -> None:
        """Have the rules of files again, and the saved ones. Those that can't be had now stay where they are."""
        saved, files = self._saved.read(), FileRules(rules)
        free = [rule for rule in saved if not files.rival(rule)]
        aside = [rule for rule in saved if files.rival(rule)]
        self._precedence.note(files, aside)
        await trio.to_thread.run_sync(log_aside, aside, files, self._saved.where)
        if rules:
            await self._restore([each.rule for each in rules])
            self._catalog.mark(files)
            log.notice("%d of %d rules of configuration files are in use", len(self._catalog), len(rules))
        if saved:
            before = len(self._catalog)
            if free:
                await self._restore(free)
            log.notice("%d of %d saved rules are loaded", len(self._catalog) - before, len(saved))

    async def _restore(self, rules: Sequence[Rule]) -> None:
        """All of these, or, if that can't be, halves of them."""
        rules = _with_real_names(tuple(rules), await self._workers.standing())
        try:
            await self._apply(self._catalog.plan_addition(rules, wait=True))
        except McrError as error:
            if len(rules) == 1:
                files, rule_id = self._precedence.files, rules[0].rule_id
                where = f"stands in {files.where(rule_id)}" if rule_id in files else "is saved"
                log.log(Level.ERROR, "rule %s %s, and cannot be used: %s", rule_id, where, error.message)
                return
            await self._restore(rules[: len(rules) // 2])
            await self._restore(rules[len(rules) // 2 :])

    # Changes.

    async def add(self, commands: Sequence[Add]) -> None:
        """Apply each that can be, then save them, else take them back."""
        applied: list[tuple[Add, Applied]] = []
        for command in commands:
            try:
                applied.append((command, await self._add(command)))
            except McrError as error:
                command.reply.resolve(error)
        added = [_added(each) for _, each in applied]
        rules = [*chain.from_iterable(added)]
        fault = await self._saved.save(map(Put, rules)) if rules else None
        if fault:
            async with self._applying:
                await self._apply(self._catalog.plan_removal(rules))
        for (command, each), new in zip(applied, added, strict=True):
            if not fault:
                log_added(new)
            command.reply.resolve(fault or each)

    async def _add(self, command: Add) -> Applied:
        async with self._applying:
            standing = await self._renew()  # what is added may need what has just come
            rules = _with_real_names(command.rules, standing)
            await _check_rivals(
                self._precedence, [None if command.idempotent and self._catalog.same(each) else each for each in rules]
            )
            change = self._catalog.plan_addition(rules, wait=command.wait, idempotent=command.idempotent)
            if len(change.added) == len(rules):
                return await self._apply(change)
            there = {rule.rule_id: entry for rule in rules if (entry := self._catalog.same(rule))}
            applied = await self._add_others(rules, change, there.keys()) if change.added else None
        entries = tuple(there.get(rule.rule_id) or self._catalog.find(rule.rule_id, None) for rule in rules)
        ids = frozenset(each.rule.rule_id for each in there.values())
        if applied:
            return attrs.evolve(applied, entries=entries, there=ids)
        return Applied(entries, max(each.generation for each in entries), standing, ids)

    async def _add_others(self, rules: Sequence[Rule], change: RuleChange, there: Collection[str]) -> Applied:
        """Add those of the rules that are not there; an error names them by their places among all."""
        try:
            return await self._apply(change)
        except McrError as error:
            places = [index for index, rule in enumerate(rules) if rule.rule_id not in there]
            if len(places) == 1:
                raise error.at(f"rules[{places[0]}]") from None
            error.message = re.sub(r"\brules\[(\d+)\]", lambda at: f"rules[{places[int(at[1])]}]", error.message)
            raise

    async def change(self, commands: Sequence[Edit]) -> None:
        """Save each rule as it will be, then apply that; one that can't be applied is saved as it was.

        So nothing is changed that would have to be changed back: an output that was gone has lost packets.
        """
        waiting = [*commands]
        while waiting:
            planned, waiting = await self._plan(waiting)
            fault = await self._saved.save(Put(each.now) for each in planned) if planned else None
            outcomes = [fault or await self._try_to_change(each) for each in planned]
            unchanged = [each.before for each, it in zip(planned, outcomes, strict=True) if isinstance(it, McrError)]
            if unchanged and not fault:
                await self._saved.save(map(Put, unchanged))
            for each, outcome in zip(planned, outcomes, strict=True):
                each.command.reply.resolve(outcome)

    async def _plan(self, commands: Sequence[Edit]) -> tuple[list[_Planned], list[Edit]]:
        """Those that can be made together: each is about another rule, and gives another name. Then the others."""
        planned: list[_Planned] = []
        later: list[Edit] = []
        taken: set[str | tuple[str, str]] = set()
        standing = await self._workers.standing()
        for command in commands:
            try:
                entry = self._catalog.find(command.rule_id, command.name)
                now = _with_real_outputs(command.edit, entry.rule, standing).of(entry.rule)
                self._precedence.refuse_change([now.rule_id])
                self._precedence.refuse_addition(now)
                self._catalog.plan_change([now])
            except McrError as error:
                command.reply.resolve(error)
                continue
            wants: set[str | tuple[str, str]] = {now.rule_id}
            if now.name is not None:
                wants.add(("name", now.name))
            if taken & wants:
                later.append(command)
            elif now == entry.rule:
                command.reply.resolve(Applied((entry,), entry.generation, standing))
            else:
                planned.append(_Planned(command, entry.rule, now))
                taken |= wants
        return planned, later

    async def _try_to_change(self, planned: _Planned) -> Applied | McrError:
        try:
            async with self._applying:
                await self._renew()  # a new output may need what has just come
                applied = await self._apply(self._catalog.plan_change([planned.now], wait=planned.command.wait))
        except McrError as error:
            return error
        log.info("rule %s changed: %s", planned.now.rule_id, describe_change(planned.before, planned.now))
        return applied

    async def remove(self, commands: Sequence[Remove]) -> None:
        """Save that these are gone, then let them go."""
        found: dict[str, Rule] = {}
        removals: list[tuple[Remove, list[str]]] = []
        for command in commands:
            try:
                entries = self._catalog.find_all(command.selection, without=found.keys())
                if any(each.from_file for each in entries):
                    await trio.to_thread.run_sync(
                        self._precedence.refuse_change, [each.rule.rule_id for each in entries]
                    )
            except McrError as error:
                command.reply.resolve(error)
            else:
                found |= {each.rule.rule_id: each.rule for each in entries}
                removals.append((command, [each.rule.rule_id for each in entries]))
        if not removals:
            return
        outcome = await self._remove([*found.values()])
        if isinstance(outcome, McrError):
            for command, _ in removals:
                command.reply.resolve(outcome)
            return
        gone = {each.rule.rule_id: each for each in outcome.entries}
        for command, rule_ids in removals:
            entries = [gone[rule_id] for rule_id in rule_ids]
            log_removed([each.rule for each in entries])
            command.reply.resolve(attrs.evolve(outcome, entries=tuple(entries)))

    async def _remove(self, rules: Sequence[Rule]) -> Applied | McrError:
        if not rules:
            return Applied((), self._catalog.generation, await self._workers.standing())
        if fault := await self._saved.save(Drop(rule.rule_id) for rule in rules):
            return fault
        try:
            async with self._applying:
                return await self._apply(self._catalog.plan_removal(rules))
        except McrError as error:
            await self._saved.save(map(Put, rules))
            return error

    async def use(self, command: Use) -> None:
        """Go by what the files say now: all of it, or nothing is changed."""
        files = FileRules(command.rules)
        try:
            async with self._applying:
                standing = await self._renew()
                plan = self._precedence.plan(self._catalog, files)
                added, changed = (_with_real_names(each, standing) for each in (plan.added, plan.changed))
                change = self._catalog.plan_exchange(added, plan.removed, changed)
                applied = Applied((), self._catalog.generation, standing)
                if change.added or change.removed or change.changed:
                    applied = await self._apply(change)
                fresh = [*dict.fromkeys(plan.aside).keys() - {*self._precedence.aside}]
                self._precedence.note(files, plan.aside)
                self._catalog.mark(files)
        except McrError as error:
            command.reply.resolve(error)
            return
        await trio.to_thread.run_sync(log_aside, fresh, files, "was added at run time")
        counts = len(change.added), len(change.removed), len(change.changed)
        log.notice("configuration files are in use as they are now: %d rules added, %d removed, %d changed", *counts)
        command.reply.resolve(applied)

    async def _apply(self, change: RuleChange) -> Applied:
        standing = await self._workers.apply(change)
        return Applied(self._catalog.note(change), change.generation, standing)

    # Names that belong to other interfaces now.

    async def try_to_renew(self) -> None:
        """Have interfaces used that have the names now; what hinders it is logged, once for as long as it does."""
        hindrance = ""
        try:
            async with self._applying:
                await self._renew()
        except McrError as error:
            hindrance = error.message
        if self._not_renewed.is_news(hindrance):
            log.warning("interfaces that rules name cannot be used yet: %s", hindrance)

    async def _renew(self) -> Standing:
        """Use the interfaces that have the names now, if other ones are used; the state then."""
        standing = await self._workers.standing()
        if not standing.stale:
            return standing
        return (await self._apply(self._catalog.plan_renewal())).standing


async def _check_rivals(precedence: Precedence, rules: Sequence[Rule | None]) -> None:
    """Raise an error that says which of the rules has a rival in files; None: one that needs no check."""
    for index, rule in enumerate(rules):
        if rule and not precedence.is_free(rule):
            try:
                await trio.to_thread.run_sync(precedence.refuse_addition, rule)
            except McrError as error:
                raise error.at(f"rules[{index}]") if len(rules) > 1 else error from None


def _added(applied: Applied) -> list[Rule]:
    return [entry.rule for entry in applied.entries if entry.rule.rule_id not in applied.there]


def _with_real_outputs(edit: RuleEdit, rule: Rule, standing: Standing) -> RuleEdit:
    """The edit, with each interface by the name that rules have for it, if that is not the rule's own for it."""
    used = {each.index: each.name for each in standing.all() if not each.lost}
    names = {output.interface for output in edit.named}
    known = {name: name if name in rule.interfaces else name_in_rules(name, used) for name in names}

    def real(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        return tuple(attrs.evolve(each, interface=known[each.interface]) for each in outputs)

    return attrs.evolve(
        edit,
        outputs=edit.outputs if edit.outputs is None else real(edit.outputs),
        add_outputs=real(edit.add_outputs),
        remove_outputs=real(edit.remove_outputs),
    )


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
