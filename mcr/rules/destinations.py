"""Where rules send to, and which of them send to the same place. It may be meant: it is told, not refused."""

from collections.abc import Iterable, Iterator

from mcr.model.flow import Address, Input
from mcr.model.overlaps import goes_before
from mcr.model.rule import Output, Rule

Destination = tuple[str, Address, int, int | None]
"""Interface, address, port and VLAN."""

MIXED = "receivers get what both take, mixed"


def destination(output: Output) -> Destination:
    """Of an output that is no range."""
    return output.interface, output.group, output.port, output.vlan


def sends_into(source: Input, output: Output, ranged: Input, several: Output) -> bool:
    """Whether one rule's output gets what another one's, which is a range, gets as well.

    Not if all that it would share is what the range leaves to the rule.
    """
    if (output.interface, output.vlan) != (several.interface, several.vlan) or not output.span.meets(several.span):
        return False
    return not (ranged.is_range and goes_before(source, ranged) and _is_in_its_place(source, output, ranged, several))


def _is_in_its_place(source: Input, output: Output, ranged: Input, several: Output) -> bool:
    """Whether the range would have sent there what the rule takes, and that alone."""
    group, port = int(source.group) - int(ranged.group), source.port - ranged.port
    apart = several.span.size == ranged.span.size and not output.is_range
    return apart and (int(several.group) + group, several.port + port) == (int(output.group), output.port)


class Destinations:
    """The ids of the rules that send to each destination.

    Attributes:
        outputs: of all rules.
    """

    def __init__(self) -> None:
        self.outputs = 0
        self._rules: dict[Destination, str | dict[str, None]] = {}  # mostly one has it, and there may be thousands
        self._ranges: dict[str, Rule] = {}  # rules that send to ranges

    def add(self, rule: Rule) -> None:
        """A rule is there."""
        self.outputs += len(rule.outputs)
        for output in rule.outputs:
            if output.is_range:
                self._ranges[rule.rule_id] = rule
                continue
            each = destination(output)
            there = self._rules.setdefault(each, rule.rule_id)
            if isinstance(there, dict):
                there[rule.rule_id] = None
            elif there != rule.rule_id:
                self._rules[each] = {there: None, rule.rule_id: None}

    def drop(self, rule: Rule) -> None:
        """It is there no more."""
        self.outputs -= len(rule.outputs)
        self._ranges.pop(rule.rule_id, None)
        for each in (destination(output) for output in rule.outputs if not output.is_range):
            there = self._rules.pop(each, None)
            if isinstance(there, dict):
                del there[rule.rule_id]
                self._rules[each] = there if len(there) > 1 else next(iter(there))

    def shared(self, rules: Iterable[Rule]) -> dict[str, tuple[str, ...]]:
        """What is to be said of those of these rules that share outputs with others, by their ids."""
        return {rule.rule_id: told for rule in rules if (told := tuple(self._told(rule)))}

    def _told(self, rule: Rule) -> Iterator[str]:
        for output in rule.outputs:
            there = None if output.is_range else self._rules.get(destination(output))
            others = []
            if isinstance(there, dict) and rule.rule_id in there:
                others = [each for each in there if each != rule.rule_id]
            others += [each for each in self._sharing_ranges(rule, output) if each not in others]
            if others:
                who = f"rule {others[0]}" + (f" and {len(others) - 1:,} more" if len(others) > 1 else "")
                yield f"{output} is an output of {who}, too: {MIXED}; have another output unless that is meant"

    def _sharing_ranges(self, rule: Rule, output: Output) -> Iterator[str]:
        """Ids of other rules that send to a range with it. Of such a range, those that send into it say it."""
        for other in self._ranges.values():
            ranges = (each for each in other.outputs if each.is_range)
            if other.rule_id != rule.rule_id and any(
                sends_into(rule.input, output, other.input, each) for each in ranges
            ):
                yield other.rule_id
