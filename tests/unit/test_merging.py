"""Packets of several places leave a capture in the order of time."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.tap import merging
from mcr.tap.merging import Merging

PLACES = 3


@attrs.frozen
class Tick:
    """Something that happened at a place."""

    place: int
    time: int


@st.composite
def readings(draw: st.DrawFn) -> list[tuple[int, list[Tick]]]:
    """What places give, bit by bit; each of them in the order of time."""
    times = st.lists(st.integers(1, 100), max_size=20)
    rounds = []
    for place in range(PLACES):
        ticks = [Tick(place, each) for each in sorted(draw(times))]
        while ticks:
            size = draw(st.integers(1, len(ticks)))
            rounds.append((place, ticks[:size]))
            ticks = ticks[size:]
    order = draw(st.permutations(range(len(rounds))))
    by_place = [iter([each for each in rounds if each[0] == place]) for place in range(PLACES)]
    return [next(by_place[rounds[at][0]]) for at in order]


@given(readings())
def test_all_leaves_in_order_whichever_place_is_behind(rounds: list[tuple[int, list[Tick]]]) -> None:
    merging, left = Merging[Tick](PLACES), []
    for place, ticks in rounds:
        merging.add(place, ticks, ticks[-1].time - 1)
        left += merging.take()
    left += merging.rest()
    assert [each.time for each in left] == sorted(each.time for _, ticks in rounds for each in ticks)
    assert sorted(map(attrs.astuple, left)) == sorted(attrs.astuple(each) for _, ticks in rounds for each in ticks)
    assert not merging.holds


def test_nothing_waits_for_a_place_that_is_known_to_be_empty() -> None:
    merging = Merging[Tick](2)
    merging.add(0, [Tick(0, 10), Tick(0, 12)], 11)
    merging.add(1, [], 9)
    assert merging.take() == []
    merging.add(1, [], 30)
    assert merging.take() == [Tick(0, 10)]
    assert merging.holds
    merging.add(0, [], 30)
    assert merging.take() == [Tick(0, 12)]


def test_a_place_that_stays_behind_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MOST_HELD", 5)
    held = Merging[Tick](2)
    held.add(0, [Tick(0, time) for time in range(8)], 8)
    assert [each.time for each in held.take()] == [0, 1, 2]
