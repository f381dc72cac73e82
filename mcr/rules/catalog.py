"""The catalog of rules: their identities, which may be added, and how generations are numbered. Pure.

Each change is planned, then applied by others, and noted when that has succeeded. A change that fails changes nothing.
"""

import difflib
import shlex
from collections.abc import Collection, Iterator, Sequence

import attrs

from mcr.errors import LimitReached, RuleExists, RuleNotFound
from mcr.model.flow import Address, Input
from mcr.model.limits import MAX_OUTPUTS, MAX_RULES
from mcr.model.rule import NO_RULES, Rule, RuleChange

_COMPARED = 500  # ids or names that a wrong one is compared with, at most: it takes a while


@attrs.frozen
class Entry:
    """A rule in the catalog.

    Attributes:
        generation: that brought it in; of one that was removed, that took it out.
        hosts: that it sends to, with the interfaces.
    """

    rule: Rule
    generation: int
    hosts: tuple[tuple[Address, str], ...]


class Catalog:
    """All rules of a generation, in the order in which they were added.

    Attributes:
        generation: the newest.
    """

    def __init__(self) -> None:
        self.generation = NO_RULES
        self._by_id: dict[str, Entry] = {}
        self._by_input: dict[Input, str] = {}
        self._by_name: dict[str, str] = {}
        self._outputs = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._by_id.values())

    # Planning.

    def plan_addition(self, rules: Sequence[Rule], *, wait: bool = False) -> RuleChange:
        """The change that adds all of these. `wait`: also if they name interfaces that are not there.

        Raises:
            RuleExists: an input, id or name is taken, by a rule that is there or one earlier among these.
            LimitReached: there would be too many.
        """
        self._check_identities(rules)
        self._check_room(rules)
        return RuleChange(self.generation + 1, added=tuple(rules), wait=wait)

    def plan_removal(self, rules: Sequence[Rule]) -> RuleChange:
        """The change that removes these, which are there."""
        return RuleChange(self.generation + 1, removed=tuple(rules))

    def plan_renewal(self) -> RuleChange:
        """The change after which interfaces that are back are used again; the rules stay as they are."""
        return RuleChange(self.generation + 1, renew=True)

    def note(self, change: RuleChange) -> tuple[Entry, ...]:
        """Take in a planned change that was applied; what it added, then what it removed."""
        assert change.generation == self.generation + 1, "a change was planned before another was noted"
        self.generation = change.generation
        removed = [attrs.evolve(self._drop(rule), generation=self.generation) for rule in change.removed]
        return (*(self._put(rule) for rule in change.added), *removed)

    # Looking up.

    def find(self, rule_id: str | None, name: str | None, *, without: Collection[str] = ()) -> Entry:
        """A rule by its id, or else by its name, which is none of some, by their ids.

        Raises:
            RuleNotFound: no rule has it.
        """
        wanted = rule_id if rule_id is not None else self._by_name.get(name or "")
        entry = self._by_id.get(wanted) if wanted is not None else None
        if entry and wanted not in without:
            return entry
        asked, known = (rule_id, list(self._by_id)) if rule_id is not None else (name, list(self._by_name))
        what = "id" if rule_id is not None else "name"
        nearest = difflib.get_close_matches(asked or "", known, n=1) if len(known) <= _COMPARED else []
        hints = [f"did you mean {nearest[0]}?"] if nearest else []
        raise RuleNotFound(f"No rule has the {what} {asked!r}", *hints, "see the rules: mcrctl list")

    # Checking.

    def _check_identities(self, rules: Sequence[Rule]) -> None:
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
        """The part of a rule's identity that another rule has already, if any."""
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

    def _check_room(self, added: Sequence[Rule]) -> None:
        rules = len(self) + len(added)
        if rules > MAX_RULES:
            raise LimitReached(f"No room for {rules} rules", f"a relay holds at most {MAX_RULES} rules")
        outputs = self._outputs + sum(len(rule.outputs) for rule in added)
        if outputs > MAX_OUTPUTS:
            raise LimitReached(f"No room for {outputs} outputs", f"a relay holds at most {MAX_OUTPUTS} outputs")

    # Changing.

    def _put(self, rule: Rule) -> Entry:
        hosts = tuple((each.group, each.interface) for each in rule.outputs if not each.group.is_multicast)
        entry = Entry(rule, self.generation, hosts)
        self._by_id[rule.rule_id] = entry
        self._by_input[rule.input] = rule.rule_id
        if rule.name is not None:
            self._by_name[rule.name] = rule.rule_id
        self._outputs += len(rule.outputs)
        return entry

    def _drop(self, rule: Rule) -> Entry:
        entry = self._by_id.pop(rule.rule_id)
        del self._by_input[rule.input]
        if rule.name is not None:
            del self._by_name[rule.name]
        self._outputs -= len(rule.outputs)
        return entry
