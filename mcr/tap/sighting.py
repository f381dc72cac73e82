"""A frame as a probe sees it: where it arrived, to which group and port, with which VLAN tag."""

import socket
import struct
from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

import attrs

from mcr.model.flow import Address, Flow, Input
from mcr.net import uapi

_MORE_FRAGMENTS = 0x2000
_FRAGMENT_OFFSET = 0x1FFF
_IP_HEADER = struct.Struct("!BxxxxxHxBxxxxxx4s")  # version and length, fragment, protocol, destination
_UDP_HEADER = struct.Struct("!xxHHxx")  # destination port, length
_ALL_HOSTS = IPv4Address("224.0.0.1")  # one to another group reaches only hosts that have joined it
_TAG = struct.Struct("!HH")  # TCI, protocol of what follows


class Tag(NamedTuple):
    """A VLAN tag (IEEE 802.1Q, 9). `protocol`: 0x8100, or 0x88a8 (802.1ad)."""

    vlan: int
    protocol: int = uapi.ETH_P_8021Q

    @classmethod
    def from_tci(cls, tci: int, protocol: int) -> "Tag":
        """Take the VLAN id out of a tag's control information."""
        return cls(tci & uapi.VLAN_VID_MASK, protocol)


@attrs.frozen
class Sighting:
    """A kind of UDP frames.

    Attributes:
        interface: name of the one that they came in by.
        port: None for fragments that bear none.
        tags: the outermost first, without those that bear a priority alone (VLAN 0).
        outgoing: this machine sent them, out of the interface.
    """

    interface: str
    group: Address
    port: int | None
    tags: tuple[Tag, ...] = ()
    fragment: bool = False
    outgoing: bool = False

    @classmethod
    def of(cls, source: Input) -> "Sighting":
        """What a rule takes: whole, and tagged as its flow is."""
        flow = source.flow
        return cls(source.interface, flow.group, flow.port, (Tag(flow.vlan),) if flow.vlan else ())

    @property
    def flow(self) -> Flow | None:
        """The flow that a rule would have to ask for; None: none can be asked for."""
        if self.port is None or any(tag.protocol != uapi.ETH_P_8021Q for tag in self.tags):
            return None
        match self.tags:
            case ():
                return Flow(self.group, self.port)
            case (tag,):
                return Flow(self.group, self.port, tag.vlan)
            case _:
                return None


@attrs.frozen
class Datagram:
    """One UDP frame. `payload`: bytes, of the datagrams in it if it is a super-frame."""

    sighting: Sighting
    payload: int


@attrs.frozen
class Query:
    """One IGMP query to all hosts, by the interface it came in by."""

    interface: str


@attrs.frozen
class Look:
    """What was seen.

    Attributes:
        seconds: how long it took.
        frames: of each kind.
        queries: IGMP queries to all hosts, without a tag, by interface.
        payload: of the flow looked for, on the interface where it was looked for; the largest, in bytes.
    """

    seconds: float
    frames: Mapping[Sighting, int] = attrs.field(factory=dict)
    queries: Mapping[str, int] = attrs.field(factory=dict)
    payload: int | None = None

    def with_more(self, later: "Look") -> "Look":
        """Together with a later look for the same."""
        return Look(
            self.seconds + later.seconds,
            Counter(self.frames) + Counter(later.frames),
            Counter(self.queries) + Counter(later.queries),
            max((each.payload for each in (self, later) if each.payload is not None), default=None),
        )


def identify(data: bytes, interface: str, protocol: int, tag: Tag | None, segment: int = 0) -> Datagram | Query | None:
    """Make out a frame; None: neither UDP nor an IGMP query to all hosts over IPv4, or cut short.

    Args:
        data: from the network header on, without the outermost VLAN tag.
        interface: where it came in.
        protocol: of what `data` begins with, by Ethernet's number: IPv4, or another VLAN tag.
        tag: the outermost, which the kernel took out.
        segment: bytes of payload of each datagram, if it is a super-frame; 0: it is not.
    """
    tags: tuple[Tag, ...] = (tag,) if tag else ()
    try:
        if protocol in {uapi.ETH_P_8021Q, uapi.ETH_P_8021AD}:
            tci, inner = _TAG.unpack_from(data)
            tags, data, protocol = (*tags, Tag.from_tci(tci, protocol)), data[_TAG.size :], inner
        tags = tuple(each for each in tags if each.vlan)  # with VLAN 0 a tag bears but a priority
        if protocol != uapi.ETH_P_IP:
            return None
        first, fragment, transport, destination = _IP_HEADER.unpack_from(data)
        group = IPv4Address(destination)
        if transport == socket.IPPROTO_IGMP:
            return None if tags or group != _ALL_HOSTS else Query(interface)
        if transport != socket.IPPROTO_UDP:
            return None
        fragmented = bool(fragment & (_MORE_FRAGMENTS | _FRAGMENT_OFFSET))
        if fragment & _FRAGMENT_OFFSET:
            return Datagram(Sighting(interface, group, None, tags, fragmented), 0)
        port, length = _UDP_HEADER.unpack_from(data, (first & 0x0F) * 4)
    except struct.error:
        return None
    return Datagram(Sighting(interface, group, port, tags, fragmented), segment or max(length - _UDP_HEADER.size, 0))
