"""Flows that two rules name: one as part of a range, the other by group and port, which goes before. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import product

import attrs

from mcr.model.flow import Claim, Flow, Input
from mcr.model.rule import Rule


class Singles:
    """Inputs that are no ranges, by what they name: thousands of ranges look for those inside of them."""

    def __init__(self, inputs: Iterable[Input] = ()) -> None:
        """Start with these, but for the ranges among them."""
        self._there: defaultdict[tuple[str, int | None], dict[tuple[int, int, int], tuple[Input, ...]]]
        self._there = defaultdict(dict)  # by interface and VLAN; then by version of IP, group and port
        for each in inputs:
            self.add(each)

    def add(self, source: Input) -> None:
        """It is there, unless it is a range."""
        if source.is_range:
            return
        there, name = self._there[source.interface, source.vlan], _name(source)
        if source not in there.get(name, ()):
            there[name] = (*there.get(name, ()), source)

    def drop(self, source: Input) -> None:
        """It is there no more."""
        if source.is_range:
            return
        there, name = self._there[source.interface, source.vlan], _name(source)
        if others := tuple(each for each in there.pop(name) if each != source):
            there[name] = others
        if not there:
            del self._there[source.interface, source.vlan]

    def inside(self, ranged: Input) -> Iterator[Input]:
        """Those that take a part of a range."""
        there, span = self._there.get((ranged.interface, ranged.vlan)), ranged.span
        if not there:
            return
        if len(there) < span.size:
            for inputs in there.values():
                if span.has(inputs[0].group, inputs[0].port):
                    yield from inputs
            return
        groups, ports = range(span.first, span.first + span.groups), range(span.port, span.port + span.ports)
        for name in product((span.version,), groups, ports):
            yield from there.get(name, ())


def _name(source: Input) -> tuple[int, int, int]:
    return source.group.version, int(source.group), source.port


def taken_of(source: Input, others: Singles) -> frozenset[Flow]:
    """Flows of a range that go to others, which are no ranges."""
    senders = source.sources or (None,)
    taken = set()
    for other in others.inside(source):
        for flow in other.flows:
            from_any = flow.source is None
            taken |= {attrs.evolve(flow, source=each) for each in senders if from_any or each == flow.source}
    return frozenset(taken)


def taken_by_source(source: Input, others: Iterable[Input]) -> frozenset[Flow]:
    """Flows that others take of a range from some sources, where it takes them from any."""
    if not source.is_range or source.sources:
        return frozenset()
    beside = (each for each in others if (each.interface, each.vlan) == (source.interface, source.vlan))
    return frozenset(flow for each in beside if each.sources for flow in each.flows if source.covers(flow))


def shared(gone: Collection[Rule], others: Iterable[Rule]) -> Iterator[Claim]:
    """What rules that go take, and others name as well: it is still to be let in."""
    former, there = [rule.input for rule in gone], [rule.input for rule in others]
    for ranges, singles in ((former, there), (there, former)):
        named = Singles(singles)
        for source in (each for each in ranges if each.is_range):
            mine = source.sources or (None,)
            for other in named.inside(source):
                yield from (Claim(other.interface, flow) for flow in other.flows if flow.source in mine)


def goes_before(source: Input, ranged: Input) -> bool:
    """Whether what a rule takes is left to it by a range."""
    if source.is_range or (source.interface, source.vlan) != (ranged.interface, ranged.vlan):
        return False
    from_all = not source.sources or {*(ranged.sources or (None,))} <= {*source.sources}
    return from_all and ranged.span.has(source.group, source.port)
