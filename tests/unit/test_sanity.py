"""What IP would drop of a frame that a rule wants: checksums, sources, this machine's own addresses, others' MACs."""

import socket
import struct
from ipaddress import IPv4Interface, IPv6Address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from mcr._native import ffi, lib
from mcr.net.network import Link, Network
from mcr.net.own import own_keys
from mcr.shm.flows import address_words

NONE, CHECKSUM, SOURCE, LOOP = (
    lib.MCR_CAUSE_NONE,
    lib.MCR_CAUSE_CHECKSUM,
    lib.MCR_CAUSE_SOURCE,
    lib.MCR_CAUSE_LOOP,
)
STRANGER = bytes.fromhex("020000000001")
OWN_MAC = bytes.fromhex("020000000002")


def address(text: str) -> int:
    return int(struct.unpack("=I", socket.inet_aton(text))[0])


def table(*keys: tuple[int, int]) -> Any:
    own = ffi.new("struct mcr_own *")
    assert lib.mcr_own_set(own, [{"key": key, "cause": cause} for key, cause in keys], len(keys)) == 0
    return own


def address6(text: str) -> int:
    return int(lib.mcr_own_address6(address_words(IPv6Address(text))))


OWN = table(
    (address6("2001:db8::2"), LOOP),
    (lib.mcr_own_address(address("198.18.0.2")), LOOP),
    (lib.mcr_own_address(address("198.18.0.255")), SOURCE),
    (lib.mcr_own_mac(OWN_MAC), LOOP),
)


def datagram(source: str = "198.18.0.1", group: str = "239.1.1.1", payload: bytes = b"hello") -> Packet:
    return Ether(dst="01:00:5e:01:01:01") / IP(src=source, dst=group) / UDP(dport=5000) / Raw(payload)


def judge(frame: bytes, mac: bytes = STRANGER, **known: bool) -> int:
    """What the worker makes of a frame; `known`: what the kernel says of it."""
    packet, data = ffi.new("struct mcr_packet *"), ffi.new("uint8_t[]", frame)
    assert lib.mcr_packet_parse(data, len(frame), 14, packet) == 0
    told = {"data": data, "size": len(frame), "network": 14, "mac": lib.mcr_own_mac(mac), **known}
    return int(lib.mcr_sanity_check(ffi.new("struct mcr_frame *", told), packet, OWN))


def datagram6(source: str = "2001:db8::1", group: str = "ff15::1", payload: bytes = b"hello") -> Packet:
    return Ether(dst="33:33:00:00:00:01") / IPv6(src=source, dst=group) / UDP(dport=5000) / Raw(payload)


SOUND = bytes(datagram())
SOUND_200 = bytes(datagram(payload=bytes(range(200))))
SOUND6_150 = bytes(Ether() / datagram6(payload=bytes(range(150)))[IPv6])
EXTENDED6 = bytes(Ether() / IPv6(src="2001:db8::1", dst="ff15::1") / IPv6ExtHdrDestOpt() / UDP(dport=5000) / b"hello")


def flipped(frame: bytes, at: int, mask: int = 0x55) -> bytes:
    return frame[:at] + bytes([frame[at] ^ mask]) + frame[at + 1 :]


@given(st.binary(max_size=1472))
def test_sound_datagrams_pass_whatever_their_length(payload: bytes) -> None:
    assert judge(bytes(datagram(payload=payload))) == NONE


def test_ip_options_are_part_of_the_header() -> None:
    header = IP(src="198.18.0.1", dst="239.1.1.1", options=[IPOption(b"\x94\x04\x00\x00")])
    frame = bytes(Ether() / header / UDP(dport=5000) / b"hello")
    assert judge(frame) == NONE
    assert judge(flipped(frame, 14 + 21)) == CHECKSUM


@given(st.integers(min_value=0, max_value=199), st.integers(min_value=1, max_value=255))
def test_any_damage_to_what_udp_covers_is_seen(at: int, mask: int) -> None:
    assert judge(flipped(SOUND_200, 42 + at, mask)) == CHECKSUM


@given(st.integers(min_value=8, max_value=19), st.integers(min_value=1, max_value=255))
def test_any_damage_to_the_ip_header_is_seen(at: int, mask: int) -> None:
    damaged = flipped(SOUND, 14 + at, mask)
    if damaged[23] == socket.IPPROTO_UDP:
        assert judge(damaged) == CHECKSUM
        assert judge(damaged, vouched=True) == CHECKSUM


