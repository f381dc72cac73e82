"""Asks the kernel how hosts are reached through an interface, and whether they answer (rtnetlink(7))."""

import errno
import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address

import attrs

from mcr.model.flow import Address
from mcr.net import uapi
from mcr.net.rtnetlink import attributes, first_of
from mcr.shm.flows import family_of

_CACHE = struct.Struct("IIII")  # struct nda_cacheinfo: hundredths of a second since confirmed, used, updated; users
_WORD = struct.Struct("I")
_MESSAGE_BYTES = 65_536

_GONE = (errno.ENODEV, errno.ENETDOWN)  # the interface, which is told otherwise

_REFUSALS = 100

_PATIENCE = 100
"""Hundredths of a second. A host that has been asked for so long does not answer; the kernel asks thrice as long."""


def find_next_hops(hosts: Iterable[tuple[Address, int]]) -> list[tuple[Address, bool]]:
    """For each host, through the interface of an index: who has to answer on the link, and whether a route leads there.

    Without a route the kernel takes the host to be on the link, as it does for sockets that are bound to an interface.

    Raises:
        OSError: no netlink socket could be opened, or an answer can't be read.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        return [_find(netlink, host, index) for host, index in hosts]


@attrs.frozen
class Way6:
    """How IPv6 gets to a host. `gateway`: None: it is on the link. `plain`: IP does no more than to add headers."""

    gateway: Address | None
    plain: bool


def find_ways6(index: int, hosts: Iterable[Address], source: Address | None = None) -> list[Way6 | None]:
    """Ask how datagrams to these hosts leave by an interface, by its index; None: no route leads there by it.

    Raises:
        OSError: no netlink socket could be opened, or an answer can't be read.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        return [_find_way6(netlink, host, index, source) for host in hosts]


def _find_way6(netlink: socket.socket, host: Address, index: int, source: Address | None) -> Way6 | None:
    answer = _ask_route(netlink, host, index, 0, source)
    if answer is None:
        return None
    kind = uapi.RTMSG.unpack_from(answer)[7]
    entry = dict(attributes(answer, uapi.RTMSG.size))
    gateway = entry.get(uapi.RTA_GATEWAY)
    if kind == uapi.RTN_UNICAST and entry.get(uapi.RTA_OIF) != struct.pack("i", index):
        return None
    plain = kind == uapi.RTN_UNICAST and uapi.RTA_ENCAP not in entry
    return Way6(ip_address(gateway) if gateway else None, plain)


def find_unanswered(hosts: Iterable[tuple[Address, int]]) -> set[tuple[int, Address]]:
    """Those of these neighbours, each with the interface's index, that have been asked for a second and don't answer.

    The kernel tells of a neighbour only when it has given it up.

    Raises:
        OSError: no netlink socket could be opened, or an answer can't be read.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        return {(index, host) for host, index in hosts if _is_unanswered(netlink, host, index)}


def find_unknown(hosts: Iterable[tuple[Address, int]]) -> set[tuple[int, Address]]:
    """Those of these neighbours, each with the interface's index, that the kernel's table has no entry for.

    Raises:
        OSError: no netlink socket could be opened, or an answer can't be read.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        return {(index, host) for host, index in hosts if _read(netlink, host, index) is None}


def use_neighbours(neighbours: Iterable[tuple[int, Address]]) -> dict[tuple[int, Address], int]:
    """Have the kernel ask whether neighbours are still there, as it does when something is sent to them.

    It does so at once if it does not know the link address, otherwise a few seconds later, and tells the outcome
    (`mcr.net.rtnetlink`). Takes CAP_NET_ADMIN.

    What others have set of an entry stays. The kernel takes a request for a change by the administrator: a permanent
    entry is permanent no more, and flags that the request lacks are taken off.

    Args:
        neighbours: each with the interface's index.

    Returns:
        For each the errno by which the kernel refuses, or 0. After a hundred refusals the others are left out: it looks
        through its table at each of them if that is full (ENOBUFS).

    Raises:
        OSError: no netlink socket could be opened, or an answer can't be read.
    """
    results: dict[tuple[int, Address], int] = {}
    refusals = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        for index, host in neighbours:
            result = _use(netlink, host, index)
            results[index, host] = 0 if result in _GONE else result
            refusals += results[index, host] != 0
            if refusals == _REFUSALS:
                break
    return results


