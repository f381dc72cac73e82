"""Frames of every kind that a relay may get for one rule, made from a seed. Scapy would take seconds for so many."""

import random
import socket
import struct
from collections.abc import Callable

import attrs

GROUP, GROUP6, PORT = "239.1.1.1", "ff15::1", 5000
SOURCE_MAC, GROUP_MAC = bytes.fromhex("020000000001"), bytes.fromhex("01005e010101")
GROUP6_MAC = bytes.fromhex("333300000001")
UDP, FRAGMENT = 17, 44
DF, MF = 0x4000, 0x2000
NO_HEADER = bytes(10)
OPTIONS = (
    bytes.fromhex("94040000"),  # router alert
    bytes.fromhex("01010101"),  # four times nothing
    bytes.fromhex("0707040000000000"),  # record the route
    bytes.fromhex("440c05000000000000000000"),  # times
)

OPTIONS6 = {
    0: bytes.fromhex("1100050200000000"),  # hop by hop: router alert
    60: bytes.fromhex("1100010400000000"),  # for the destination: padding
    FRAGMENT: bytes.fromhex("1100000000000007"),  # of one that is whole
}
"""Extension headers, which UDP follows, by their number."""


@attrs.frozen
class Frame:
    """What a packet socket with PACKET_VNET_HDR is given.

    Attributes:
        header: struct virtio_net_hdr: whether the checksum is to be completed, and how the frame is to be cut.
        data: from Ethernet's header on.
        datagrams: in it.
    """

    header: bytes
    data: bytes
    datagrams: int = 1


