"""Rules that feed each other by the loopback interface: what leaves by it comes in by it again. Pure.

Elsewhere what this machine has sent is told by its source, and not relayed again; there everything has such a source.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from mcr.errors import InvalidParams
from mcr.model.flow import LIMITED_BROADCAST, LOOPBACK, Address
from mcr.model.rule import Output, Rule

Takers = Mapping[tuple[Address, int, int], Mapping[tuple[Address | None, bool], Rule]]
"""Who takes a destination, port and VLAN there, by the source that is named, and whether it is part of a range."""


def refuse_loops(changed: Iterable[Rule], rules: Iterable[Rule]) -> None:
    """See that none of these rules gets back what it sends, by way of others: no rule sends back itself.

    Args:
        changed: that are to be added or changed.
        rules: all that there are to be, these among them; looked at only if some of these are concerned.

    Raises:
        InvalidParams: with the loop spelt out.
    """
    concerned = [rule for rule in changed if rule.input.interface == LOOPBACK]
    takers = _takers(rules) if concerned else {}
    for rule in concerned:
        if outputs := _way_back(rule, takers):
            way = ", ".join(f"which {taker.rule_id} sends to {output}" for taker, output in outputs[1:])
            raise InvalidParams(
                f"Rule {rule.rule_id} would feed itself: it sends {rule.input} to {outputs[0][1]}"
                + (f", {way}" if way else ""),
                f"what leaves by {LOOPBACK}, or for an address of this machine, comes in by {LOOPBACK} again: "
                "send where no rule takes it there",
            )


def _takers(rules: Iterable[Rule]) -> Takers:
    """Ranges beside the rules that go before them: those can be removed, and nobody looks for loops then."""
    found: dict[tuple[Address, int, int], dict[tuple[Address | None, bool], Rule]] = defaultdict(dict)
    for rule in (each for each in rules if each.input.interface == LOOPBACK):
        for flow in rule.input.flows:
            found[flow.group, flow.port, flow.vlan][flow.source, rule.input.is_range] = rule
    return found


def _way_back(rule: Rule, takers: Takers) -> list[tuple[Rule, Output]]:
    """The outputs by which a rule's datagrams come back to it, each with its rule; none: they don't."""
    before: dict[str, tuple[Rule, Output] | None] = {rule.rule_id: None}  # how each rule is reached
    reached = [rule]
    for each in reached:  # it grows
        for output, taker in _fed(each, takers):
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


def _fed(rule: Rule, takers: Takers) -> Iterator[tuple[Output, Rule]]:
    """Outputs that other rules take by the loopback interface, or itself.

    What is sent to an address of this machine goes there, whichever interface the output names. An address that a rule
    takes on the loopback interface is meant to be one.
    """
    for output in rule.outputs:
        leaves = output.group.is_multicast or output.group == LIMITED_BROADCAST
        stays = output.interface == LOOPBACK or not leaves
        found = (takers.get((group, port, output.vlan or 0)) for group, port in output.span.each()) if stays else ()
        for taker in dict.fromkeys(taker for there in found if there for taker in _taking(rule, output, there)):
            yield output, taker


def _taking(rule: Rule, output: Output, there: Mapping[tuple[Address | None, bool], Rule]) -> Iterable[Rule]:
    """Those of these rules that take what an output sends."""
    if output.keeps_source and not rule.input.sources:
        return there.values()  # it may come from anywhere
    sources = rule.input.sources if output.keeps_source else (output.own_source,)
    kinds = product(sources, (False, True))
    found = (there.get((source, of_range)) or there.get((None, of_range)) for source, of_range in kinds)
    return filter(None, found)
