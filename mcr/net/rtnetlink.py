"""Reads what rtnetlink(7) says of links, addresses and neighbours, and keeps what is known up to date.

By hand: pyroute2 takes 0.2 s to import, which every start would wait for, and 0.3 ms for a link, most of it for
attributes that nobody here needs. A flood of changes has to cost little.

Constants and structs are those of <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h> and
<linux/neighbour.h>.
"""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

import attrs

from mcr.net.network import Link, Neighbour, Network

GROUPS: Final = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7
"""Of what changes are told: RTMGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE."""

_HEADER = struct.Struct("IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("HH")
_LINK = struct.Struct("BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("BBBBI")  # family, prefix length, flags, scope, index
_NEIGHBOUR = struct.Struct("B3xiHBB")  # family, index, state, flags, type
_NUMBER = struct.Struct("I")

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 28, 29, 30
_ROUTES = frozenset({24, 25, 32, 33})  # RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE, RTM_DELRULE
_AF_UNSPEC, _AF_INET = 0, 2
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_CARRIER = 1, 3, 4, 10, 18, 33
_IFLA_PROP_LIST, _IFLA_ALT_IFNAME, _IFLA_INFO_KIND = 52, 53, 1
_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS = 29, 1 << 3
_IFF_UP, _IFF_RUNNING, _IFF_NOARP, _IFF_LOWER_UP = 0x1, 0x40, 0x80, 0x10000
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_NDA_DST, _NDA_LLADDR = 1, 2
_NTF_PROXY = 0x08
_NUD_INCOMPLETE, _NUD_FAILED, _NUD_NOARP = 0x01, 0x20, 0x40

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
    while at + _HEADER.size <= len(datagram):
        length, kind, flags, _, port = _HEADER.unpack_from(datagram, at)
        if length < _HEADER.size or at + length > len(datagram):
            return
        yield Message(kind, flags, port, datagram[at + _HEADER.size : at + length])
        at += length + 3 & ~3


def request_dump(kind: int) -> bytes:
    """What asks for all links, addresses or neighbours; see `DUMPS`."""
    body = bytes([_AF_UNSPEC if kind == _RTM_GETLINK else _AF_INET]).ljust(_BODY[kind].size, b"\0")
    if kind == _RTM_GETLINK:
        body += struct.pack("HHI", 8, _IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | _NLM_F_DUMP, kind, 0) + body


_BODY: Final = {_RTM_GETLINK: _LINK, _RTM_GETADDR: _ADDRESS, _RTM_GETNEIGH: _NEIGHBOUR}

DUMPS: Final = tuple(_BODY)
"""Everything there is to ask for, in this order."""


def attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message, by their types, from an offset on."""
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size or at + length > len(body):
            return
        yield kind & _TYPE_MASK, body[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def _number(value: bytes | None) -> int:
    return int(_NUMBER.unpack(value)[0]) if value and len(value) == _NUMBER.size else 0


def parse_link(body: bytes) -> Link | None:
    """A link from RTM_NEWLINK or RTM_DELLINK; None: it speaks of something else, such as a bridge's port."""
    if len(body) < _LINK.size:
        return None
    family, _, index, flags, _ = _LINK.unpack_from(body)
    found = dict(attributes(body, _LINK.size))
    if family != _AF_UNSPEC or _IFLA_IFNAME not in found:
        return None
    carrier = found.get(_IFLA_CARRIER)
    others = attributes(found.get(_IFLA_PROP_LIST, b""), 0)
    information = dict(attributes(found.get(_IFLA_LINKINFO, b""), 0))
    return Link(
        index=index,
        name=_text(found[_IFLA_IFNAME]),
        altnames=tuple(_text(value) for kind, value in others if kind == _IFLA_ALT_IFNAME),
        up=bool(flags & _IFF_UP),
        carrier=bool(carrier[0]) if carrier else bool(flags & _IFF_LOWER_UP),
        running=bool(flags & _IFF_RUNNING),
        arp=not flags & _IFF_NOARP,
        mtu=_number(found.get(_IFLA_MTU)),
        mac=found.get(_IFLA_ADDRESS, b""),
        master=_number(found.get(_IFLA_MASTER)),
        kind=_text(information.get(_IFLA_INFO_KIND, b"")),
    )


def parse_address(body: bytes) -> tuple[int, IPv4Interface] | None:
    """An interface's index and address from RTM_NEWADDR or RTM_DELADDR; None: it is of another family."""
    if len(body) < _ADDRESS.size:
        return None
    family, prefix, _, _, index = _ADDRESS.unpack_from(body)
    found = dict(attributes(body, _ADDRESS.size))
    own = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if family != _AF_INET or own is None:
        return None
    return index, IPv4Interface((own, prefix))


def parse_neighbour(body: bytes) -> tuple[int, IPv4Address, int, bytes] | None:
    """Index, address, state and link address from RTM_NEWNEIGH or RTM_DELNEIGH; None: nobody can answer there."""
    if len(body) < _NEIGHBOUR.size:
        return None
    family, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
    if family != _AF_INET or flags & _NTF_PROXY or state & _NUD_NOARP:
        return None
    found = dict(attributes(body, _NEIGHBOUR.size))
    if _NDA_DST not in found:
        return None
    return index, IPv4Address(found[_NDA_DST]), state, found.get(_NDA_LLADDR, b"")


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
        self._addresses: dict[int, tuple[IPv4Interface, ...]] = {}
        self._neighbours: dict[tuple[int, IPv4Address], Neighbour] = {}
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
                addresses=dict(self._addresses) if "addresses" in changed else before.addresses,
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
                self._torn |= bool(message.flags & _NLM_F_DUMP_INTR)
            if message.kind in (_NLMSG_DONE, _NLMSG_ERROR):
                if mine:
                    self._end_dump(failed=message.kind == _NLMSG_ERROR)
            elif message.kind in (_RTM_NEWLINK, _RTM_DELLINK):
                self._heed_link(message)
            elif message.kind in (_RTM_NEWADDR, _RTM_DELADDR):
                self._heed_address(message)
            elif message.kind in (_RTM_NEWNEIGH, _RTM_DELNEIGH):
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
        for index in [*self._links] if dump == _RTM_GETLINK else ():
            if index not in self._spoken_of:
                self._forget_link(index)
        for index, addresses in [*self._addresses.items()] if dump == _RTM_GETADDR else ():
            for address in addresses:
                if (index, address) not in self._spoken_of:
                    self._forget_address(index, address)
        for key in [*self._neighbours] if dump == _RTM_GETNEIGH else ():
            if key not in self._spoken_of:
                self._forget_neighbour(key)

    def _heed_link(self, message: Message) -> None:
        link = parse_link(message.body)
        if link is None:
            return
        if message.kind == _RTM_DELLINK:
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
        for key in [key for key in self._neighbours if key[0] == index]:
            del self._neighbours[key]
            self._note("neighbours")

    def _heed_address(self, message: Message) -> None:
        found = parse_address(message.body)
        if found is None:
            return
        index, address = found
        if message.kind == _RTM_DELADDR:
            self._spoken_of.discard(found)
            self._forget_address(index, address)
            return
        self._spoken_of.add(found)
        known = self._addresses.get(index, ())
        if address not in known:
            self._addresses[index] = (*known, address)
            self._note("addresses")
            self._note_routes()

    def _forget_address(self, index: int, address: IPv4Interface) -> None:
        known = self._addresses.get(index, ())
        if address in known:
            self._addresses[index] = tuple(each for each in known if each != address)
            self._note("addresses")
            self._note_routes()

    def _heed_neighbour(self, message: Message) -> None:
        found = parse_neighbour(message.body)
        if found is None:
            return
        index, host, state, mac = found
        key = (index, host)
        if message.kind == _RTM_DELNEIGH:
            self._spoken_of.discard(key)
            self._forget_neighbour(key)
            return
        self._spoken_of.add(key)
        known = self._neighbours.get(key)
        # It is asked again and again: until it answers it remains silent.
        silent = bool(state & _NUD_FAILED) or (state in (0, _NUD_INCOMPLETE) and known is not None and known.silent)
        neighbour = Neighbour(state, silent, mac)
        if known != neighbour:
            self._neighbours[key] = neighbour
            self._note("neighbours")

    def _forget_neighbour(self, key: tuple[int, IPv4Address]) -> None:
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
