"""Datagrams of frames as a tap has them, and who is found to return what others send."""

import itertools
import random
import socket
import struct
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from mcr.model.flow import Flow
from mcr.net import uapi
from mcr.net.filter.cbpf import accept_udp, select_udp
from mcr.tap import returns
from mcr.tap.copies import AGAIN, KINDS, Echo, Origin, Return, Sightings, again
from mcr.tap.returns import Taken, Verdict, View, _select, datagrams, look_for_returners, share_of

MAC = bytes.fromhex("020000000001")
FLOW = bytes([239, 1, 1, 1, 0, 2])
S, B, C = (Origin(MAC, bytes([198, 18, 0, number])) for number in (1, 2, 3))


def seen(
    packet: Packet, segment: int = 0, pad: bytes = b"", *, vlan: int = 0, tag: int | None = None
) -> list[tuple[Origin, bytes, bytes]]:
    header = uapi.VIRTIO_NET_HDR.pack(0, uapi.VIRTIO_NET_HDR_GSO_UDP_L4 if segment else 0, 0, segment, 0, 0)
    status = 0 if tag is None else uapi.TP_STATUS_VLAN_VALID
    auxiliary = uapi.TPACKET_AUXDATA.pack(status, 0, 0, 0, 14, tag or 0, 0)
    frame = bytes(Ether(src=MAC.hex(":"), dst="01:00:5e:01:01:01") / packet)
    return [*datagrams(header + frame + pad, [(0, 0, auxiliary)], 14, vlan)]


def test_datagrams_of_frames() -> None:
    udp = UDP(sport=1, dport=2) / Raw(b"abcdefg")
    assert seen(IP(src="198.18.0.1", dst="239.1.1.1") / udp, pad=bytes(11)) == [(S, FLOW, b"abcdefg")]
    assert seen(IP(src="198.18.0.1", dst="239.1.1.1") / udp, segment=3) == [
        (S, FLOW, b"abc"),
        (S, FLOW, b"def"),
        (S, FLOW, b"g"),
    ]
    assert seen(IP(src="198.18.0.1", dst="239.1.1.1") / UDP(dport=2)) == [(S, FLOW, b"")]
    six = Origin(MAC, bytes(15) + b"\1")
    assert seen(IPv6(src="::1", dst="::2") / udp) == [(six, bytes(15) + b"\2\0\2", b"abcdefg")]


@pytest.mark.parametrize("packet", [IP(frag=1) / UDP(), IP(flags="MF") / UDP(), IP(proto=6), IPv6(nh=6), Raw(b"\x45")])
def test_what_has_none(packet: Packet) -> None:
    assert seen(packet) == []


def test_who_sends_in_words() -> None:
    assert str(S) == "198.18.0.1 (02:00:00:00:00:01)"
    assert str(Origin(b"", S.address)) == "198.18.0.1"


@pytest.mark.parametrize(
    ("vlan", "tag", "is_meant"),
    [(0, None, True), (0, 0xE000, True), (7, 0xE007, True), (0, 7, False), (7, 8, False), (7, None, False)],
)
def test_a_rule_sees_the_frames_of_its_vlan(vlan: int, tag: int | None, is_meant: bool) -> None:
    assert bool(seen(IP(src="198.18.0.1", dst="239.1.1.1") / UDP(dport=2), vlan=vlan, tag=tag)) is is_meant


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


def frame(origin: Origin, group: bytes, payload: bytes) -> bytes:
    """To port 2. Not by scapy: there are thousands of them."""
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, socket.IPPROTO_UDP, 0) + origin.address + group
    udp = struct.pack("!HHHH", 53, 2, 8 + len(payload), 0)
    return bytes.fromhex("01005e010101") + origin.mac + struct.pack("!H", uapi.ETH_P_IP) + ip + udp + payload


class Tap:
    """A socket that such datagrams come to, and then no more; one of so many is to the rule's group."""

    def __init__(self, came: Iterable[tuple[Origin, object]], taken: int = 1, *, is_lossy: bool = False) -> None:
        self.frames, self._came, self._taken, self._is_lossy = 0, iter(came), taken, is_lossy

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def recvmsg_into(self, buffers: list[bytearray], room: int) -> tuple[int, list[tuple[int, int, bytes]], int, None]:
        assert room
        origin, payload = next(self._came, (None, None))
        if not origin:
            raise TimeoutError
        self.frames += 1
        group = "239.1.1.1" if self.frames % self._taken == 0 else "239.1.1.2"
        data = bytes(uapi.VIRTIO_NET_HDR.size) + frame(origin, ip_address(group).packed, str(payload).encode())
        buffers[0][: len(data)] = data
        return len(data), [(0, 0, uapi.TPACKET_AUXDATA.pack(0, 0, 0, 0, 14, 0, 0))], 0, None

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option, size) == (uapi.SOL_PACKET, uapi.PACKET_STATISTICS, 8)
        return bytes(7) + bytes([self._is_lossy])


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
    assert machine == Return(Origin(other, b""), 2 * KINDS, 2 * KINDS)
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


