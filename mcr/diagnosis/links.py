"""What the kernel says of interfaces and of the ways to hosts, over netlink (rtnetlink(7)).

pyroute2 is imported here alone, and only when it is asked for: it takes longer than anything else at a start.
"""

import enum
import errno
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any

import attrs

from mcr.errors import SystemFault
from mcr.model import Address

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_IFF_UP = 0x1  # <linux/if.h>
_RTM_F_FIB_MATCH = 0x2000  # <linux/rtnetlink.h>: the route itself, or an error; no guess that the host is on the link


@attrs.frozen
class Link:
    """An interface. `up`: somebody set it up; `mtu` in bytes; `address`: its first IPv4 address.

    `name` is its own; a rule may know it by another (``ip link property``).
    """

    name: str
    index: int
    up: bool
    carrier: bool
    mtu: int
    address: IPv4Address | None


class Neighbour(enum.IntEnum):
    """What the kernel knows of a neighbour's link address (<linux/neighbour.h>, NUD_…)."""

    UNKNOWN = 0x00
    INCOMPLETE = 0x01
    REACHABLE = 0x02
    STALE = 0x04
    DELAY = 0x08
    PROBE = 0x10
    FAILED = 0x20
    NOARP = 0x40
    PERMANENT = 0x80


@attrs.frozen
class Path:
    """How a host is reached through an interface.

    Attributes:
        refusal: errno of the look-up, if no route leads through the interface.
        gateway: None if the host is on the link.
        neighbour: of the gateway, or the host.
        elsewhere: the interface that its route does lead through, if no other.
    """

    refusal: int | None
    gateway: Address | None
    neighbour: Neighbour
    elsewhere: str | None = None


def read_links(names: Iterable[str]) -> dict[str, Link]:
    """Look interfaces up, by any of their names; those that aren't there are left out.

    Raises:
        SystemFault: no netlink socket could be had.
    """
    with _netlink() as netlink:
        addresses: dict[int, IPv4Address] = {}
        for each in netlink.get_addr(family=socket.AF_INET):
            if local := each.get("local"):
                addresses.setdefault(each["index"], IPv4Address(local))
        found = {}
        for name in set(names):
            link = _ask(netlink.link, ifname=name)
            if isinstance(link, int):
                continue
            found[name] = Link(
                name=str(link.get("ifname")),
                index=link["index"],
                up=bool(link["flags"] & _IFF_UP),
                carrier=bool(link.get("carrier")),
                mtu=int(link.get("mtu", 0)),
                address=addresses.get(link["index"]),
            )
        return found


def find_paths(hosts: Iterable[tuple[Address, Link]]) -> dict[tuple[Address, str], Path]:
    """Find out how hosts are reached, each through an interface, which the result has by its own name.

    Raises:
        SystemFault: no netlink socket could be had.
    """
    with _netlink() as netlink:
        return {(host, link.name): _find_path(netlink, host, link) for host, link in set(hosts)}


def _find_path(netlink: "IPRoute", host: Address, link: Link) -> Path:
    route = _ask(netlink.route, dst=str(host), oif=link.index, flags=_RTM_F_FIB_MATCH)
    if isinstance(route, int):
        # Sent by a socket that is bound to the interface, the kernel takes the host to be on the link.
        return Path(route, None, _neighbour(netlink, host, link), _way_elsewhere(netlink, host))
    resolved = _ask(netlink.route, dst=str(host), oif=link.index)
    gateway = None if isinstance(resolved, int) else _gateway(resolved)
    return Path(None, gateway, _neighbour(netlink, gateway or host, link))


def _neighbour(netlink: "IPRoute", hop: Address, link: Link) -> Neighbour:
    entry = _ask(netlink.neigh, dst=str(hop), ifindex=link.index)
    state = 0 if isinstance(entry, int) else entry["state"]
    return next((each for each in Neighbour if each == state), Neighbour.UNKNOWN)


def _gateway(route: Mapping[str, Any]) -> Address | None:
    via = route.get("via")  # of the other family: an IPv6 router for IPv4 hosts
    text = via["addr"] if via else route.get("gateway")
    return ip_address(text) if text else None


def _way_elsewhere(netlink: "IPRoute", host: Address) -> str | None:
    route = _ask(netlink.route, dst=str(host))
    if isinstance(route, int):
        return None
    try:
        return socket.if_indextoname(int(route.get("oif", 0)))
    except OSError:
        return None


@contextmanager
def _netlink() -> "Iterator[IPRoute]":
    from pyroute2 import IPRoute, NetlinkError  # noqa: PLC0415

    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        raise SystemFault("Cannot ask the kernel over netlink", error.code) from None
    except OSError as error:
        raise SystemFault("Cannot ask the kernel over netlink", error.errno or 0) from None


def _ask(request: Any, **what: Any) -> Mapping[str, Any] | int:
    """Get one thing; the kernel's errno if there is none."""
    from pyroute2 import NetlinkError  # noqa: PLC0415

    try:
        return next(iter(request("get", **what)), errno.ENOENT)
    except NetlinkError as error:
        return int(error.code)
