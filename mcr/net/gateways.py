"""Groups that IP sends to a gateway, as a route says: ``ip route add 239.2.2.2 via 198.18.1.77``.

Such a group is sent to as a host is: to the gateway's hardware address, once it has answered ARP.
"""

import struct
from collections.abc import Sequence

from mcr._native import ffi, lib
from mcr.errors import check_result
from mcr.model.flow import Address


def find_gateways(interface: int, groups: Sequence[Address]) -> frozenset[Address]:
    """Those of these groups whose route by an interface, given by its index, leads to a gateway.

    Raises:
        OSError: no netlink socket could be opened.
    """
    found = ffi.new("uint8_t[]", len(groups))
    asked = [struct.unpack("=I", group.packed)[0] for group in groups]
    check_result(lib.mcr_gateway_find(interface, asked, found, len(groups)))
    return frozenset(group for group, has_one in zip(groups, found, strict=True) if has_one)
