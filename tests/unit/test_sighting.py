"""What a frame on the wire is taken for; on a real link: tests/kernel/test_probe.py."""

from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from mcr.tap.sighting import Datagram, Sighting, Tag, identify


@pytest.mark.parametrize("size", range(60))
def test_a_frame_that_is_cut_short_is_nothing(size: int) -> None:
    packet = Ether() / Dot1Q(vlan=1) / IP(dst="239.1.1.1") / UDP(sport=4000, dport=5000) / Raw(bytes(100))
    data = bytes(packet)[14:]  # its inner tag, IP and UDP
    seen = identify(data[:size], "b0", 0x8100, Tag(2))
    assert (
        seen is None
        if size < 4 + 20 + 8
        else seen == Datagram(Sighting("b0", IPv4Address("239.1.1.1"), 5000, (Tag(2), Tag(1))), 100)
    )
