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
    assert delays([0.1] * 9) == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_steady_life_forgives() -> None:
    assert delays([0.1, 0.1, 0.1, STEADY_SECONDS, 0.1])[-2:] == [0.0, 0.1]


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
