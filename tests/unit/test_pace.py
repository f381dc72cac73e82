"""When a worker waits for packets to gather: the batching delay."""

from mcr._native import ffi, lib


def delays(turns: list[tuple[int, int]]) -> list[bool]:
    """Whether it waits after each turn, given as (microseconds since the last, packets taken)."""
    pace, now, answers = ffi.new("struct mcr_pace *"), 1_000_000_000, []
    lib.mcr_pace_step(pace, 0, now)
    for passed, packets in turns:
        now += passed * 1000
        answers.append(lib.mcr_pace_step(pace, packets, now))
    return answers


def test_sparse_traffic_never_waits() -> None:
    """20,000 packets per second: one in a delay."""
    assert not any(delays([(50, 1)] * 200))


def test_dense_traffic_gathers_once_its_rate_is_known() -> None:
    """200,000 packets per second: ten in a delay; a window of a millisecond tells."""
    answers = delays([(10, 2)] * 300)
    assert not any(answers[:99])
    assert all(answers[201:])


def test_enough_for_a_train_is_sent_at_once() -> None:
    assert not any(delays([(50, 16)] * 100)[50:])


def test_after_the_traffic_has_stopped_there_is_no_delay() -> None:
    assert delays([*[(10, 2)] * 300, (10, 0)])[-1] is False


def test_traffic_that_thins_out_is_no_longer_held_up() -> None:
    assert not any(delays([*[(10, 2)] * 300, *[(100, 1)] * 60])[-40:])
