"""Asks the kernel whether its tables of neighbours have room (rtnetlink(7), RTM_GETNEIGHTBL).

There is one table for IPv4 and one for IPv6, each for all network namespaces. If one has no room for an entry, IP drops
what is sent to that neighbour, and tells the socket nothing: ENOBUFS is for those that have asked for it (IP_RECVERR).

The number of entries does not tell: permanent and externally learned ones are exempt from the limit, and at the limit
the kernel first drops entries that nobody uses (neigh_forced_gc). But it counts the entries that it has refused.
"""

import socket
import struct
import time
from pathlib import Path
from typing import Final

import attrs

from mcr.model.flow import IPV4, IPV6
from mcr.net import uapi
from mcr.net.rtnetlink import attributes, split

LOOK_SECONDS: Final = 0.5

_MESSAGE_BYTES = 65_536
_UNRESOLVED_BYTES = 212_992  # by default, since Linux 4.14
_NUMBER = struct.Struct("I")
_ENTRIES = struct.Struct("4xI")  # struct ndt_config: lengths of key and entry, number of entries, …
_REFUSED = struct.Struct("80xQ")  # struct ndt_stats: ten others, ndts_table_fulls (Linux 4.3)
_VERSIONS = {socket.AF_INET: IPV4, socket.AF_INET6: IPV6}


@attrs.frozen
class Table:
    """A table of neighbours.

    Attributes:
        entries: in it, with those that are exempt from the limit.
        limit: how many may be in it that are not exempt: net.ipv4.neigh.default.gc_thresh3.
        refused: entries that it had no room for since the machine started; one for each packet that was dropped.
    """

    entries: int
    limit: int
    refused: int


def unresolved_bytes(interface: str, version: int) -> int:
    """How much may wait for one neighbour's answer, as send buffers count it (``unres_qlen_bytes``, arp(7))."""
    try:
        text = Path(f"/proc/sys/net/ipv{version}/neigh/{interface}/unres_qlen_bytes").read_text()
    except OSError:  # by another of its names
        return _UNRESOLVED_BYTES
    return max(int(text), 1)


def find_full() -> dict[int, int]:
    """The tables that have no room: by the version of IP how many entries they may have.

    If one has as many as that, it takes half a second to see whether entries are refused.

    Raises:
        OSError: no netlink socket could be opened.
    """
    before = {version: table for version, table in read_tables().items() if table.entries >= table.limit}
    if not before:
        return {}
    time.sleep(LOOK_SECONDS)
    after = read_tables()
    return {version: after[version].limit for version in before if after[version].refused > before[version].refused}


def read_tables() -> dict[int, Table]:
    """Each table, by the version of IP.

    Raises:
        OSError: no netlink socket could be opened.
    """
    asks = uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP
    found: dict[int, Table] = {}
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
                    (limit,) = _NUMBER.unpack(values[uapi.NDTA_THRESH3])
                    (refused,) = _REFUSED.unpack_from(values[uapi.NDTA_STATS])
                    found[_VERSIONS[family]] = Table(entries, limit, refused)
