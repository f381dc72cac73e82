"""Datagrams of frames as a tap has them, and who is found to return what others send."""

import itertools
import random
from collections.abc import Iterable
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from mcr.model.flow import Flow
from mcr.net.filter.cbpf import accept_udp, select_udp
from mcr.tap import returns
from mcr.tap.copies import AGAIN, KINDS, Crowd, Echo, Origin, Return, Sightings, again
from mcr.tap.returns import Taken, Verdict, View, _Seen, _select, look_for_returners, share_of

MAC = bytes.fromhex("020000000001")
FLOW = bytes([239, 1, 1, 1, 0, 2])
S, B, C = (Origin(MAC, bytes([198, 18, 0, number])) for number in (1, 2, 3))


def test_who_sends_in_words() -> None:
    assert str(S) == "198.18.0.1 (02:00:00:00:00:01)"
    assert str(Origin(b"", S.address)) == "198.18.0.1"


def test_a_range_that_no_filter_holds_is_looked_at_all_the_same() -> None:
    """By a filter for all UDP of its VLAN, and what it takes is told of each datagram."""
    flows = [Flow(ip_address("239.1.0.0") + number, 5000, 7) for number in range(1024)]
    view = View(flows, 2, 1000.0, left=frozenset({C.address}))
    with pytest.raises(OverflowError):
        select_udp(flows, 14, by_source=True)
    assert _select(view, 14, 1, 0) == accept_udp({7})
    assert len(_select(view, 14, 4, 0)) > len(accept_udp({7}))
    taken = Taken(view)
    last, port = bytes([239, 1, 3, 255]), (5000).to_bytes(2)
    assert taken.takes(S, last + port)
    assert not taken.takes(C, last + port)
    assert not taken.takes(S, last + bytes(2))
    assert not taken.takes(S, bytes([239, 1, 4, 0]) + port)
    named = Taken(View([Flow(ip_address("239.1.1.1"), 2, source=ip_address(S.address))], 2, 1000.0))
    assert named.takes(S, FLOW)
    assert not named.takes(B, FLOW)


class Come:
    """A reading of such datagrams, and then of no more, one frame at a time; the rule takes one of so many."""

    is_whole, is_behind = True, False

    def __init__(self, came: Iterable[tuple[Origin, object]], taken: int = 1) -> None:
        self.frames, self._came, self._taken = 0, iter(came), taken

    def read(self, seconds: float) -> list[tuple[Origin, int]]:
        assert seconds >= 0
        origin, payload = next(self._came, (None, None))
        if not origin:
            return []
        self.frames += 1
        return [] if self.frames % self._taken else [(origin, hash(str(payload)))]


def sightings(came: Iterable[tuple[Origin, object]], *named: Origin) -> Sightings:
    made = Sightings({each.address for each in named})
    for origin, payload in came:
        made.add(origin, str(payload))
    return made


def found(*came: tuple[Origin, object]) -> tuple[Origin, ...]:
    return tuple(each.origin for each in sightings(came).returners())


def test_who_returns_payloads() -> None:
    """Also, while others circle that came before."""
    loop = [(origin, kind) for kind in range(KINDS) for origin in (S, *[B] * AGAIN)]
    old = [(B, f"old {number % 7}") for number in range(100)]
    assert found(*loop) == (B,)
    assert found(*old, *loop) == (B,)
    assert found(*loop[1:]) == ()
    twice = [(origin, kind) for kind in range(KINDS) for origin in (S, C, *[B] * again(2))]
    assert found(*twice) == (B,)
    assert found(*twice[:-1]) == ()
    assert found(*loop[:-1]) == ()
    assert found(*[(origin, kind) for kind in range(KINDS) for origin in (S, *[B, C] * AGAIN)]) == (B, C)


