"""What a frame on the wire is taken for; on a real link: tests/kernel/test_probe.py."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6MLQuery2,
    ICMPv6MLReport2,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from mcr.model.flow import Input
from mcr.tap.sighting import Datagram, Query, Sighting, Tag, Wanted, identify

GROUP, SENDER = IPv4Address("239.1.1.1"), IPv4Address("198.18.0.1")


@pytest.mark.parametrize("size", range(60))
def test_a_frame_that_is_cut_short_is_nothing(size: int) -> None:
    packet = (
        Ether() / Dot1Q(vlan=1) / IP(src="198.18.0.1", dst="239.1.1.1") / UDP(sport=4000, dport=5000) / Raw(bytes(100))
    )
    data = bytes(packet)[14:]  # its inner tag, IP and UDP
    seen = identify(data[:size], "b0", 0x8100, Tag(2))
    assert (
        seen is None
        if size < 4 + 20 + 8
        else seen == Datagram(Sighting("b0", GROUP, 5000, (Tag(2), Tag(1))), 100, SENDER)
    )


def test_what_a_rule_takes_beside_others() -> None:
    """Sources are told apart only if some rule of the group or the port names one: it takes what may look like kin."""
    source, other = Input("b0", GROUP, 5000), IPv4Address("198.18.0.2")
    alone = Wanted.of(source, [Input("b0", GROUP + 1, 5001, sources=(SENDER,)), Input("b1", GROUP, 5000)])
    kin = [Wanted.of(source, [Input("b1", GROUP + i, 5001 - i, sources=(SENDER,))]) for i in range(2)]
    beside = Wanted.of(source, [Input("b0", GROUP, 5000, sources=(SENDER,))])
    from_one = Wanted.of(Input("b0", GROUP, 5000, sources=(SENDER,)), [source])
    assert [each.by_source for each in (alone, *kin, beside, from_one)] == [False, True, True, True, True]
    seen = {Sighting("b0", GROUP, 5000, source=SENDER): 3, Sighting("b0", GROUP, 5000, source=other): 5}
    assert [each.count(seen) for each in (alone, *kin, beside, from_one)] == [8, 8, 8, 5, 3]
    assert alone.count({Sighting.of(source): 7}) == 7


@pytest.mark.parametrize(
    "other",
    [
        Input("b0", GROUP, 5001, sources=(SENDER,)),
        Input("b0", GROUP, 5001, last_port=5009, sources=(SENDER,)),
    ],
)
def test_what_others_take_by_source_is_not_the_ranges(other: Input) -> None:
    ranged, stranger = Input("b0", GROUP - 1, 5000, prefix=30, last_port=5001), IPv4Address("198.18.0.2")
    seen = {Sighting("b0", GROUP, 5001, source=SENDER): 3, Sighting("b0", GROUP, 5001, source=stranger): 5}
    seen[Sighting("b0", GROUP, 5000, source=SENDER)] = 7
    assert Wanted.of(ranged, [other]).count(seen) == 12
    assert Wanted.of(ranged, [Input("b1", GROUP, 5001, sources=(SENDER,))]).count(seen) == 15
    assert Wanted.of(Input("b0", GROUP, 5001, sources=(SENDER,)), [ranged]).count(seen) == 3


GROUP6, SENDER6 = IPv6Address("ff15::1"), IPv6Address("2001:db8::1")
ALERT = IPv6ExtHdrHopByHop(options=[RouterAlert()])


def to_group(*layers: Packet | bytes) -> Packet:
    made = IPv6(src=SENDER6, dst=GROUP6, hlim=1)
    for each in layers:
        made /= each
    return made


WHOLE = Sighting("b0", GROUP6, 5000)


@pytest.mark.parametrize(
    ("packet", "seen"),
    [
        (to_group(UDP(dport=5000), b"hello"), Datagram(WHOLE, 5, SENDER6)),
        (to_group(ALERT, IPv6ExtHdrDestOpt(), UDP(dport=5000)), Datagram(WHOLE, 0, SENDER6)),
        (
            to_group(IPv6ExtHdrFragment(m=1), UDP(dport=5000, len=108), b"hello"),
            Datagram(Sighting("b0", GROUP6, 5000, fragment=True), 100, SENDER6),
        ),
        (to_group(IPv6ExtHdrFragment(), UDP(dport=5000)), Datagram(WHOLE, 0, SENDER6)),
        (
            to_group(IPv6ExtHdrFragment(nh=17, offset=9), b"hello"),
            Datagram(Sighting("b0", GROUP6, None, fragment=True), 0, SENDER6),
        ),
        (
            IPv6(src=SENDER6, dst=GROUP6, nh=51) / Raw(b"\x11\4" + bytes(22)) / UDP(dport=5000),
            Datagram(WHOLE, 0, SENDER6),
        ),
        (IPv6(dst="ff02::1", hlim=1) / ALERT / ICMPv6MLQuery2(), Query("b0", 6)),
        (to_group(ALERT, ICMPv6MLQuery2()), None),
        (IPv6(dst="ff02::16", hlim=1) / ALERT / ICMPv6MLReport2(), None),
    ],
    ids=["whole", "extended", "first", "atomic", "later", "authentic", "query", "of a group", "report"],
)
def test_ipv6_frames_are_told_apart(packet: Packet, seen: object) -> None:
    assert identify(bytes(packet), "b0", 0x86DD, None) == seen
    for size in range(40):
        assert identify(bytes(packet)[:size], "b0", 0x86DD, None) is None
