"""Drafts of changes: what clients ask for, as rules to be added, changed and removed.

Changes that wait together are made in one step: their drafts are put together, if that comes to the same as one after
the other. Nothing is done here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice

import attrs

from mcr.errors import MAX_FAULTS, McrError, together
from mcr.model.edit import RuleEdit
from mcr.model.rule import Output, Rule
from mcr.model.selection import Selection
from mcr.net.interfaces import name_in_rules
from mcr.rules.catalog import Catalog, Entry
from mcr.rules.conditions import Standing
from mcr.rules.file_rules import Precedence


@attrs.frozen
class Draft:
    """A change, and which rules it is about.

    Attributes:
        about: ids of the rules, in the order in which the client names them.
        there: those of them that stay as they are.
        places: of the added ones in that order.
        former: those that are changed or removed, as they are before it.
        aside: saved ones to be forgotten, which give way to those of files.
        remarks: what is to be said of rules, by their ids.
        wait: rules may name interfaces that are not there.
    """

    about: tuple[str, ...]
    there: Mapping[str, Entry] = attrs.field(factory=dict)
    added: tuple[Rule, ...] = ()
    places: tuple[int, ...] = ()
    changed: tuple[Rule, ...] = ()
    removed: tuple[Rule, ...] = ()
    former: tuple[Rule, ...] = ()
    aside: tuple[Rule, ...] = ()
    remarks: Mapping[str, str] = attrs.field(factory=dict)
    wait: bool = False

    def place(self, error: McrError) -> McrError:
        """Have an error name the added rules by their places among all that the client names."""
        if not self.there:
            return error
        if len(self.places) == 1:
            return error.at(f"rules[{self.places[0]}]")
        return error.reworded(
            lambda message: re.sub(r"\brules\[(\d+)\]", lambda at: f"rules[{self.places[int(at[1])]}]", message)
        )


class Drafts:
    """Makes drafts of changes to the rules of a catalog."""

    def __init__(self, catalog: Catalog, precedence: Precedence) -> None:
        self._catalog = catalog
        self._precedence = precedence

    def addition(self, rules: tuple[Rule, ...], standing: Standing, *, wait: bool, idempotent: bool) -> Draft:
        """Add these. `idempotent`: but for those that are there.

        Raises:
            RuleExists: one can't be beside the rules of files.
        """
        rules = with_real_names(rules, standing)
        entries = [self._catalog.same(rule) if idempotent else None for rule in rules]
        places = tuple(index for index, entry in enumerate(entries) if not entry)
        faults = list[McrError]()
        for index in places:
            try:
                self._precedence.refuse_addition(rules[index])
            except McrError as error:
                faults.append(error.at(f"rules[{index}]") if len(rules) > 1 else error)
            if len(faults) > MAX_FAULTS:
                break
        for place, fault in islice(self._catalog.mixed_up([rules[index] for index in places]), MAX_FAULTS + 1):
            faults.append(fault.at(f"rules[{places[place]}]") if len(rules) > 1 else fault)
        if faults:
            raise together(faults)
        return Draft(
            about=tuple((entry.rule if entry else rule).rule_id for rule, entry in zip(rules, entries, strict=True)),
            there={entry.rule.rule_id: entry for entry in entries if entry},
            added=tuple(rules[index] for index in places),
            places=places,
            wait=wait,
        )

    def edit(self, rule_id: str | None, name: str | None, edit: RuleEdit, standing: Standing, *, wait: bool) -> Draft:
        """Change one rule, by its id or its name.

        Raises:
            RuleNotFound: no rule has it.
            RuleInFile: it stands in a file.
            RuleExists: its new name is another's.
            LimitReached: there would be too many outputs, or it cannot be used.
            InvalidParams: it can't be like that.
        """
        self._precedence.refuse_edit(rule_id, name)
        entry = self._catalog.find(rule_id, name)
        now = _with_real_outputs(edit, entry.rule, standing).of(entry.rule)
        self._precedence.refuse_change([now.rule_id])
        self._precedence.refuse_addition(now)
        if now == entry.rule:
            return Draft((now.rule_id,), {now.rule_id: entry})
        for _, error in self._catalog.mixed_up([now] if now.name != entry.rule.name else []):
            raise error
        self._catalog.plan_change([now])  # it may be refused
        return Draft((now.rule_id,), changed=(now,), former=(entry.rule,), wait=wait)

    def removal(self, selection: Selection) -> Draft:
        """Remove what is selected.

        Raises:
            RuleNotFound: no rule is meant by one of the ids, names and patterns.
            RuleInFile: one stands in a file.
        """
        aside, others = self._precedence.take_aside(selection)
        rules = tuple(entry.rule for entry in self._catalog.find_all(others))
        about = tuple(rule.rule_id for rule in rules)
        self._precedence.refuse_change(about)
        about += tuple(rule.rule_id for rule in aside)
        return Draft(about, removed=rules, former=rules, aside=aside, remarks=self._precedence.remarks(aside))


def take_together(drafts: Iterable[Draft]) -> list[Draft]:
    """The first of these, and those behind it up to one that has to come after them.

    That is about the same rule as one of them, or gives the same name or one's id as a name, or may wait for interfaces
    unlike them.
    """
    taken: list[Draft] = []
    claimed: set[str] = set()
    waits: set[bool] = set()
    for draft in drafts:
        new = (*draft.added, *draft.changed)
        claims = {*draft.about, *(rule.name for rule in new if rule.name is not None)}
        if claims & claimed or (new and waits - {draft.wait}):
            break
        taken.append(draft)
        claimed |= claims
        waits |= {draft.wait} if new else set()
    return taken


def put_together(drafts: Sequence[Draft]) -> Draft:
    """One draft of all of these, which can be made together."""
    if len(drafts) == 1:
        return drafts[0]
    return Draft(
        about=tuple(chain.from_iterable(each.about for each in drafts)),
        added=tuple(chain.from_iterable(each.added for each in drafts)),
        changed=tuple(chain.from_iterable(each.changed for each in drafts)),
        removed=tuple(chain.from_iterable(each.removed for each in drafts)),
        former=tuple(chain.from_iterable(each.former for each in drafts)),
        aside=tuple(chain.from_iterable(each.aside for each in drafts)),
        wait=any(each.wait for each in drafts),
    )


def _with_real_outputs(edit: RuleEdit, rule: Rule, standing: Standing) -> RuleEdit:
    """The edit, with each interface by the name that rules have for it, if that is not the rule's own for it."""
    used = _used_names(standing)
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


