"""From counters to statistics."""

import errno
from collections.abc import Iterator
from ipaddress import IPv4Address
from operator import add
from typing import cast

import attrs
import pytest

from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.model.stats import SendError
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.shm.segment import Cells, OutputCounters, WorkerCounters
from mcr.stats.readings import Reading, _combined, rule_stats


@attrs.frozen
class _Worker:
    counters: OutputCounters

    def of_rules(self, cells: Cells) -> Iterator[tuple[int, ...]]:
        return iter([(10,) * len(cells.tags)])

    def of_outputs(self, cells: Cells) -> Iterator[tuple[int, ...]]:
        return iter([(value,) * len(cells.tags) for value in attrs.astuple(self.counters)])

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
    rule = Rule("id", Input("in0", IPv4Address("239.1.1.1"), 5000), (Output(IPv4Address("239.2.2.2"), 6000, "out0"),))
    now = Reading(7.0, (failed(90_000_000, errno.EPERM), failed(95_500_000, errno.ENOBUFS)), 0, 100.0)
    (stats,) = rule_stats(now, now, [PlacedRule(rule, 1, 0, (OutputSlot(0, 1),), (None,), (None,))], {}, {})
    assert stats.outputs[0].last_error == SendError(errno.ENOBUFS, 4.5)
    never = attrs.evolve(now, workers=(failed(0, 0),))
    (stats,) = rule_stats(never, never, [PlacedRule(rule, 1, 0, (OutputSlot(0, 1),), (None,), (None,))], {}, {})
    assert stats.outputs[0].last_error is None


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
    (stats,) = rule_stats(now, past, [placed], {}, {})
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
