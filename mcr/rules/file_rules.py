"""The rules that stand in configuration files, and the others, which give way to them. Pure.

A rule that was added at run time and has the input, the id or the name of a file's rule is not used for as long as that
one stands in the file. It stays saved.
"""

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence

import attrs

from mcr.config.difference import RunTimeDifference
from mcr.config.file import FileRule
from mcr.errors import LimitReached, RuleExists, RuleInFile
from mcr.model.rule import Rule
from mcr.model.selection import Selection
from mcr.rules.catalog import Entry, mixed_up


class FileRules:
    """Those of one reading of the files. It does not change."""

    def __init__(self, rules: Iterable[FileRule] = ()) -> None:
        self._by_id = {each.rule.rule_id: each for each in rules}
        self._by_part = {part: each for each in self for part in identity(each.rule)}

    def __iter__(self) -> Iterator[FileRule]:
        return iter(self._by_id.values())

    def __contains__(self, rule_id: object) -> bool:
        return rule_id in self._by_id

    def find(self, rule_id: str) -> Rule | None:
        """A rule as it stands in its file."""
        return self._by_id[rule_id].rule if rule_id in self._by_id else None

    def where(self, rule_id: str) -> str:
        """Where a rule stands. It takes a while: see `Place`."""
        return str(self._by_id[rule_id].place)

    def rival(self, rule: Rule) -> FileRule | None:
        """The file's rule that has a part of this rule's identity."""
        if not self._by_part:
            return None
        return next((self._by_part[part] for part in identity(rule) if part in self._by_part), None)

    def handles(self, rule: Rule) -> tuple[tuple[str, str | None], ...]:
        """What a saved rule that gives way is known by: ``id`` or ``name``, and the value of it.

        Without what a file's rule has, if any is left.
        """
        all_of_them = ("id", rule.rule_id), *((("name", rule.name),) if rule.name is not None else ())
        own = tuple(each for each in all_of_them if ("label", each[1]) not in self._by_part)
        return own or all_of_them

    def why_aside(self, rule: Rule) -> str:
        """Why a rule gives way to a file's, or empty. It takes a while: see `Place`."""
        rival = self.rival(rule)
        if not rival:
            return ""
        return f"rule {rival.rule.rule_id} has the same {shared(rule, rival.rule)}, and stands in {rival.place}"


def identity(rule: Rule) -> tuple[tuple[str, object], ...]:
    """What no two rules may share any part of."""
    inputs = (("input", claim) for claim in rule.input.claims)
    # One's id is not another's name, either: a command that has it could mean either of them.
    return *inputs, ("label", rule.rule_id), *((("label", rule.name),) if rule.name is not None else ())


def shared(rule: Rule, holder: Rule) -> str:
    """The part of its identity that a rule shares with one that has a part of it: `input`, `id`, `name`, `id or name`.

    Of inputs that are not the same, the flow that both take.
    """
    what, value = _shared(rule, holder)
    return what if what != "input" or rule.input == holder.input else f"input {value}"


def _shared(rule: Rule, holder: Rule) -> tuple[str, object]:
    taken = {*identity(holder)}
    what, value = next(part for part in identity(rule) if part in taken)
    if what == "label":
        ids, names = value == rule.rule_id == holder.rule_id, value == rule.name == holder.name
        return "id" if ids else "name" if names else "id or name", value
    return what, value


def _clash(rule: Rule, holder: Rule) -> tuple[str, tuple[str, ...]]:
    """Which part of a rule's identity another one has, for people, and how to do without it."""
    match _shared(rule, holder):
        case "name", _:
            return f"{holder.rule_id} is named {holder.name!r}", ("give another name, or none",)
        case "id", _:
            return f"{holder.rule_id} takes {holder.input}", ("give another --rule-id, or none",)
        case "id or name", _:
            refusal = mixed_up(rule, holder)
            return refusal.message.removeprefix("Rule already exists: "), refusal.hints
        case _, claim:
            return f"{holder.rule_id} takes {holder.input if rule.input == holder.input else claim}", ()


@attrs.frozen
class Yielding:
    """A rule of run time that is not used, the file's rule that it gives way to, and the command that forgets it."""

    rule: Rule
    rival: FileRule
    forgetting: str


@attrs.frozen
class RunTimeRules:
    """Rules of run time at one moment.

    Attributes:
        aside: those that nobody uses.
        unusable: that cannot be used, of files, too.
    """

    used: tuple[Rule, ...]
    aside: tuple[Rule, ...]
    unusable: frozenset[Rule]

    def foresee(self, files: FileRules) -> tuple[RunTimeDifference, ...]:
        """What becomes of them, once these are the rules of files. Of 10,000 that takes a tenth of a second."""
        usable = (rule for rule in self.aside if not self.unusable or rule not in self.unusable)
        restored = (RunTimeDifference(rule, "restored") for rule in usable if not files.rival(rule))
        return *displaced(self.used, files), *restored