def with_real_names(rules: tuple[Rule, ...], standing: Standing) -> tuple[Rule, ...]:
    """The rules, with each interface by the one name that other rules have for it, or by its own."""
    used = _used_names(standing)
    found = {*used.values()}  # each is the name of the interface that its sockets are bound to
    names = {name for rule in rules for name in rule.interfaces}
    known = {name: name if name in found else name_in_rules(name, used) for name in names}
    if all(name == real for name, real in known.items()):
        return rules
    return tuple(_renamed(rule, known) for rule in rules)


def with_inputs_kept(rules: tuple[Rule, ...], standing: Standing) -> tuple[Rule, ...]:
    """As `with_real_names`, for rules that are changed in their places: their inputs stay as they are."""
    real = with_real_names(rules, standing)
    return tuple(attrs.evolve(now, input=rule.input) for rule, now in zip(rules, real, strict=True))


def _used_names(standing: Standing) -> dict[int, str]:
    """Names in use, by index. An input's name goes before an output's: rules are known by it."""
    attachments = (*standing.outputs.values(), *standing.inputs.values())
    return {each.index: each.name for each in attachments if not each.lost}


def _renamed(rule: Rule, known: Mapping[str, str]) -> Rule:
    source = attrs.evolve(rule.input, interface=known[rule.input.interface])
    outputs = tuple(attrs.evolve(each, interface=known[each.interface]) for each in rule.outputs)
    return attrs.evolve(rule, input=source, outputs=outputs)
