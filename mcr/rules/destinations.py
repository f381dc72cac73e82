"""Where rules send to, and which of them send to the same place. It may be meant: it is told, not refused."""

from collections.abc import Iterable, Iterator

from mcr.model.flow import Address
from mcr.model.rule import Output, Rule

Destination = tuple[str, Address, int, int | None]
"""Interface, address, port and VLAN."""

MIXED = "receivers get what both take, mixed"


def destination(output: Output) -> Destination:
    """Of an output."""
    return output.interface, output.group, output.port, output.vlan


class Destinations:
    """The ids of the rules that send to each destination.

    Attributes:
        outputs: of all rules.
    """

    def __init__(self) -> None:
        self.outputs = 0
        self._rules: dict[Destination, str | dict[str, None]] = {}  # mostly one has it, and there may be thousands

    def add(self, rule: Rule) -> None:
        """A rule is there."""
        self.outputs += len(rule.outputs)
        for each in map(destination, rule.outputs):
            there = self._rules.setdefault(each, rule.rule_id)
            if isinstance(there, dict):
                there[rule.rule_id] = None
            elif there != rule.rule_id:
                self._rules[each] = {there: None, rule.rule_id: None}

    def drop(self, rule: Rule) -> None:
        """It is there no more."""
        self.outputs -= len(rule.outputs)
        for each in map(destination, rule.outputs):
            there = self._rules.pop(each, None)
            if isinstance(there, dict):
                del there[rule.rule_id]
                self._rules[each] = there if len(there) > 1 else next(iter(there))

    def shared(self, rules: Iterable[Rule]) -> dict[str, tuple[str, ...]]:
        """What is to be said of those of these rules that share outputs with others, by their ids."""
        return {rule.rule_id: told for rule in rules if (told := tuple(self._told(rule)))}

    def _told(self, rule: Rule) -> Iterator[str]:
        for output in rule.outputs:
            there = self._rules.get(destination(output))
            if isinstance(there, dict) and rule.rule_id in there:
                other = next(each for each in there if each != rule.rule_id)
                who = f"rule {other}" + (f" and {len(there) - 2:,} more" if len(there) > 2 else "")  # noqa: PLR2004
                yield f"{output} is an output of {who}, too: {MIXED}; have another output unless that is meant"
