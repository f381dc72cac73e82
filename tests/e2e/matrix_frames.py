"""Frames of every kind for each of the matrix's rules, and others that are dropped: what is to become of each."""

import random
import struct
from collections.abc import Iterator
from itertools import product
from typing import Any

import attrs

from corpus import DF, FRAGMENT, MF, NO_HEADER, OPTIONS, OPTIONS6, SOURCE_MAC, Datagram, Datagram6, Frame
from fragments import IN_IPV4, IN_IPV6, with_checksum
from matrix_rules import (
    BY_NAME,
    SECOND,
    SECOND6,
    SENDER,
    SENDER6,
    THIRD,
    THIRD6,
    Came,
    Macs,
    Rule,
    mac_of_group,
)

SIZES = 0, 1, 2, 17, 18, 19, 188, 1316
TOO_LONG = (2000, 1), (3000, -1), (4001, 1)
"""Sizes, and the order of the fragments. What follows the last one at once is shorter, and may leave with any tag."""
PRIORITY, IN_7, IN_8 = bytes.fromhex("8100a000"), bytes.fromhex("8100a007"), bytes.fromhex("81000008")
OF_PROVIDER = bytes.fromhex("88a80007")


@attrs.frozen
class Sent:
    """Frames that belong together.

    Attributes:
        frames: to be sent.
        rule: that takes them; empty: none does.
        came: datagrams that are in them.
        cause: under which they count, if no rule takes them; empty: they are not counted.
        number: as which.
    """

    frames: tuple[Frame, ...]
    rule: str = ""
    came: tuple[Came, ...] = ()
    cause: str = ""
    number: int = 1


def behind_tag(frame: Frame, tag: bytes) -> Frame:
    """The same with a VLAN tag."""
    flags, kind, header, cut_at, start, offset = struct.unpack("=BBHHHH", frame.header)
    moved = (
        struct.pack("=BBHHHH", flags, kind, header and header + 4, cut_at, start + 4, offset) if flags else NO_HEADER
    )
    return Frame(moved, frame.data[:12] + tag + frame.data[12:], frame.datagrams)


class Flow:
    """What a source sends to a group and port that a rule takes. Each payload begins with the source's letter."""

    def __init__(
        self, rule: str, source: str = "", *, group: str = "", port: int = 5000, letter: bytes = b"A", mac: bytes = b""
    ) -> None:
        self.rule: Rule = BY_NAME[rule]
        self.group = group or self.rule.group
        self.is_ipv6 = ":" in self.group
        self._source = source or (SENDER6 if self.is_ipv6 else SENDER)
        self._port, self._letter = port, letter
        self._mac = mac or mac_of_group(self.group)
        self._random = random.Random(f"{rule} {source} {group} {port}")

    def datagram(self, size: int, **fields: object) -> Came:
        """One of so many bytes."""
        draw = self._random
        fields = {
            "payload": self.payload(size),
            "source": self._source,
            "ports": (draw.randrange(1, 65536), self._port),
            "group": self.group,
            "macs": self._mac + SOURCE_MAC,
        } | fields
        fields |= {} if self.is_ipv6 or "id" in fields else {"id": draw.randrange(1, 65536)}
        return (Datagram6 if self.is_ipv6 else Datagram)(**fields)  # type: ignore[arg-type]

    def payload(self, size: int) -> bytes:
        return (self._letter + self._random.randbytes(size))[:size]

    def sent(self, came: Came, *frames: Frame, cut_at: int = 0) -> Sent:
        """`frames`: that it is in, if they are not the usual one."""
        each = cut_at or len(came.payload) or 1
        starts = range(0, len(came.payload) or 1, each)
        whole = tuple(attrs.evolve(came, payload=came.payload[at : at + each]) for at in starts)
        several = frames or (came.frame(cut_at=cut_at),)
        if self.rule.vlan:
            several = tuple(behind_tag(each, IN_7) for each in several)
        return Sent(several, self.rule.name, whole)

    def super_frame(self, cut_at: int, last: int, count: int) -> Sent:
        """Of so many datagrams, and one of another length."""
        payload = b"".join(self.payload(size) for size in [cut_at] * count + [last])
        return self.sent(self.datagram(0, payload=payload, summed="partial"), cut_at=cut_at)

    def few(self) -> Iterator[Sent]:
        """Plain ones."""
        for size in (100, 1000):
            yield self.sent(self.datagram(size))

    def plain(self) -> Iterator[Sent]:
        """Such as the kernel path forwards."""
        for size in SIZES:
            yield self.sent(self.datagram(size))
        for fields in (
            {"summed": "partial"},
            {"ttl": 2},
            {"ttl": 1},
            {"ttl": 255},
            {"service": 0xB9},
            {"service": 0xBB, "ttl": 63},
            {"service": 0xFF},
        ):
            yield self.sent(self.datagram(188, **fields))
        padded = self.datagram(5)
        yield self.sent(padded, padded.frame(self._random.randbytes(13)))
        if not self.is_ipv6:
            yield self.sent(self.datagram(188, summed="zero"))
            yield self.sent(self.datagram(188, fragment=DF))
        yield self.super_frame(200, 50, 5)
        yield self.super_frame(1300, 1299, 2)

    def odd(self) -> Iterator[Sent]:
        """Such as go to a worker, whichever path the rule takes."""
        if self.is_ipv6:
            for number, header in OPTIONS6.items():
                yield self.sent(self.datagram(100, next=number, options=header))
            for size, order in TOO_LONG:
                whole = self.datagram(size, next=FRAGMENT, options=OPTIONS6[FRAGMENT])
                parts = [IN_IPV6.numbered(each, size) for each in IN_IPV6.parts(whole.frame().data)]
                yield self.sent(whole, *(Frame(NO_HEADER, each) for each in parts[::order]))
        else:
            for options in OPTIONS:
                yield self.sent(self.datagram(100, options=options))
            for size, order in TOO_LONG:
                whole = self.datagram(size)
                yield self.sent(whole, *(Frame(NO_HEADER, each) for each in IN_IPV4.parts(whole.frame().data)[::order]))
        if not self.rule.vlan:
            with_priority = self.datagram(100)
            yield self.sent(with_priority, behind_tag(with_priority.frame(), PRIORITY))
        yield self.sent(self.datagram(1450 - 20 * self.is_ipv6))


