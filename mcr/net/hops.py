"""Whom IP hands datagrams to on the link: a host itself, whoever listens to a group, or a gateway as a route says.

A group may have a gateway, too (``ip route add 239.2.2.2 via 198.18.1.77``). Such a group is sent to as a host is: to
the gateway's hardware address, once it has answered ARP.
"""

import sys
from collections.abc import Sequence
from ipaddress import IPv4Address

import attrs

from mcr._native import ffi, lib
from mcr.errors import check_result
from mcr.model.flow import IPV6, Address
from mcr.net.next_hop import find_ways6
from mcr.shm.records import network_address


@attrs.frozen
class NextHop:
    """Where a route leads.

    Attributes:
        gateway: None: the destination is on the link.
        plain: IP does no more than to add headers, and to find a MAC.
        is_all: the destination is a broadcast address there: all on the link get it.
    """

    gateway: Address | None = None
    plain: bool = True
    is_all: bool = False


def find_hops(interface: int, addresses: Sequence[Address], source: Address | None = None) -> list[NextHop | None]:
    """Ask how datagrams to these groups and hosts leave by an interface.

    Args:
        interface: its index.
        addresses: in question, of one version of IP.
        source: that the datagrams come from; None: IP chooses it.

    Returns:
        None where there is no route.

    Raises:
        OSError: no netlink socket could be opened.
    """
    if addresses and addresses[0].version == IPV6:
        ways = find_ways6(interface, addresses, source)
        return [NextHop(way.gateway, plain=way.plain) if way else None for way in ways]
    found = ffi.new("struct mcr_hop[]", len(addresses))
    asked = [network_address(each) for each in addresses]
    asked_source = network_address(source) if source else 0
    check_result(lib.mcr_hop_find(interface, asked_source, asked, found, len(addresses)))
    hops = [(each.kind, each.gateway) for each in found]
    read = {each: _read(*each) for each in {*hops}}  # of thousands, few differ
    return [read[each] for each in hops]


def _read(kind: int, gateway: int) -> NextHop | None:
    match kind:
        case lib.MCR_HOP_LINK:
            return NextHop()
        case lib.MCR_HOP_GATEWAY:
            return NextHop(IPv4Address(gateway.to_bytes(4, sys.byteorder)))
        case lib.MCR_HOP_OTHER:
            return NextHop(plain=False)
        case lib.MCR_HOP_ALL:
            return NextHop(is_all=True)
        case _:
            return None
