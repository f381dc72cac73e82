"""Payloads of frames as a tap has them, and when they are suspect."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from mcr.net import uapi
from mcr.tap.repeats import Repeats, payloads

FLOW = bytes([198, 18, 0, 1, 239, 1, 1, 1, 0, 2])


def seen(packet: Packet, segment: int = 0, pad: bytes = b"") -> list[tuple[bytes, bytes]]:
    header = uapi.VIRTIO_NET_HDR.pack(0, uapi.VIRTIO_NET_HDR_GSO_UDP_L4 if segment else 0, 0, segment, 0, 0)
    auxiliary = uapi.TPACKET_AUXDATA.pack(0, 0, 0, 0, 14, 0, 0)
    return [*payloads(header + bytes(Ether() / packet) + pad, [(0, 0, auxiliary)])]


def test_payloads_of_frames() -> None:
    udp = UDP(sport=1, dport=2) / Raw(b"abcdefg")
    assert seen(IP(src="198.18.0.1", dst="239.1.1.1") / udp, pad=bytes(11)) == [(FLOW, b"abcdefg")]
    assert seen(IP(src="198.18.0.1", dst="239.1.1.1") / udp, segment=3) == [
        (FLOW, b"abc"),
        (FLOW, b"def"),
        (FLOW, b"g"),
    ]
    assert seen(IP(src="198.18.0.1", dst="239.1.1.1") / UDP(dport=2)) == [(FLOW, b"")]
    assert seen(IPv6(src="::1", dst="::2") / udp) == [(bytes(15) + b"\1" + bytes(15) + b"\2\0\2", b"abcdefg")]


@pytest.mark.parametrize("packet", [IP(frag=1) / UDP(), IP(flags="MF") / UDP(), IP(proto=6), IPv6(nh=6), Raw(b"\x45")])
def test_what_has_none(packet: Packet) -> None:
    assert seen(packet) == []


def test_when_they_are_suspect() -> None:
    assert [Repeats(*each).are_suspect for each in [(31, 31), (32, 16), (32, 15), (5000, 2500)]] == [
        False,
        True,
        False,
        True,
    ]
