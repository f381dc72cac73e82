"""The parser and the check of what it accepts, beside another reading of the same frames: scapy's dissection.

IPv4 and IPv6, as scapy builds them and as they come to be when bytes change. `make test` reads three thousand frames;
`MCR_FRAMES=100000 MCR_SEED=7 pytest tests/unit/test_dissection.py` others, and more.
"""

import errno
import os
import random
import struct
from collections import Counter
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from scapy.layers.inet import IP, UDP, IPOption_NOP, IPOption_Router_Alert, in4_chksum
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    defragment6,
    fragment6,
    in6_chksum,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from mcr._native import ffi, lib

assert settings.default
FRAMES = int(os.environ.get("MCR_FRAMES", 30 * settings.default.max_examples))
SEED = int(os.environ.get("MCR_SEED", "20260101"))
CAPTURES = Path(__file__).parent.parent / "corpora" / "packet"
ETHERNET = 14
NOBODYS = [IPv4Network(each) for each in ("127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32")]
THIS_NETWORK, LINK_LOCAL = IPv4Network("0.0.0.0/8"), IPv4Network("224.0.0.0/24")
HEADERS_OF_IPV6 = 4  # behind its own, and before that of UDP


class Reading(NamedTuple):
    """What a frame is: its payload, if it is one whole datagram, and why it is not relayed."""

    payload: bytes | None
    cause: str = ""


def by_scapy(frame: bytes) -> Reading:
    return (by_scapy6 if version_of(frame) == 6 else by_scapy4)(frame[ETHERNET:])


def version_of(frame: bytes) -> int:
    return 6 if frame[ETHERNET : ETHERNET + 1].hex()[:1] == "6" else 4


def by_scapy6(data: bytes) -> Reading:
    """RFC 8200: the headers are a chain, each of which says how long it is, and what the next one is."""
    try:
        ip = IPv6(data)
    except (struct.error, IndexError):  # cut off
        return Reading(None)
    layer, at, total = ip.payload, 40, 40 + ip.plen
    headers = 0
    while isinstance(layer, IPv6ExtHdrHopByHop | IPv6ExtHdrDestOpt | IPv6ExtHdrFragment):
        is_fragment = isinstance(layer, IPv6ExtHdrFragment)
        if is_fragment and (layer.offset or layer.m):
            return Reading(None)
        size = 8 if is_fragment else 8 * (layer.len + 1)
        is_late = headers and isinstance(layer, IPv6ExtHdrHopByHop)  # 4.1: those are first
        if is_late or not (is_fragment or are_fine(data[at + 2 : at + size])):
            return Reading(None)
        at += size
        layer, headers = layer.payload, headers + 1
    if not isinstance(layer, UDP) or headers > HEADERS_OF_IPV6 or total > len(data):
        return Reading(None)
    if not 8 <= layer.len <= total - at:
        return Reading(None)
    udp = data[at : at + layer.len]
    assert bytes(layer.payload.original)[: layer.len - 8] == udp[8:]
    return Reading(udp[8:], why_not6(ip, layer.chksum, udp))


def are_fine(options: bytes) -> bool:
    """RFC 8200, 4.2: of some types who does not know them drops the datagram. scapy cuts off one that is too long.

    Linux also drops it for padding of more than seven bytes, or with anything but 0 in it.
    """
    padding = b""
    while options:
        kind, *rest = options
        if kind >= 0x40 or (kind and (not rest or len(rest) <= rest[0])):
            return False
        size = 2 + rest[0] if kind else 1
        padding = b"" if kind > 1 else padding + options[:size]
        if len(padding) > 7 or (kind == 1 and any(rest[1 : size - 1])):
            return False
        options = options[size:]
    return True


def why_not6(ip: Packet, told: int, udp: bytes) -> str:
    """Why a datagram of IPv6 is not relayed; empty: it is."""
    source, group = IPv6Address(ip.src), IPv6Address(ip.dst)
    stays_on_link = group.is_multicast and group.packed[1] & 15 == 2
    if source.is_multicast or source.is_loopback or source.ipv4_mapped:
        return "source"
    if source.is_unspecified and not stays_on_link:
        return "source"
    sum_of_all: int = in6_chksum(17, IPv6(src=ip.src, dst=ip.dst), udp)
    is_right = told and sum_of_all in {0, 0xFFFF}
    return "" if is_right else "checksum"


