"""Netlink for several modules: look up interfaces by index, and note that something has changed."""

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection
from typing import Final

import attrs

from mcr.net import uapi
from mcr.net.rtnetlink import Message, attributes, first_of, number_of, text_of

PATIENCE_SECONDS: Final = 1.0
"""For an answer of the kernel, which is there when the request is sent."""

_MESSAGE_BYTES = 65_536


def _anything(_: bytes) -> bool:
    return True


def _nothing() -> None:
    pass


def drain(
    news: socket.socket, matters: Callable[[bytes], bool] = _anything, missed: Callable[[], None] = _nothing
) -> bool:
    """Read all that has come to a netlink socket that does not block; whether there was something that matters.

    `missed` is called where something has come that can't be read.
    """
    heard = False
    while True:
        try:
            heard |= matters(news.recv(_MESSAGE_BYTES))
        except BlockingIOError:
            return heard
        except OSError:  # ENOBUFS: there were more than it could hold; whatever else, something has happened
            missed()
            return True


@attrs.frozen
class FoundLink:
    """What the kernel tells of an interface.

    Attributes:
        index: its number.
        name: of it.
        kind: of its link layer (ARPHRD_…).
        flags: IFF_….
        mac: its hardware address.
        mtu: in bytes.
        master: index of the device that owns it; 0: none does.
        most_segments: that a super-frame may be cut into; 0: the kernel does not say.
    """

    index: int
    name: str
    kind: int
    flags: int
    mac: bytes
    mtu: int
    master: int
    most_segments: int


def look_at_links(interfaces: Collection[int]) -> list[FoundLink]:
    """Those of these interfaces, by index, that are there.

    By hand, as every start of mcrd asks this, and pyroute2 takes 0.2 s of a processor to import.

    Raises:
        OSError: no netlink socket could be opened, the kernel refuses to tell, or its answer can't be read.
    """
    found = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(PATIENCE_SECONDS)
        for index in interfaces:
            netlink.send(_request_link(index))
            message = first_of(netlink.recv(_MESSAGE_BYTES))
            if message.kind == uapi.RTM_NEWLINK:
                found.append(_found_link(message.body))
            elif (code := error_of(message)) != errno.ENODEV:
                raise OSError(code, os.strerror(code))
    return found


def error_of(message: Message) -> int:
    """The errno by which the kernel refuses what it was asked."""
    (code,) = struct.unpack_from("i", message.body)
    return -int(code)


def _request_link(index: int) -> bytes:
    body = uapi.IFINFOMSG.pack(0, 0, index, 0, 0)
    body += struct.pack("HHI", 8, uapi.IFLA_EXT_MASK, uapi.RTEXT_FILTER_SKIP_STATS)
    return uapi.NLMSGHDR.pack(uapi.NLMSGHDR.size + len(body), uapi.RTM_GETLINK, uapi.NLM_F_REQUEST, 0, 0) + body


def _found_link(body: bytes) -> FoundLink:
    _, kind, index, flags, _ = uapi.IFINFOMSG.unpack_from(body)
    values = dict(attributes(body, uapi.IFINFOMSG.size))
    return FoundLink(
        index,
        text_of(values.get(uapi.IFLA_IFNAME, b"")),
        kind,
        flags,
        values.get(uapi.IFLA_ADDRESS, b""),
        number_of(values.get(uapi.IFLA_MTU)),
        number_of(values.get(uapi.IFLA_MASTER)),
        number_of(values.get(uapi.IFLA_GSO_MAX_SEGS)),
    )
