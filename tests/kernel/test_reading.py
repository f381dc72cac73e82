"""What a look reads from a packet socket, on a real link."""

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from filters import IN_VLAN, WANTED, WANTED6, Wire, frame, frame6
from mcr.model.flow import Flow
from mcr.net import uapi
from mcr.net.filter.cbpf import attach_filter, select_udp
from mcr.tap.copies import Origin
from mcr.tap.reading import Reading
from mcr_process import PATIENCE

ETHERNET = 14
SOL_UDP, UDP_SEGMENT = 17, 103
TAG = bytes.fromhex("81000007")


@contextmanager
def reading(wire: Wire, flows: list[Flow], vlan: int = 0) -> Iterator[Reading]:
    for option in (uapi.PACKET_AUXDATA, uapi.PACKET_VNET_HDR):
        wire.capture.setsockopt(uapi.SOL_PACKET, option, 1)
    attach_filter(wire.capture, select_udp(flows, ETHERNET))
    with Reading(wire.capture, ETHERNET, vlan, lambda _origin, _flow: True) as made:
        yield made


def heard(made: Reading, count: int) -> list[tuple[Origin, int]]:
    """So many datagrams."""
    came = list[tuple[Origin, int]]()
    while len(came) < count:
        more = made.read(PATIENCE / 100)
        came += more
        assert made.is_whole
    assert len(came) == count
    return came


@pytest.mark.parametrize(
    ("flows", "vlan", "one", "other"),
    [
        (WANTED, 0, frame(), frame(port=5002)),
        (WANTED6, 0, frame6(), frame6(port=5002)),
        ([IN_VLAN], 7, frame(port=5001, vlan=TAG), frame(port=5001, vlan=TAG, options=bytes(4))),
    ],
    ids=["IPv4", "IPv6", "VLAN"],
)
def test_datagrams_are_heard_in_order(wire: Wire, flows: list[Flow], vlan: int, one: bytes, other: bytes) -> None:
    """And no other frames."""
    with reading(wire, flows, vlan) as made:
        assert made.read(0) == []
        assert not made.is_behind
        wire.send(one, frame(port=5003), other, one)
        came = heard(made, 3)
    assert {origin.mac for origin, _ in came} == {one[6:12]}
    assert came[0] == came[2]
    assert (came[0] == came[1]) is (vlan > 0)  # the same payload, of the same flow, is told by nothing else


def test_datagrams_of_a_super_frame_are_heard_one_by_one(wire: Wire) -> None:
    wire.a.ip("addr add 198.18.0.1/24 dev a0")
    with wire.a.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, reading(wire, WANTED) as made:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.0.1"))
        sender.setsockopt(SOL_UDP, UDP_SEGMENT, 100)
        sender.sendto(b"".join(bytes([number]) * 100 for number in range(9)) + b"end", ("239.1.1.1", 5000))
        together = heard(made, 10)
        assert made.frames == 1
        for number in range(9):
            sender.sendto(bytes([number]) * 100, ("239.1.1.1", 5000))
        sender.sendto(b"end", ("239.1.1.1", 5000))
        assert heard(made, 10) == together
    assert len({payload for _, payload in together}) == 10
    assert {origin.address for origin, _ in together} == {socket.inet_aton("198.18.0.1")}


def test_nothing_is_heard_of_what_came_after_a_loss(wire: Wire) -> None:
    """What was read until then is whole."""
    wire.capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    numbers = itertools.count()
    with reading(wire, WANTED) as made:
        wire.send(*(frame()[:-1] + bytes([next(numbers)]) for _ in range(10)))
        came = heard(made, 10)
        assert not made.is_behind
        wire.send(*(frame()[:-1] + bytes([next(numbers) % 256]) for _ in range(1000)))
        while made.is_whole:
            came += made.read(0)
        assert made.frames < 1000
    assert len({payload for _, payload in came}) == len(came) == 10
