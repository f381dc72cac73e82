"""A look at the wire, on a real link: what it makes out of which frame."""

import threading
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address
from typing import Any, TypeVar

import attrs
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from lab import Lab
from mcr.errors import InterfaceNotFound, SystemFault
from mcr.model.flow import Input
from mcr.net.links import Link
from mcr.tap import probe, strays, unmatched
from mcr.tap.probe import look_at_wire
from mcr.tap.sighting import Look, Sighting, Tag, Wanted
from mcr.tap.strays import look_for_strays
from mcr.tap.unmatched import look_for_unmatched
from trafficgen.interface import open_interface

LINK = Link("b0", 11)
SOURCE = Input("b0", IPv4Address("239.1.1.1"), 5000)
GROUP, OTHER = IPv4Address("239.1.1.1"), IPv4Address("239.1.1.2")
A, B, C = (IPv4Address("198.18.0.1") + i for i in range(3))  # senders
QUERY = bytes.fromhex("1164ee9b00000000")
FEW = 8_192  # bytes: some 20 frames. As ever, fewer wait than in all rounds of a look, however seldom it reads them
REPORT = bytes.fromhex("1600f9fcef010101")


def frame(
    *tags: Packet, group: str = "239.1.1.1", port: int = 5000, src: str = "198.18.0.1", size: int = 100, **ip: Any
) -> Packet:
    link = Ether(dst="01:00:5e:01:01:01")
    for tag in tags:
        link /= tag
    return link / IP(src=src, dst=group, **ip) / UDP(sport=4000, dport=port) / Raw(bytes(size))


def igmp(message: bytes) -> Packet:
    return Ether(dst="01:00:5e:00:00:01") / IP(src="198.18.0.1", dst="224.0.0.1", proto=2) / Raw(message)


Watch = Callable[..., Any]


def look_at_b0(seconds: float = 0.1) -> Look:
    return look_at_wire(Wanted(SOURCE), 11, seconds)


Found = TypeVar("Found")


def look_until(look: Callable[[], Found], is_seen: Callable[[Found], object]) -> Found:
    """A busy machine may let nobody send during a look."""
    found = look()
    for _ in range(50):
        if is_seen(found):
            break
        found = look()
    return found


def look_until_seen() -> Look:
    return look_until(look_at_b0, lambda look: look.frames or look.queries)


def strays_of(inputs: list[Input]) -> Iterable[Sighting]:
    return look_until(lambda: look_for_strays([LINK], inputs), bool)


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Look at b0 while frames are sent to it again and again, or by it, if they are to come from it."""
    with Lab() as lab:
        a, b = lab.namespace("a"), lab.namespace("b")
        lab.link(a, "a0", b, "b0")
        with a.entered():
            sender = open_interface("a0")

        def watch(*frames: Packet, look: Callable[[], Any] = look_at_b0) -> Any:
            built = {id(each): bytes(each) for each in {id(each): each for each in frames}.values()}  # scapy is slow
            data, ended = [built[id(each)] for each in frames], threading.Event()

            def send() -> None:
                while not ended.wait(0.002):
                    for each in data:
                        sender.send(each)

            thread = threading.Thread(target=send)
            thread.start()
            try:
                with b.entered():
                    return look()
            finally:
                ended.set()
                thread.join()

        with sender:
            yield watch


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (frame(port=5001), Sighting("b0", GROUP, 5001)),
        (frame(group="239.1.1.2"), Sighting("b0", OTHER, 5000)),
        (frame(Dot1Q(vlan=100)), Sighting("b0", GROUP, 5000, (Tag(100),))),
        (frame(Dot1AD(vlan=7), Dot1Q(vlan=100, prio=2)), Sighting("b0", GROUP, 5000, (Tag(7, 0x88A8), Tag(100)))),
        (frame(Dot1Q(vlan=100), group="239.1.1.2"), Sighting("b0", OTHER, 5000, (Tag(100),))),
        (frame(flags="MF"), Sighting("b0", GROUP, 5000, (), fragment=True)),
        (frame(frag=100), Sighting("b0", GROUP, None, (), fragment=True)),
        (frame(options=[b"\x94\x04\0\0"], port=5001), Sighting("b0", GROUP, 5001)),
        (frame(options=[b"\x94\x04\0\0"], group="239.1.1.2"), Sighting("b0", OTHER, 5000)),
    ],
    ids=str,
)
def test_kin_is_seen_for_what_it_is(watch: Watch, sent: Packet, seen: Sighting) -> None:
    look = watch(sent, look=look_until_seen)
    assert set(look.frames) == {seen}
    assert look.payload is None
    assert look.cut == look.largest == (100 if seen == Sighting("b0", GROUP, 5000, (), fragment=True) else None)
    assert look.seconds >= 0.1


def test_strangers_are_not_seen(watch: Watch) -> None:
    """Another group and port, a host, TCP, an IGMP report, another group's fragment, ARP, what is cut short."""
    strangers = (
        frame(group="239.1.1.2", port=5001),
        frame(group="198.18.0.2"),
        frame(proto=6),
        igmp(REPORT),
        frame(group="239.1.1.2", frag=100),
        Ether(dst="ff:ff:ff:ff:ff:ff", type=0x0806) / Raw(bytes(46)),
        Ether(dst="01:00:5e:01:01:01", type=0x0800) / Raw(b"\x45\x00"),
        Ether(dst="01:00:5e:01:01:01") / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / frame()[IP],
    )
    look = watch(*strangers)
    assert (look.frames, look.queries) == ({}, {})


