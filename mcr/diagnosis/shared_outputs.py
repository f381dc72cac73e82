"""Judges whether several rules send to the same place. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from itertools import islice

from mcr.model.finding import Finding, Verdict
from mcr.model.rule import Output, RuleView
from mcr.rules.destinations import MIXED, Destination, destination, sends_into

_NAMED = 5  # destinations that are told


def judge_shared_outputs(rules: Collection[RuleView]) -> Iterator[Finding]:
    """Whether outputs get what several rules take."""
    senders: defaultdict[Destination, list[str]] = defaultdict(list)
    outputs: dict[Destination, Output] = {}
    for rule in rules:
        for output in rule.outputs:
            if not output.is_range:
                where = destination(output)
                senders[where].append(_name(rule))
                outputs[where] = output
    found: list[tuple[Output, list[str]]] = [
        (outputs[where], names) for where, names in senders.items() if len(names) > 1
    ]
    shared = [*found, *_with_ranges(rules)]
    for each, names in islice(shared, _NAMED):
        more = f" and {len(names) - 2:,} more" if len(names) > 2 else ""  # noqa: PLR2004
        others = f"; and {len(shared) - _NAMED:,} more such outputs" if len(shared) > _NAMED else ""
        yield Finding(
            "shared_output",
            Verdict.ADVICE,
            f"{each} is an output of several rules: {MIXED}",
            f"mcrctl list: {', '.join(names[:2])}{more}{others}",
            "give one of them another output, unless that is meant: mcrctl change",
        )


def _name(rule: RuleView) -> str:
    return rule.name or rule.rule_id


def _with_ranges(rules: Collection[RuleView]) -> Iterator[tuple[Output, list[str]]]:
    """Ranges that others send into."""
    with_ranges = [rule for rule in rules if any(output.is_range for output in rule.outputs)]
    for rule in with_ranges:
        for output in (each for each in rule.outputs if each.is_range):
            names = [
                _name(other)
                for other in rules
                if other.rule_id != rule.rule_id
                and any(sends_into(other.input, each, rule.input, output) for each in other.outputs)
            ]
            if names:
                yield output, [_name(rule), *names]
