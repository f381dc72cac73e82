"""The benchmark's arithmetic: order of rounds, medians, ratios, costs, the search for the highest rate."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import sums
from bench.cpu import (
    CpuTimes,
    Process,
    Snapshot,
    foreign_ticks,
    idle_from_stat,
    idle_from_timer_list,
    usage,
)
from bench.findings import costs, findings, undisturbed, zero_loss
from bench.rig import output_group
from bench.subjects import nth
from bench.tables import render


@given(st.lists(st.integers(), min_size=1, max_size=8, unique=True), st.integers(0, 40))
def test_every_round_measures_everybody_once(subjects: list[int], number: int) -> None:
    assert sorted(sums.order(subjects, number)) == sorted(subjects)


def test_rounds_go_forth_and_back_and_begin_elsewhere() -> None:
    assert [sums.order("abc", number) for number in range(4)] == [
        ["a", "b", "c"],
        ["c", "b", "a"],
        ["b", "c", "a"],
        ["a", "c", "b"],
    ]


def test_ratio_is_taken_round_by_round() -> None:
    # The machine was twice as slow in round 1: the ratio does not see it.
    ratio = sums.ratios({0: 10.0, 1: 20.0, 3: 1.0}, {0: 20.0, 1: 40.0, 2: 7.0})
    assert ratio == sums.Spread(0.5, 0.5, 0.5, 2)
    assert sums.ratios({0: 1.0}, {1: 1.0}) is None


def test_cost_takes_the_generator_off() -> None:
    assert sums.cost_ns(10_000, generated=10, generator_ns=500, forwarded=5) == 1000
    assert sums.cost_ns(10_000, generated=10, generator_ns=500, forwarded=0) is None


@given(st.floats(20_000, 600_000))
def test_search_comes_close_from_below(capacity: float) -> None:
    tried: list[float] = []

    def passes(rate: float) -> bool:
        tried.append(rate)
        return rate <= capacity

    found = sums.highest_passing(passes, 20_000, 600_000, 8)
    assert found <= capacity
    assert found >= capacity / 1.04
    assert len(tried) <= 8


def test_bursts() -> None:
    assert [sums.burst_for(rate) for rate in (100, 20_000, 100_000, 1e9)] == [1, 2, 10, 64]
    assert [sums.spinning_burst(rate) for rate in (100, 100_000, 450_000)] == [1, 1, 2]


TIMER_LIST = """Timer List Version: v0.10
now at 100 nsecs

cpu: 0
 clock 0:
  .idle_sleeptime : 1000 nsecs
  .iowait_sleeptime: 10 nsecs

cpu: 1
  .idle_sleeptime : 2000 nsecs
  .iowait_sleeptime: 20 nsecs
"""


def test_idle_time_of_each_processor() -> None:
    assert [idle_from_timer_list(TIMER_LIST, cpu) for cpu in (0, 1)] == [1010, 2020]
    assert idle_from_stat("cpu  9 9\ncpu0 1 2 3 4 5 6\ncpu1 1 1 1 200 100 0\n", 1) == 3_000_000_000


def test_usage_is_what_was_not_idle() -> None:
    before = Snapshot((CpuTimes(0, 0), CpuTimes(0, 50)), 0, 0)
    after = Snapshot((CpuTimes(1000, 400), CpuTimes(1000, 1050)), 0, 0)
    found = usage(before, after)
    assert found.busy_ns == (600, 0)
    assert found.busy == (0.6, 0.0)


def process(pid: int, parent: int, ticks: int) -> Process:
    return Process.parse(f"{pid} (a ) b) S {parent} " + "0 " * 9 + f"{ticks} 0 0 0 " + "0 " * 10)


def test_foreign_is_who_is_neither_ours_nor_the_kernels() -> None:
    processes = [
        process(*each) for each in ((1, 0, 99), (2, 0, 99), (7, 2, 99), (10, 1, 5), (20, 10, 99), (30, 20, 99))
    ]
    assert foreign_ticks([*processes, process(11, 10, 3)], own=20) == 8


def test_groups_count_on() -> None:
    assert nth(output_group(0), 0) == "239.2.0.1"
    assert nth("239.1.0.255", 1) == "239.1.1.0"


def reading(subject: str, number: int, busy: int, *, disturbed: bool = False, delivered: int = 100) -> dict[str, Any]:
    return {
        "stage": "s", "workload": "w", "subject": subject, "round": number, "outputs": 1, "disturbed": disturbed,
        "sent": 100, "noise": 0, "delivered": delivered, "seconds": 1.0, "busy_ns": busy, "latency": None,
    }  # fmt: skip


def test_disturbed_readings_count_only_if_there_are_no_others() -> None:
    quiet = [reading("mcr", number, 1) for number in range(3)]
    loud = reading("mcr", 3, 9, disturbed=True)
    assert undisturbed([*quiet, loud]) == quiet
    assert undisturbed([*quiet[:2], loud]) == [*quiet[:2], loud]


def test_costs_use_the_baseline_of_the_same_round_or_the_typical_one() -> None:
    baseline = [reading("none", 0, 1000), reading("none", 1, 3000), reading("none", 2, 2000)]
    assert costs([reading("mcr", 1, 5000), reading("mcr", 5, 5000)], baseline) == {1: 20.0, 5: 30.0}
    assert costs([reading("mcr", 1, 5000)], []) == {1: 50.0}


@pytest.fixture
def stage() -> dict[str, Any]:
    readings = [reading(kind, number, busy) for number in range(5) for kind, busy in (("mcr", 1000), ("mmsg", 2000))]
    searched = [{"subject": kind, "round": 0, "rate": rate} for kind, rate in (("mcr", 3e5), ("mmsg", 1e5))]
    return {
        "stage": {"name": "s", "subjects": ["mcr", "mmsg"]}, "readings": readings, "zero_loss": searched,
        "overloads": [], "idle": {"mcr": 0.0005}, "memory": {},
    }  # fmt: skip


def test_findings_name_the_ratio(stage: dict[str, Any]) -> None:
    (finding,) = findings(stage)
    assert [(row.subject, row.ratio and row.ratio.median) for row in finding.rows] == [("mcr", 1.0), ("mmsg", 0.5)]
    assert [(kind, ratio and ratio.median) for kind, _, ratio in zero_loss(stage)] == [("mcr", 1.0), ("mmsg", 3.0)]


def test_tables_show_median_and_spread(stage: dict[str, Any]) -> None:
    text = render({"machine": {"cpus": 2, "cpu": "c", "kernel": "k", "mcr": "m"}, "rounds": 5, "stages": [stage]})
    assert "0.50 (0.50-0.50)" in text
    assert "0.050% of a processor" in text
    assert "300 (300-300)" in text
