"""Judges whether several rules send to the same place. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from mcr.model.finding import Finding, Verdict
from mcr.model.rule import Output, RuleView
from mcr.model.span import Span
from mcr.model.span_index import SpanIndex
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
    """Ranges that others send into; each once, however many send to all of it."""
    ranges: defaultdict[tuple[str, int | None], SpanIndex[tuple[RuleView, Output]]] = defaultdict(SpanIndex)
    found: dict[tuple[str, int | None, Span], tuple[Output, dict[str, str]]] = {}
    for rule in rules:
        for output in (each for each in rule.outputs if each.is_range):
            ranges[output.interface, output.vlan].add(output.span, rule.rule_id, (rule, output))
            _, names = found.setdefault((output.interface, output.vlan, output.span), (output, {}))
            names[rule.rule_id] = _name(rule)
    for rule in rules if ranges else ():
        for output in rule.outputs:
            where = output.interface, output.vlan
            for span, holders in ranges[where].meeting(output.span) if where in ranges else ():
                if _shares(rule, output, holders.values()):
                    found[*where, span][1][rule.rule_id] = _name(rule)
    yield from ((output, [*names.values()]) for output, names in found.values() if len(names) > 1)


def _shares(rule: RuleView, output: Output, holders: Iterable[tuple[RuleView, Output]]) -> bool:
    """Whether a rule sends into a range of some other rule."""
    return any(
        each.rule_id != rule.rule_id and sends_into(rule.input, output, each.input, several)
        for each, several in holders
    )
