"""The frame parser on frames that scapy builds; mutated ones are in tests/native."""

import errno
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mcr._native import ffi, lib

ETHER = Ether(src="02:00:00:00:00:01", dst="01:00:5e:01:01:01")
IPV4 = IP(src="198.18.0.1", dst="239.1.1.1")
DATAGRAM = UDP(sport=1234, dport=5000)


def parse(frame: bytes, network: int = 14) -> tuple[int, Any]:
    packet = ffi.new("struct mcr_packet *")
    return lib.mcr_packet_parse(frame, len(frame), network, packet), packet


def payload_of(frame: bytes) -> bytes:
    result, packet = parse(frame)
    assert result == 0
    return frame[packet.payload : packet.payload + packet.payload_size]


@given(st.binary(max_size=1472))
def test_payload_is_exactly_what_was_sent(payload: bytes) -> None:
    """Also with Ethernet padding, which short frames carry."""
    frame = bytes(ETHER / IPV4 / DATAGRAM / Raw(payload))
    assert payload_of(frame) == payload
    assert payload_of(frame + bytes(46)) == payload


def test_key_is_in_network_byte_order() -> None:
    result, packet = parse(bytes(ETHER / IPV4 / DATAGRAM / b"x"))
    assert result == 0
    assert struct.pack("=I", packet.group) == socket.inet_aton("239.1.1.1")
    assert socket.ntohs(packet.port) == 5000


def test_ip_options_are_skipped() -> None:
    options = [IPOption(b"\x94\x04\x00\x00")]  # router alert, as in IGMP and RSVP
    assert payload_of(bytes(ETHER / IP(dst="239.1.1.1", options=options) / DATAGRAM / b"hello")) == b"hello"


def test_link_layer_header_may_have_any_length() -> None:
    """A tunnel has none: the kernel says where the network header is."""
    result, packet = parse(bytes(IPV4 / DATAGRAM / b"hello"), network=0)
    assert (result, packet.payload, packet.payload_size) == (0, 28, 5)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ETHER / IPV4 / TCP(), errno.EPROTONOSUPPORT),
        (ETHER / IPv6(dst="ff15::1") / DATAGRAM, errno.EPROTONOSUPPORT),
        (ETHER / IP(dst="239.1.1.1", flags="MF") / DATAGRAM / b"first", errno.EOPNOTSUPP),
        (ETHER / IP(dst="239.1.1.1", frag=100, proto=17) / b"the rest of it", errno.EOPNOTSUPP),
        (ETHER / IP(dst="239.1.1.1", ihl=4) / DATAGRAM / b"x", errno.EBADMSG),
        (ETHER / IP(dst="239.1.1.1", len=24) / DATAGRAM / b"x", errno.EBADMSG),
        (ETHER / IPV4 / UDP(dport=5000, len=7) / b"x", errno.EBADMSG),
        (ETHER / IPV4 / UDP(dport=5000, len=900) / b"x", errno.EBADMSG),
    ],
    ids=["tcp", "ipv6", "first fragment", "later fragment", "ihl", "ip length", "udp length 7", "udp length 900"],
)
def test_refusal_says_why(frame: Any, reason: int) -> None:
    assert parse(bytes(frame))[0] == -reason


def test_clipped_frame_is_told_from_a_malformed_one() -> None:
    frame = bytes(ETHER / IPV4 / DATAGRAM / bytes(1000))
    assert parse(frame[:500])[0] == -errno.EMSGSIZE