def judged(monkeypatch: pytest.MonkeyPatch, tap: Any, known: Origin, *named: bytes) -> Verdict:
    clock = itertools.count()
    monkeypatch.setattr(returns, "time", SimpleNamespace(monotonic=lambda: next(clock) / 400))
    view = View([Flow(ip_address("239.1.1.1"), 2)], 1, 600.0, known=frozenset({known}), named=frozenset(named))
    return returns._watch(tap, 14, view).verdict


def test_a_look_ends_after_so_many_frames_whoever_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a filter lets in all UDP, most may be others'; a share of it goes by all that comes."""
    monkeypatch.setattr(returns, "_DATAGRAMS", 256)
    came = [(S, number) for number in range(300)]
    tap, shares, taps = Tap(came, 64), list[int](), [Tap(came, 64, is_lossy=True), Tap(came, 64)]
    judged(monkeypatch, tap, B)
    assert tap.frames == 256

    def opened(_view: View, _name: str, share: int) -> AbstractContextManager[Tap]:
        shares.append(share)
        return nullcontext(taps[len(shares) - 1])

    monkeypatch.setattr(returns, "_open", opened)
    monkeypatch.setattr(returns, "link_header", lambda _tap: 14)
    look_for_returners(View([Flow(ip_address("239.1.1.1"), 2)], 1, 600.0))
    assert shares == [1, share_of(64 * 600)]


def test_a_look_that_goes_on_ends_once_a_part_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a loop that is full; a short one does not, as more may be."""
    came = [(who, each) for each in range(40) for who in (S, *[B] * (40 if each % 4 == 0 else 0), *[None] * 4)]
    tap, clock = Tap([(who, what) if who else (B, "old") for who, what in came]), itertools.count()
    monkeypatch.setattr(returns, "time", SimpleNamespace(monotonic=lambda: next(clock) / 400))
    seen = returns._watch(tap, 14, View([Flow(ip_address("239.1.1.1"), 2)], 1, 600.0))  # type: ignore[arg-type]
    assert tap.frames < len(came)
    assert [(each.origin, each.is_part) for each in seen.verdict.returners] == [(B, True)]


def test_who_is_known_by_its_mac_and_sends_from_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named by that one at once. While it sends from others', its loop is not over."""
    other = bytes.fromhex("020000000002")
    machine, own = Origin(other, b""), Origin(other, B.address)
    new = [(sender, (sender, kind)) for kind in range(KINDS) for sender in (S, C)]
    kept = [each for who, what in new for each in ((who, what), (Origin(other, who.address), what))]
    changed = [each for who, what in new for each in ((who, ("own", what)), *[(own, ("own", what))] * AGAIN)]
    assert [each.origin for each in judged(monkeypatch, Tap([*kept[:4], *changed]), machine).returners] == [own]
    assert not judged(monkeypatch, Tap(kept), machine).is_over
    assert judged(monkeypatch, Tap(new), machine).is_over


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
    assert [share_of(rate) for rate in (500, 3999, 4000, 8000, 60_000, 10**9)] == [1, 1, 2, 4, 16, 65536]


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
    (found,) = judged(monkeypatch, Tap(returning(C, count=40) + returning(S)), B, C.address).returners
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


@pytest.mark.parametrize(
    ("count", "origins", "payloads", "are_plain"),
    [
        (2048, 1, 2048, True),
        (2047, 1, 2047, False),
        (2048, 2, 2048, False),
        (2048, 1, 1920, False),
        (2048, 1, 1921, True),
    ],
)
def test_a_source_alone_is_soon_seen_to_be_one(count: int, origins: int, payloads: int, are_plain: bool) -> None:
    """Unless another sends, or it says again what it has said: a circle of its own looks like that."""
    made = Sightings()
    for number in range(count):
        made.add((S, B)[number % origins], number % payloads)
    assert made.are_plain is are_plain