def by_scapy4(data: bytes) -> Reading:
    try:
        ip = IP(data)
    except struct.error:  # shorter than the header
        return Reading(None)
    udp = ip.getlayer(UDP)
    if udp is None or ip.version != 4 or ip.proto != 17 or ip.ihl < 5 or ip.len > len(data):
        return Reading(None)
    if ip.frag or ip.flags.MF or not 8 <= udp.len <= ip.len - 4 * ip.ihl:
        return Reading(None)
    header, rest = data[: 4 * ip.ihl], data[4 * ip.ihl :]
    payload = rest[8 : udp.len]
    assert bytes(udp.payload.original)[: len(payload)] == payload
    return Reading(payload, why_not(ip, header, rest[: udp.len]))


def why_not(ip: Packet, header: bytes, udp: bytes) -> str:
    """Why a datagram is not relayed; empty: it is."""
    source, group = IPv4Address(ip.src), IPv4Address(ip.dst)
    if checksum(header):
        return "checksum"
    if any(source in each for each in NOBODYS) or (source in THIS_NETWORK and group not in LINK_LOCAL):
        return "source"
    is_right = not ip[UDP].chksum or in4_chksum(17, IP(src=ip.src, dst=ip.dst), udp) in {0, 0xFFFF}
    return "" if is_right else "checksum"


def by_parser(frame: bytes) -> Reading:
    packet, buffer = ffi.new("struct mcr_packet *"), ffi.from_buffer("uint8_t[]", frame)
    if lib.mcr_packet_parse(buffer, len(frame), ETHERNET, packet):
        return Reading(None)
    shape = {"data": buffer, "size": len(frame), "network": ETHERNET}
    cause = lib.mcr_sanity_check(ffi.new("struct mcr_frame *", shape), packet, ffi.new("struct mcr_own *"))
    causes = {lib.MCR_CAUSE_CHECKSUM: "checksum", lib.MCR_CAUSE_SOURCE: "source", lib.MCR_CAUSES: ""}
    return Reading(frame[packet.payload : packet.payload + packet.payload_size], causes[cause])


def drawn(chance: random.Random) -> bytes:
    """A frame as scapy builds it, of any addresses, options, lengths and payloads."""
    ip = (drawn_ipv4 if chance.randint(0, 1) else drawn_ipv6)(chance)
    udp: Packet = UDP(sport=chance.randint(1, 65_535), dport=chance.choice([53, 5000, 5353]))
    built = ip / udp / Raw(chance.randbytes(chance.choice([0, 1, 7, 188, 1316])))
    if not chance.randint(0, 3):
        built[UDP].chksum = 0
    if not chance.randint(0, 7):
        built[UDP].len = chance.randint(0, 40)
    kind = 0x0800 if ip.version == 4 else 0x86DD
    return bytes(Ether(dst="01:00:5e:01:01:01", src="02:00:00:00:00:01", type=kind) / built)


def drawn_ipv4(chance: random.Random) -> Packet:
    address = str(
        IPv4Address(chance.choice([0xC6120001, 0xEF010101, 0xE0000001, 0x7F000001, 5, chance.getrandbits(32)]))
    )
    options = chance.choice([[], [], [IPOption_Router_Alert()], [IPOption_NOP()] * chance.randint(1, 40)])
    ip = IP(src=address, dst="239.1.1.1", options=options, frag=chance.choice([0] * 9 + [8]))
    ip.flags = chance.choice(["", "", "", "DF", "MF"])
    return ip


def unknown(size: int) -> Packet:
    """An option that nobody has to know (RFC 4727)."""
    return HBHOptUnknown(otype=0x1E, optdata=bytes(size))


def drawn_ipv6(chance: random.Random) -> Packet:
    """With up to five headers behind that of IP."""
    source = chance.choice(["fd00::1", "fe80::1", "::", "::1", "::ffff:198.18.0.1", "ff15::1", "2001:db8::1"])
    ip: Packet = IPv6(src=source, dst=chance.choice(["ff15::1", "ff02::fb", "ff32::1", "fd00::2"]))
    for _ in range(chance.choice([0, 0, 0, 1, 2, 4, 5])):
        padding = chance.choice([[PadN(optdata=bytes(4))]] * 4 + [[unknown(12)], [PadN(optdata=bytes(12))]])
        fragment = IPv6ExtHdrFragment(offset=chance.choice([0, 0, 0, 1]), m=chance.choice([0, 0, 0, 1]), id=7)
        ip /= chance.choice(
            [
                *[IPv6ExtHdrHopByHop(options=padding), IPv6ExtHdrDestOpt(options=padding)] * 3,
                *[fragment, fragment, IPv6ExtHdrRouting(addresses=[])],
            ]
        )
    return ip


