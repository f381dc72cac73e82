"""What a frame on the wire is taken for; on a real link: tests/kernel/test_probe.py."""

from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from mcr.model.flow import Input
from mcr.tap.sighting import Datagram, Sighting, Tag, Wanted, identify

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
    """Sources are told apart only if some rule of the same flow names one."""
    source, other = Input("b0", GROUP, 5000), IPv4Address("198.18.0.2")
    alone = Wanted.of(source, [Input("b0", GROUP, 5001, sources=(SENDER,)), Input("b1", GROUP, 5000)])
    beside = Wanted.of(source, [Input("b0", GROUP, 5000, sources=(SENDER,))])
    from_one = Wanted.of(Input("b0", GROUP, 5000, sources=(SENDER,)), [source])
    assert [each.by_source for each in (alone, beside, from_one)] == [False, True, True]
    seen = {Sighting("b0", GROUP, 5000, source=SENDER): 3, Sighting("b0", GROUP, 5000, source=other): 5}
    assert [each.count(seen) for each in (alone, beside, from_one)] == [8, 5, 3]
    assert alone.count({Sighting.of(source): 7}) == 7
