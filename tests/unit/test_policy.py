import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.worker.policy import STEADY_SECONDS, RestartHistory, worker_cores


def delays(uptimes: list[float]) -> list[float]:
    history, result = RestartHistory(), []
    for uptime in uptimes:
        history = history.after_exit(uptime)
        result.append(history.delay)
    return result


def test_first_death_is_replaced_at_once() -> None:
    assert delays([3600.0]) == [0.0]
    assert delays([0.01]) == [0.0]


def test_deaths_in_a_row_are_spaced_wider_and_wider_up_to_five_seconds() -> None:
    assert delays([0.1] * 9) == pytest.approx([0.0, 0.01, 0.04, 0.16, 0.64, 2.56, 5.0, 5.0, 5.0])


def test_the_first_few_leave_most_of_100_ms_to_the_start_itself() -> None:
    assert max(delays([0.5] * 3)) <= 0.05


def test_one_that_can_not_live_is_started_seldom() -> None:
    """Not more often than with a wait that begins with 100 ms and doubles: eight times in eight seconds."""
    starts = [sum(delays([0.0] * count)) for count in range(20)]
    assert sum(moment < 8.1 for moment in starts) <= 8


def test_steady_life_forgives() -> None:
    assert delays([0.1, 0.1, 0.1, STEADY_SECONDS, 0.1])[-2:] == [0.0, 0.01]


@given(st.lists(st.floats(0, 1e6), max_size=2000))
def test_delay_is_bounded(uptimes: list[float]) -> None:
    assert all(0.0 <= delay <= 5.0 for delay in delays(uptimes))


@given(st.integers(1, 64), st.lists(st.integers(0, 300), min_size=1, unique=True))
def test_workers_are_spread_over_allowed_cores_only(count: int, allowed: list[int]) -> None:
    cores = worker_cores(count, allowed)
    assert len(cores) == count
    assert set(cores) <= set(allowed)
    uses = [cores.count(core) for core in allowed]
    assert max(uses) - min(uses) <= 1
