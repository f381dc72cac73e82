"""Asks the kernel whether its tables of neighbours have room (rtnetlink(7), RTM_GETNEIGHTBL).

There is one table for IPv4 and one for IPv6, each for all network namespaces. If one is full, IP drops what is sent to
a neighbour without an entry, and tells the socket nothing: ENOBUFS is for those that have asked for it (IP_RECVERR).
"""

import socket
import struct

from mcr.model.flow import IPV4, IPV6
from mcr.net import uapi
from mcr.net.rtnetlink import attributes, split

_MESSAGE_BYTES = 65_536
_NUMBER = struct.Struct("I")
_ENTRIES = struct.Struct("4xI")  # struct ndt_config: lengths of key and entry, number of entries, …
_VERSIONS = {socket.AF_INET: IPV4, socket.AF_INET6: IPV6}


def find_full() -> dict[int, int]:
    """The tables that are full: by the version of IP how many entries they may have.

    Raises:
        OSError: no netlink socket could be opened.
    """
    return {version: limit for version, (entries, limit) in read_tables().items() if entries >= limit}


def read_tables() -> dict[int, tuple[int, int]]:
    """Entries of each table, by the version of IP, and how many they may be: net.ipv4.neigh.default.gc_thresh3.

    Raises:
        OSError: no netlink socket could be opened.
    """
    asks = uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP
    found: dict[int, tuple[int, int]] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        body = bytes(uapi.NDTMSG.size)  # of every family
        netlink.send(uapi.NLMSGHDR.pack(uapi.NLMSGHDR.size + len(body), uapi.RTM_GETNEIGHTBL, asks, 1, 0) + body)
        while True:
            for message in split(netlink.recv(_MESSAGE_BYTES)):
                if message.kind in (uapi.NLMSG_DONE, uapi.NLMSG_ERROR):
                    return found
                (family,) = uapi.NDTMSG.unpack_from(message.body)
                values = dict(attributes(message.body, uapi.NDTMSG.size))
                if family in _VERSIONS and uapi.NDTA_THRESH3 in values:  # others are of single interfaces
                    (entries,) = _ENTRIES.unpack_from(values[uapi.NDTA_CONFIG])
                    found[_VERSIONS[family]] = entries, *_NUMBER.unpack(values[uapi.NDTA_THRESH3])
