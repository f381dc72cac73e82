"""Reads the routes to hosts and groups from the kernel (rtnetlink(7)). It only looks; others judge.

pyroute2 is imported only when it is asked for, as in `links`.
"""

import enum
import errno
import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any

import attrs

from mcr.model.flow import IPV6, Address
from mcr.net import uapi
from mcr.net.arp import ask_neighbours
from mcr.net.links import Link
from mcr.net.neighbour_tables import find_full
from mcr.net.next_hop import find_unknown

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_ALL = IPv4Address("255.255.255.255")
_LEAST_BROADCAST = 30  # prefix length: longer ones have no broadcast address


class Neighbour(enum.IntEnum):
    """What the kernel knows of a neighbour's link address (<linux/neighbour.h>, NUD_…)."""

    UNKNOWN = 0x00
    INCOMPLETE = uapi.NUD_INCOMPLETE
    REACHABLE = uapi.NUD_REACHABLE
    STALE = uapi.NUD_STALE
    DELAY = uapi.NUD_DELAY
    PROBE = uapi.NUD_PROBE
    FAILED = uapi.NUD_FAILED
    NOARP = uapi.NUD_NOARP
    PERMANENT = uapi.NUD_PERMANENT


_UNCERTAIN = frozenset(Neighbour) - {Neighbour.NOARP, Neighbour.PERMANENT}


@attrs.frozen
class Path:
    """How a host or a group is reached through an interface.

    Attributes:
        refusal: errno of the look-up, if no route to the host leads through the interface.
        gateway: None if the host, or group, is on the link.
        neighbour: of the gateway, or the host; that of a group without a gateway is NOARP.
        elsewhere: the interface that its route does lead through, if no other.
        local: the address is this machine's own.
        broadcast: it is a broadcast address, which nobody answers ARP for.
        answered: whether the neighbour has just answered ARP; None: it was not asked.
        full: how many entries the kernel's table of neighbours may have, if it has none for this one and refuses some;
            else 0.
    """

    refusal: int | None
    gateway: Address | None
    neighbour: Neighbour
    elsewhere: str | None = None
    local: bool = False
    broadcast: bool = False
    answered: bool | None = None
    full: int = 0

    @property
    def dead(self) -> bool:
        """Nobody answers: neither to our own request just now nor, if there was none, to the kernel's."""
        if self.answered is None:
            return self.neighbour in {Neighbour.INCOMPLETE, Neighbour.FAILED}
        return not self.answered


def find_paths(hosts: Iterable[tuple[Address, Link]]) -> dict[tuple[Address, str], Path]:
    """Find out how hosts and groups are reached, each through an interface, which the result has by its own name.

    Neighbours that the kernel's table may be wrong about are asked whether they are there.

    Raises:
        OSError: no netlink socket could be opened.
    """
    from pyroute2 import IPRoute  # noqa: PLC0415 - slow to import, seldom needed

    wanted = set(hosts)
    with IPRoute() as netlink:
        paths = {(host, link): _find_path(netlink, host, link) for host, link in wanted}
    paths |= _find_roomless({key: path for key, path in paths.items() if path.neighbour is Neighbour.UNKNOWN})
    hops = {key: (path.gateway or key[0], key[1]) for key, path in paths.items() if path.neighbour in _UNCERTAIN}
    asked, answered = ask_neighbours(set(hops.values()))
    for (host, link), (hop, _) in hops.items():
        if (hop, link.index) in asked:
            paths[host, link] = attrs.evolve(paths[host, link], answered=(hop, link.index) in answered)
    return {(host, link.name): path for (host, link), path in paths.items()}


