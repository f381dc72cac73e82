"""Reads what rtnetlink(7) says of links, addresses and neighbours, and keeps what is known up to date.

By hand: pyroute2 takes 0.2 s to import, which every start would wait for, and 0.3 ms for a link, most of it for
attributes that nobody here needs. A flood of changes has to cost little.
"""

import errno
import os
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Final

import attrs

from mcr.model.flow import IPV6, Address
from mcr.net import uapi
from mcr.net.network import Link, Neighbour, Network

GROUPS: Final = (
    uapi.RTMGRP_LINK
    | uapi.RTMGRP_NEIGH
    | uapi.RTMGRP_IPV4_IFADDR
    | uapi.RTMGRP_IPV4_ROUTE
    | uapi.RTMGRP_IPV4_RULE
    | uapi.RTMGRP_IPV6_IFADDR
    | uapi.RTMGRP_IPV6_ROUTE
    | uapi.RTMGRP_IPV6_RULE
)
"""Of what changes are told."""

_NUMBER = struct.Struct("I")
_VLAN, _VLAN_ID = "vlan", struct.Struct("H")  # kind of device

_ROUTES = frozenset({uapi.RTM_NEWROUTE, uapi.RTM_DELROUTE, uapi.RTM_NEWRULE, uapi.RTM_DELRULE})
_AF_UNSPEC, _AF_INET, _AF_INET6 = 0, 2, 10

_Held = IPv4Interface | IPv6Interface

_FORGOTTEN = 4_096  # silent neighbours that are remembered although the kernel has forgotten them


@attrs.frozen
class Message:
    """One of a datagram's messages; `body` is what follows its header."""

    kind: int
    flags: int
    port: int
    body: bytes


def split(datagram: bytes) -> Iterator[Message]:
    """The messages of a datagram."""
    at = 0
    while at + uapi.NLMSGHDR.size <= len(datagram):
        length, kind, flags, _, port = uapi.NLMSGHDR.unpack_from(datagram, at)
        if length < uapi.NLMSGHDR.size or at + length > len(datagram):
            return
        yield Message(kind, flags, port, datagram[at + uapi.NLMSGHDR.size : at + length])
        at += length + 3 & ~3


def first_of(datagram: bytes) -> Message:
    """The first message of a datagram.

    Raises:
        OSError: it has no whole one.
    """
    if (first := next(split(datagram), None)) is None:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
    return first


def request_dump(kind: int) -> bytes:
    """What asks for all links, addresses or neighbours; see `DUMPS`."""
    body = bytes(_BODY[kind].size)  # of every family
    if kind == uapi.RTM_GETLINK:
        body += struct.pack("HHI", 8, uapi.IFLA_EXT_MASK, uapi.RTEXT_FILTER_SKIP_STATS)
    flags = uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP
    return uapi.NLMSGHDR.pack(uapi.NLMSGHDR.size + len(body), kind, flags, kind, 0) + body


_BODY: Final = {uapi.RTM_GETLINK: uapi.IFINFOMSG, uapi.RTM_GETADDR: uapi.IFADDRMSG, uapi.RTM_GETNEIGH: uapi.NDMSG}

DUMPS: Final = tuple(_BODY)
"""Everything there is to ask for, in this order."""


def attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message, by their types, from an offset on."""
    while at + uapi.NLATTR.size <= len(body):
        length, kind = uapi.NLATTR.unpack_from(body, at)
        if length < uapi.NLATTR.size or at + length > len(body):
            return
        yield kind & uapi.NLA_TYPE_MASK, body[at + uapi.NLATTR.size : at + length]
        at += length + 3 & ~3


def text_of(value: bytes) -> str:
    """An attribute that is a name."""
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def number_of(value: bytes | None) -> int:
    """An attribute of 32 bits; 0: it is not there."""
    return int(_NUMBER.unpack(value)[0]) if value and len(value) == _NUMBER.size else 0


def parse_link(body: bytes) -> Link | None:
    """A link from RTM_NEWLINK or RTM_DELLINK; None: it speaks of something else, such as a bridge's port."""
    if len(body) < uapi.IFINFOMSG.size:
        return None
    family, _, index, flags, _ = uapi.IFINFOMSG.unpack_from(body)
    found = dict(attributes(body, uapi.IFINFOMSG.size))
    if family != _AF_UNSPEC or uapi.IFLA_IFNAME not in found:
        return None
    carrier = found.get(uapi.IFLA_CARRIER)
    others = attributes(found.get(uapi.IFLA_PROP_LIST, b""), 0)
    information = dict(attributes(found.get(uapi.IFLA_LINKINFO, b""), 0))
    kind = text_of(information.get(uapi.IFLA_INFO_KIND, b""))
    return Link(
        index=index,
        name=text_of(found[uapi.IFLA_IFNAME]),
        altnames=tuple(text_of(value) for kind, value in others if kind == uapi.IFLA_ALT_IFNAME),
        up=bool(flags & uapi.IFF_UP),
        carrier=bool(carrier[0]) if carrier else bool(flags & uapi.IFF_LOWER_UP),
        carrier_ups=number_of(found.get(uapi.IFLA_CARRIER_UP_COUNT)),
        running=bool(flags & uapi.IFF_RUNNING),
        arp=not flags & (uapi.IFF_NOARP | uapi.IFF_POINTOPOINT),
        loopback=bool(flags & uapi.IFF_LOOPBACK),
        mtu=number_of(found.get(uapi.IFLA_MTU)),
        mac=found.get(uapi.IFLA_ADDRESS, b""),
        master=number_of(found.get(uapi.IFLA_MASTER)),
        kind=kind,
        tags=_tags(found, information) if kind == _VLAN else None,
    )


def _tags(found: Mapping[int, bytes], information: Mapping[int, bytes]) -> tuple[int, int] | None:
    """Of a VLAN's device: the index of the interface whose frames it has, and the VLAN; None: that one is elsewhere."""
    vlan = dict(attributes(information.get(uapi.IFLA_INFO_DATA, b""), 0)).get(uapi.IFLA_VLAN_ID, b"")
    if uapi.IFLA_LINK_NETNSID in found or len(vlan) != _VLAN_ID.size:
        return None
    return number_of(found.get(uapi.IFLA_LINK)), int(_VLAN_ID.unpack(vlan)[0])


def parse_address(body: bytes) -> tuple[int, IPv4Interface | IPv6Interface] | None:
    """An interface's index and address from RTM_NEWADDR or RTM_DELADDR; None: it is of another family."""
    if len(body) < uapi.IFADDRMSG.size:
        return None
    family, prefix, _, _, index = uapi.IFADDRMSG.unpack_from(body)
    found = dict(attributes(body, uapi.IFADDRMSG.size))
    own = found.get(uapi.IFA_LOCAL) or found.get(uapi.IFA_ADDRESS)
    if own is None or family not in {_AF_INET, _AF_INET6}:
        return None
    return index, IPv4Interface((own, prefix)) if family == _AF_INET else IPv6Interface((own, prefix))


def parse_neighbour(body: bytes) -> tuple[int, Address, int, bytes] | None:
    """Index, address, state and link address from RTM_NEWNEIGH or RTM_DELNEIGH; None: it is no host."""
    if len(body) < uapi.NDMSG.size:
        return None
    family, index, state, flags, _ = uapi.NDMSG.unpack_from(body)
    if family not in {_AF_INET, _AF_INET6} or flags & uapi.NTF_PROXY:
        return None
    found = dict(attributes(body, uapi.NDMSG.size))
    if uapi.NDA_DST not in found:
        return None
    host = found[uapi.NDA_DST]
    address = IPv4Address(host) if family == _AF_INET else IPv6Address(host)
    if address.is_multicast:
        return None
    return index, address, state, found.get(uapi.NDA_LLADDR, b"")


def _of_ipv4(held: Mapping[int, tuple[_Held, ...]]) -> dict[int, tuple[IPv4Interface, ...]]:
    return {index: tuple(x for x in each if isinstance(x, IPv4Interface)) for index, each in held.items()}


