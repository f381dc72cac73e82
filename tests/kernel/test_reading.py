"""What a look reads from a packet socket, on a real link."""

import itertools
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest

from filters import IN_VLAN, WANTED, WANTED6, Wire, frame, frame6
from mcr.model.flow import Flow
from mcr.net import uapi
from mcr.net.filter.cbpf import attach_filter, select_udp
from mcr.tap.copies import Origin
from mcr.tap.reading import Reading
from mcr_process import PATIENCE, wait_until

ETHERNET = 14
SOL_UDP, UDP_SEGMENT = 17, 103
TAG = bytes.fromhex("81000007")


@contextmanager
def reading(wire: Wire, flows: list[Flow], vlan: int = 0) -> Iterator[Reading]:
    wire.capture.setsockopt(socket.SOL_SOCKET, uapi.SO_RXQ_OVFL, 1)
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


@attrs.define
class Held:
    """Frames that came to a packet socket, and those of them that found room."""

    arrived: int = 0
    found_room: int = 0


def held(capture: socket.socket, so_far: Held | None = None) -> Held:
    """The kernel counts from the last time on that it was asked."""
    made = so_far or Held()
    arrived, lost = struct.unpack("II", capture.getsockopt(uapi.SOL_PACKET, uapi.PACKET_STATISTICS, 8))
    made.arrived += arrived
    made.found_room += arrived - lost
    return made


def test_nothing_is_heard_of_what_came_after_a_loss(wire: Wire) -> None:
    """What was in the socket then is whole, and is heard."""
    wire.capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    numbers = itertools.count()

    def send(count: int) -> None:
        wire.send(*(frame()[:-2] + next(numbers).to_bytes(2) for _ in range(count)))

    with reading(wire, WANTED) as made:
        send(10)
        came = heard(made, 10)
        assert not made.is_behind
        there = held(wire.capture)
        send(1000)
        wait_until(lambda: held(wire.capture, there).arrived == 1010, "all have come")
        assert 10 < there.found_room < 1000
        while len(came) < there.found_room:
            came += made.read(0)
        assert made.is_whole
        send(1)
        while made.is_whole:
            came += made.read(PATIENCE / 100)
        assert made.frames < 1000
    assert len({payload for _, payload in came}) == len(came) == there.found_room