def test_what_keeps_its_source_is_told_by_its_mac() -> None:
    """Of one sender. Of two each one's datagrams come back from its own address, half of all: that machine is found."""
    other = bytes.fromhex("020000000002")
    back = {each: Origin(other, each.address) for each in (S, C)}
    assert found(*[(origin, kind) for kind in range(KINDS) for origin in (S, *[back[S]] * AGAIN)]) == (back[S],)
    two = [(sender, (sender, kind)) for kind in range(KINDS) for sender in (S, C)]
    came = [(origin, what) for sender, what in two for origin in (sender, *[back[sender]] * AGAIN)]
    assert found(*came) == ()
    (machine,) = sightings(came).by_machine().returners()
    assert machine == Return(Origin(other, b""), 2 * KINDS, 2 * KINDS, turns=4)
    assert str(machine.origin) == "addresses of others (02:00:00:00:00:02)"
    unchanged = sightings([(S, 0), (C, 0), (back[S], 1), (back[C], 2)])
    assert unchanged.by_machine() is unchanged
    often = [(origin, kind) for kind in range(12) for origin in (S, *[back[S]] * AGAIN)]
    first = [(origin, f"first {kind}") for kind in range(2) for origin in (*[back[S]] * AGAIN, S)]  # by two cards
    assert sightings([*first, *often]).by_machine().returners() == ()


def test_devices_behind_one_router_are_no_circle() -> None:
    """Each echoes a datagram once, from an address of its own: they are not one machine, though they have one MAC."""
    router = bytes.fromhex("020000000002")
    devices = [Origin(router, bytes([198, 18, 7, number])) for number in range(AGAIN)]
    came = [(origin, number) for number in range(20) for origin in (S, *devices)]
    keeping = Origin(router, S.address)
    assert sightings([*came, (S, "kept"), (keeping, "kept")]).by_machine().returners() == ()
    assert sightings(came).by_machine().returners() == ()


def judged(monkeypatch: pytest.MonkeyPatch, come: Any, *known: Origin, named: Iterable[bytes] = ()) -> Verdict:
    clock = itertools.count()
    monkeypatch.setattr(returns, "time", SimpleNamespace(monotonic=lambda: next(clock) / 400))
    view = View([Flow(ip_address("239.1.1.1"), 2)], 1, 600.0, known=frozenset(known), named=frozenset(named))
    return returns._watch(come, view).verdict


def test_a_look_ends_after_so_many_frames_whoever_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a filter lets in all UDP, most may be others'."""
    monkeypatch.setattr(returns, "MOST", 256)
    come = Come([(S, number) for number in range(300)], 64)
    judged(monkeypatch, come, B)
    assert come.frames == 256


def test_a_look_at_a_source_alone_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has said nothing twice, so nothing is in a circle; but who is known may still return it."""
    for known, frames in (((), 2048), ((B,), 3000)):
        monkeypatch.setattr(returns, "_SECONDS", 8)
        monkeypatch.setattr(returns, "_KNOWN_SECONDS", 8)
        come = Come((S, number) for number in range(3000))
        assert judged(monkeypatch, come, *known).is_varied
        assert come.frames == frames


def test_what_came_before_something_was_lost_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """It proves who returns it, and not that there is nothing."""

    class Lossy(Come):
        lost = 60

        def read(self, seconds: float) -> list[tuple[Origin, int]]:
            self.is_whole = self.frames < self.lost
            return super().read(seconds)

    lossy = Lossy(returning(S, count=20))
    assert [each.origin for each in judged(monkeypatch, lossy, B).returners] == [B]
    assert lossy.frames == 61
    own = ((who, (who.address, number)) for number in range(100) for who in (S, B))
    for lost, is_settled in ((60, False), (150, True)):
        Lossy.lost = lost
        verdict = judged(monkeypatch, Lossy((S, number) for number in range(200)), B)
        assert not verdict.is_whole
        assert not verdict.is_varied
        assert not verdict.is_over
        assert bool(verdict.echoes) is is_settled
    assert judged(monkeypatch, Lossy(own), B).echoes[0].is_source


class Heaped(Come):
    """Readings of many at once, each of which says whether it leaves some; then as `Come`."""

    def __init__(
        self, heaps: Iterable[tuple[list[tuple[Origin, object]], bool]], came: Iterable[tuple[Origin, object]]
    ) -> None:
        super().__init__(came)
        self._heaps = iter(heaps)

    def read(self, seconds: float) -> list[tuple[Origin, int]]:
        heap, self.is_behind = next(self._heaps, ([], False))
        return [(origin, hash(str(payload))) for origin, payload in heap] or super().read(seconds)


def heaps(count: int, size: int, *who: Origin, each: int = 1, is_behind: bool = True) -> Any:
    """So many readings of so many datagrams; every payload comes so often."""
    numbers = range(count * size)
    came = [(who[number % len(who)], f"heap {number // each}") for number in numbers]
    return [(came[number * size : (number + 1) * size], is_behind) for number in range(count)]


@pytest.mark.parametrize(
    "heaped",
    [heaps(10, 256, B, each=2), heaps(1, 3000, B, each=2, is_behind=False), heaps(70, 256, B, each=2)],
    ids=["behind", "super-frame", "thinned"],
)
def test_a_look_that_was_behind_ends_as_soon_as_it_is_proven(monkeypatch: pytest.MonkeyPatch, heaped: Any) -> None:
    """Once all of it is judged, so much a turn: not only when its time is over."""
    monkeypatch.setattr(returns, "_SECONDS", 8)
    come = Heaped(heaped, returning(S, count=400))
    assert [each.origin for each in judged(monkeypatch, come).returners] == [B]
    assert 0 < come.frames < 400


def test_nobody_is_judged_while_more_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket has room for little more."""
    monkeypatch.setattr(returns, "_SECONDS", 1)
    came = [(returning(S, count=20), True), *heaps(500, 4, S, C)]
    come = Heaped(came, ())
    assert judged(monkeypatch, come).seconds >= 1