def flows(macs: Macs) -> Iterator[Flow]:
    """Of all rules."""
    special: dict[str, list[dict[str, Any]]] = {
        "own address": [{"mac": macs["in0"]}],
        "IPv6 own address": [{"mac": macs["in0"]}],
        "kept source": [{}, {"source": SECOND, "letter": b"B"}],
        "named sources": [{}, {"source": SECOND, "letter": b"B"}],
        "any source": [{"source": THIRD}],
        "IPv6 kept source": [{}, {"source": SECOND6, "letter": b"B"}],
        "IPv6 any source": [{"source": THIRD6}],
        "one of the range": [{"port": 5001}],
        "range": [{"group": "239.1.4.2", "port": 5001}],
        "IPv6 range": [{"group": "ff15::102", "port": 5001}],
    }
    for name in BY_NAME:
        for fields in special.get(name, [{}]):
            yield Flow(name, **fields)


def beside(macs: Macs) -> Iterator[Sent]:
    """What is special about some rules, and fits the others not."""
    for at, port in product(range(4), range(5000, 5003)):
        if (at, port) not in {(1, 5001), (2, 5001)}:
            yield from Flow("range", group=f"239.1.4.{at}", port=port, letter=bytes([at])).few()
    for at, port in product(range(4), (5000, 5001)):
        if (at, port) != (2, 5001):
            yield from Flow("IPv6 range", group=f"ff15::10{at}", port=port, letter=bytes([at])).few()
    nobody = "0.0.0.0", "0.0.7.9"  # noqa: S104 - nothing is bound to it
    for number, source in enumerate(nobody):
        yield from Flow("kept on the link", source, letter=bytes([number])).few()
        yield from Flow("from all", source, letter=bytes([number])).few()
    for rule in ("plain", "IPv6"):  # multicast in unicast frames
        yield from Flow(rule, letter=b"U", mac=macs["in0"]).few()


