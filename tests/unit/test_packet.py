"""The frame parser on frames that scapy builds; mutated ones are in tests/native."""

import errno
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6MLQuery2,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Pad1,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from mcr._native import ffi, lib

ETHER = Ether(src="02:00:00:00:00:01", dst="01:00:5e:01:01:01")
IPV4 = IP(src="198.18.0.1", dst="239.1.1.1")
IPV6 = IPv6(src="2001:db8::1", dst="ff15::1")
DATAGRAM = UDP(sport=1234, dport=5000)
AUTHENTICATION = Raw(b"\x11\4\0\0" + bytes(20))  # of UDP (RFC 4302)


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
        (ETHER / IPV6 / TCP(), errno.EPROTONOSUPPORT),
        (ETHER / IPV6 / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / ICMPv6MLQuery2(), errno.EPROTONOSUPPORT),
        (ETHER / IPV6 / IPv6ExtHdrFragment(m=1) / DATAGRAM / b"first", errno.EOPNOTSUPP),
        (ETHER / IPV6 / IPv6ExtHdrFragment(offset=9, nh=17) / b"the rest of it", errno.EOPNOTSUPP),
        (ETHER / IPV6 / IPv6ExtHdrFragment(offset=9, nh=58) / b"the rest of it", errno.EPROTONOSUPPORT),
        (ETHER / IPV6 / IPv6ExtHdrFragment(offset=9, nh=60) / b"the rest of it", errno.EOPNOTSUPP),
        (ETHER / IPV6 / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt() / DATAGRAM / b"first", errno.EOPNOTSUPP),
        (ETHER / IPV6 / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(offset=9, nh=17) / b"the rest", errno.EOPNOTSUPP),
        # The first one has to have all headers (RFC 7112), and UDP behind them.
        (ETHER / IPV6 / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt(), errno.EPROTONOSUPPORT),
        (ETHER / IPV6 / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt() / TCP(), errno.EPROTONOSUPPORT),
        (ETHER / IPV6 / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt(nh=17), errno.EBADMSG),
        (ETHER / IPV6 / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt(len=9, nh=17) / DATAGRAM, errno.EBADMSG),
        (ETHER / IPV6 / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrFragment(m=1) / DATAGRAM, errno.EBADMSG),
        (ETHER / IPV6 / IPv6ExtHdrRouting() / IPv6ExtHdrFragment(offset=9, nh=17) / b"the rest", errno.EBADMSG),
        (ETHER / IPv6(dst="ff15::1", nh=44) / b"\x11\0\0\1", errno.EBADMSG),
        (ETHER / IPv6(dst="ff15::1", plen=900) / DATAGRAM / b"x", errno.EMSGSIZE),
        (ETHER / IPv6(dst="ff15::1", nh=17, plen=0) / DATAGRAM / b"a jumbogram would be such", errno.EBADMSG),
        (ETHER / IPV6 / IPv6ExtHdrDestOpt(len=200) / DATAGRAM, errno.EBADMSG),
        (ETHER / IPV6 / IPv6ExtHdrRouting(addresses=["2001:db8::7"]) / DATAGRAM, errno.EBADMSG),
        # What only an IPsec key, or who knows the option, could tell to be fine (RFC 4302; RFC 8200, 4.2).
        (ETHER / IPv6(dst="ff15::1", nh=51) / AUTHENTICATION / DATAGRAM / b"x", errno.EBADMSG),
        (ETHER / IPv6(dst="ff15::1", nh=51) / Raw(b"\x06" + bytes(AUTHENTICATION)[1:]) / TCP(), errno.EPROTONOSUPPORT),
        *(
            (ETHER / IPV6 / header(options=[HBHOptUnknown(otype=kind, optdata=b"1234")]) / DATAGRAM, errno.EBADMSG)
            for header in (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt)
            for kind in (0x7E, 0xBE, 0xFE)
        ),
        *(  # The kernel looks for hop-by-hop options behind its own header alone (RFC 8200, 4.1).
            (ETHER / IPV6 / header() / IPv6ExtHdrHopByHop() / DATAGRAM, errno.EBADMSG)
            for header in (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment)
        ),
        *(  # Padding that Linux drops: more than aligns anything, or with something in it (RFC 4942, 2.1.9.5).
            (ETHER / IPV6 / header(options=options) / DATAGRAM, errno.EBADMSG)
            for header in (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt)
            for options in (
                [PadN(optdata=bytes(12))],
                [Pad1()] * 14,
                [PadN(optdata=bytes(5)), Pad1(), HBHOptUnknown(otype=0x1E, optdata=b"1234")],
                [PadN(optdata=b"\0\0\0\1")],
                [PadN(optdata=b"\1\0\0\0")],
            )
        ),
        (ETHER / IPv6(dst="ff15::1", nh=60) / Raw(b"\x11\0\x01\5\0\0\0\0") / DATAGRAM, errno.EBADMSG),
        (ETHER / IPV6 / UDP(dport=5000, len=7) / b"x", errno.EBADMSG),
        (ETHER / IPV6 / UDP(dport=5000, len=900) / b"x", errno.EBADMSG),
        (ETHER / IP(dst="239.1.1.1", flags="MF") / DATAGRAM / b"first", errno.EOPNOTSUPP),
        (ETHER / IP(dst="239.1.1.1", frag=100, proto=17) / b"the rest of it", errno.EOPNOTSUPP),
        (ETHER / IP(dst="239.1.1.1", ihl=4) / DATAGRAM / b"x", errno.EBADMSG),
        (ETHER / IP(dst="239.1.1.1", len=24) / DATAGRAM / b"x", errno.EBADMSG),
        (ETHER / IPV4 / UDP(dport=5000, len=7) / b"x", errno.EBADMSG),
        (ETHER / IPV4 / UDP(dport=5000, len=900) / b"x", errno.EBADMSG),
    ],
    ids=str,
)
def test_refusal_says_why(frame: Any, reason: int) -> None:
    assert parse(bytes(frame))[0] == -reason