def test_what_waits_as_a_look_settles_is_not_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came before, however late it is read; but a look that is always behind settles all the same."""
    monkeypatch.setattr(returns, "_SECONDS", 1)
    old = heaps(50, 100, B, each=2)
    (echo,) = judged(monkeypatch, Heaped(old, returning(S, count=40))).echoes
    assert (echo.origin, echo.own) == (B, 0)
    assert echo.sent > KINDS
    (echo,) = judged(monkeypatch, Heaped(heaps(500, 1, B), ()), B).echoes
    assert echo.own > 0


def test_a_look_that_goes_on_ends_once_a_part_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a loop that is full; a short one does not, as more may be."""
    came = [(who, each) for each in range(40) for who in (S, *[B] * (40 if each % 4 == 0 else 0), *[None] * 4)]
    come = Come([(who, what) if who else (B, "old") for who, what in came])
    assert [(each.origin, each.is_part) for each in judged(monkeypatch, come).returners] == [(B, True)]
    assert come.frames < len(came)


def test_who_is_known_by_its_mac_and_sends_from_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named by that one at once. While it sends from others', its loop is not over."""
    other = bytes.fromhex("020000000002")
    machine, own = Origin(other, b""), Origin(other, B.address)
    new = [(sender, (sender, kind)) for kind in range(KINDS) for sender in (S, C)]
    kept = [each for who, what in new for each in ((who, what), (Origin(other, who.address), what))]
    changed = [each for who, what in new for each in ((who, ("own", what)), *[(own, ("own", what))] * AGAIN)]
    assert [each.origin for each in judged(monkeypatch, Come([*kept[:4], *changed]), machine).returners] == [own]
    assert not judged(monkeypatch, Come(kept), machine).is_over
    assert judged(monkeypatch, Come(new), machine).is_over


def test_all_that_circles_comes_again_between_what_is_new() -> None:
    """As in a loop that is full: each payload takes a while to come the sixth time."""
    loop = list[tuple[Origin, object]]()
    for number in range(40):
        loop += [(S, number), *((B, old) for old in range(max(0, number - 8), number + 1))]
    (found,) = sightings(loop).returners()
    assert found.origin == B
    assert found.returned == found.sent > KINDS


def test_who_returns_some_of_what_others_send() -> None:
    """A device that says some values again, and not what others send."""
    three = [(S, number) if number % 4 else (C, number) for number in range(40)]
    echo = [each for who, number in three for each in ((who, number), *[(B, number)] * (AGAIN * (number % 4 > 0)))]
    assert found(*echo) == (B,)
    half = [each for who, number in three for each in ((who, number), *[(B, number)] * (AGAIN * (number % 2)))]
    assert found(*half) == ()


def test_what_is_over() -> None:
    fresh = [(S, number) for number in range(8)]
    assert sightings(fresh).are_over({B})
    assert sightings([*fresh, (B, "old"), (B, "old")]).are_over({B})
    assert not sightings([*fresh, (B, 3)]).are_over({B})
    assert not sightings(fresh[1:]).are_over({B})


