"""Whether somebody falls silent by being refused."""

import pytest

from mcr.actors.refused import Fall

STEP = 0.05


def fallen(
    *rates: float, others: float = 0.0, outputs: int = 1, step: float = STEP, is_heeded: bool = True
) -> list[bool | None]:
    """What readings tell, one after the other, of one that sent 4,000 a second."""
    fall, now, refused, matched = Fall(4000, outputs, 10.0), 10.0, 0, 0
    assert fall.read(now, 7, 7, is_heeded=True) is None
    fall.begin(now, 0, 0)
    told = list[bool | None]()
    for rate in rates:
        now, refused, matched = now + step, refused + round(rate * step), matched + round(others * step)
        fall.begin(now, refused, matched)  # again, as workers are told from time to time
        told.append(fall.read(now, refused, matched, is_heeded=is_heeded))
    return told


def test_a_circle_falls_silent() -> None:
    """Once what was on its way has come. What others send comes back once for each output."""
    assert fallen(4000, 300, 0, 0, 0) == [None, None, None, None, True]
    assert fallen(0, 0, 0, 0) == [None, None, None, True]
    assert fallen(1000, 1000, 1000, 1000, others=300, outputs=2) == [None, None, None, True]
    assert True not in fallen(1100, 1100, 1100, 1100, others=300, outputs=2)


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ((4000, 4000), [None, False]),
        ((2100, 2100), [None, False]),
        ((8000, 0, 8000), [None, None, False]),
        ((0, 0, 0, 8000), [None, None, None, False]),
    ],
    ids=["as before", "half", "bursts", "late"],
)
def test_a_source_goes_on(rates: tuple[float, ...], told: list[bool | None]) -> None:
    """Whatever others send."""
    assert fallen(*rates) == fallen(*rates, others=10_000, outputs=3) == told


def test_what_stays_unsure_for_a_second_goes_on() -> None:
    assert fallen(*[1900] * 20) == [*[None] * 19, False]


def test_where_workers_may_not_refuse_it_only_what_comes_tells_something() -> None:
    """They stand still, or the rule takes it as before."""
    assert True not in fallen(*[0] * 20, is_heeded=False)
    assert fallen(4000, 4000, is_heeded=False) == [None, False]
    assert True not in fallen(*[0] * 20, others=2100)
    assert fallen(*[0] * 4, others=1900)[-1] is True


def test_a_reading_that_comes_at_once_tells_nothing() -> None:
    fall = Fall(4000, 1, 10.0)
    fall.begin(10.0, 0, 0)
    assert [fall.read(10.0 + after, 10, 0, is_heeded=True) for after in (0.0, 0.001, 0.002)] == [None] * 3
    assert not fall.is_loud


def test_who_goes_on_later_has_only_paused() -> None:
    """For half a second, without a break: others may send much for a moment."""
    silent = [0.0] * 4
    assert fallen(*silent, *[4000] * 9, 0, *[4000] * 10) == [*[None] * 3, True, *[None] * 19, False]


def test_a_machine_that_stands_still_proves_nothing() -> None:
    assert fallen(0, 0, 0, 0, step=0.16) == [None] * 4
    assert fallen(*[0] * 8, step=0.16)[6:] == [False, False]


def test_a_busy_machine_tells_nothing_for_sure() -> None:
    """Where it takes long to tell workers, or to read what they count, much may still wait for them."""
    for told, late, is_doubtful in ((10.1, 0.0, False), (10.11, 0.0, True), (10.0, 0.2, True)):
        fall = Fall(4000, 1, asked=10.0)
        fall.begin(told, 0, 0)
        assert fall.read(told + STEP + late, 200, 0, is_heeded=True) is None
        assert fall.is_doubtful == is_doubtful
