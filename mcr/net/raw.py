"""Raw frames: AF_PACKET sockets that send to groups without IP's help, one per worker for each output interface.

For a group on Ethernet IP adds nothing but headers. A worker can do that, too (native/raw.h), at two thirds of the cost
of a UDP socket. Whatever else IP might do is asked for first: `find_sources` asks what it would do with each
group, `mcr.net.ip_bypass` what acts on packets between IP and the interface.
"""

import errno
import socket
import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address

import attrs

from mcr._native import ffi, lib
from mcr.errors import check_result
from mcr.model.address import RuleAddress
from mcr.model.flow import Address
from mcr.model.limits import MAX_TRAIN
from mcr.net import uapi
from mcr.net.buffer import set_buffer
from mcr.net.interfaces import bind_packet
from mcr.net.netlink import look_at_links
from mcr.shm.records import network_address


@attrs.frozen
class RawLink:
    """What raw frames need to know of an interface: the address they come from, and how many bytes its MTU is.

    `up`: somebody has set it up.
    """

    mac: bytes
    mtu: int
    up: bool = True


def find_links(interfaces: Collection[int]) -> dict[int, RawLink]:
    """Those of these interfaces, by index, that raw frames can leave by, as they are now.

    They have to be Ethernet, and to take trains of any length: where ``gso_max_segs`` is lower the kernel cuts
    those of UDP sockets, but not those of raw frames.

    Raises:
        OSError: no netlink socket could be opened, or the kernel refuses to tell.
    """
    return {
        link.index: RawLink(link.mac, link.mtu, bool(link.flags & uapi.IFF_UP))
        for link in look_at_links(interfaces)
        if link.kind == uapi.ARPHRD_ETHER and link.most_segments >= MAX_TRAIN
    }


def why_unfit(index: int) -> str:
    """Why `find_links` has not found an interface.

    Raises:
        OSError: no netlink socket could be opened, or the kernel refuses to tell.
    """
    kind = next((link.kind for link in look_at_links({index})), None)
    if kind is None:
        return "there is no such interface now"
    return "it takes no GSO batches" if kind == uapi.ARPHRD_ETHER else "it is not Ethernet"


def open_raw(index: int, count: int, send_buffer: int) -> tuple[socket.socket, ...]:
    """Open sockets for raw frames by an interface, with room for so many bytes each. Nothing comes in by them.

    Raises:
        OSError: nothing stays open.
    """
    with ExitStack() as undo:
        opened = []
        for _ in range(count):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            opened.append(undo.enter_context(raw))
            raw.setsockopt(uapi.SOL_PACKET, uapi.PACKET_VNET_HDR, 1)
            set_buffer(raw, socket.SO_SNDBUF, send_buffer)
        bind_raw(opened, index)
        undo.pop_all()
    return tuple(opened)


def bind_raw(sockets: Iterable[socket.socket], index: int) -> None:
    """Bind them, again if need be: an interface that leaves this network namespace takes their binding with it.

    Raises:
        OSError: it has gone.
    """
    for each in sockets:
        bind_packet(each, index, 0)  # protocol 0: nothing comes in


def find_sources6(
    udp: socket.socket, mtu: int, destinations: Sequence[tuple[Address, int]]
) -> list[tuple[IPv6Address, int] | None]:
    """The source addresses that IPv6 would give datagrams to these groups, hosts and ports, and their hop limits.

    With the arguments of `find_sources`, and None where that gives None. Only the kernel path asks: raw frames are of
    IPv4.

    Raises:
        OSError: the socket can't be asked.
    """
    asked = ffi.new("struct mcr_destination6[]", len(destinations))
    for each, (address, port) in zip(asked, destinations, strict=True):
        each.address, each.port = address.packed, socket.htons(port)
    found = ffi.new("struct mcr_found6[]", len(destinations))
    check_result(lib.mcr_source_find6(udp.fileno(), mtu, asked, found, len(destinations)))
    ways = ((IPv6Address(bytes(each.source)), int(each.hops)) for each in found)
    return [None if way[0].is_unspecified else way for way in ways]


def find_sources(
    udp: socket.socket, mtu: int, destinations: Sequence[tuple[Address, int]]
) -> tuple[IPv4Address | None, ...]:
    """The source addresses that IP would give datagrams to these groups and ports.

    Args:
        udp: sends by the interface in question; it is connected and disconnected, so nobody else may use it.
        mtu: bytes that the interface carries.
        destinations: in question.

    Returns:
        None where IP would do more: there is no way there, or one with an MTU of its own, or none gets DF.

    Raises:
        OSError: the socket can't be asked; with ENETDOWN, its interface is down, or has no IPv4.
    """
    asked = ffi.new(
        "struct mcr_destination[]", [(network_address(group), socket.htons(port)) for group, port in destinations]
    )
    found = ffi.new("uint32_t[]", len(destinations))
    result = lib.mcr_source_find(udp.fileno(), mtu, asked, found, len(destinations))
    if result == -errno.EOPNOTSUPP:
        return (None,) * len(destinations)
    check_result(result)
    sources = {each: RuleAddress(each.to_bytes(4, sys.byteorder)) if each else None for each in {*found}}
    return tuple(sources[each] for each in found)