def _find_roomless(unknown: Mapping[tuple[Address, Link], Path]) -> dict[tuple[Address, Link], Path]:
    """Those paths to neighbours without an entry whose table refuses entries, and still has none for them then."""
    full = find_full() if unknown else {}
    if not full:
        return {}
    hops = {(host, link): (path.gateway or host, link.index) for (host, link), path in unknown.items()}
    hops = {key: hop for key, hop in hops.items() if hop[0].version in full}
    still = find_unknown(hops.values())
    return {
        key: attrs.evolve(unknown[key], full=full[hop.version])
        for key, (hop, index) in hops.items()
        if (index, hop) in still
    }


def is_broadcast(host: Address, link: Link) -> bool:
    """Whether it is the broadcast address of a network of the link, or that of all."""
    networks = (each.network for each in link.addresses if each.network.prefixlen <= _LEAST_BROADCAST)
    return host == _ALL or any(host == each.broadcast_address for each in networks)


def find_routes(groups: Mapping[str, tuple[Address, Link]]) -> dict[str, str | None]:
    """For each interface the route that datagrams to a group would take out of it; None without one.

    Args:
        groups: by any name of the interface.

    Raises:
        OSError: no netlink socket could be opened.
    """
    from pyroute2 import IPRoute  # noqa: PLC0415 - slow to import, seldom needed

    with IPRoute() as netlink:
        return {name: _find_route(netlink, group, link) for name, (group, link) in groups.items()}


def _find_route(netlink: "IPRoute", group: Address, link: Link) -> str | None:
    route = _entry(netlink, group, link)
    if isinstance(route, int):
        return None
    return f"{route.get('dst') or '0.0.0.0'}/{route['dst_len']}"  # noqa: S104 - the default route


def _find_path(netlink: "IPRoute", host: Address, link: Link) -> Path:
    if host.is_multicast:
        return _find_path_to_group(netlink, host, link)
    usual = _ask(netlink.route, dst=str(host))
    if not isinstance(usual, int) and usual["type"] == uapi.RTN_LOCAL:
        return Path(None, None, Neighbour.NOARP, local=True)
    if is_broadcast(host, link) or (not isinstance(usual, int) and usual["type"] == uapi.RTN_BROADCAST):
        return Path(None, None, Neighbour.NOARP, broadcast=True)
    route = _entry(netlink, host, link)
    if isinstance(route, int):
        # Sent by a socket that is bound to the interface, the kernel takes the host to be on the link.
        return Path(route, None, _neighbour(netlink, host, link), _way_elsewhere(netlink, host))
    resolved = _ask(netlink.route, dst=str(host), oif=link.index)
    gateway = None if isinstance(resolved, int) else _gateway(resolved)
    return Path(None, gateway, _neighbour(netlink, gateway or host, link))


def _find_path_to_group(netlink: "IPRoute", group: Address, link: Link) -> Path:
    """To a group no route is needed; but one with a gateway leads to that gateway alone. IPv6 groups have none."""
    if group.version == IPV6:
        return Path(None, None, Neighbour.NOARP)
    resolved = _ask(netlink.route, dst=str(group), oif=link.index)
    gateway = None if isinstance(resolved, int) else _gateway(resolved)
    return Path(None, gateway, _neighbour(netlink, gateway, link) if gateway else Neighbour.NOARP)


def _entry(netlink: "IPRoute", destination: Address, link: Link) -> Mapping[str, Any] | int:
    """The table's entry that leads to a destination through an interface; the kernel's errno if there is none."""
    return _ask(netlink.route, dst=str(destination), oif=link.index, flags=uapi.RTM_F_FIB_MATCH)


def _neighbour(netlink: "IPRoute", hop: Address, link: Link) -> Neighbour:
    if not link.arp:
        return Neighbour.NOARP
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


def _ask(request: Any, **what: Any) -> Mapping[str, Any] | int:
    """Get one thing; the kernel's errno if there is none."""
    from pyroute2 import NetlinkError  # noqa: PLC0415 - slow to import, seldom needed

    try:
        return next(iter(request("get", **what)), errno.ENOENT)
    except NetlinkError as error:
        return int(error.code)
