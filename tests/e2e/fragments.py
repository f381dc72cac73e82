"""Datagrams of both families, and the fragments that a network with an MTU of 1,500 bytes makes of them."""

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from corpus import add_up
from lab import Namespace
from mcr_process import PATIENCE

MORE = 1 << 13  # fragments of IPv4 follow (RFC 791)
_ETHERNET, _IPV4, _IPV6 = 14, 34, 54  # where headers end
_FRAGMENT = 44


@attrs.frozen
class Family:
    """One of IP's versions, with a rule of it.

    Attributes:
        first: bytes of a datagram that the first fragment has, and each but the last.
        largest: bytes of payload of a datagram.
        source: an address of the sender's network; with `other` as well.
        unjoined: a group of which no rule takes anything.
        kind: of frames.
    """

    version: int
    first: int
    largest: int
    source: str
    other: str
    group: str
    unjoined: str
    to: str
    kind: int

    @property
    def rule(self) -> tuple[str, str]:
        """Input and outputs."""
        given = [f"[{each}]" if self.version == 6 else each for each in (self.group, self.to)]
        return f"in0:{given[0]}:5000", f"{given[1]}:6000:out0"

    def datagram(self, payload: bytes, number: int, *, source: str = "", group: str = "", tos: int = 0) -> Packet:
        """One with its place for fragments; `number`: its identification."""
        source, group = source or self.source, group or self.group
        udp = UDP(sport=4000, dport=5000) / Raw(payload)
        if self.version == 4:
            return Ether(dst="01:00:5e:01:01:01") / IP(src=source, dst=group, id=number, ttl=16, tos=tos) / udp
        header = IPv6(src=source, dst=group, hlim=16, tc=tos, plen=0) / IPv6ExtHdrFragment(
            id=number
        )  # the length is that of parts
        return Ether(dst="33:33:00:00:00:01") / header / udp

    def parts(self, whole: Packet | bytes) -> list[bytes]:
        """Its fragments. What is short has none: it is one frame, of IPv6 without a fragment header."""
        frame = bytes(whole)
        header, data = (frame[:_IPV4], frame[_IPV4:]) if self.version == 4 else (frame[: _IPV6 + 8], frame[_IPV6 + 8 :])
        if self.version == 6 and len(data) <= self.first:
            return [frame[:18] + struct.pack("!HB", len(data), frame[_IPV6]) + frame[21:_IPV6] + data]
        starts = range(0, len(data), self.first)
        return [
            self._part(header, data[start : start + self.first], start, start + self.first < len(data))
            for start in starts
        ]

    def _part(self, header: bytes, data: bytes, start: int, more: bool) -> bytes:
        if self.version == 4:
            ip = header[_ETHERNET:]
            ip = ip[:2] + struct.pack("!H2sH", 20 + len(data), ip[4:6], MORE * more | start // 8) + ip[8:]
            return header[:_ETHERNET] + with_checksum(ip) + data
        size, place = struct.pack("!H", 8 + len(data)), struct.pack("!H", start | more)
        return header[:18] + size + header[20 : _IPV6 + 2] + place + header[_IPV6 + 4 :] + data

    def numbered(self, fragment: bytes, number: int) -> bytes:
        """The same of another datagram."""
        if self.version == 6:
            return fragment[: _IPV6 + 4] + struct.pack("!I", number) + fragment[_IPV6 + 8 :]
        ip = fragment[_ETHERNET:_IPV4]
        return fragment[:_ETHERNET] + with_checksum(ip[:4] + struct.pack("!H", number) + ip[6:]) + fragment[_IPV4:]

    def changed(
        self, frame: bytes, number: int, *, start: int | None = None, last: bool | None = None, payload: bytes = b""
    ) -> bytes:
        """The same fragment of another datagram, with another place there, or other bytes."""
        made = Ether(self.numbered(frame, number))
        header = made[IP] if self.version == 4 else made[IPv6ExtHdrFragment]
        if start is not None:
            setattr(header, "frag" if self.version == 4 else "offset", start // 8)
        if last is not None and self.version == 4:
            header.flags = 0 if last else "MF"
        elif last is not None:
            header.m = int(not last)
        if payload:
            header.remove_payload()
            made = made / Raw(payload)
        if self.version == 4:
            del made[IP].chksum, made[IP].len
        else:
            del made[IPv6].plen
        return bytes(made)

    @contextmanager
    def receiving(self, namespace: Namespace, interface: str = "rx0") -> Iterator[socket.socket]:
        """A socket that has joined; IP puts together there what arrives in fragments."""
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        with namespace.entered():
            opened = socket.socket(family, socket.SOCK_DGRAM)
        with opened:
            opened.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            opened.bind((self.to, 6000))
            group = socket.inet_pton(family, self.to)
            with namespace.entered():
                index = socket.if_nametoindex(interface).to_bytes(4, "little")
                if self.version == 4:
                    opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + bytes(4) + index)
                else:
                    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + index)
            opened.settimeout(PATIENCE)
            yield opened

    def come(self, receiver: socket.socket, last: bytes) -> list[bytes]:
        """Payloads that arrive, up to the last."""
        got: list[bytes] = []
        while last not in got:
            got.append(receiver.recv(self.largest))
        return got


IN_IPV4: Final = Family(
    4, 1480, 65_507, "198.18.0.1", "198.18.0.66", "239.1.1.1", "239.1.1.9", "239.2.2.2", 0x0800
)  # RFC 768, RFC 791
IN_IPV6: Final = Family(
    6, 1448, 65_527, "2001:db8::1", "2001:db8::66", "ff15::1", "ff15::9", "ff15::2", 0x86DD
)  # RFC 8200
FAMILIES: Final = (IN_IPV4, IN_IPV6)


def with_checksum(header: bytes) -> bytes:
    """Of IPv4, over whatever it has."""
    without = header[:10] + bytes(2) + header[12:]
    return header[:10] + struct.pack("!H", 0xFFFF ^ add_up(without)) + header[12:]


def filled(size: int, seed: int) -> bytes:
    """A payload."""
    return random.Random(seed).randbytes(size)