@pytest.mark.parametrize("flow", [frame(), frame(Dot1Q(vlan=0, prio=5))], ids=["plain", "with a priority"])
def test_the_look_ends_with_the_flow(watch: Watch, flow: Packet) -> None:
    look = watch(flow, igmp(QUERY), look=lambda: look_at_b0(10))
    assert look.seconds < 5
    assert look.payload == 100
    assert look.frames == {Sighting.of(SOURCE): 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted",
    [Wanted(attrs.evolve(SOURCE, sources=(B, C)), by_source=True), Wanted(SOURCE, frozenset({A}), by_source=True)],
    ids=["from some", "but from one"],
)
def test_a_fast_source_does_not_hide_a_slow_one(watch: Watch, monkeypatch: pytest.MonkeyPatch, wanted: Wanted) -> None:
    """The rule does not take the fast one, which is more than a look counts."""
    monkeypatch.setattr(probe, "_FRAMES", 1_000)  # more than the socket holds
    frames = [*[frame()] * 20_000, frame(src=str(B))]
    look = watch(*frames, look=lambda: look_at_wire(wanted, 11, 20))
    assert look.payload == 100
    assert look.frames[attrs.evolve(Sighting.of(SOURCE), source=B)] == 1


def test_queries_are_counted(watch: Watch) -> None:
    assert set(watch(igmp(QUERY), look=look_until_seen).queries) == {"b0"}


@pytest.mark.parametrize("rules", [1, pytest.param(2_000, marks=pytest.mark.slow)])
def test_what_no_rule_takes_is_seen(watch: Watch, rules: int) -> None:
    """Also with more rules than a filter has room for; not what is sent to hosts, nor in fragments, nor tagged."""
    inputs = [SOURCE, *(Input("b0", IPv4Address("239.9.0.0") + i, 5000) for i in range(1, rules))]
    frames = (frame(), frame(port=5001), frame(group="198.18.0.2"), frame(flags="MF", port=7), frame(Dot1Q(vlan=1)))
    found = watch(*frames, look=lambda: strays_of(inputs))
    assert set(found) == {Sighting("b0", GROUP, 5001)}


def test_what_rules_take_from_a_source_hides_no_other(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strays, "_FRAMES", 100)
    inputs = [attrs.evolve(SOURCE, sources=(A, C))]
    frames = [*[frame(), frame(src=str(C))] * 100, frame(src=str(B))]
    found = watch(*frames, look=lambda: strays_of(inputs))
    assert set(found) == {attrs.evolve(Sighting.of(SOURCE), source=B)}


def test_an_interface_that_is_not_there_is_a_fault() -> None:
    with pytest.raises(SystemFault, match=r"Cannot probe b0: .*\(os error \d+\)"):
        look_at_wire(Wanted(SOURCE), 999_999)


@pytest.mark.parametrize(
    ("rules", "frames_of_a_round"), [(1, 4_000), (1, 10), pytest.param(2_000, 4_000, marks=pytest.mark.slow)]
)
def test_unmatched_flows_have_rates(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, rules: int, frames_of_a_round: int
) -> None:
    """Also those that are left out of the rest of the look, as enough of them was seen."""
    monkeypatch.setattr(unmatched, "_FRAMES", frames_of_a_round)
    if frames_of_a_round == 10:
        monkeypatch.setattr(unmatched, "_BUFFER", FEW)
    inputs = [SOURCE, *(Input("b0", IPv4Address("239.9.0.0") + i, 5000) for i in range(1, rules))]
    frames = (
        frame(),
        *[frame(port=5001)] * 3,
        frame(group="239.1.1.2"),
        frame(group="198.18.0.2"),
        frame(Dot1Q(vlan=1)),
    )
    found = watch(*frames, look=lambda: look_for_unmatched("b0", inputs, 1.0))
    first, second = found.flows
    assert [(each.group, each.port) for each in (first, second)] == [(GROUP, 5001), (OTHER, 5000)]
    assert first.pps > 1.5 * second.pps > 0
    assert first.bps == pytest.approx(8 * 100 * first.pps, rel=0.1)
    assert found.whole
    assert (first.frames < 30) is (frames_of_a_round == 10)


def test_what_no_rule_takes_is_seen_however_short_it_is(watch: Watch) -> None:
    """The sockets see no Ethernet header, so a datagram may end 24 bytes behind where they begin."""
    frames = (frame(size=1), frame(port=5001, size=0), frame(port=5002, size=9))
    ports = {5001, 5002}

    def look() -> tuple[set[int], set[int | None]]:
        flows = look_for_unmatched("b0", [SOURCE], 0.3).flows
        return {each.port for each in flows}, {each.port for each in look_for_strays([LINK], [SOURCE])}

    assert watch(*frames, look=lambda: look_until(look, lambda found: found == (ports, ports))) == (ports, ports)


def test_a_source_is_no_reason_to_leave_others_out(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that a rule takes, nor one whose rate is known."""
    monkeypatch.setattr(unmatched, "_FRAMES", 10)
    monkeypatch.setattr(unmatched, "_BUFFER", FEW)
    inputs = [attrs.evolve(SOURCE, sources=(A,))]
    frames = [*[frame()] * 100, *[frame(src=str(B))] * 20, frame(src=str(C))]
    found = watch(*frames, look=lambda: look_for_unmatched("b0", inputs, 1.0))
    assert [(each.group, each.port, each.source) for each in found.flows] == [(GROUP, 5000, B), (GROUP, 5000, C)]
    assert found.whole


def test_an_interface_that_is_not_there_is_named() -> None:
    with pytest.raises(InterfaceNotFound, match="Interface not found: b7"):
        unmatched.real_name("b7")
