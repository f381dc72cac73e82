"""How the rule store changes its rules: each change is saved and applied, or neither."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain, islice, takewhile
from typing import Self, assert_never

import attrs
import trio

from mcr.actors.rule_requests import Add, Applied, AtRunTime, Change, Edit, Hold, Remove, TryAgain, Use
from mcr.actors.saved_rules import SavedRules
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.config.file import FileRule
from mcr.errors import McrError
from mcr.logs.logger import get_logger
from mcr.logs.standing_reason import StandingReason
from mcr.model.log import Facility, Level
from mcr.model.rule import Rule, RuleChange
from mcr.process.garbage import leave_what_is_there
from mcr.rules.catalog import MANY, Catalog, Entry, marked
from mcr.rules.change_log import fields_of, log_aside, log_draft
from mcr.rules.conditions import Standing
from mcr.rules.destinations import Destinations
from mcr.rules.drafts import Draft, Drafts, put_together, take_together, with_inputs_kept, with_real_names
from mcr.rules.file_rules import FileRules, Precedence
from mcr.rules.rule_table import Drop, Keep, Put
from mcr.rules.store import RuleFile

log = get_logger(Facility.RULES)

_SOME = 20  # of those that could not be used are tried at a time


async def make_changes(state: "RuleSet", changes: trio.MemoryReceiveChannel[Change]) -> None:
    """Beside what only looks: the disk may be slow. What waits together is made together.

    It ends when another mcrd has taken the rules: a change that was made now would be lost.
    """
    with changes, _Queue(changes) as queue:
        while True:
            group = await queue.take()
            with ExitStack() as replies:
                for change in group:
                    replies.enter_context(change.reply)
                if isinstance(group[0], Hold):
                    if await _hold(state, group[0]):
                        return
                elif isinstance(group[0], Use):
                    await state.use(group[0])
                elif isinstance(group[0], TryAgain):
                    group[0].reply.resolve(await state.try_again())
                else:
                    await state.make([each for each in group if isinstance(each, Add | Edit | Remove)])


async def _hold(state: "RuleSet", hold: Hold) -> bool:
    """Whether another mcrd has taken the rules."""
    hold.reply.resolve(state.of_run_time())
    with hold.taken:
        async for _ in hold.taken:
            return True
    return False


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

    async def take(self) -> list[Change]:
        """The next change, and those behind it that can go with it."""
        if not self._waiting:
            self._waiting.append(await self._changes.receive())
        self._take_waiting()
        group = [*takewhile(_names_its_rules, self._waiting)] or self._waiting[:1]
        del self._waiting[: len(group)]
        return group

    def _take_waiting(self) -> None:
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._waiting.append(self._changes.receive_nowait())


def _names_its_rules(change: Change) -> bool:
    """Whether it is about the same rules whatever else is changed."""
    return isinstance(change, Add | Edit) or (isinstance(change, Remove) and change.selection.literal)


def _look_at_few(commands: Sequence[AtRunTime], known: int) -> bool:
    """Whether these changes are about few rules of those that are known or new."""
    added = sum(len(each.rules) for each in commands if isinstance(each, Add))
    return added <= MANY and (known <= MANY or all(map(_names_its_rules, commands)))


@attrs.frozen
class _Step:
    """A step of the rules, which workers are told of: the rules that it is about, by their ids, and the state then."""

    entries: Mapping[str, Entry]
    generation: int
    standing: Standing

    def told(self, draft: Draft) -> Applied:
        """What to tell the client of a draft that is a part of it."""
        there, aside = draft.there, {each.rule_id: Entry(each, self.generation, ()) for each in draft.aside}
        entries = tuple(there.get(each) or self.entries.get(each) or aside[each] for each in draft.about)
        generation = max((each.generation for each in entries), default=self.generation)
        return Applied(entries, generation, self.standing, frozenset(draft.there), draft.remarks)


def _draft_all(drafts: Drafts, commands: Sequence[AtRunTime], standing: Standing) -> Iterator[Draft]:
    """Drafts, up to one that can't be, at least now."""
    for command in commands:
        try:
            yield _draft(drafts, command, standing)
        except McrError:
            if command is commands[0]:
                raise
            return


def _draft(drafts: Drafts, command: AtRunTime, standing: Standing) -> Draft:
    match command:
        case Add(rules, wait, idempotent):
            return drafts.addition(rules, standing, wait=wait, idempotent=idempotent)
        case Edit(rule_id, name, edit, wait):
            return drafts.edit(rule_id, name, edit, standing, wait=wait)
        case Remove(selection):
            return drafts.removal(selection)
        case _:
            assert_never(command)


def _tell(command: AtRunTime, draft: Draft, step: _Step, destinations: Destinations) -> Applied:
    """Tell the log of a draft that was carried out; what to tell the client."""
    log_draft(draft, command.by)
    told = step.told(draft)
    return attrs.evolve(told, advice=destinations.shared(each.rule for each in told.entries))


