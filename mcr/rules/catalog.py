"""The catalog of rules: their identities, which may be added, and how generations are numbered. Pure.

Each change is planned, then applied by others, and noted when that has succeeded. A change that fails changes nothing.
"""

import difflib
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain, islice
from typing import Final

import attrs

from mcr.errors import MAX_FAULTS, LimitReached, RuleExists, RuleNotFound, together
from mcr.model.flow import Address, Claim
from mcr.model.limits import MAX_OUTPUTS, MAX_RULES
from mcr.model.rule import NO_RULES, Rule, RuleChange
from mcr.model.selection import Selection
from mcr.rules.clashes import overlap, same_input
from mcr.rules.destinations import Destinations
from mcr.rules.loopback import refuse_loops

MANY: Final = 200
"""Rules from which on a thread looks through them, so that others get their turn."""

_PATTERN = frozenset("*?[")  # what makes a name one
_SEE = "see the rules: mcrctl list"
_COMPARED = 500  # ids or names that a wrong one is compared with, at most: it takes a while


@attrs.frozen
class Entry:
    """A rule in the catalog.

    Attributes:
        generation: that brought it in; of one that was removed, that took it out.
        hosts: that it sends to, with the interfaces.
        from_file: it stands in a configuration file.
        fault: why it cannot be used; empty: it is used.
        sources: addresses that its outputs ask to send from.
    """

    rule: Rule
    generation: int
    hosts: tuple[tuple[Address, str], ...]
    from_file: bool = False
    fault: str = ""
    sources: tuple[Address, ...] = ()


@attrs.frozen
class Noted:
    """What a change has done to the catalog.

    Attributes:
        claims: of what is new or changed.
        left: claims of what is neither new nor removed, where many are removed; None: few are.
    """

    generation: int
    added: tuple[Entry, ...]
    removed: tuple[Entry, ...]
    changed: tuple[Entry, ...]
    claims: Mapping[Claim, str]
    left: dict[Claim, str] | None = None