class Unsound:
    """Frames of which nothing leaves."""

    def __init__(self, macs: Macs) -> None:
        self._macs = macs
        self._plain, self._tagged, self._ipv6 = Flow("plain"), Flow("tagged"), Flow("IPv6")

    def all(self) -> Iterator[Sent]:
        """Under each cause, and under none."""
        for cause, frames in (
            ("checksum", self._checksums()),
            ("malformed", self._malformed()),
            ("source", self._sources()),
            ("loop", self._own()),
            ("other_host", self._foreign()),
            ("vlan", [behind_tag(behind_tag(each, IN_8), IN_7) for each in (self._frame(), self._frame6())]),
            ("fragment", self._fragments()),
            ("fragment_overlap", self._overlaps()),
            ("no_match", self._of_nobody()),
            ("", self._not_counted()),
        ):
            for each in frames:
                yield Sent((each,), cause=cause)

    def _frame(self, size: int = 100, **fields: object) -> Frame:
        return self._plain.datagram(size, **fields).frame()

    def _frame6(self, size: int = 100, **fields: object) -> Frame:
        return self._ipv6.datagram(size, **fields).frame()

    def _checksums(self) -> Iterator[Frame]:
        for at in (14 + 8, 14 + 15, 34 + 7, 34 + 8, 34 + 107):  # TTL, source, the sum itself, payload
            yield damaged(self._frame(), at)
        for at in (14 + 15, 54 + 7, 54 + 8, 54 + 107):
            yield damaged(self._frame6(), at)
        yield self._frame6(summed="zero")

    def _malformed(self) -> Iterator[Frame]:
        for whole, length_at in ((self._frame(), 34 + 4), (self._frame6(), 54 + 4)):
            yield Frame(NO_HEADER, whole.data[:-1])
            yield Frame(NO_HEADER, whole.data[:length_at])  # in UDP's header
            for length in (7, 900):
                yield Frame(NO_HEADER, whole.data[:length_at] + length.to_bytes(2) + whole.data[length_at + 2 :])
        routed = bytes.fromhex("1102000100000000") + bytes(16)
        yield self._frame6(next=43, options=routed)
        yield self._frame6(next=60, options=bytes.fromhex("3c00010400000000") * 4 + bytes.fromhex("1100010400000000"))

    def _sources(self) -> Iterator[Frame]:
        for source in ("127.0.0.1", "0.0.0.0", "239.9.9.9", "255.255.255.255", "198.18.0.255"):  # noqa: S104
            yield self._frame(source=source)
        yield self._to_all("198.18.0.255", "0.0.0.0")  # noqa: S104 - which may send to 255.255.255.255 alone
        for source in ("::1", "::", "ff15::9", "::ffff:198.18.0.1"):
            yield self._frame6(source=source)

    def _own(self) -> Iterator[Frame]:
        for source in ("198.18.0.2", "198.18.1.1"):
            yield self._frame(source=source)
        yield self._to_all("255.255.255.255", "198.18.1.1")
        for source in ("2001:db8::2", "2001:db8:1::1"):
            yield self._frame6(source=source)
        for flow in (self._plain, self._ipv6):
            yield flow.datagram(100, macs=mac_of_group(flow.group) + self._macs["out0"]).frame()

    def _foreign(self) -> Iterator[Frame]:
        for flow in (self._plain, self._ipv6):
            yield flow.datagram(100, macs=bytes.fromhex("029999999999") + SOURCE_MAC).frame()

    def _fragments(self) -> Iterator[Frame]:
        """Of no datagram: offsets are counted in eight bytes, and none is longer than 65,535."""
        yield self._frame(101, fragment=MF)
        yield self._frame(100, fragment=0x1FFF)
        yield self._frame6(101, next=FRAGMENT, options=bytes.fromhex("1100000100000007"))
        yield self._frame6(100, next=FRAGMENT, options=bytes.fromhex("1100fff800000007"))

    def _overlaps(self) -> Iterator[Frame]:
        first, second, third = IN_IPV4.parts(self._plain.datagram(4000, id=7).frame().data)
        yield from (Frame(NO_HEADER, each) for each in (first, moved(second, -8), third))

    def _to_all(self, group: str, source: str) -> Frame:
        return self._frame(group=group, source=source, macs=mac_of_group(group) + SOURCE_MAC)

    def _of_nobody(self) -> Iterator[Frame]:
        yield self._to_all("198.18.1.255", SENDER)  # of another network
        for flow, group in ((self._plain, "239.1.1.99"), (self._tagged, "239.1.1.2"), (self._ipv6, "ff15::99")):
            other = flow.datagram(100, group=group, macs=mac_of_group(group) + SOURCE_MAC).frame()
            yield behind_tag(other, IN_7) if flow.rule.vlan else other
        scope = "ff12::1"  # another one than the rule's
        yield self._frame6(group=scope, macs=mac_of_group(scope) + SOURCE_MAC)
        yield self._frame(ports=(1, 5009))
        yield self._frame6(ports=(1, 5009))
        for group, port in (("239.1.4.4", 5000), ("239.1.4.0", 5003)):  # beside the range
            yield self._frame(group=group, ports=(1, port), macs=mac_of_group(group) + SOURCE_MAC)
        yield Flow("IPv6 named source", "2001:db8::5", port=5001).datagram(100).frame()
        long = self._plain.datagram(3000, group="239.1.1.99", macs=mac_of_group("239.1.1.99") + SOURCE_MAC)
        yield from (Frame(NO_HEADER, each) for each in IN_IPV4.parts(long.frame().data))

    def _not_counted(self) -> Iterator[Frame]:
        """Of VLANs that no rule is about, and no UDP."""
        yield behind_tag(self._frame(), IN_8)
        yield behind_tag(self._frame(), OF_PROVIDER)
        yield behind_tag(behind_tag(self._frame(), IN_7), IN_8)
        yield behind_tag(self._frame6(), IN_8)
        for whole in (self._frame(), self._frame6()):
            yield Frame(NO_HEADER, whole.data[:20])  # in IP's header: of nobody knows which protocol
        no_udp = self._frame().data
        yield Frame(NO_HEADER, no_udp[:14] + with_checksum(no_udp[14:23] + b"\x06" + no_udp[24:34]) + no_udp[34:])
        yield Frame(NO_HEADER, self._frame6().data[:20] + b"\x06" + self._frame6().data[21:])


def damaged(frame: Frame, at: int) -> Frame:
    """The same, but for one byte."""
    return Frame(frame.header, frame.data[:at] + bytes([frame.data[at] ^ 0x55]) + frame.data[at + 1 :])


def moved(fragment: bytes, by: int) -> bytes:
    """The same fragment so many bytes further on."""
    place = int.from_bytes(fragment[20:22]) + by // 8
    return fragment[:14] + with_checksum(fragment[14:20] + place.to_bytes(2) + fragment[22:34]) + fragment[34:]
