"""Judges whether several rules send to the same place. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

from mcr.model.finding import Finding, Verdict
from mcr.model.rule import Output, RuleView
from mcr.rules.destinations import MIXED, Destination, destination

_NAMED = 5  # destinations that are told


def judge_shared_outputs(rules: Iterable[RuleView]) -> Iterator[Finding]:
    """Whether outputs get what several rules take."""
    senders: defaultdict[Destination, list[str]] = defaultdict(list)
    outputs: dict[Destination, Output] = {}
    for rule in rules:
        for output in rule.outputs:
            where = destination(output)
            senders[where].append(rule.name or rule.rule_id)
            outputs[where] = output
    shared = {where: names for where, names in senders.items() if len(names) > 1}
    for where, names in islice(shared.items(), _NAMED):
        more = f" and {len(names) - 2:,} more" if len(names) > 2 else ""  # noqa: PLR2004
        others = f"; and {len(shared) - _NAMED:,} more such outputs" if len(shared) > _NAMED else ""
        yield Finding(
            "shared_output",
            Verdict.ADVICE,
            f"{outputs[where]} is an output of several rules: {MIXED}",
            f"mcrctl list: {', '.join(names[:2])}{more}{others}",
            "give one of them another output, unless that is meant: mcrctl change",
        )
