"""Headers of raw frames, as scapy reads them."""

import socket
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether

from mcr._native import ffi, lib

NEEDS_CHECKSUM, NO_TRAIN, TRAIN = 1, 0, 5  # <linux/virtio_net.h>
OFFLOAD = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
MAC = bytes.fromhex("020000000001")

addresses = st.integers(1, 2**32 - 1).map(IPv4Address)
groups = st.integers(0xE0000000, 0xEFFFFFFF).map(IPv4Address)
ports = st.integers(1, 65535)
octets = st.integers(0, 255)


def header(
    source: IPv4Address,
    group: IPv4Address,
    sport: int,
    dport: int,
    *,
    count: int,
    segment: int,
    size: int,
    ttl: int = 1,
    service: int = 0,
) -> bytes:
    address, to = (struct.unpack("=I", each.packed)[0] for each in (source, group))
    origin = ffi.new(
        "struct mcr_raw_source *",
        {"address": address, "port": socket.htons(sport), "mac": MAC, "ttl": ttl, "service": service},
    )
    where = ffi.new("struct sockaddr_in *", {"sin_port": socket.htons(dport), "sin_addr": {"s_addr": to}})
    made = ffi.new("struct mcr_raw_header *", lib.mcr_raw_header(origin, where, count, segment, size))
    return bytes(ffi.buffer(made))


@given(st.integers(1, 4094), st.sampled_from([1, 3]))
def test_a_tag_stands_in_front_of_the_type_and_checksums_follow_it(vlan: int, count: int) -> None:
    tagged = ffi.new("struct mcr_tagged_header *")
    source, group = IPv4Address("10.0.0.1"), IPv4Address("239.9.9.9")
    plain = header(source, group, 4000, 5000, count=count, segment=100, size=100 * count)
    ffi.buffer(tagged)[4:] = plain
    lib.mcr_raw_tag(tagged, vlan)
    made = bytes(ffi.buffer(tagged))
    before, after = OFFLOAD.unpack_from(plain), OFFLOAD.unpack_from(made)
    shifted = before[2] + 4 if before[2] else 0
    assert after == (*before[:2], shifted, before[3], before[4] + 4, before[5])
    frame = Ether(made[OFFLOAD.size :])
    assert (frame[Dot1Q].vlan, frame[Dot1Q].prio, frame[IP].dst) == (vlan, 0, "239.9.9.9")
    assert made[OFFLOAD.size + 16 :] == plain[OFFLOAD.size + 12 :]


@given(addresses, groups, st.tuples(ports, ports), st.binary(max_size=1472), st.tuples(octets, octets))
def test_a_datagram_is_the_one_that_a_udp_socket_would_send(
    source: IPv4Address, group: IPv4Address, numbers: tuple[int, int], payload: bytes, marks: tuple[int, int]
) -> None:
    """Built by scapy: the same bytes, once the kernel has done the checksum that it is asked for."""
    size, (sport, dport), (ttl, service) = len(payload), numbers, marks
    made = header(source, group, sport, dport, count=1, segment=size, size=size, ttl=ttl, service=service)
    flags, kind, _, _, start, offset = OFFLOAD.unpack_from(made)
    frame = bytearray(made[OFFLOAD.size :] + payload)
    assert (flags, kind) == (NEEDS_CHECKSUM, NO_TRAIN)
    at = start + offset
    frame[at : at + 2] = (ones_sum(bytes(frame[start:])) ^ 0xFFFF or 0xFFFF).to_bytes(2)
    bits = int(group) & 0x7FFFFF
    destination = f"01:00:5e:{bits >> 16:02x}:{bits >> 8 & 255:02x}:{bits & 255:02x}"
    expected = (
        Ether(src=MAC.hex(":"), dst=destination)
        / IP(src=str(source), dst=str(group), ttl=ttl, tos=service, flags="DF", id=0)
        / UDP(sport=sport, dport=dport)
        / payload
    )
    assert bytes(frame) == bytes(expected)


def ones_sum(data: bytes) -> int:
    """RFC 1071, before it is inverted."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize(("count", "segment", "size"), [(2, 1316, 2632), (64, 1000, 63_100), (32, 20, 621)])
def test_a_train_says_how_it_is_to_be_cut(count: int, segment: int, size: int) -> None:
    made = header(
        IPv4Address("198.18.0.1"), IPv4Address("239.1.2.3"), 40_000, 5000, count=count, segment=segment, size=size
    )
    flags, kind, headers, cut, start, offset = OFFLOAD.unpack_from(made)
    assert (flags, kind, cut) == (NEEDS_CHECKSUM, TRAIN, segment)
    assert (headers, start, offset) == (14 + 20 + 8, 14 + 20, 6)
    whole = Ether(made[OFFLOAD.size :])
    assert (whole[IP].len, whole[UDP].len) == (28 + size, 8 + size)
