"""A frame as a probe sees it: where it arrived, to which group and port, with which VLAN tag."""

import socket
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from typing import NamedTuple

import attrs

from mcr.model.flow import IPV4, IPV6, Address, Flow, Input
from mcr.model.overlaps import Singles, taken_by_source, taken_of
from mcr.net import uapi

_MORE_FRAGMENTS = 0x2000
_FRAGMENT_OFFSET = 0x1FFF
_IP_HEADER = struct.Struct("!BxxxxxHxBxx4s4s")  # version and length, fragment, protocol, source, destination
_UDP_HEADER = struct.Struct("!xxHHxx")  # destination port, length
_ALL_HOSTS = IPv4Address("224.0.0.1")  # one to another group reaches only hosts that have joined it
_IPV6_HEADER = struct.Struct("!6xBx16s16s")  # protocol of what follows, source, destination
_EXTENSION = struct.Struct("!BBHxxxx")  # protocol of what follows, size, and of a fragment header offset and flags
_WITHOUT_SIZE = socket.IPPROTO_FRAGMENT
_EXTENSIONS = {
    socket.IPPROTO_HOPOPTS,
    socket.IPPROTO_ROUTING,
    socket.IPPROTO_DSTOPTS,
    socket.IPPROTO_FRAGMENT,
    socket.IPPROTO_AH,
}
_OFFSET6, _CUT6 = 0xFFF8, 0xFFF9  # of a fragment header: offset; the same and more-fragments flag
_ALL_NODES = IPv6Address("ff02::1")
_MLD_TYPE = bytes([130])  # of a query (RFC 3810, 5.1)
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
        source: that they came from; None: whoever looks does not tell sources apart.
    """

    interface: str
    group: Address
    port: int | None
    tags: tuple[Tag, ...] = ()
    fragment: bool = False
    outgoing: bool = False
    source: Address | None = None

    @classmethod
    def of(cls, source: Input) -> "Sighting":
        """What a rule takes, from whatever source: whole, and tagged as its flow is."""
        return cls(source.interface, source.group, source.port, (Tag(source.vlan),) if source.vlan else ())

    @property
    def flow(self) -> Flow | None:
        """The flow that a rule would have to ask for; None: none can be asked for."""
        if self.port is None or any(tag.protocol != uapi.ETH_P_8021Q for tag in self.tags):
            return None
        match self.tags:
            case ():
                return Flow(self.group, self.port, source=self.source)
            case (tag,):
                return Flow(self.group, self.port, tag.vlan, self.source)
            case _:
                return None


@attrs.frozen
class Wanted:
    """What a rule takes of the wire.

    Attributes:
        input: of the rule.
        left: sources of the same flow that other rules take.
        taken: flows of its range that go to other rules, from any source or from some.
        by_source: whether sources have to be told apart: this rule names some, or one of the same group or port does.
    """

    input: Input
    left: frozenset[Address] = frozenset()
    by_source: bool = False
    taken: frozenset[Flow] = frozenset()

    @classmethod
    def of(cls, source: Input, others: Iterable[Input]) -> "Wanted":
        """What a rule takes beside others."""
        there = [*others]
        same = attrs.evolve(source, sources=())
        named = [each for each in there if each.sources]
        left = (each.sources for each in named if attrs.evolve(each, sources=()) == same)
        span = source.span
        akin = any(span.has_group(each.group) or span.has_port(each.port) for each in named)
        taken = taken_of(source, Singles(there)) if source.is_range else frozenset[Flow]()
        taken |= taken_by_source(source, there)
        return cls(source, frozenset(chain.from_iterable(left)), bool(source.sources) or akin, taken)

    def __contains__(self, sighting: Sighting) -> bool:
        source = self.input
        if not source.span.has(sighting.group, sighting.port):
            return False
        if attrs.evolve(sighting, source=None, group=source.group, port=source.port) != Sighting.of(source):
            return False
        if self.taken and {sighting.flow, attrs.evolve(sighting, source=None).flow} & self.taken:
            return False
        return self.takes_from(sighting.source)

    def takes_from(self, source: Address | None) -> bool:
        """Whether the rule takes it from there; None: sources are not told apart."""
        return source in self.input.sources if self.input.sources else source not in self.left

    def count(self, frames: Mapping[Sighting, int]) -> int:
        """How many of these the rule takes."""
        return sum(number for sighting, number in frames.items() if sighting in self)


@attrs.frozen
class Datagram:
    """One UDP frame. `payload`: bytes, of the datagrams in it if it is a super-frame. `source`: address."""

    sighting: Sighting
    payload: int
    source: Address


@attrs.frozen
class Query:
    """One IGMP query to all hosts, or an MLD query, by the interface it came in by. `version`: of IP."""

    interface: str
    version: int = IPV4


@attrs.frozen
class Look:
    """What was seen.

    Attributes:
        seconds: how long it took.
        frames: of each kind.
        queries: to all hosts, without a tag, by interface; of the flow's version of IP.
        payload: of the flow looked for, on the interface where it was looked for; the largest, in bytes.
        cut: the same of its datagrams that came in fragments, whole; by the first fragment of each.
    """

    seconds: float
    frames: Mapping[Sighting, int] = attrs.field(factory=dict)
    queries: Mapping[str, int] = attrs.field(factory=dict)
    payload: int | None = None
    cut: int | None = None

    @property
    def largest(self) -> int | None:
        """Bytes of payload of the largest datagram of the flow; None: none was seen."""
        return max((each for each in (self.payload, self.cut) if each is not None), default=None)

    def with_more(self, later: "Look") -> "Look":
        """Together with a later look for the same."""
        return Look(
            self.seconds + later.seconds,
            Counter(self.frames) + Counter(later.frames),
            Counter(self.queries) + Counter(later.queries),
            max((each.payload for each in (self, later) if each.payload is not None), default=None),
            max((each.cut for each in (self, later) if each.cut is not None), default=None),
        )


def identify(data: bytes, interface: str, protocol: int, tag: Tag | None, segment: int = 0) -> Datagram | Query | None:
    """Make out a frame; None: neither UDP nor a query to all hosts by IGMP or MLD, or cut short.

    Args:
        data: from the network header on, without the outermost VLAN tag.
        interface: where it came in.
        protocol: of what `data` begins with, by Ethernet's number: IP, or another VLAN tag.
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
            return _identify_ipv6(data, interface, tags, segment) if protocol == uapi.ETH_P_IPV6 else None
        first, fragment, transport, origin, destination = _IP_HEADER.unpack_from(data)
        source, group = IPv4Address(origin), IPv4Address(destination)
        if transport == socket.IPPROTO_IGMP:
            return None if tags or group != _ALL_HOSTS else Query(interface)
        if transport != socket.IPPROTO_UDP:
            return None
        fragmented = bool(fragment & (_MORE_FRAGMENTS | _FRAGMENT_OFFSET))
        if fragment & _FRAGMENT_OFFSET:
            return Datagram(Sighting(interface, group, None, tags, fragmented), 0, source)
        port, length = _UDP_HEADER.unpack_from(data, (first & 0x0F) * 4)
    except struct.error:
        return None
    payload = segment or max(length - _UDP_HEADER.size, 0)
    return Datagram(Sighting(interface, group, port, tags, fragmented), payload, source)


