"""Flows that two rules name: one as part of a range, the other by group and port, which goes before. Pure."""

from collections.abc import Collection, Iterable, Iterator

import attrs

from mcr.model.flow import Claim, Flow, Input
from mcr.model.rule import Rule


def taken_of(source: Input, others: Iterable[Input]) -> frozenset[Flow]:
    """Flows of a range that go to others, which are no ranges."""
    senders = source.sources or (None,)
    taken = set()
    for other in _inside(source, others):
        for flow in other.flows:
            from_any = flow.source is None
            taken |= {attrs.evolve(flow, source=each) for each in senders if from_any or each == flow.source}
    return frozenset(taken)


def shared(gone: Collection[Rule], others: Iterable[Rule]) -> Iterator[Claim]:
    """What rules that go take, and others name as well: it is still to be let in."""
    former, there = [rule.input for rule in gone], [rule.input for rule in others]
    for ranges, singles in (
        ([each for each in former if each.is_range], there),
        ([each for each in there if each.is_range], former),
    ):
        for source in ranges:
            for other in _inside(source, singles):
                mine = source.sources or (None,)
                yield from (Claim(other.interface, flow) for flow in other.flows if flow.source in mine)


def _inside(source: Input, others: Iterable[Input]) -> Iterator[Input]:
    """Those that are no ranges, and take a part of this one."""
    span, vlan, interface = source.span, source.vlan, source.interface
    for other in others:
        beside = other.interface != interface or other.vlan != vlan or other.is_range
        if not beside and span.has(other.group, other.port):
            yield other


def goes_before(source: Input, ranged: Input) -> bool:
    """Whether what a rule takes is left to it by a range."""
    senders = ranged.sources or (None,)
    from_all = not source.sources or {*senders} <= {*source.sources}
    return from_all and any(_inside(ranged, (source,)))
