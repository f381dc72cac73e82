"""Finds those of thousands of spans that one of them meets. Pure."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from mcr.model.span import Span

_T = TypeVar("_T")


class SpanIndex(Generic[_T]):
    """Spans of one interface and VLAN, each with those that have it, by their ids.

    The groups of a span are a prefix, so those of two are apart, or one has all of the other's: spans with as many
    groups are looked up by their first one. Ports may overlap in any way: those of the same groups are in order.
    """

    def __init__(self) -> None:
        self._holders: dict[Span, dict[str, _T]] = {}
        self._sizes: dict[tuple[int, int], dict[int, list[Span]]] = {}  # by version and number of groups; by the first
        self._widest = 1  # ports that a span has had

    def add(self, span: Span, holder: str, value: _T) -> None:
        """One more has it."""
        if span not in self._holders:
            self._holders[span] = {}
            firsts = self._sizes.setdefault((span.version, span.groups), {})
            insort(firsts.setdefault(span.first, []), span)
            self._widest = max(self._widest, span.ports)
        self._holders[span][holder] = value

    def drop(self, span: Span, holder: str) -> None:
        """One has it no more."""
        holders = self._holders[span]
        del holders[holder]
        if holders:
            return
        del self._holders[span]
        firsts = self._sizes[span.version, span.groups]
        same = firsts[span.first]
        del same[bisect_left(same, span)]
        if not same:
            del firsts[span.first]
        if not firsts:
            del self._sizes[span.version, span.groups]

    def meeting(self, span: Span) -> Iterator[tuple[Span, Mapping[str, _T]]]:
        """Those that share groups and ports with a span, and who has them."""
        for (version, groups), firsts in self._sizes.items():
            if version == span.version:
                for first in _firsts(span, groups, firsts):
                    for each in self._with_ports(span, firsts[first]):
                        yield each, self._holders[each]

    def _with_ports(self, span: Span, same: list[Span]) -> Iterator[Span]:
        lowest = same[0]._replace(port=span.port - self._widest + 1, ports=0)
        for at in range(bisect_left(same, lowest), len(same)):
            each = same[at]
            if each.port >= span.port + span.ports:
                return
            if each.port + each.ports > span.port:
                yield each


def _firsts(span: Span, groups: int, known: Mapping[int, object]) -> Iterable[int]:
    """Those of the known prefixes of so many groups that share some with a span, by their first groups."""
    if groups >= span.groups:
        first = span.first - span.first % groups
        return (first,) if first in known else ()
    inside = range(span.first, span.first + span.groups, groups)
    return filter(known.__contains__, inside) if len(inside) <= len(known) else filter(inside.__contains__, known)