def changed(frame: bytes, chance: random.Random) -> bytes:
    """The frame padded or cut short, with a few bytes of its headers set to anything."""
    data = bytearray(frame + bytes(chance.choice([0, 0, 18])))
    for _ in range(chance.choice([0, 0, 1, 2])):
        data[chance.randint(ETHERNET, min(len(data), 64) - 1)] = chance.getrandbits(8)
    return bytes(data[: chance.randint(ETHERNET, len(data))] if not chance.randint(0, 7) else data)


def cut(whole: Packet, chance: random.Random) -> list[Packet]:
    """A datagram of IPv6 in fragments, as scapy makes them for some MTU."""
    made: list[Packet] = fragment6(whole, chance.choice([200, 576, 1280]))
    return made


def drawn_to_be_cut(chance: random.Random, number: int) -> Packet:
    """With options in front of the header of fragments, and behind it."""
    packet: Packet = IPv6(src="2001:db8::1", dst="ff15::1", hlim=chance.randint(1, 255))
    if chance.randint(0, 1):
        packet /= IPv6ExtHdrHopByHop(options=[unknown(chance.choice([4, 12]))])
    packet /= IPv6ExtHdrFragment(id=number)
    if chance.randint(0, 1):
        packet /= IPv6ExtHdrDestOpt(options=[unknown(chance.choice([4, 20]))])
    return packet / UDP(sport=9, dport=5000) / Raw(chance.randbytes(chance.choice([1300, 3000, 9000])))


def put_together(parts: list[Packet], reassembly: Any) -> list[bytes]:
    """Payloads of what becomes whole, by the worker's reassembly."""
    whole: list[bytes] = []
    for each in parts:
        data, packet = bytes(each), ffi.new("struct mcr_packet *")
        buffer = ffi.from_buffer("uint8_t[]", data)
        assert lib.mcr_packet_parse(buffer, len(data), 0, packet) == -errno.EOPNOTSUPP
        frame = ffi.new("struct mcr_frame *", {"data": buffer, "size": len(data)})
        if lib.mcr_reassembly_add(reassembly, 0, packet, 1, frame) == 1:
            assert lib.mcr_packet_parse(frame.data, frame.size, 0, packet) == 0
            assert lib.mcr_sanity_check(frame, packet, ffi.new("struct mcr_own *")) == lib.MCR_CAUSES
            whole.append(bytes(ffi.buffer(frame.data + packet.payload, packet.payload_size)))
            lib.mcr_reassembly_release(reassembly)
    return whole


@pytest.mark.slow
def test_reassembly_and_scapy_put_the_same_together() -> None:
    """Datagrams of IPv6, several at a time, their fragments in any order."""
    chance, reassembly = random.Random(SEED), ffi.new("struct mcr_reassembly *")
    for turn in range(0, max(FRAMES // 25, 20), 4):
        several = [cut(drawn_to_be_cut(chance, turn + each), chance) for each in range(4)]
        expected = [bytes(IPv6(bytes(defragment6(each)))[UDP].payload) for each in several]
        mixed = [part for each in several for part in each]
        chance.shuffle(mixed)
        assert sorted(put_together(mixed, reassembly)) == sorted(expected)
    assert not reassembly.waiting


@pytest.mark.slow
def test_parser_and_scapy_read_frames_alike() -> None:
    """Same verdict, same payload; and there are enough of each for that to say something."""
    chance = random.Random(SEED)
    known = [each.read_bytes()[2:] for each in sorted(CAPTURES.iterdir())]
    known += [drawn(chance) for _ in range(max(FRAMES // 50, 200))]
    verdicts: Counter[tuple[int, str]] = Counter()
    for _ in range(FRAMES):
        frame = changed(chance.choice(known), chance)
        ours = by_parser(frame)
        assert ours == by_scapy(frame), frame.hex()
        verdicts[version_of(frame), "refused" if ours.payload is None else ours.cause or "sound"] += 1
    assert {*verdicts} == {*product((4, 6), ("refused", "sound", "checksum", "source"))}
    assert min(verdicts.values()) > FRAMES // 100, verdicts
