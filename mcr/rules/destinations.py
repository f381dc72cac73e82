"""Where rules send to, and which of them send to the same place. It may be meant: it is told, not refused."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from mcr.model.flow import Address, Input
from mcr.model.overlaps import goes_before
from mcr.model.rule import Output, Rule
from mcr.model.span_index import SpanIndex

Destination = tuple[str, Address, int, int | None]
"""Interface, address, port and VLAN."""

MIXED = "receivers get what both take, mixed"


def destination(output: Output) -> Destination:
    """Of an output that is no range."""
    return output.interface, output.group, output.port, output.vlan


def sends_into(source: Input, output: Output, ranged: Input, several: Output) -> bool:
    """Whether one rule's output gets what another one's gets as well, which is a range and meets it.

    Not if all that it would share is what the range leaves to the rule.
    """
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
        self._ranges: defaultdict[tuple[str, int | None], SpanIndex[tuple[Rule, Output]]] = defaultdict(SpanIndex)
        self._taken: defaultdict[tuple[str, int | None], SpanIndex[Rule]] = defaultdict(SpanIndex)  # by ranges

    def add(self, rule: Rule) -> None:
        """A rule is there."""
        self.outputs += len(rule.outputs)
        if rule.input.is_range:
            self._taken[rule.input.interface, rule.input.vlan].add(rule.input.span, rule.rule_id, rule)
        for output in rule.outputs:
            if output.is_range:
                self._ranges[output.interface, output.vlan].add(output.span, rule.rule_id, (rule, output))
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
        if rule.input.is_range:
            self._taken[rule.input.interface, rule.input.vlan].drop(rule.input.span, rule.rule_id)
        for output in rule.outputs:
            if output.is_range:
                self._ranges[output.interface, output.vlan].drop(output.span, rule.rule_id)
                continue
            each = destination(output)
            there = self._rules.pop(each, None)
            if isinstance(there, dict):
                del there[rule.rule_id]
                self._rules[each] = there if len(there) > 1 else next(iter(there))

    def shared(self, rules: Iterable[Rule]) -> dict[str, tuple[str, ...]]:
        """What is to be said of those of these rules that share outputs or sources with others, by their ids."""
        return {rule.rule_id: told for rule in rules if (told := tuple(self._told(rule)))}

    def _told(self, rule: Rule) -> Iterator[str]:
        yield from self._told_of_sources(rule.input)
        for output in rule.outputs:
            if others := self._others(rule, output):
                first, number = others
                who = f"rule {first}" + (f" and {number - 1:,} more" if number > 1 else "")
                yield f"{output} is an output of {who}, too: {MIXED}; have another output unless that is meant"

    def _told_of_sources(self, source: Input) -> Iterator[str]:
        """What a range names is let in as its own, so neither the kernel path nor health sees it as a rule's inside."""
        around = {} if source.sources else self._around(source)
        for name, named in ((name, ranged.sources) for name, ranged in around.items() if ranged.sources):
            more = f" and {len(named) - 1:,} more" if len(named) > 1 else ""
            yield (
                f"{source} is in the range of rule {name}, which names sources: workers forward what comes from "
                f"{named[0]}{more}, not the kernel path, and health leaves it out, unless a rule for this group and "
                "port names them, too (--input-source)"
            )

    def _others(self, rule: Rule, output: Output) -> tuple[str, int] | None:
        """The first other rule that sends to an output's place, and how many do.

        Thousands may: they are counted without looking at each where all of one kind do.
        """
        there = None if output.is_range else self._rules.get(destination(output))
        kinds: list[Collection[str]] = [there] if isinstance(there, dict) and rule.rule_id in there else []
        kinds += self._sharing_ranges(rule, output)
        if not kinds:
            return None
        if output.is_range and len(kinds) > 1:  # a rule may send into it by several outputs; to one place by one only
            kinds = [dict.fromkeys(chain.from_iterable(kinds))]
        number = sum(map(len, kinds)) - sum(rule.rule_id in each for each in kinds)
        others = (each for each in chain.from_iterable(kinds) if each != rule.rule_id)
        return (next(others), number) if number else None

    def _sharing_ranges(self, rule: Rule, output: Output) -> Iterator[Collection[str]]:
        """Ids of rules that send to a range with it. Of such a range, those that send into it say it."""
        ranges = self._ranges.get((output.interface, output.vlan))
        around = self._around(rule.input) if ranges else {}
        for _, holders in ranges.meeting(output.span) if ranges else ():
            apart = [
                name
                for name, ranged in around.items()
                if name in holders and not sends_into(rule.input, output, ranged, holders[name][1])
            ]
            yield [name for name in holders if name not in apart] if apart else holders.keys()

    def _around(self, source: Input) -> dict[str, Input]:
        """Ranges that leave to a rule what it takes, by their ids. They are few, as no two of them take the same."""
        taken = None if source.is_range else self._taken.get((source.interface, source.vlan))
        around = taken.meeting(source.span) if taken else ()
        return {name: rule.input for _, holders in around for name, rule in holders.items()}