@pytest.mark.parametrize(
    "came",
    [
        [(S, 0)] * 1000,
        [(S, number // 7) for number in range(1000)],
        [(S, 0), *[(B, 0)] * 1000],  # it takes over
        [(S, 0)] * 100 + [(B, number // 100) for number in range(1000)],
        [(S, number % 20) for number in range(40)] + [(B, number % 20) for number in range(1000)],  # cyclic values
        [(S, number) for number in range(20)] + [(B, number % 20) for number in range(1000)],
        [(origin, number) for number in range(1000) for origin in (S, B)],
        [(origin, number) for number in range(100) for origin in (*[S] * 5, *[B] * 5)],
        [(origin, number) for number in range(100) for origin in (*[S] * AGAIN, *[B] * AGAIN)],
        [(origin, number) for number in range(100) for origin in (*[S] * AGAIN, B)],
        [(origin, number) for number in range(100) for origin in (*[B] * AGAIN, S)],
        [(origin, number) for number in range(100) for origin in (S, B, B)],  # an echo
    ],
)
def test_sources_that_repeat_themselves_and_each_other(came: list[tuple[Origin, object]]) -> None:
    """Whichever of them another rule takes."""
    assert found(*came) == ()
    for named in ((), (S,), (B,), (S, B)):
        assert sightings(came, *named).returners() == sightings(came, *named).part_returners() == ()
    another = [(Origin(bytes(6), who.address) if who == B else who, what) for who, what in came]
    machines = sightings([*another, (Origin(bytes(6), C.address), "other")]).by_machine()
    assert machines.returners() == ()


def test_many_who_have_the_same_few_things_to_say() -> None:
    """One of them says much."""
    chance = random.Random(7)
    slow = [Origin(MAC, number.to_bytes(4, "big")) for number in range(100)]
    wrong = 0
    for _ in range(200):
        came = [(B, chance.randrange(20)) for _ in range(200)] + [(who, chance.randrange(20)) for who in slow[:25]]
        chance.shuffle(came)
        wrong += bool(found(*came))
    assert wrong <= 2


def test_what_is_varied() -> None:
    few, same, many = (
        sightings((S, n) for n in range(31)),
        sightings([(S, 0)] * 40),
        sightings((S, n) for n in range(32)),
    )
    assert (few.are_varied, same.are_varied, many.are_varied) == (False, False, True)


def test_shares() -> None:
    assert [share_of(rate) for rate in (500, 15_999, 16_000, 32_000, 240_000, 10**9)] == [1, 1, 2, 4, 16, 65536]


def test_what_lost_something_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a share by the rate of all that the filter lets in. A crowd that it may not have is not forgotten."""
    few = Crowd(B, 9000, 2, 0)
    verdict, shares = looked(monkeypatch, Verdict(crowd=few, is_whole=False), Verdict(is_varied=True))
    assert shares == [1, share_of(64 * 600)]
    assert verdict == Verdict(is_varied=True, crowd=few)


def looked(monkeypatch: pytest.MonkeyPatch, *verdicts: Verdict) -> tuple[Verdict, list[int]]:
    """What is found out by looks that see this, and the shares that they take."""
    shares = list[int]()

    def look(_view: View, _name: str, share: int) -> _Seen:
        shares.append(share)
        return _Seen(verdicts[len(shares) - 1], 64.0)

    monkeypatch.setattr(returns, "_look", look)
    return look_for_returners(View([Flow(ip_address("239.1.1.1"), 2)], 1, 600.0)), shares


def test_nobody_is_accused_of_whom_nothing_else_was_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where something is lost, or the look is full, before anything is surely new: a second look tells."""
    unheard = Verdict((Return(B, 8, 8),), is_whole=False)
    heard = attrs.evolve(unheard, echoes=(Echo(B, 8, 0, 8),))
    full = attrs.evolve(unheard, is_whole=True)
    assert looked(monkeypatch, full, heard)[0] == heard
    assert looked(monkeypatch, full, full)[0].returners == ()
    assert looked(monkeypatch, heard) == (heard, [1])
    assert looked(monkeypatch, unheard, heard)[0] == heard
    for second in (Verdict(is_varied=True), attrs.evolve(heard, is_whole=True)):
        assert looked(monkeypatch, unheard, second)[0] == second
    assert looked(monkeypatch, unheard, unheard)[0].returners == ()


def echo(*came: tuple[Origin, object], before: Iterable[tuple[Origin, object]] = ()) -> Echo:
    """Of B, of what came after what was on its way."""
    seen = sightings(before)
    assert seen.echoes({B}) == ()
    seen.settle()
    for origin, payload in came:
        seen.add(origin, str(payload))
    (found,) = seen.echoes({B})
    return found


def returning(of: Origin, times: int = AGAIN, count: int = 8) -> list[tuple[Origin, object]]:
    """What B makes of what somebody sends."""
    return [(origin, (of.address, number)) for number in range(count) for origin in (of, *[B] * times)]


def test_a_look_goes_on_until_it_is_proven_without_what_other_rules_take(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = judged(monkeypatch, Come(returning(C, count=40) + returning(S)), B, named=[C.address]).returners
    assert not found.is_beside


def beside(came: list[tuple[Origin, object]]) -> tuple[tuple[Origin, ...], Echo]:
    """Who returns it, and what B does, where another rule takes what C sends."""
    made = sightings([], C)
    made.settle()
    for origin, payload in came:
        made.add(origin, payload)
    return tuple(each.origin for each in made.returners()), made.echoes({B})[0]


def test_what_another_rule_takes_by_its_source_is_not_the_returner_s_own() -> None:
    """It comes from others; whether it comes back says nothing about the rest, nor about its source."""
    for came, count in ((returning(C), 0), (returning(S) + returning(C), 8), (returning(C) + returning(S), 8)):
        assert beside(came) == ((B,), Echo(B, returned=count, own=0, sent=count, turns=4 if count else 0))
        assert [each.is_beside for each in sightings(came, C).returners()] == [not count]
    late = [(who, number) for number in range(8) for who in (C, S, *[B] * again(2))]
    assert [each.is_beside for each in sightings(late, C).returners()] == [True]  # C has said it first
    who, echo = beside(returning(S) + returning(C, 0, 30))
    assert (who, echo.returned, echo.sent) == ((B,), 8, 8)
    assert beside([(C if origin == B else origin, what) for origin, what in returning(S)])[0] == ()
    assert beside(returning(C, 1))[0] == beside(returning(C, AGAIN - 1))[0] == ()
    assert beside(returning(S) + [(B, number) for number in range(4)])[1].is_source


def test_who_is_redundant_to_a_source_of_another_rule_is_no_echo_of_it() -> None:
    """Though it returns what others send: before it is refused. Afterwards once is all that it can return."""
    mixed = [each for pair in zip(returning(S), returning(C, 1, 28), strict=True) for each in pair]
    assert len(mixed) == 112
    who, echo = beside(mixed)
    assert (who, echo.own, echo.is_double) == ((B,), 0, True)
    assert not beside(returning(C, 1))[1].is_double
    assert not beside([*returning(S), *returning(C, 1)])[1].is_double  # it may still come again


def test_what_another_rule_s_source_says_ends_nothing() -> None:
    """That does not come back; but what does goes on."""
    fresh: list[tuple[Origin, object]] = [(S, number) for number in range(8)]
    said: list[tuple[Origin, object]] = [(C, f"c {number}") for number in range(20)]
    assert sightings([*fresh, *said], C).are_over({B})
    assert not sightings([*fresh[1:], *said], C).are_over({B})
    assert not sightings([*fresh, *said, (B, "c 3")], C).are_over({B})
    assert not beside(said)[1].is_over
    assert beside([*fresh, *said])[1].is_over
    assert beside([*fresh, *said, (B, "c 3")])[1].is_over  # of what is held against it


def test_who_returns_and_who_sends_what_is_its_own() -> None:
    """Of what others send, as far as it is new; an address that others have is nobody's."""
    damped = [(origin, number) for number in range(20) for origin in (S, B)]
    own = [(B, f"own {number}") for number in range(4)]
    assert echo(*damped) == Echo(B, returned=20, own=0, sent=20)
    assert not echo(*damped).is_source
    assert not echo(*damped, *own[:3]).is_source
    assert echo(*damped, *own) == Echo(B, 20, 4, 20)
    assert echo(*damped, *own).is_source
    assert not echo(*damped, *own, before=own).is_source
    assert not echo(*damped, *((origin, f"more {number}") for number in range(20) for origin in (C, B)), *own).is_source
    assert echo(*damped[:14], before=damped) == Echo(B, 0, 0, 0)
    assert not echo(*damped[:14], before=damped).is_over
    assert echo(*((S, number) for number in range(8))).is_over
    assert not echo(*((S, number) for number in range(7))).is_over
    assert echo(*damped, (Origin(bytes(6), B.address), 1)).is_shared
    assert not echo(*damped).is_shared