class Catalog:
    """All rules of a generation, in the order in which they were added.

    Attributes:
        generation: the newest.
        destinations: where its rules send to.
    """

    def __init__(self) -> None:
        self.generation = NO_RULES
        self._by_id: dict[str, Entry] = {}
        self._by_claim: dict[Claim, str] = {}
        self._by_name: dict[str, str] = {}
        self.destinations = Destinations()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._by_id.values())

    # Planning.

    def plan_addition(self, rules: Sequence[Rule], *, wait: bool = False) -> RuleChange:
        """The change that adds all of these.

        Args:
            rules: to be added.
            wait: also if they name interfaces that are not there.

        Raises:
            RuleExists: an input, id or name is taken, by a rule that is there or one earlier among these.
            LimitReached: there would be too many.
            InvalidParams: some would feed themselves.
        """
        if faults := [*islice(self._clashes(rules), MAX_FAULTS + 1)]:
            raise together(faults)
        self._check_room(rules)
        self._check_loops(rules)
        return RuleChange(self.generation + 1, added=tuple(rules), wait=wait)

    def plan_change(self, rules: Sequence[Rule], *, removed: Sequence[Rule] = (), wait: bool = False) -> RuleChange:
        """The change that puts these in the place of those with their ids, which have their inputs.

        Args:
            rules: to be changed.
            removed: others, to be removed at once.
            wait: they may name interfaces that are not there.

        Raises:
            RuleExists: a name is another rule's.
            LimitReached: there would be too many outputs.
            InvalidParams: some would feed themselves.
        """
        for rule in rules:
            if self._by_name.get(rule.name or "", rule.rule_id) != rule.rule_id:
                raise self._has_the_name(rule)
        if rules:
            self._check_room(rules, [*(self._by_id[rule.rule_id].rule for rule in rules), *removed])
            self._check_loops(rules, removed)
        return RuleChange(self.generation + 1, removed=tuple(removed), changed=tuple(rules), wait=wait)

    def plan_removal(self, rules: Sequence[Rule]) -> RuleChange:
        """The change that removes these, which are there."""
        return RuleChange(self.generation + 1, removed=tuple(rules))

    def plan_exchange(self, added: Sequence[Rule], removed: Sequence[Rule], changed: Sequence[Rule]) -> RuleChange:
        """The change that does all of this at once. Rules may wait for interfaces.

        Raises:
            RuleExists: two rules would have the same input, id or name.
            LimitReached: there would be too many.
            InvalidParams: some would feed themselves.
        """
        gone = {rule.rule_id for rule in (*removed, *changed)}
        kept = [entry.rule for entry in self if entry.rule.rule_id not in gone]
        after = (*kept, *added, *changed)
        for each in (
            [claim for rule in after for claim in rule.input.claims],
            [rule.rule_id for rule in after],
            [*filter(None, map(_name, after))],
        ):
            if len({*each}) < len(each):
                twice = next(value for value, count in Counter(each).items() if count > 1)
                raise RuleExists(f"Rule already exists: two rules would have {twice}")
        self._check_room((*added, *changed), [self._by_id[rule_id].rule for rule_id in gone])
        self._check_loops((*added, *changed), removed)
        return RuleChange(self.generation + 1, tuple(added), tuple(removed), tuple(changed), wait=True)

    def plan_renewal(self) -> RuleChange:
        """The change after which rules use the interfaces that have their names now; the rules stay as they are."""
        return RuleChange(self.generation + 1, renew=True)

    def note(self, change: RuleChange) -> tuple[Entry, ...]:
        """Take in a planned change that was applied; what it added, then what it removed, then what it changed."""
        return self.show(self.prepare(change))

    def prepare(self, change: RuleChange) -> Noted:
        """What `note` does that takes long with thousands of rules: `show` does the rest.

        Nobody but who plans changes sees anything of it, so it may be done in a thread.
        """
        assert change.generation == self.generation + 1, "a change was planned before another was noted"
        return _noted(change, self._by_id, self._by_claim, self.destinations)

    def show(self, noted: Noted) -> tuple[Entry, ...]:
        """Have everybody see it."""
        self.generation = noted.generation
        if noted.left is not None:
            self._by_claim = noted.left
        else:
            for claim in chain.from_iterable(entry.rule.input.claims for entry in noted.removed):
                del self._by_claim[claim]
        self._drop_names([*noted.removed, *(self._by_id[each.rule.rule_id] for each in noted.changed)])
        for entry in noted.removed:
            del self._by_id[entry.rule.rule_id]
        fresh = (*noted.added, *noted.changed)
        self._by_id |= {each.rule.rule_id: each for each in fresh}
        self._by_claim |= noted.claims
        self._by_name |= {each.rule.name: each.rule.rule_id for each in fresh if each.rule.name is not None}
        return (*noted.added, *noted.removed, *noted.changed)

    def mark(self, marked: Mapping[str, Entry]) -> None:
        """Take in what `marked` gives."""
        self._by_id |= marked

    # Looking up.

    def find(self, rule_id: str | None, name: str | None) -> Entry:
        """A rule by its id, or else by its name, which is none of some, by their ids.

        Raises:
            RuleNotFound: no rule has it.
        """
        wanted = rule_id if rule_id is not None else self._by_name.get(name or "")
        entry = self._by_id.get(wanted) if wanted is not None else None
        if entry:
            return entry
        asked, known = (rule_id, self._by_id) if rule_id is not None else (name, self._by_name)
        raise not_found("id" if rule_id is not None else "name", asked or "", known)

    def find_either(self, asked: str) -> Entry:
        """A rule by its id or its name, as `find`."""
        wanted = asked if asked in self._by_id else self._by_name.get(asked)
        if wanted is None:
            raise not_found("id or name", asked, [*self._by_id, *self._by_name])
        return self._by_id[wanted]

    def find_all(self, selection: Selection) -> list[Entry]:
        """The rules that are selected, each once, in the order in which they were added. All: but for those of files.

        Raises:
            RuleNotFound: no rule has one of the ids or names, or matches one of the patterns.
        """
        if selection.all:
            return [each for each in self if not each.from_file]
        find = _called if selection.literal else _matching
        names = chain.from_iterable(find("name", each, self._by_name) for each in selection.names)
        wanted = {
            *chain.from_iterable(find("id", each, self._by_id) for each in selection.rule_ids),
            *(self._by_name[name] for name in names),
        }
        if len(wanted) == 1:
            return [self._by_id[rule_id] for rule_id in wanted]
        return [each for each in self if each.rule.rule_id in wanted]

    def same(self, rule: Rule) -> Entry | None:
        """The rule that is there with the same input, outputs and name, if there is one."""
        rule_id = self._by_claim.get(rule.input.claims[0])
        entry = self._by_id[rule_id] if rule_id is not None else None
        there = entry and entry.rule.input == rule.input and {*entry.rule.outputs} == {*rule.outputs}
        return entry if entry and there and entry.rule.name == rule.name else None

    # Checking.

    def mixed_up(self, rules: Sequence[Rule]) -> Iterator[tuple[int, RuleExists]]:
        """Those of new rules whose id another one has for its name, or whose name for its id, by their places."""
        return _mixed_up(rules, self._by_id, self._by_name)

    def _clashes(self, rules: Sequence[Rule]) -> Iterator[RuleExists]:
        """The rules whose identity is taken, by a rule that is there or one earlier among them."""
        seen = _Seen()
        for index, rule in enumerate(rules):
            if taken := self._taken(rule):
                yield taken.at(f"rules[{index}]") if len(rules) > 1 else taken
            elif taken := _taken_among(seen, index, rule):
                yield taken

    def _taken(self, rule: Rule) -> RuleExists | None:
        """The part of a rule's identity that another rule has already, if any."""
        if taken := next((claim for claim in rule.input.claims if claim in self._by_claim), None):
            holder = self._by_claim[taken]
            there = self._by_id[holder].rule
            return same_input(there, rule) if there.input == rule.input else overlap(there, taken)
        if rule.rule_id in self._by_id:
            return RuleExists(f"Rule already exists: {rule.rule_id}", "give another --rule-id, or none")
        if rule.name is not None and rule.name in self._by_name:
            return self._has_the_name(rule)
        return None

    def _has_the_name(self, rule: Rule) -> RuleExists:
        holder = self._by_name[rule.name or ""]
        return RuleExists(f"Rule already exists: {holder} is named {rule.name!r}", "give another name, or none")

    def _check_room(self, added: Sequence[Rule], gone: Sequence[Rule] = ()) -> None:
        rules = len(self) + len(added) - len(gone)
        if rules > MAX_RULES:
            raise LimitReached(f"No room for {rules} rules", f"a relay holds at most {MAX_RULES} rules")
        flows = len(self._by_claim) + _flows(added) - _flows(gone)
        if flows > MAX_RULES:
            raise LimitReached(
                f"No room for rules with {flows} flows",
                f"a relay holds at most {MAX_RULES} rules; one that takes several flows counts for each",
            )
        outputs = self.destinations.outputs + _outputs(added) - _outputs(gone)
        if outputs > MAX_OUTPUTS:
            raise LimitReached(f"No room for {outputs} outputs", f"a relay holds at most {MAX_OUTPUTS} outputs")

    def _check_loops(self, rules: Sequence[Rule], gone: Collection[Rule] = ()) -> None:
        """Rules that are new, or as they are to be."""
        refuse_loops(rules, chain(rules, self._others({rule.rule_id for rule in (*rules, *gone)})))

    def _others(self, rule_ids: Container[str]) -> Iterator[Rule]:
        """All but those with these ids."""
        for entry in self:
            if entry.rule.rule_id not in rule_ids:
                yield entry.rule

    # Changing.

    def _drop_names(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.rule.name is not None and self._by_name.get(entry.rule.name) == entry.rule.rule_id:
                del self._by_name[entry.rule.name]


def marked(entries: Iterable[Entry], in_files: Container[str]) -> dict[str, Entry]:
    """Those that do not say yet whether their rules stand in configuration files, by their ids, saying so."""
    return {
        each.rule.rule_id: attrs.evolve(each, from_file=not each.from_file)
        for each in entries
        if each.from_file != (each.rule.rule_id in in_files)
    }


def _noted(
    change: RuleChange, by_id: Mapping[str, Entry], by_claim: Mapping[Claim, str], destinations: Destinations
) -> Noted:
    gone = [by_id[rule.rule_id] for rule in (*change.removed, *change.changed)]
    for entry in gone:
        destinations.drop(entry.rule)
    fresh = [_entry(rule, change.generation) for rule in (*change.added, *change.changed)]
    for entry in fresh:
        destinations.add(entry.rule)
    return Noted(
        change.generation,
        added=tuple(fresh[: len(change.added)]),
        removed=tuple(attrs.evolve(each, generation=change.generation) for each in gone[: len(change.removed)]),
        changed=tuple(fresh[len(change.added) :]),
        claims={claim: each.rule.rule_id for each in fresh for claim in each.rule.input.claims},
        left=_without(change.removed, by_claim) if len(change.removed) > MANY else None,
    )


def _without(removed: Sequence[Rule], by_claim: Mapping[Claim, str]) -> dict[Claim, str]:
    gone = {rule.rule_id for rule in removed}
    return {claim: rule_id for claim, rule_id in by_claim.items() if rule_id not in gone}


def _entry(rule: Rule, generation: int) -> Entry:
    hosts = tuple([(each.group, each.interface) for each in rule.outputs if not each.group.is_multicast])
    sources = tuple([each.own_source for each in rule.outputs if each.own_source])
    return Entry(rule, generation, hosts, sources=sources)


def _mixed_up(
    rules: Sequence[Rule], by_id: Mapping[str, Entry], by_name: Mapping[str, str]
) -> Iterator[tuple[int, RuleExists]]:
    ids, names = {rule.rule_id: rule for rule in rules}, {rule.name: rule for rule in rules}
    for index, rule in enumerate(rules):
        named, known = by_name.get(rule.rule_id), by_id.get(rule.name or "")
        holders = (
            by_id[named].rule if named is not None else names.get(rule.rule_id),
            known.rule if known else ids.get(rule.name or ""),
        )
        others = (each for each in holders if each is not None and each.rule_id != rule.rule_id)
        if holder := next(others, None):
            yield index, mixed_up(rule, holder)


def mixed_up(rule: Rule, holder: Rule) -> RuleExists:
    """That a new rule has another one's name for its id, or the other way round: a command could mean either."""
    if holder.name == rule.rule_id:
        return RuleExists(
            f"Rule already exists: {holder.rule_id} is named {rule.rule_id!r}, so no other rule can have that id",
            "give another --rule-id, or none",
        )
    return RuleExists(
        f"Rule already exists: {rule.name!r} is the id of rule {holder.label}, so no other rule can be named that",
        "give another name, or none",
    )


@attrs.frozen
class _Seen:
    """What earlier rules of a request have, and their places in it."""

    claims: dict[Claim, int] = attrs.field(factory=dict)
    ids: dict[str, int] = attrs.field(factory=dict)
    names: dict[str, int] = attrs.field(factory=dict)


def _taken_among(seen: _Seen, index: int, rule: Rule) -> RuleExists | None:
    """The part of a rule's identity that an earlier one in the same request has."""
    for claim in rule.input.claims:
        if (earlier := seen.claims.setdefault(claim, index)) != index:
            return _same("input", claim, earlier, index)
    if (earlier := seen.ids.setdefault(rule.rule_id, index)) != index:
        return _same("id", rule.rule_id, earlier, index)
    if rule.name is not None and (earlier := seen.names.setdefault(rule.name, index)) != index:
        return _same("name", rule.name, earlier, index)
    return None


def _same(what: str, value: object, earlier: int, index: int) -> RuleExists:
    return RuleExists(
        f"Rule already exists: rules[{index}] has the same {what} as rules[{earlier}], {value}",
        "every rule needs an input, an id and a name of its own",
    )


def _name(rule: Rule) -> str | None:
    return rule.name


def _outputs(rules: Iterable[Rule]) -> int:
    return sum(len(rule.outputs) for rule in rules)


def _flows(rules: Iterable[Rule]) -> int:
    return sum(len(rule.input.claims) for rule in rules)


def _called(what: str, asked: str, known: Collection[str]) -> list[str]:
    """That one of the ids or names which this is."""
    if asked not in known:
        raise not_found(what, asked, known)
    return [asked]


def _matching(what: str, asked: str, known: Collection[str]) -> list[str]:
    """Those of the ids or names that a pattern matches; or the one that it is itself."""
    if asked in known or not _PATTERN.intersection(asked):
        return _called(what, asked, known)
    found = [each for each in known if fnmatchcase(each, asked)]
    if not found:
        raise RuleNotFound(f"No rule has {'an' if what == 'id' else 'a'} {what} like {asked!r}", _SEE)
    return found


def not_found(what: str, asked: str, known: Collection[str]) -> RuleNotFound:
    """That no rule has this id or name, with the one of those known that was probably meant."""
    nearest = difflib.get_close_matches(asked, known, n=1) if len(known) <= _COMPARED else []
    hints = [f"did you mean {nearest[0]}?"] if nearest else []
    return RuleNotFound(f"No rule has the {what} {asked!r}", *hints, _SEE)
