"""From counters to statistics."""

import errno
from collections.abc import Iterator
from ipaddress import IPv4Address
from operator import add
from typing import cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.model.stats import SendError
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.shm.segment import SENDING, Cells, OutputCounters, Segment, WorkerCounters
from mcr.stats.columns import RuleColumns
from mcr.stats.readings import Reading, _combined

RULE = Rule("id", Input("in0", IPv4Address("239.1.1.1"), 5000), (Output(IPv4Address("239.2.2.2"), 6000, "out0"),))
PLACED = PlacedRule(RULE, 1, 0, (OutputSlot(0, 1),), (None,), (None,))

Counted = tuple[list[int], list[int]]
"""What each worker has counted for its rules."""


@pytest.fixture(scope="module")
def segments() -> Iterator[tuple[Segment, Segment]]:
    with Segment(0) as one, Segment(1) as other:
        yield one, other


@attrs.frozen
class _Worker:
    counters: OutputCounters

    def of_rules(self, cells: Cells) -> Iterator[tuple[int, ...]]:
        return iter([(10,) * len(cells.tags)])

    def of_outputs(self, cells: Cells) -> Iterator[tuple[int, ...]]:
        counters = attrs.asdict(self.counters)
        names = SENDING if len(cells.layout.fields) == len(SENDING) else counters
        return iter([(counters[name],) * len(cells.tags) for name in names])

    def output(self, _slot: int, _tag: int) -> OutputCounters:
        return self.counters


def failed(microseconds: int, error: int) -> WorkerCounters:
    return cast("WorkerCounters", _Worker(OutputCounters(10, 9, 1, 0, 900, microseconds << 16 | error)))


def test_last_error_of_an_output_is_the_newest_of_its_workers() -> None:
    """Whatever their numbers: after ENETUNREACH on one worker, EPERM on another is what there is to mend."""
    older, newer = failed(1_000, errno.ENETUNREACH), failed(2_000, errno.EPERM)
    assert errno.EPERM < errno.ENETUNREACH
    for workers in ((older, newer), (newer, older)):
        counters = Reading(0.0, workers, 0).output(OutputSlot(0, 0))
        assert counters.last_error & 0xFFFF == errno.EPERM
        assert counters.errors == 2


def test_the_time_of_the_newest_error_is_told_by_the_workers_clock() -> None:
    now = Reading(7.0, (failed(90_000_000, errno.EPERM), failed(95_500_000, errno.ENOBUFS)), 0, 100.0)
    (stats,) = RuleColumns.of(now, now, [PLACED], {}, {}).stats()
    assert stats.outputs[0].last_error == SendError(errno.ENOBUFS, 4.5)
    never = attrs.evolve(now, workers=(failed(0, 0),))
    (stats,) = RuleColumns.of(never, never, [PLACED], {}, {}).stats()
    assert stats.outputs[0].last_error is None


_COUNTS = st.tuples(*2 * [st.lists(st.integers(0, 900), min_size=3, max_size=3)])


@given(before=_COUNTS, after=_COUNTS, least=st.sampled_from([1, 500]))
def test_rules_that_grew_are_among_those_found(
    segments: tuple[Segment, Segment], before: Counted, after: Counted, least: int
) -> None:
    """Over both workers, also where not all slots were in use when they were read before."""
    past, now = (_reading(segments, counts) for counts in (before, after))
    found = now.rules_grown(past, least)
    for slot in range(3):
        rule = attrs.evolve(PLACED, slot=slot)
        assert now.rule_matched(rule) - past.rule_matched(rule) < least or slot in found
    assert now.rules_grown(now, least) == set()
    fewer = attrs.evolve(past, workers=tuple(segment.read(1) for segment in segments))
    assert now.rules_grown(fewer, least) >= {slot for slot in (1, 2) if sum(part[slot] for part in after) >= least}


def _reading(segments: tuple[Segment, Segment], counts: Counted) -> Reading:
    for segment, part in zip(segments, counts, strict=True):
        for slot, matched in enumerate(part):
            segment.shared.rules[slot].tag, segment.shared.rules[slot].matched = PLACED.tag, matched
    return Reading(0.0, tuple(segment.read(3) for segment in segments), 0)


def test_each_counter_and_rate_of_an_output_stands_in_its_place() -> None:
    outputs = (
        Output(IPv4Address("239.2.2.2"), 6000, "out0", last_port=6009),
        Output(IPv4Address("239.2.2.3"), 6001, "out1", vlan=7),
    )
    rule = Rule("id", Input("in0", IPv4Address("239.1.1.1"), 5000, last_port=5009), outputs)
    placed = PlacedRule(rule, 1, 0, (OutputSlot(0, 1), OutputSlot(1, 1)), (None,) * 2, (None,) * 2)
    worker = [
        cast("WorkerCounters", _Worker(OutputCounters(*counters, 0)))
        for counters in ((10, 9, 1, 0, 900), (70, 39, 31, 5, 3_900))
    ]
    past, now = (Reading(at, (each,), 0) for at, each in zip((1.0, 3.0), worker, strict=True))
    (stats,) = RuleColumns.of(now, past, [placed], {}, {}).stats()
    assert [*map(attrs.astuple, stats.outputs)] == [
        (*place, 70, 39, 31, 5, 3_900, None, 15.0, 12_000.0, 15.0, vlan, *span)
        for *place, vlan, span in (
            (each.group, each.port, each.interface, each.vlan, (each.prefix, each.last_port)) for each in outputs
        )
    ]
    assert (stats.sent, stats.errors, stats.bytes, stats.bps) == (78, 62, 7_800, 24_000.0)


def test_a_part_that_knows_fewer_outputs_is_an_error() -> None:
    """Not the end of what is told of all."""
    assert _combined(add, [(1, 2), (3, 4)]) == (4, 6)
    with pytest.raises(ValueError, match="lengths"):
        _combined(add, [(1, 2), (3,)])