@attrs.define
class Datagram:
    """One that is about to be made. `summed`: what its UDP checksum is: right, zero, or only begun (partial)."""

    payload: bytes
    source: str = "198.18.0.1"
    ports: tuple[int, int] = (5000, PORT)
    service: int = 0
    id: int = 0
    fragment: int = 0
    ttl: int = 16
    options: bytes = b""
    summed: str = "right"
    group: str = GROUP
    macs: bytes = GROUP_MAC + SOURCE_MAC

    def frame(self, behind: bytes = b"", *, cut_at: int = 0) -> Frame:
        """As Ethernet carries it. `cut_at`: payload of each datagram of a super-frame."""
        length = 8 + len(self.payload)
        size = 20 + len(self.options)
        begin = struct.pack(
            "!BBHHHBBH4s4s",
            *(0x40 | size // 4, self.service, size + length, self.id, self.fragment, self.ttl, 17, 0),
            socket.inet_aton(self.source),
            socket.inet_aton(self.group),
        )
        ip = begin + self.options
        ip = ip[:10] + struct.pack("!H", 0xFFFF ^ add_up(ip)) + ip[12:]
        pseudo = ip[12:20] + struct.pack("!HH", 17, length)
        ports = struct.pack("!HHH", *self.ports, length)
        sums = {
            "zero": 0,
            "partial": add_up(pseudo),
            "right": 0xFFFF ^ add_up(pseudo + ports + self.payload + bytes(length % 2)) or 0xFFFF,
        }
        data = self.macs + b"\x08\x00" + ip + ports + struct.pack("!H", sums[self.summed]) + self.payload
        if self.summed != "partial":
            return Frame(NO_HEADER, data + behind)
        kind, headers = (5, 14 + size + 8) if cut_at else (0, 0)  # VIRTIO_NET_HDR_GSO_UDP_L4
        header = struct.pack("=BBHHHH", 1, kind, headers, cut_at, 14 + size, 6)
        return Frame(header, data + behind, -(-len(self.payload) // cut_at) if cut_at else 1)


@attrs.define
class Datagram6:
    """The same of IPv6. `options`: an extension header; `next`: its number, or UDP's; `label`: of the flow."""

    payload: bytes
    source: str = "2001:db8::1"
    ports: tuple[int, int] = (5000, PORT)
    service: int = 0
    label: int = 0
    ttl: int = 16
    next: int = UDP
    options: bytes = b""
    summed: str = "right"
    group: str = GROUP6
    macs: bytes = GROUP6_MAC + SOURCE_MAC

    def frame(self, behind: bytes = b"", *, cut_at: int = 0) -> Frame:
        """As Ethernet carries it. `cut_at`: payload of each datagram of a super-frame."""
        length = 8 + len(self.payload)
        begin = struct.pack(
            "!IHBB", 6 << 28 | self.service << 20 | self.label, len(self.options) + length, self.next, self.ttl
        )
        addresses = socket.inet_pton(socket.AF_INET6, self.source) + socket.inet_pton(socket.AF_INET6, self.group)
        ip = begin + addresses + self.options
        pseudo = addresses + struct.pack("!II", length, UDP)
        ports = struct.pack("!HHH", *self.ports, length)
        sums = {
            "zero": 0,
            "partial": add_up(pseudo),
            "right": 0xFFFF ^ add_up(pseudo + ports + self.payload + bytes(length % 2)) or 0xFFFF,
        }
        data = self.macs + b"\x86\xdd" + ip + ports + struct.pack("!H", sums[self.summed]) + self.payload
        if self.summed != "partial":
            return Frame(NO_HEADER, data + behind)
        kind, headers = (5, 14 + len(ip) + 8) if cut_at else (0, 0)  # VIRTIO_NET_HDR_GSO_UDP_L4
        header = struct.pack("=BBHHHH", 1, kind, headers, cut_at, 14 + len(ip), 6)
        return Frame(header, data + behind, -(-len(self.payload) // cut_at) if cut_at else 1)


def add_up(data: bytes) -> int:
    """The sum of 16-bit words by ones' complement (RFC 1071); `data` is even."""
    return int.from_bytes(data) % 0xFFFF or (0xFFFF if any(data) else 0)


class Corpus:
    """Makes frames. The same seed makes the same ones."""

    headers = 28
    impossible: tuple[str, ...] = "127.0.0.1", "198.18.1.1", "224.0.0.9", "255.255.255.255", "0.0.0.1"
    damageable = *range(22, 30), *range(38, 42)  # but for its flow; and the payload

    def __init__(self, seed: int, longest: int) -> None:
        """`longest`: bytes of an IP datagram that every output takes whole."""
        self._random = random.Random(seed)
        self._longest = longest - self.headers

    def plain(self, count: int) -> list[Frame]:
        """Such as the kernel path forwards."""
        return self._some(count, *[self._datagram] * 18, *[self._short] * 6, self._train)

    def odd(self, count: int) -> list[Frame]:
        """Plain ones among others that workers have to look at."""
        rare = self._with_options, self._too_long, self._with_priority
        return self._some(count, *[self._datagram, self._short, *rare] * 5, self._train)

    def turns(self, count: int) -> list[Frame]:
        """One that the kernel path forwards, and one that a worker does, in turn."""
        return [each() for _ in range(count // 2) for each in (self._datagram, self._with_options)]

    def unsound(self, count: int) -> list[Frame]:
        """Plain ones among others that are dropped."""
        return self._some(count, self._datagram, self._damaged, self._wrong, self._fragment)

    def _some(self, count: int, *kinds: Callable[[], Frame]) -> list[Frame]:
        return [self._random.choice(kinds)() for _ in range(count)]

    def _made(self, size: int, **fields: str) -> Datagram | Datagram6:
        draw = self._random
        return Datagram(
            draw.randbytes(size),
            source=f"{draw.randrange(11, 126)}.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(256)}",
            ports=(draw.randrange(65536), PORT),
            service=draw.randrange(256),
            id=draw.randrange(65536),
            fragment=draw.choice((0, DF)),
            ttl=draw.randrange(1, 256),
            summed=fields.get("summed") or draw.choice(("right", "right", "zero", "partial")),
        )

    def _datagram(self) -> Frame:
        return self._made(self._random.choice((self._random.randrange(self._longest), self._longest))).frame()

    def _short(self) -> Frame:
        made = self._made(self._random.randrange(19))
        # Who completes a checksum adds up all that there is, so nothing stands behind the datagram before.
        padding = 0 if made.summed == "partial" else 18 - len(made.payload)
        return made.frame(self._random.randbytes(padding))

    def _train(self) -> Frame:
        cut_at = self._random.randrange(1, self._longest + 1)
        most = min(64, 60_000 // cut_at) * cut_at
        return self._made(self._random.randrange(cut_at + 1, most + 1), summed="partial").frame(cut_at=cut_at)

    def _with_options(self) -> Frame:
        made = self._made(self._random.randrange(1000))
        made.options = self._random.choice(OPTIONS)
        return made.frame()

    def _too_long(self) -> Frame:
        return self._made(self._random.randrange(self._longest + 1, 1501 - self.headers)).frame()

    def _with_priority(self) -> Frame:
        frame = self._made(self._random.randrange(1000), summed="right").frame()
        return Frame(NO_HEADER, frame.data[:12] + bytes.fromhex("8100a000") + frame.data[12:])

    def _damaged(self) -> Frame:
        frame = self._made(self._random.randrange(8, 1000), summed="right").frame()
        data = bytearray(frame.data)
        at = self._random.choice((*self.damageable, *range(14 + self.headers, len(data))))
        data[at] ^= self._random.randrange(1, 256)
        return Frame(NO_HEADER, bytes(data[: len(data) - self._random.choice((0, 0, 4))]))

    def _wrong(self) -> Frame:
        made = self._made(100)
        made.source = self._random.choice(self.impossible)
        return made.frame()

    def _fragment(self) -> Frame:
        made = self._made(101, summed="zero")  # of no datagram: offsets are counted in eight bytes
        assert isinstance(made, Datagram)
        made.fragment = self._random.choice((MF, MF | 7))
        return made.frame()


class Corpus6(Corpus):
    """The same of IPv6."""

    headers = 48
    impossible = "::1", "2001:db8:1::1", "ff15::9", "::ffff:198.18.0.1", "::"
    damageable = *range(22, 38), *range(58, 62)

    def _made(self, size: int, **fields: str) -> Datagram6:
        draw = self._random
        return Datagram6(
            draw.randbytes(size),
            source=f"2001:db8:7::{draw.randrange(65536):x}:{draw.randrange(65536):x}",
            ports=(draw.randrange(65536), PORT),
            service=draw.randrange(256),
            label=draw.randrange(1 << 20),
            ttl=draw.randrange(1, 256),
            summed=fields.get("summed") or draw.choice(("right", "right", "partial")),
        )

    def _with_options(self) -> Frame:
        made = self._made(self._random.randrange(1000))
        made.next, made.options = self._random.choice([*OPTIONS6.items()])
        return made.frame()

    def _fragment(self) -> Frame:
        """Or without a checksum, which IPv6 does not allow."""
        made = self._made(101, summed="zero")
        if self._random.randrange(2):
            made.next, made.options = FRAGMENT, bytes.fromhex("1100000100000007")
        return made.frame()
