"""Rules that feed each other by the loopback interface: what leaves by it comes in by it again. Pure.

Elsewhere what this machine has sent is told by its source, and not relayed again; there everything has such a source.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs

from mcr.errors import InvalidParams
from mcr.model.flow import Claim, Flow
from mcr.model.rule import Output, Rule

LOOPBACK: Final = "lo"

Find = Callable[[Claim], Rule | None]


def refuse_loops(rules: Iterable[Rule], find: Find) -> None:
    """See that none of these rules gets back what it sends, by way of others: no rule sends back itself.

    Args:
        rules: that are to be added or changed.
        find: the rule that takes something, of these and all others.

    Raises:
        InvalidParams: with the loop spelt out.
    """
    for rule in rules:
        if rule.input.interface == LOOPBACK and (outputs := _way_back(rule, find)):
            way = ", ".join(f"which {taker.rule_id} sends to {output}" for taker, output in outputs[1:])
            raise InvalidParams(
                f"Rule {rule.rule_id} would feed itself: it sends {rule.input} to {outputs[0][1]}, {way}",
                f"what leaves by {LOOPBACK} comes in by it again: send to a group and port that no rule takes there",
            )


def _way_back(rule: Rule, find: Find) -> list[tuple[Rule, Output]]:
    """The outputs by which a rule's datagrams come back to it, each with its rule; none: they don't."""
    before: dict[str, tuple[Rule, Output] | None] = {rule.rule_id: None}  # how each rule is reached
    reached = [rule]
    for each in reached:  # it grows
        for output, taker in _fed(each, find):
            if taker.rule_id == rule.rule_id:
                return _way(before, each, output)
            if taker.rule_id not in before:
                before[taker.rule_id] = (each, output)
                reached.append(taker)
    return []


def _way(before: dict[str, tuple[Rule, Output] | None], last: Rule, output: Output) -> list[tuple[Rule, Output]]:
    way = [(last, output)]
    while step := before[way[0][0].rule_id]:
        way.insert(0, step)
    return way


def _fed(rule: Rule, find: Find) -> Iterator[tuple[Output, Rule]]:
    """Outputs that other rules take by the loopback interface, or itself."""
    for output in rule.outputs:
        if output.interface == LOOPBACK:
            flow = Flow(output.group, output.port)
            sources = rule.input.sources if output.keeps_source else (output.own_source,)
            for claimed in (*(attrs.evolve(flow, source=each) for each in sources), flow):
                if taker := find(Claim(LOOPBACK, claimed)):
                    yield output, taker
                    break