def _of_ipv6(held: Mapping[int, tuple[_Held, ...]]) -> dict[int, tuple[IPv6Interface, ...]]:
    return {index: tuple(x for x in each if isinstance(x, IPv6Interface)) for index, each in held.items()}


class Lifetimes:
    """Tells addresses that only live longer from what changes: Router Advertisements and DHCP leases prolong them."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._known: dict[tuple[int, bytes], tuple[bytes, dict[int, bytes]]] = {}

    def forget(self) -> None:
        """Messages were missed: what was known may not be so any more."""
        self._known.clear()

    def are_all(self, datagram: bytes) -> bool:
        """Whether a datagram speaks of nothing else."""
        found = [self._is_one(message) for message in split(datagram)]  # each of them is noted
        return all(found)

    def _is_one(self, message: Message) -> bool:
        body = message.body
        if message.kind not in (uapi.RTM_NEWADDR, uapi.RTM_DELADDR) or len(body) < uapi.IFADDRMSG.size:
            return False
        found = dict(attributes(body, uapi.IFADDRMSG.size))
        found.pop(uapi.IFA_CACHEINFO, None)
        *_, index = uapi.IFADDRMSG.unpack_from(body)
        key = index, found.get(uapi.IFA_LOCAL) or found.get(uapi.IFA_ADDRESS, b"")
        before = self._known.pop(key, None)
        if message.kind == uapi.RTM_DELADDR:
            return False
        self._known[key] = body[: uapi.IFADDRMSG.size], found
        return before == self._known[key]


class Known:
    """What is known so far, from messages in the order in which they came.

    Ask for each of `DUMPS` in turn: `begin` before a request, `heed` of what comes, until `dumping` is False. What an
    answer does not speak of is gone. Changes may come in between.
    """

    def __init__(self, port: int) -> None:
        """Begin with nothing. `port`: the netlink address of the socket that asks, which answers bear."""
        self._port = port
        self._network = Network()
        self._links: dict[int, Link] = {}
        self._addresses: dict[int, tuple[_Held, ...]] = {}
        self._lost6: Counter[int] = Counter()
        self._neighbours: dict[tuple[int, Address], Neighbour] = {}
        self._routes = 0
        self._changed: set[str] = set()
        self._dump: int | None = None
        self._spoken_of: set[object] = set()
        self._torn = False

    @property
    def dumping(self) -> bool:
        """Whether the answer to a request is still to come."""
        return self._dump is not None

    @property
    def torn(self) -> bool:
        """Whether the last answer changed while it was given: ask again."""
        return self._torn

    def begin(self, dump: int) -> None:
        """A request is sent."""
        self._dump, self._torn = dump, False
        self._spoken_of = set()

    def network(self) -> Network:
        """All that is known."""
        if self._changed:
            before, changed = self._network, self._changed
            self._network = Network(
                version=before.version + 1,
                links=dict(self._links) if "links" in changed else before.links,
                addresses=_of_ipv4(self._addresses) if "addresses" in changed else before.addresses,
                addresses6=_of_ipv6(self._addresses) if "addresses" in changed else before.addresses6,
                lost6=dict(self._lost6) if "addresses" in changed else before.lost6,
                neighbours=dict(self._neighbours) if "neighbours" in changed else before.neighbours,
                routes=self._routes,
            )
            self._changed.clear()
        return self._network

    def heed(self, datagram: bytes) -> None:
        """Take note of what has come."""
        for message in split(datagram):
            mine = self._dump is not None and message.port == self._port
            if mine:
                self._torn |= bool(message.flags & uapi.NLM_F_DUMP_INTR)
            if message.kind in (uapi.NLMSG_DONE, uapi.NLMSG_ERROR):
                if mine:
                    self._end_dump(failed=message.kind == uapi.NLMSG_ERROR)
            elif message.kind in (uapi.RTM_NEWLINK, uapi.RTM_DELLINK):
                self._heed_link(message)
            elif message.kind in (uapi.RTM_NEWADDR, uapi.RTM_DELADDR):
                self._heed_address(message)
            elif message.kind in (uapi.RTM_NEWNEIGH, uapi.RTM_DELNEIGH):
                self._heed_neighbour(message)
            elif message.kind in _ROUTES:
                self._note_routes()

    def _note(self, part: str) -> None:
        self._changed.add(part)

    def _note_routes(self) -> None:
        self._routes += 1
        self._note("routes")

    def _end_dump(self, *, failed: bool) -> None:
        dump, self._dump = self._dump, None
        if failed or self._torn:
            return
        for index in [*self._links] if dump == uapi.RTM_GETLINK else ():
            if index not in self._spoken_of:
                self._forget_link(index)
        for index, addresses in [*self._addresses.items()] if dump == uapi.RTM_GETADDR else ():
            for address in addresses:
                if (index, address) not in self._spoken_of:
                    self._forget_address(index, address)
        for key in [*self._neighbours] if dump == uapi.RTM_GETNEIGH else ():
            if key not in self._spoken_of:
                self._forget_neighbour(key)

    def _heed_link(self, message: Message) -> None:
        link = parse_link(message.body)
        if link is None:
            return
        if message.kind == uapi.RTM_DELLINK:
            self._spoken_of.discard(link.index)
            self._forget_link(link.index)
            return
        self._spoken_of.add(link.index)
        if self._links.get(link.index) != link:
            self._links[link.index] = link
            self._note("links")
            self._note_routes()

    def _forget_link(self, index: int) -> None:
        """With it go its addresses and neighbours, of which the kernel may say nothing."""
        if self._links.pop(index, None):
            self._note("links")
            self._note_routes()
        if self._addresses.pop(index, None):
            self._note("addresses")
        self._lost6.pop(index, None)
        for key in [key for key in self._neighbours if key[0] == index]:
            del self._neighbours[key]
            self._note("neighbours")

    def _heed_address(self, message: Message) -> None:
        found = parse_address(message.body)
        if found is None:
            return
        index, address = found
        if message.kind == uapi.RTM_DELADDR:
            self._spoken_of.discard(found)
            self._forget_address(index, address)
            return
        self._spoken_of.add(found)
        known = self._addresses.get(index, ())
        if address not in known:
            self._addresses[index] = (*known, address)
            self._note("addresses")
            self._note_routes()

    def _forget_address(self, index: int, address: _Held) -> None:
        known = self._addresses.get(index, ())
        if address in known:
            self._addresses[index] = tuple(each for each in known if each != address)
            if address.version == IPV6 and address.is_link_local:
                self._lost6[index] += 1
            self._note("addresses")
            self._note_routes()

    def _heed_neighbour(self, message: Message) -> None:
        found = parse_neighbour(message.body)
        if found is None:
            return
        index, host, state, mac = found
        key = (index, host)
        if message.kind == uapi.RTM_DELNEIGH:
            self._spoken_of.discard(key)
            self._forget_neighbour(key)
            return
        self._spoken_of.add(key)
        known = self._neighbours.get(key)
        # It is asked again and again: until it answers it remains silent.
        asked = state in (0, uapi.NUD_INCOMPLETE)
        silent = bool(state & uapi.NUD_FAILED) or (asked and known is not None and known.silent)
        neighbour = Neighbour(state, silent, mac)
        if known != neighbour:
            self._neighbours[key] = neighbour
            self._note("neighbours")

    def _forget_neighbour(self, key: tuple[int, Address]) -> None:
        known = self._neighbours.pop(key, None)
        if known is None:
            return
        self._note("neighbours")
        if known.silent:
            self._neighbours[key] = Neighbour(0, silent=True)
            if len(self._neighbours) > _FORGOTTEN:
                forgotten = [each for each, neighbour in self._neighbours.items() if not neighbour.state]
                for each in forgotten[: len(forgotten) // 2]:
                    del self._neighbours[each]