def displaced(used: Iterable[Rule], files: FileRules) -> Iterator[RunTimeDifference]:
    """What becomes of rules of run time that are used, once these are the rules of files."""
    for rule in used:
        if rival := files.rival(rule):
            change = "moved" if rival.rule == rule else "displaced"
            yield RunTimeDifference(rule, change, rival.rule.rule_id)


@attrs.frozen
class Exchange:
    """What becomes of the rules that are used when the files say something else.

    Attributes:
        changed: rules that take the place of those with their ids.
        aside: rules of run time that are not used then.
    """

    added: tuple[Rule, ...]
    removed: tuple[Rule, ...]
    changed: tuple[Rule, ...]
    aside: tuple[Rule, ...]


class Precedence:
    """What the files say, and which rules give way to theirs.

    Attributes:
        files: the rules of the files.
        aside: the rules of run time that nobody uses: they give way, or cannot be used.
        unusable: why rules cannot be used, of files and of run time. The next to be tried again comes first.
    """

    def __init__(self) -> None:
        self.files = FileRules()
        self.aside: tuple[Rule, ...] = ()
        self.unusable: dict[Rule, str] = {}
        self._aside_parts: dict[tuple[str, object], Rule] = {}

    def note(self, files: FileRules, aside: Iterable[Rule]) -> None:
        """Go by these from now on."""
        self.files, self.aside = files, tuple(aside)
        if self.unusable:
            lasting = {*self.aside, *filter(self._stands_in_file, self.unusable)}
            self.unusable = {rule: why for rule, why in self.unusable.items() if rule in lasting}
        self._aside_parts = {part: rule for rule in self.aside for part in identity(rule)}

    def _stands_in_file(self, rule: Rule) -> bool:
        return self.files.find(rule.rule_id) == rule

    def _is_unusable(self, rule: Rule) -> bool:
        return bool(self.unusable) and rule in self.unusable  # there may be thousands to be hashed

    def note_unusable(self, rule: Rule, why: str) -> bool:
        """A rule cannot be used. Whether that is news."""
        before = self.unusable.pop(rule, None)
        if before is None and not self._stands_in_file(rule):
            self.aside = (*self.aside, rule)
            self._aside_parts |= dict.fromkeys(identity(rule), rule)
        self.unusable[rule] = why
        return why != before

    def note_usable(self, rule: Rule) -> None:
        """It can."""
        del self.unusable[rule]
        self.note(self.files, [each for each in self.aside if each != rule])

    def unused(self) -> tuple[Entry, ...]:
        """The rules that cannot be used."""
        return tuple(Entry(rule, 0, (), self._stands_in_file(rule), why) for rule, why in self.unusable.items())

    def yielding(self) -> tuple[Yielding, ...]:
        """Rules that give way to others of files."""
        rivals = ((rule, self.files.rival(rule)) for rule in self.aside)
        return tuple(
            Yielding(rule, rival, self.forgetting(rule)) for rule, rival in rivals if rival and rival.rule != rule
        )

    def plan(self, entries: Iterable[Entry], files: FileRules) -> Exchange:
        """What has to change so that these files' rules are used, and of the others those without a rival.

        But for those that could not be used so far: they are tried by themselves.
        """
        entries = tuple(entries)
        of_run_time = (*self.aside, *(entry.rule for entry in entries if not entry.from_file))
        aside = tuple(rule for rule in of_run_time if files.rival(rule) or self._is_unusable(rule))
        wanted = {rule.rule_id: rule for rule in of_run_time if not (files.rival(rule) or self._is_unusable(rule))}
        wanted |= {each.rule.rule_id: each.rule for each in files if not self._is_unusable(each.rule)}
        removed, changed = [], []
        for entry in entries:
            rule = entry.rule
            # Compared is what the files said: in use, an interface may go by the name that other rules have for it.
            stated = self.files.find(rule.rule_id) if entry.from_file else rule
            target = wanted.get(rule.rule_id)
            if target is None or stated is None or target.input != stated.input:
                removed.append(rule)
                continue
            del wanted[rule.rule_id]
            if target != stated:
                changed.append(attrs.evolve(target, input=rule.input))
        return Exchange(tuple(wanted.values()), tuple(removed), tuple(changed), aside)

    def run_time(self, entries: Iterable[Entry]) -> "RunTimeRules":
        """The rules of run time, as they are now."""
        used = [entry.rule for entry in entries if not entry.from_file]
        return RunTimeRules(tuple(used), self.aside, frozenset(self.unusable))

    def take_aside(self, selection: Selection) -> tuple[tuple[Rule, ...], Selection]:
        """Those of the selected rules that give way, and what else is selected.

        Each by its id or name, if no rule of a file has that: who removes such a one must not lose the saved one, which
        is not shown. Often the ids are the same, as they are made of the input.
        """
        asked = {("id", each) for each in selection.rule_ids} | {("name", each) for each in selection.names}
        handles = {rule: self.files.handles(rule) for rule in self.aside} if asked else {}
        taken = self.aside if selection.all else tuple(rule for rule in handles if asked.intersection(handles[rule]))
        used = {handle for rule in taken for handle in handles.get(rule, ())}
        return taken, attrs.evolve(
            selection,
            rule_ids=tuple(each for each in selection.rule_ids if ("id", each) not in used),
            names=tuple(each for each in selection.names if ("name", each) not in used),
        )

    def forgetting(self, rule: Rule) -> str:
        """The command that forgets a rule that gives way."""
        what, value = self.files.handles(rule)[0]
        return f"mcrctl remove {'--rule-id' if what == 'id' else '--name'} {shlex.quote(value or '')}"

    def hint(self, rule: Rule | None, asked: str = "") -> tuple[str, ...]:
        """What to say to somebody who asks for a rule of a file, or for what no rule in use has.

        Args:
            rule: of a file; None: there is none.
            asked: an id or name.
        """
        parts = identity(rule) if rule else (("label", asked),)
        return tuple(
            f"rule {each.label} is saved, and not used, in favour of a file's: forget it: {self.forgetting(each)}"
            for each in dict.fromkeys(self._aside_parts[part] for part in parts if part in self._aside_parts)
            if not self._is_unusable(each)
        )

    def remarks(self, aside: Iterable[Rule]) -> dict[str, str]:
        """What is to be said when rules that give way are removed, by their ids. It takes a while: see `Place`."""
        rivals = {rule.rule_id: self.files.rival(rule) for rule in aside}
        return {
            rule_id: f"it was saved, and not in use; rule {rival.rule.label} stays, which stands in {rival.place}"
            for rule_id, rival in rivals.items()
            if rival
        }

    def forget(self, aside: Collection[Rule]) -> None:
        """Rules that give way are no longer saved."""
        if aside:
            ids = {rule.rule_id for rule in aside}
            self.note(self.files, [rule for rule in self.aside if rule.rule_id not in ids])

    def refuse_change(self, rule_ids: Sequence[str]) -> None:
        """Raise for the first of these that stands in a file.

        Raises:
            RuleInFile: one does.
        """
        for rule_id in rule_ids:
            if rule_id in self.files:
                raise RuleInFile(
                    f"Rule {rule_id} stands in {self.files.where(rule_id)}",
                    "change that file, then: mcrctl config apply",
                    *self.hint(self.files.find(rule_id)),
                )

    def refuse_edit(self, rule_id: str | None, name: str | None) -> None:
        """Raise if the rule with this id, or else this name, cannot be used.

        Raises:
            LimitReached: it can't.
        """
        for rule, why in self.unusable.items():
            if (rule.rule_id == rule_id) if rule_id is not None else (rule.name is not None and rule.name == name):
                raise LimitReached(
                    f"Rule {rule.rule_id} cannot be changed, as it cannot be used: {why}",
                    "remove it, and add it as it is to be",
                )

    @property
    def is_idle(self) -> bool:
        """Whether no file says anything, so nothing is refused; a refusal takes a while, see `Place`."""
        return not self._aside_parts and not any(True for _ in self.files)

    def refuse_addition(self, rule: Rule) -> None:
        """Raise if a rule of the files has a part of this one's identity, or one that gives way to them.

        Raises:
            RuleExists: one has.
        """
        if rival := self.files.rival(rule):
            what, remedies = _clash(rule, rival.rule)
            raise RuleExists(
                f"Rule already exists: {what}, and stands in {rival.place}",
                *remedies,
                f"{'or ' if remedies else ''}change that file, then: mcrctl config apply",
            )
        for part in identity(rule) if self._aside_parts else ():
            if holder := self._aside_parts.get(part):
                why = self.unusable.get(holder) or self.files.why_aside(holder)
                what, remedies = _clash(rule, holder)
                raise RuleExists(
                    f"Rule already exists: {what}, and is saved",
                    f"it is not used so far: {why}",
                    *remedies,
                    f"{'or ' if remedies else ''}remove it: {self.forgetting(holder)}",
                )
