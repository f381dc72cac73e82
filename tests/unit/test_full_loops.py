"""Loops over other machines that are so full that most of what others send gets lost."""

import itertools
from collections.abc import Iterable
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from mcr.model.flow import Flow
from mcr.tap import returns
from mcr.tap.copies import AGAIN, KINDS, Crowd, Echo, Origin, Return, Sightings, again, are_again
from mcr.tap.returns import Verdict, View

MAC = bytes.fromhex("020000000001")
S, B, C = (Origin(MAC, bytes([198, 18, 0, number])) for number in (1, 2, 3))

Came = Iterable[tuple[Origin, object]]


def sightings(came: Came, *named: Origin) -> Sightings:
    made = Sightings({each.address for each in named})
    for origin, payload in came:
        made.add(origin, payload)
    return made


def lossy(of: int, times: int, count: int = 40) -> list[tuple[Origin, object]]:
    """One datagram of so many finds a place, and circles until it gets lost; what circled before goes on."""
    came = list[tuple[Origin, object]]()
    for number in range(count):
        came += [(S, number), *[(B, "old")] * 4, *[(B, number)] * (times if number % of == 0 else 0)]
    return came


def test_some_of_what_others_send_circles() -> None:
    """Far more often than others send, or most of it: whether that is a loop has to be tried."""
    full = sightings(lossy(4, 40))
    assert full.returners() == ()
    assert full.part_returners() == (Return(B, 10, 37, is_part=True, turns=38),)
    most = sightings(each for each in lossy(1, AGAIN) if each[1] == "old" or int(str(each[1])) % 3 or each[0] == S)
    assert most.returners() == ()
    assert [each.origin for each in most.part_returners()] == [B]
    assert sightings(lossy(4, 40), B).part_returners() == ()
    assert sightings(lossy(4, 40, 4 * KINDS - 4)).part_returners() == ()


def test_a_device_that_echoes_some_of_what_it_hears_is_not_tried() -> None:
    assert sightings(lossy(3, AGAIN)).part_returners() == ()
    assert sightings(lossy(4, 2 * AGAIN)).part_returners() == ()


@pytest.mark.parametrize(
    "came",
    [
        [(S, "silence")] * 2000 + [(C, number) for number in range(30)],
        [(B, "null"), *[(B, "null"), (S, "null")] * 1000],
        [(B, number % 50) for number in range(4000)],
        [(B if number % 20 else S, number % 49) for number in range(4000)],  # who says some of what a carousel says
        [each for number in range(1000) for each in (*[(B, number % 50)] * 12, (S, number % 50))],
        [each for number in range(400) for each in (*[(B, number % 50)] * 12, (S, f"own {number}"))],
        [each for number in range(900) for each in ((S, number), (B, number))],  # redundant
        [each for number in range(300) for each in (*[(S, number)] * 6, *[(B, number)] * 6)],
    ],
    ids=["silence", "nulls", "carousel", "echo", "bursts", "beside", "redundant", "repeated"],
)
def test_sources_that_drown_others_are_not_tried(came: list[tuple[Origin, object]]) -> None:
    """A carousel, constant payloads, redundant feeds: whatever they are named for, nobody is refused for a moment."""
    made = sightings(came)
    assert made.returners() == made.part_returners() == made.by_machine().returners() == ()


def test_who_may_be_a_loop_into_which_nothing_new_gets() -> None:
    """Or a source that repeats itself: it says little, and others hardly come through."""
    came = [(B, number % 4) for number in range(1000)]
    others = [(S, number) for number in range(125)]
    assert sightings([*came, *others]).crowd() == Crowd(B, 1000, 4, 125)
    assert sightings(came).crowd() == Crowd(B, 1000, 4, 0)
    assert sightings(came[1:]).crowd() is None
    assert sightings([*came, *others, (S, "more")]).crowd() is None
    assert sightings([(B, number % 63) for number in range(1000)]).crowd() is None
    assert sightings(came, B).crowd() is None
    assert sightings([]).crowd() is None
    other = Origin(bytes(6), B.address)
    assert sightings([*came, (other, "kept")]).crowd() == Crowd(B, 1000, 4, 1, is_shared=True)


class Steady:
    """A reading in which somebody says the same few things, ten times at a time, with so many more between."""

    is_whole, is_behind, frames = True, False, 0

    def __init__(self, others: int) -> None:
        self._others = others

    def read(self, _seconds: float) -> list[tuple[Origin, int]]:
        self.frames += 10
        return [(B, number % 4) for number in range(10)] + [(S, self.frames + number) for number in range(self._others)]