def _identify_ipv6(data: bytes, interface: str, tags: tuple[Tag, ...], segment: int) -> Datagram | Query | None:
    """The same of IPv6, from its header on; raises `struct.error` where it is cut short."""
    transport, origin, destination = _IPV6_HEADER.unpack_from(data)
    source, group, at, cut = IPv6Address(origin), IPv6Address(destination), _IPV6_HEADER.size, 0
    while transport in _EXTENSIONS:
        kind = transport
        transport, size, fragment = _EXTENSION.unpack_from(data, at)
        at += 8 if kind == _WITHOUT_SIZE else 4 * (size + 2) if kind == socket.IPPROTO_AH else 8 * (size + 1)
        if kind == _WITHOUT_SIZE and fragment & _CUT6:
            cut = fragment
        if cut & _OFFSET6:
            is_udp = transport == socket.IPPROTO_UDP or transport in _EXTENSIONS  # as far as it can be told
            return Datagram(Sighting(interface, group, None, tags, fragment=True), 0, source) if is_udp else None
    if transport == socket.IPPROTO_ICMPV6 and not cut:
        return Query(interface, IPV6) if not tags and group == _ALL_NODES and data[at : at + 1] == _MLD_TYPE else None
    if transport != socket.IPPROTO_UDP:
        return None
    port, length = _UDP_HEADER.unpack_from(data, at)
    payload = segment or max(length - _UDP_HEADER.size, 0)
    return Datagram(Sighting(interface, group, port, tags, fragment=bool(cut)), payload, source)