def _use(netlink: socket.socket, host: Address, index: int) -> int:
    """Have the kernel ask this one, unless its entry was set; 0 or an errno."""
    state, flags, found = _read(netlink, host, index) or (0, 0, {})
    extended = found.get(uapi.NDA_FLAGS_EXT, bytes(4))
    if state & (uapi.NUD_PERMANENT | uapi.NUD_NOARP) or _WORD.unpack(extended)[0] & uapi.NTF_EXT_EXT_VALIDATED:
        return 0
    body = uapi.NDMSG.pack(family_of(host), index, 0, uapi.NTF_USE | flags & uapi.NTF_EXT_LEARNED, 0)
    body += _attribute(uapi.NDA_DST, host.packed)
    if uapi.NDA_FLAGS_EXT in found:  # Linux 5.16
        body += _attribute(uapi.NDA_FLAGS_EXT, extended)
    asks = uapi.NLM_F_REQUEST | uapi.NLM_F_ACK | uapi.NLM_F_CREATE
    netlink.send(uapi.NLMSGHDR.pack(uapi.NLMSGHDR.size + len(body), uapi.RTM_NEWNEIGH, asks, 1, 0) + body)
    (result,) = struct.unpack_from("i", first_of(netlink.recv(_MESSAGE_BYTES)).body)
    return -int(result)


def _is_unanswered(netlink: socket.socket, host: Address, index: int) -> bool:
    state, _, found = _read(netlink, host, index) or (0, 0, {})
    cache = found.get(uapi.NDA_CACHEINFO)
    return state == uapi.NUD_INCOMPLETE and cache is not None and _CACHE.unpack(cache)[2] >= _PATIENCE


def _read(netlink: socket.socket, host: Address, index: int) -> tuple[int, int, dict[int, bytes]] | None:
    """State, flags and attributes of a neighbour's entry; None: there is none."""
    body = uapi.NDMSG.pack(family_of(host), index, 0, 0, 0) + _attribute(uapi.NDA_DST, host.packed)
    netlink.send(uapi.NLMSGHDR.pack(uapi.NLMSGHDR.size + len(body), uapi.RTM_GETNEIGH, uapi.NLM_F_REQUEST, 1, 0) + body)
    answer = first_of(netlink.recv(_MESSAGE_BYTES))
    if answer.kind == uapi.NLMSG_ERROR:
        return None
    _, _, state, flags, _ = uapi.NDMSG.unpack_from(answer.body)
    return state, flags, dict(attributes(answer.body, uapi.NDMSG.size))


def _find(netlink: socket.socket, host: Address, index: int) -> tuple[Address, bool]:
    entry = _ask(netlink, host, index, uapi.RTM_F_FIB_MATCH)
    if entry is None:
        return host, False
    if uapi.RTA_MULTIPATH in entry:  # the kernel chooses one of several
        entry = _ask(netlink, host, index, 0) or {}
    gateway = entry.get(uapi.RTA_GATEWAY)
    return ip_address(gateway) if gateway else host, True


def _ask(netlink: socket.socket, host: Address, index: int, flags: int) -> dict[int, bytes] | None:
    answer = _ask_route(netlink, host, index, flags)
    return None if answer is None else dict(attributes(answer, uapi.RTMSG.size))


def _ask_route(
    netlink: socket.socket, host: Address, index: int, flags: int, source: Address | None = None
) -> bytes | None:
    """A route, as the kernel tells of it: struct rtmsg, and its attributes."""
    body = uapi.RTMSG.pack(family_of(host), host.max_prefixlen, 0, 0, 0, 0, 0, 0, flags)
    body += _attribute(uapi.RTA_DST, host.packed) + _attribute(uapi.RTA_OIF, struct.pack("i", index))
    body += _attribute(uapi.RTA_SRC, source.packed) if source else b""
    netlink.send(uapi.NLMSGHDR.pack(uapi.NLMSGHDR.size + len(body), uapi.RTM_GETROUTE, uapi.NLM_F_REQUEST, 1, 0) + body)
    answer = first_of(netlink.recv(_MESSAGE_BYTES))
    return None if answer.kind == uapi.NLMSG_ERROR else answer.body


def _attribute(kind: int, value: bytes) -> bytes:
    return uapi.NLATTR.pack(uapi.NLATTR.size + len(value), kind) + value