@given(st.binary(max_size=70), st.integers(0, 0xFFFF), st.integers(1, 0xFFFF_FFFF))
def test_a_checksum_that_is_made_is_right_and_there_is_one(payload: bytes, port: int, source: int) -> None:
    """Also where it comes to 0, which would be none: the last 16 bits are such that it does."""
    group, size = address("239.2.2.2"), len(payload) // 2 * 2
    for end in (b"", struct.pack("=H", made(payload[:size] + b"\0\0", port, source))):
        datagram = (payload[:size] + end) if end else payload
        header = struct.pack("!HHHH", port, 6000, 8 + len(datagram), 0)
        checksum = lib.mcr_checksum_of_udp(header, datagram, len(datagram), source, group)
        whole = header[:6] + struct.pack("=H", checksum) + datagram
        assert checksum
        assert lib.mcr_checksum_udp(whole, len(whole), source, group)
        assert not end or checksum == 0xFFFF


def made(payload: bytes, port: int, source: int) -> int:
    header = struct.pack("!HHHH", port, 6000, 8 + len(payload), 0)
    return int(lib.mcr_checksum_of_udp(header, payload, len(payload), source, address("239.2.2.2")))


def test_udp_needs_no_checksum_where_there_is_none_or_somebody_vouches_for_it() -> None:
    frame = bytes(datagram())
    none = frame[:40] + b"\0\0" + frame[42:]
    assert judge(none) == NONE
    assert judge(flipped(frame, 41)) == CHECKSUM
    assert judge(flipped(frame, 41), vouched=True) == NONE


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("0.0.0.0", SOURCE),  # noqa: S104 - nothing is bound
        ("0.1.2.3", SOURCE),
        ("127.0.0.1", SOURCE),
        ("127.255.0.1", SOURCE),
        ("224.0.0.1", SOURCE),
        ("239.9.9.9", SOURCE),
        ("255.255.255.255", SOURCE),
        ("198.18.0.255", SOURCE),
        ("198.18.0.2", LOOP),
        ("198.18.0.3", NONE),
        ("240.0.0.1", NONE),  # as IP does
    ],
)
def test_sources(source: str, cause: int) -> None:
    assert judge(bytes(datagram(source))) == cause
    assert judge(bytes(datagram(source)), loopback=True) == NONE


def test_who_has_no_address_yet_may_send_on_its_link() -> None:
    assert judge(bytes(datagram("0.0.0.0", "224.0.0.251"))) == NONE  # noqa: S104
    assert judge(bytes(datagram("0.0.0.0", "255.255.255.255"))) == NONE  # noqa: S104
    assert judge(bytes(datagram("0.0.0.0", "198.18.0.255"))) == SOURCE  # noqa: S104 - of one network alone


@given(st.binary(max_size=1452))
def test_sound_ipv6_datagrams_pass_whatever_their_length(payload: bytes) -> None:
    assert judge(bytes(datagram6(payload=payload))) == NONE


@pytest.mark.slow
def test_no_two_hosts_of_numbered_networks_stand_for_one_another() -> None:
    """The last bytes of network and host are the uppermost of their words on this processor."""
    start = IPv6Address("2001:db8::")
    hosts = (start + (network << 64) + host for network in range(256) for host in range(256))
    assert len({lib.mcr_own_address6(address_words(each)) for each in hosts}) == 1 << 16


@given(st.integers(min_value=0, max_value=199), st.integers(min_value=1, max_value=255))
@example(at=193, mask=67)  # its source once stood for one of this machine
def test_any_damage_to_what_udp_over_ipv6_covers_is_seen(at: int, mask: int) -> None:
    """The addresses of the header among it, and behind an extension header, too."""
    covered = [
        *range(22, 54),
        54,
        55,
        *range(60, len(SOUND6_150)),
    ]  # but for UDP's port, which the rule has, and length
    damaged = flipped(SOUND6_150, covered[at % len(covered)], mask)
    assert judge(damaged) in {CHECKSUM, SOURCE}
    assert judge(EXTENDED6) == NONE
    assert judge(flipped(EXTENDED6, len(EXTENDED6) - 1, mask)) == CHECKSUM