def test_addresses_of_a_fragment_are_known() -> None:
    result, packet = parse(bytes(ETHER / IPV6 / IPv6ExtHdrFragment(offset=9, nh=17) / b"the rest of it"))
    assert (result, packet.family) == (-errno.EOPNOTSUPP, socket.AF_INET6)
    assert bytes(ffi.buffer(packet.group6)) == socket.inet_pton(socket.AF_INET6, "ff15::1")
    result, packet = parse(bytes(ETHER / IP(dst="239.1.1.1", frag=100, proto=17) / b"the rest of it"))
    assert (result, packet.family) == (-errno.EOPNOTSUPP, socket.AF_INET)


def test_clipped_frame_is_told_from_a_malformed_one() -> None:
    frame = bytes(ETHER / IPV4 / DATAGRAM / bytes(1000))
    assert parse(frame[:500])[0] == -errno.EMSGSIZE


KNOWN_TO_NONE = HBHOptUnknown(otype=0x1E, optdata=b"1234")


@pytest.mark.parametrize(
    "options",
    [
        [PadN(optdata=bytes(4))],
        [KNOWN_TO_NONE],
        [Pad1()] * 6,
        [PadN(optdata=bytes(5)), HBHOptUnknown(otype=0x1E, optdata=b"12345")],
        [PadN(optdata=bytes(2)), KNOWN_TO_NONE, PadN(optdata=bytes(2))],
    ],
)
def test_options_that_nobody_has_to_know_are_skipped(options: list[Packet]) -> None:
    assert payload_of(bytes(ETHER / IPV6 / IPv6ExtHdrDestOpt(options=options) / DATAGRAM / b"hello")) == b"hello"


OPTIONS = (
    IPv6ExtHdrHopByHop(options=[RouterAlert()]),
    IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=bytes(36))]),
    IPv6ExtHdrFragment(),  # of a datagram that is whole (RFC 6946)
    IPv6ExtHdrDestOpt(),
)


@given(st.binary(max_size=1452), st.integers(0, len(OPTIONS)))
def test_ipv6_payload_is_exactly_what_was_sent(payload: bytes, extensions: int) -> None:
    """Whatever headers stand before UDP's, and with Ethernet padding."""
    packet = ETHER / IPV6
    for each in OPTIONS[:extensions]:
        packet /= each
    frame = bytes(packet / DATAGRAM / Raw(payload))
    assert payload_of(frame) == payload
    assert payload_of(frame + bytes(46)) == payload


def test_ipv6_key_is_in_network_byte_order() -> None:
    result, packet = parse(bytes(ETHER / IPv6(src="2001:db8::1", dst="ff15::1", hlim=7, tc=0xB9) / DATAGRAM / b"x"))
    assert (result, packet.family, packet.ttl, packet.service) == (0, socket.AF_INET6, 7, 0xB9)
    assert bytes(ffi.buffer(packet.source6)) == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert bytes(ffi.buffer(packet.group6)) == socket.inet_pton(socket.AF_INET6, "ff15::1")
    assert socket.ntohs(packet.port) == 5000


def test_extension_headers_are_bounded() -> None:
    few, many = ETHER / IPV6, ETHER / IPV6
    for _ in range(4):
        few /= IPv6ExtHdrDestOpt()
    for _ in range(5):
        many /= IPv6ExtHdrDestOpt()
    assert payload_of(bytes(few / DATAGRAM / b"hello")) == b"hello"
    assert parse(bytes(many / DATAGRAM / b"hello"))[0] == -errno.EBADMSG
    assert parse(bytes(few / TCP()))[0] == -errno.EPROTONOSUPPORT


@pytest.mark.parametrize(("above", "reason"), [(TCP(), errno.EPROTONOSUPPORT), (DATAGRAM, errno.EMSGSIZE)])
def test_what_is_cut_short_behind_extension_headers_is_told_by_what_it_carries(above: Packet, reason: int) -> None:
    frame = bytes(ETHER / IPV6 / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / above / bytes(100))
    assert parse(frame[:-50])[0] == -reason


@given(st.integers(0, 200))
def test_clipped_ipv6_frame_is_read_no_further_than_it_goes(size: int) -> None:
    packet = ETHER / IPV6
    for each in OPTIONS:
        packet /= each
    frame = bytes(packet / DATAGRAM / bytes(100))[:size]
    assert parse(frame)[0] in {-errno.EMSGSIZE, -errno.EBADMSG, -errno.EPROTONOSUPPORT}