@pytest.mark.parametrize(("is_to_be_tried", "others", "seconds"), [(True, 1, 0.25), (False, 1, 3), (True, 10, 0.5)])
def test_a_look_ends_by_whom_a_trial_is_to_tell_of(
    monkeypatch: pytest.MonkeyPatch, is_to_be_tried: bool, others: int, seconds: float
) -> None:
    """Once it has said enough."""
    clock = itertools.count()
    monkeypatch.setattr(returns, "time", SimpleNamespace(monotonic=lambda: next(clock) / 400))
    view = View([Flow(ip_address("239.1.1.1"), 2)], 1, 4000.0, is_to_be_tried=is_to_be_tried)
    reading: Any = Steady(others)
    verdict = returns._watch(reading, view).verdict
    assert verdict.seconds == pytest.approx(seconds, abs=0.02)
    assert bool(verdict.crowd) == (others == 1)


def test_a_look_that_lost_something_is_enough_for_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = list[int]()

    def look(_view: View, _name: str, share: int) -> returns._Seen:
        looks.append(share)
        return returns._Seen(Verdict(crowd=Crowd(B, 9000, 2, 0), is_whole=False), 1.0)

    monkeypatch.setattr(returns, "_look", look)
    view = View([Flow(ip_address("239.1.1.1"), 2)], 1, 4000.0)
    for is_to_be_tried, count in ((True, 1), (False, 3)):
        assert returns.look_for_returners(attrs.evolve(view, is_to_be_tried=is_to_be_tried)).crowd
        assert len(looks) == count


def test_what_circles_as_a_look_begins_is_not_the_returner_s_own() -> None:
    """It comes within a turn, however long that takes; what comes later is."""
    for own in (0, 1):
        made = sightings([])
        made.settle()
        for number in range(60):
            came = [(S, number), *[(B, number - 20)] * AGAIN, *[(B, f"its own {number}")] * own]
            for origin, payload in came:
                made.add(origin, payload)
        (echo,) = made.echoes({B})
        assert echo.is_source == bool(own)


def mixed(own: int, late: tuple[int, ...] = (), wait: int = 40) -> Came:
    """A device returns what others say at once, but for some of it, and says things of its own."""
    waiting = list[tuple[int, int]]()
    for number in range(60):
        yield S, number
        back = [each for due, each in waiting if due == number] if number in late else [number]
        if number in late:
            waiting.append((number + wait, number))
            back = []
        back += [each for due, each in waiting if due == number]
        for each in back:
            yield from [(B, each)] * AGAIN
        yield from [(B, f"its own {number}")] * own


def echoes_of(came: Came, *of: Origin) -> tuple[Echo, ...]:
    made = sightings([])
    made.settle()
    for origin, payload in came:
        made.add(origin, payload)
    return made.echoes(of)


def test_one_payload_that_is_late_speaks_for_nobody_less() -> None:
    """Its turn is not the loop's. If there are more of them little is left, and that is no evidence, either."""
    (echo,) = echoes_of(mixed(1, (8,)), B)
    assert (echo.is_source, echo.is_little) == (True, False)
    assert echo.own > 50
    (echo,) = echoes_of(mixed(0, (2, 4), 54), B)
    assert (echo.is_source, echo.is_little) == (False, True)
    assert not echoes_of([(S, 0), (B, 0)], B)[0].is_little  # no turn has been seen


def test_who_returns_slowly_takes_nothing_from_what_speaks_for_others() -> None:
    """Each turn is somebody's own."""
    slow = [(C, number) for number in range(60) for _ in range(AGAIN)]
    one, other = echoes_of([*mixed(1), *slow], B, C)
    assert (one.origin, one.is_source, one.is_little, one.own) == (B, True, False, 60)
    assert (other.origin, other.own) == (C, 0)


def test_what_goes_on_to_come_back_often_is_told() -> None:
    """Once who returned it is refused, a loop brings each datagram back once for each output."""
    for times in (1, 2):
        made = sightings([(S, "before")] * times)
        made.settle()
        for number in range(20):
            for origin in (*[S] * times, *[B] * (again(times) if number == 3 else 2)):
                made.add(origin, number)
        (echo,) = made.echoes({B})
        assert echo == Echo(B, 20, 0, 20, turns=4)
        assert (are_again(echo.turns, 1), are_again(echo.turns, 2)) == (True, False)