def test_udp_over_ipv6_needs_a_checksum_whoever_vouches_for_it() -> None:
    frame = bytes(datagram6())
    none = frame[:60] + b"\0\0" + frame[62:]
    assert judge(none) == CHECKSUM
    assert judge(none, vouched=True) == CHECKSUM
    assert judge(flipped(frame, 61)) == CHECKSUM
    assert judge(flipped(frame, 61), vouched=True) == NONE


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("::", SOURCE),
        ("::1", SOURCE),
        ("::ffff:198.18.0.1", SOURCE),
        ("ff02::1", SOURCE),
        ("ff15::7", SOURCE),
        ("2001:db8::2", LOOP),
        ("2001:db8::3", NONE),
        ("2001:db8:0:1::2", NONE),
        ("fe80::1", NONE),
        ("fd00::1", NONE),
        ("64:ff9b::c612:1", NONE),
        ("::2", NONE),  # as IP does
    ],
)
def test_ipv6_sources(source: str, cause: int) -> None:
    assert judge(bytes(datagram6(source))) == cause
    assert judge(bytes(datagram6(source)), loopback=True) == NONE


def test_who_has_no_ipv6_address_yet_may_send_on_its_link() -> None:
    assert judge(bytes(datagram6("::", "ff02::fb"))) == NONE


def test_own_mac_is_a_loop_whatever_the_address() -> None:
    assert judge(bytes(datagram()), mac=OWN_MAC) == LOOP


def test_another_hosts_mac() -> None:
    assert judge(bytes(datagram()), elsewhere=True) == lib.MCR_CAUSE_OTHER_HOST


def test_own_table_holds_as_many_as_it_says() -> None:
    keys = [{"key": lib.mcr_own_address(i + 1), "cause": LOOP} for i in range(lib.MCR_MAX_OWN + 1)]
    own = ffi.new("struct mcr_own *")
    assert lib.mcr_own_set(own, keys, lib.MCR_MAX_OWN) == 0
    assert lib.mcr_own_set(own, keys, lib.MCR_MAX_OWN + 1) < 0
    assert lib.mcr_own_set(own, [{"key": 0, "cause": LOOP}], 1) < 0
    assert lib.mcr_own_set(own, [{"key": 1, "cause": NONE}], 1) < 0


def test_addresses_are_those_of_all_interfaces_and_macs_of_those_in_use() -> None:
    network = Network(
        links={
            1: Link(1, "lo", mac=bytes(6)),
            2: Link(2, "a0", mac=OWN_MAC),
            3: Link(3, "a1", mac=STRANGER),
            4: Link(4, "tun0"),
            5: Link(5, "ipvl0", mac=STRANGER, kind="ipvlan"),  # shares it with its neighbours
        },
        addresses={
            1: (IPv4Interface("127.0.0.1/8"),),
            2: (IPv4Interface("198.18.0.2/24"), IPv4Interface("198.18.0.255/16")),
            3: (IPv4Interface("203.0.113.1/31"),),
        },
    )
    keys = own_keys(network, {1, 2, 4, 5, 99})
    found = {each.key: each.cause for each in ffi.from_buffer("struct mcr_rec_own_key[]", keys)}
    assert found == {
        lib.mcr_own_mac(OWN_MAC): LOOP,
        **{lib.mcr_own_address(address(each)): SOURCE for each in ("127.255.255.255", "198.18.255.255")},
        **{
            lib.mcr_own_address(address(each)): LOOP
            for each in ("127.0.0.1", "198.18.0.2", "198.18.0.255", "203.0.113.1")
        },
    }


def test_what_loops_come_from_has_the_room_first() -> None:
    """A thousand addresses, each with a broadcast of its own; what is more than fits is left out."""
    many = {2: tuple(IPv4Interface(f"10.{i // 256}.{i % 256}.1/24") for i in range(1000))}
    keys = own_keys(Network(links={2: Link(2, "a0", mac=OWN_MAC)}, addresses=many), {2})
    causes = [each.cause for each in ffi.from_buffer("struct mcr_rec_own_key[]", keys)]
    assert causes == [LOOP] * 1001 + [SOURCE] * (lib.MCR_MAX_OWN - 1001)
    assert ffi.from_buffer("struct mcr_rec_own_key[]", keys)[0].key == lib.mcr_own_mac(OWN_MAC)
