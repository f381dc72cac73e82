"""What C hears of frames, beside another reading of the same bytes."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from mcr._native import ffi, lib
from mcr.tap import reading as tap_reading
from mcr.tap.copies import Origin
from mcr.tap.reading import Reading, way_of

MAC = bytes.fromhex("020000000001")
FLOW = bytes([239, 1, 1, 1, 0, 2])
SOURCE = Origin(MAC, bytes([198, 18, 0, 1]))
ETHERNET = 14

Heard = list[tuple[Origin, bytes, int]]


@contextmanager
def looking(vlan: int = 0, link: int = ETHERNET, secret: tuple[int, int] = (1, 2)) -> Iterator[Any]:
    look = lib.mcr_look_open(
        ffi.new("struct mcr_look_spec *", {"fd": -1, "link": link, "vlan": vlan, "secret": secret})
    )
    try:
        yield look
    finally:
        lib.mcr_look_close(look)


def take(look: Any, data: bytes, *, network: int = ETHERNET, **known: int) -> Heard:
    """What is heard of a frame: origins, flows, and hashes of payloads."""
    buffer, look.count = ffi.from_buffer("uint8_t[]", data), 0
    frame = ffi.new("struct mcr_frame *", {"data": buffer, "size": len(data), "network": network, **known})
    lib.mcr_look_take(look, frame)
    heard = [look.heard[number] for number in range(look.count)]
    return [(*way_of(look.ways[each.way], has_mac=network > 0), each.payload) for each in heard]


def by_another(data: bytes, segment: int = 0) -> list[tuple[Origin, bytes, bytes]]:
    """The same, with payloads, as RFC 791, RFC 8200 and RFC 768 have it; without headers behind that of IPv6."""
    ip = data[ETHERNET:]
    if len(ip) >= 20 and ip[0] >> 4 == 4:
        at, source, group = ip[0] % 16 * 4, ip[12:16], ip[16:20]
        total, fragment = struct.unpack("!2xH2xH", ip[:8])
        is_udp = ip[9] == 17 and not fragment & 0x3FFF and at >= 20
    elif len(ip) >= 40 and ip[0] >> 4 == 6:
        at, total, source, group = 40, 40 + int.from_bytes(ip[4:6]), ip[8:24], ip[24:40]
        is_udp = ip[6] == 17
    else:
        return []
    udp = ip[at:total]
    if not is_udp or total > len(ip) or len(udp) < 8 or not 8 <= (length := int.from_bytes(udp[4:6])) <= len(udp):
        return []
    payload, origin = udp[8:length], Origin(data[6:12], source)
    step = segment or max(len(payload), 1)
    parts = [payload[begin : begin + step] for begin in range(0, max(len(payload), 1), step)]
    return [(origin, group + udp[2:4], part) for part in parts if len(parts) <= lib.MCR_FRAME_PAYLOADS]


def frame(packet: Packet) -> bytes:
    return bytes(Ether(src=MAC.hex(":"), dst="01:00:5e:01:01:01") / packet)


def udp4(payload: bytes, **fields: Any) -> bytes:
    return frame(IP(src="198.18.0.1", dst="239.1.1.1", **fields) / UDP(sport=1, dport=2) / Raw(payload))


def test_datagrams_of_frames() -> None:
    with looking() as look:
        for segment, payloads in ((0, [b"abcdefg"]), (3, [b"abc", b"def", b"g"]), (7, [b"abcdefg"])):
            one_by_one = [take(look, udp4(each))[0] for each in payloads]
            assert take(look, udp4(b"abcdefg") + bytes(11), segment=segment) == one_by_one
            assert {(origin, flow) for origin, flow, _ in one_by_one} == {(SOURCE, FLOW)}
        assert len(take(look, udp4(b""))) == 1
        assert take(look, udp4(b"a" * 129), segment=1) == []
        assert len(take(look, udp4(b"a" * 128), segment=1)) == 128
        assert take(look, udp4(b"abc", options=[IPOption_Router_Alert()])) == take(look, udp4(b"abc"))
        six, udp = IPv6(src="::1", dst="::2"), UDP(sport=1, dport=2) / b"abc"
        for packet in (six / udp, six / IPv6ExtHdrDestOpt() / udp):
            ((origin, flow, _),) = take(look, frame(packet))
            assert (origin, flow) == (Origin(MAC, bytes(15) + b"\1"), bytes(15) + b"\2\0\2")
    with looking(link=0) as look:
        ((origin, _, _),) = take(look, udp4(b"abc")[ETHERNET:], network=0)
        assert origin == Origin(b"", SOURCE.address)


@pytest.mark.parametrize("packet", [IP(frag=1) / UDP(), IP(flags="MF") / UDP(), IP(proto=6), IPv6(nh=6), Raw(b"\x45")])
def test_what_has_none(packet: Packet) -> None:
    with looking() as look:
        assert take(look, frame(packet)) == []


@pytest.mark.parametrize(("vlan", "tag", "is_meant"), [(0, 0, True), (7, 7, True), (0, 7, False), (7, 8, False)])
def test_a_rule_sees_the_frames_of_its_vlan(vlan: int, tag: int, is_meant: bool) -> None:
    with looking(vlan) as look:
        assert bool(take(look, udp4(b"abc"), vlan=tag)) is is_meant
        assert take(look, udp4(b"abc"), vlan=tag, tagged_again=True) == []


def test_payloads_are_told_apart_by_their_flow_and_a_secret() -> None:
    other = frame(IP(src="198.18.0.1", dst="239.1.1.1") / UDP(sport=1, dport=3) / Raw(b"abc"))
    with looking() as one, looking(secret=(1, 3)) as two:
        hashes = [take(one, udp4(b"abc"))[0][2], take(one, other)[0][2], take(two, udp4(b"abc"))[0][2]]
    assert len({*hashes}) == 3


def test_a_look_ends_where_there_is_no_room_for_who_sends() -> None:
    with looking() as look:
        look.way_count = lib.MCR_LOOK_MOST - 1
        assert len(take(look, udp4(b"abc"))) == 1
        assert take(look, frame(IP(src="198.18.0.2", dst="239.1.1.1") / UDP(sport=1, dport=2))) == []
        assert look.lost
        assert look.way_count == lib.MCR_LOOK_MOST


FRAMES = [
    frame(ip / UDP(sport=1, dport=2) / Raw(payload)) + pad
    for ip, payload, pad in product(
        [
            IP(src="198.18.0.1", dst="239.1.1.1"),
            IP(src="198.18.0.1", dst="239.1.1.2", options=[IPOption_Router_Alert()]),
            IPv6(src="::1", dst="ff15::1"),
            IPv6(src="::2", dst="ff15::1"),
        ],
        [b"", b"a", b"abcdefgh", b"abcdefgi", bytes(17), bytes(18), b"b" * 188],
        [b"", bytes(18)],
    )
]
changes = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=2)


@given(
    st.lists(
        st.tuples(st.sampled_from(FRAMES), changes, st.sampled_from([0, 0, 1, 7, 100]), st.integers(0, 99)), max_size=8
    )
)
def test_c_hears_what_another_reading_does(came: list[tuple[bytes, list[tuple[int, int]], int, int]]) -> None:
    """And payloads have the same hash if they are the same, of the same flow."""
    heard, read = Heard(), list[tuple[Origin, bytes, bytes]]()
    with looking() as look:
        for whole, changed, segment, cut in came:
            data = bytearray(whole)
            for at, value in changed:
                data[min(at, len(data) - 1)] = value
            data = data[: len(data) - max(cut - 90, 0)]
            if data[ETHERNET] >> 4 == 6 and data[ETHERNET + 6] in {0, 43, 44, 60}:
                continue  # headers of IPv6 that the other one does not know
            heard += take(look, bytes(data), segment=segment)
            read += by_another(bytes(data), segment)
    assert [each[:2] for each in heard] == [each[:2] for each in read]
    told = {(flow, payload): known for (_, _, known), (_, flow, payload) in zip(heard, read, strict=True)}
    assert [told[flow, payload] for _, flow, payload in read] == [known for _, _, known in heard]
    assert len({*told.values()}) == len(told)


def test_a_frame_that_the_kernel_cannot_describe_is_lost() -> None:
    """It answers EINVAL, as a stream socket does that is not connected, and no look fails for that."""
    with (
        socket.socket(socket.AF_UNIX) as tap,
        Reading(tap, ETHERNET, 0, lambda _origin, _flow: True) as reading,
    ):
        assert reading.read(0) == []
        assert not reading.is_whole


def test_a_look_needs_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap_reading, "lib", SimpleNamespace(mcr_look_open=lambda _spec: ffi.NULL))
    with socket.socket(socket.AF_UNIX) as tap, pytest.raises(OSError, match="Cannot allocate memory"):
        Reading(tap, ETHERNET, 0, lambda _origin, _flow: True)