def _plan_use(
    catalog: Catalog, precedence: Precedence, files: FileRules, standing: Standing
) -> tuple[tuple[Rule, ...], RuleChange]:
    """What has to give way to files, and the change. There may be thousands of rules; nobody changes any meanwhile."""
    plan = precedence.plan(catalog, files)
    added, changed = with_real_names(plan.added, standing), with_inputs_kept(plan.changed, standing)
    return plan.aside, catalog.plan_exchange(added, plan.removed, changed)


class RuleSet:
    """The rules, and what keeps them. One task changes them; another may have interfaces used again."""

    def __init__(self, workers: WorkerSupervisor, file: RuleFile | None) -> None:
        self._workers = workers
        self._saved = SavedRules(file)
        self._catalog = Catalog()
        self._precedence = Precedence()
        self._drafts = Drafts(self._catalog, self._precedence)
        self.yielding = self._precedence.yielding  # see there
        self.run_time = partial(self._precedence.run_time, self._catalog)
        self._applying = trio.Lock()
        self._not_renewed = StandingReason()

    def all(self) -> tuple[Entry, ...]:
        """Every rule, in the order in which they were added; behind them those that cannot be used."""
        return (*self._catalog, *self._precedence.unused())

    def find(self, rule: str) -> tuple[Entry] | McrError:
        """One, by its id or its name."""
        try:
            return (self._catalog.find_either(rule),)
        except McrError as error:
            unused = (each for each in self._precedence.unused() if rule in (each.rule.rule_id, each.rule.name))
            error.hints = (*self._precedence.hint(None, rule), *error.hints)
            return next(((each,) for each in unused), error)

    def of_run_time(self) -> tuple[Rule, ...]:
        """Every rule that stands in no file, also those that give way to one that does."""
        return (*(each.rule for each in self._catalog if not each.from_file), *self._precedence.aside)

    # What was saved.

    async def restore(self, rules: Sequence[FileRule], handed_over: Sequence[Rule] = ()) -> None:
        """Have the rules of files again, the saved ones, and those that another mcrd has handed over.

        Those that can't be had now stay where they are, and are tried again.
        """
        saved, files = await self._saved.read(handed_over), FileRules(rules)
        free = [rule for rule in saved if not files.rival(rule)]
        aside = [rule for rule in saved if files.rival(rule)]
        self._precedence.note(files, aside)
        await trio.to_thread.run_sync(log_aside, aside, files, self._saved.where)
        await self._restore([each.rule for each in rules], free)
        self._catalog.mark(marked(self._catalog, files))
        in_files = sum(each.from_file for each in self._catalog)
        if rules:
            log.notice("%d of %d rules of configuration files are in use", in_files, len(rules))
        self._saved.log_loaded(len(self._catalog) - in_files)

    async def _restore(self, first: Sequence[Rule], then: Sequence[Rule] = ()) -> None:
        """All of these in one step, so that no range takes what a rule is to take; if that can't be, parts of them."""
        rules = [*first, *then]
        try:
            if rules:
                await self._add_again(rules)
        except McrError as error:
            if len(rules) == 1:
                self._note_unusable(rules[0], error)
                return
            size = len(first) if first and then else len(rules) // 2
            await self._restore(rules[:size])
            await self._restore(rules[size:])

    async def _add_again(self, rules: Sequence[Rule]) -> None:
        now = with_real_names(tuple(rules), await self._workers.standing())
        await self._apply(self._catalog.plan_addition(now, wait=True))

    def _note_unusable(self, rule: Rule, error: McrError) -> None:
        if self._precedence.note_unusable(rule, error.message):
            files = self._precedence.files
            where = f"stands in {files.where(rule.rule_id)}" if files.find(rule.rule_id) == rule else "is saved"
            what = "rule %s %s, and cannot be used: %s"
            log.log(Level.ERROR, what, rule.label, where, error.message, **fields_of(rule))

    @property
    def lacks_rules(self) -> bool:
        """Whether there are rules that cannot be used."""
        return bool(self._precedence.unusable)

    async def try_again(self) -> bool:
        """Use some of the rules that could not be used so far, if they can be now. Whether any could."""
        some = [*islice(self._precedence.unusable, _SOME)]
        for rule in some:
            try:
                async with self._applying:
                    await self._add_again([rule])
            except McrError as error:
                self._note_unusable(rule, error)
            else:
                self._precedence.note_usable(rule)
                log.notice("rule %s can be used now", rule.label, **fields_of(rule))
        self._catalog.mark(marked(self._catalog, self._precedence.files))
        return any(rule not in self._precedence.unusable for rule in some)

    # Changes.

    async def make(self, commands: Sequence[AtRunTime]) -> None:
        """Make these changes and answer them: in one step, or in several in their order if that can't be."""
        waiting = [*commands]
        while waiting:
            made = await self._make_some(waiting)
            del waiting[:made]

    async def _make_some(self, commands: Sequence[AtRunTime]) -> int:
        """Make the first of these changes, and as many more as go with it in one step.

        First what is to be added, then everything is saved, then the rest is changed and removed. Whether a rule can be
        used is known only when it is. And what is there is not touched before that is saved: an output that is given
        back has lost packets.

        Returns:
            How many those were.
        """
        made = commands[:1]
        try:
            async with self._applying:
                # What is new may need what has just come.
                needs = any(not isinstance(each, Remove) for each in commands)
                standing = await self._renew() if needs else Standing()
                drafts = await self._plan(commands, standing)
                made, whole = commands[: len(drafts)], put_together(drafts)
                step = await self._add(whole) if whole.added else _Step({}, self._catalog.generation, standing)
        except McrError as error:
            await self._make_apart(made, error)
            return len(made)
        if fault := await self._save(whole):
            if whole.added:
                async with self._applying:
                    await self._apply(self._catalog.plan_removal(whole.added))
            await self._make_apart(made, fault)
            return len(made)
        late = []
        for command, draft in zip(made, drafts, strict=True):
            if draft.former:
                late.append((command, draft))
            else:
                await self._answer(command, draft, step)
        if late:
            await self._change(late, whole)
        return len(made)

    async def _make_apart(self, commands: Sequence[AtRunTime], error: McrError) -> None:
        """Make these in two steps or more, as they failed together."""
        if len(commands) == 1:
            commands[0].reply.resolve(error)
        else:
            await self.make(commands[: len(commands) // 2])
            await self.make(commands[len(commands) // 2 :])

    async def _plan(self, commands: Sequence[AtRunTime], standing: Standing) -> list[Draft]:
        """Drafts of the first of these, which can be made together."""
        if self._precedence.is_idle and _look_at_few(commands, len(self._catalog)):
            return take_together(_draft_all(self._drafts, commands, standing))
        return await trio.to_thread.run_sync(lambda: take_together(_draft_all(self._drafts, commands, standing)))

    async def _add(self, whole: Draft) -> _Step:
        plan = partial(self._catalog.plan_addition, whole.added, wait=whole.wait)
        try:
            return await self._apply(await trio.to_thread.run_sync(plan) if len(whole.added) > MANY else plan())
        except McrError as error:
            raise whole.place(error) from None

    async def _save(self, whole: Draft) -> McrError | None:
        lasting, gone = (*whole.added, *whole.changed), (*whole.removed, *whole.aside)
        if not lasting and not gone:
            return None
        return await self._saved.save(chain(map(Put, lasting), (Drop(rule.rule_id) for rule in gone)))

    async def _change(self, late: Sequence[tuple[AtRunTime, Draft]], whole: Draft) -> None:
        """Change and remove what is saved like that."""
        try:
            async with self._applying:
                if whole.changed:
                    await self._renew()
                plan = self._catalog.plan_change(whole.changed, removed=whole.removed, wait=whole.wait)
                step = await self._apply(plan)
        except McrError as error:
            former = (*whole.former, *chain.from_iterable(draft.aside for _, draft in late))
            told = await self._saved.put_back(map(Put, former), error)
            await self._make_apart([command for command, _ in late], told)
            return
        for command, draft in late:
            await self._answer(command, draft, step)

    async def _answer(self, command: AtRunTime, draft: Draft, step: _Step) -> None:
        self._precedence.forget(draft.aside)
        tell = partial(_tell, command, draft, step, self._catalog.destinations)
        command.reply.resolve(await trio.to_thread.run_sync(tell) if len(draft.about) > MANY else tell())

    async def use(self, command: Use) -> None:
        """Go by what the files say now: all of it, or nothing is changed.

        The text is saved first: at a start mcrd reads the files again by itself, but what is to become of them only
        the text tells.
        """
        files, before = await trio.to_thread.run_sync(FileRules, command.rules), self._saved.kept
        if command.kept is not None and (fault := await self._saved.keep(command.kept)):
            command.reply.resolve(fault)
            return
        try:
            async with self._applying:
                standing = await self._renew()
                plan = partial(_plan_use, self._catalog, self._precedence, files, standing)
                aside, change = await trio.to_thread.run_sync(plan)
                step = _Step({}, self._catalog.generation, standing)
                if change.added or change.removed or change.changed:
                    step = await self._apply(change)
                fresh = [*dict.fromkeys(aside).keys() - {*self._precedence.aside}]
                self._precedence.note(files, aside)
                self._catalog.mark(await trio.to_thread.run_sync(marked, self._catalog, files))
        except McrError as error:
            saved = command.kept != before
            command.reply.resolve(await self._saved.put_back([Keep(before)], error) if saved else error)
            return
        await trio.to_thread.run_sync(log_aside, fresh, files, "was added at run time")
        command.reply.resolve(Applied((), step.generation, step.standing))

    async def _apply(self, change: RuleChange) -> _Step:
        standing = await self._workers.apply(change)
        if len(change.added) + len(change.removed) + len(change.changed) > MANY:
            noted = self._catalog.show(await trio.to_thread.run_sync(self._catalog.prepare, change))
            leave_what_is_there()
        else:
            noted = self._catalog.note(change)
        entries = {each.rule.rule_id: each for each in noted}
        return _Step(entries, change.generation, standing)

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
