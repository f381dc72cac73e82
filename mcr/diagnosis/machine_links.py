"""What the kernel says of network interfaces. It only looks; `link_findings` judges."""

import socket
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import attrs

from mcr.diagnosis.machine import read_number
from mcr.model import Address

_IFF_UP, _IFF_RUNNING = 0x1, 0x40  # <linux/if.h>
_RTM_F_FIB_MATCH = 0x2000  # <linux/rtnetlink.h>: the route itself, not what was made of it

MERGING = ("rx-gro", "rx-lro", "rx-gro-hw", "rx-gro-list", "rx-udp-gro-forwarding")
"""Features that make super-frames of what arrives, as ethtool names them in the kernel."""


@attrs.frozen
class Link:
    """An interface as it is now.

    Attributes:
        up: somebody has set it up.
        carrier: it can carry traffic: the cable is in, the far end is up.
        mtu: in bytes.
        addresses: IPv4 addresses with their prefix lengths.
        rx_packets: frames received.
        rx_dropped: frames dropped on the way in, by the driver or since no protocol here wants them.
        rx_missed: frames that the network card had no room for.
        tx_packets: frames sent.
        tx_dropped: frames dropped on the way out.
        merging: those of `MERGING` that are on; None if it can't be asked.
        rp_filter: the reverse-path filter in force: 0 off, 1 strict, 2 loose; None: not to be seen here.
        forced_igmp: the version of IGMP that is forced; 0: the querier's; None: not to be seen here.
    """

    name: str
    up: bool = True
    carrier: bool = True
    mtu: int = 1500
    addresses: tuple[str, ...] = ()
    rx_packets: int = 0
    rx_dropped: int = 0
    rx_missed: int = 0
    tx_packets: int = 0
    tx_dropped: int = 0
    merging: tuple[str, ...] | None = ()
    rp_filter: int | None = 0
    forced_igmp: int | None = 0


def look_at_links(names: Collection[str] | None = None) -> dict[str, Link]:
    """Those of these interfaces that there are, or all, in the network namespace of the calling thread.

    Args:
        names: each one's name, or another that it goes by (``ip link property``).
    """
    from pyroute2 import Ethtool, IPRoute  # noqa: PLC0415 - slow to import, seldom needed

    with IPRoute() as netlink, Ethtool() as ethtool:
        addresses: defaultdict[int, list[str]] = defaultdict(list)
        for each in netlink.get_addr(family=socket.AF_INET):
            addresses[each["index"]].append(f"{each.get('local') or each.get('address')}/{each['prefixlen']}")
        found = {}
        for each in netlink.get_links():
            wanted = [each.get("ifname")] if names is None else _names(each).intersection(names)
            if wanted:
                link = _link(each, tuple(addresses[each["index"]]), ethtool)
                found.update(dict.fromkeys(wanted, link))
    return found


def find_routes(groups: Mapping[str, Address]) -> dict[str, str | None]:
    """For each interface the route that datagrams to a group would take out of it; None without one.

    Args:
        groups: by interface.
    """
    from pyroute2 import IPRoute  # noqa: PLC0415 - slow to import, seldom needed
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    routes: dict[str, str | None] = {}
    with IPRoute() as netlink:
        for name, group in groups.items():
            try:
                index = socket.if_nametoindex(name)
                (route, *_) = netlink.route("get", dst=str(group), oif=index, flags=_RTM_F_FIB_MATCH)
            except (OSError, NetlinkError):  # no such interface, or no such route
                routes[name] = None
            else:
                routes[name] = f"{route.get('dst') or '0.0.0.0'}/{route['dst_len']}"  # noqa: S104 - the default route
    return routes


def _names(link: Any) -> set[str]:
    """All names that an interface goes by."""
    properties = link.get_attr("IFLA_PROP_LIST")
    return {link.get("ifname"), *(properties.get_attrs("IFLA_ALT_IFNAME") if properties else ())}


def _link(link: Any, addresses: tuple[str, ...], ethtool: Any) -> Link:
    name = link.get("ifname")
    counters = link.get("stats64") or {}
    return Link(
        name=name,
        up=bool(link["flags"] & _IFF_UP),
        carrier=bool(link["flags"] & _IFF_RUNNING),
        mtu=link.get("mtu"),
        addresses=addresses,
        rx_packets=counters.get("rx_packets", 0),
        rx_dropped=counters.get("rx_dropped", 0),
        rx_missed=counters.get("rx_missed_errors", 0) + counters.get("rx_fifo_errors", 0),
        tx_packets=counters.get("tx_packets", 0),
        tx_dropped=counters.get("tx_dropped", 0),
        merging=_merging(name, ethtool),
        rp_filter=_parameter(name, "rp_filter"),
        forced_igmp=_parameter(name, "force_igmp_version"),
    )


def _merging(name: str, ethtool: Any) -> tuple[str, ...] | None:
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - slow to import, seldom needed

    try:
        features = ethtool.get_features(name).features
    except (OSError, NetlinkError):  # a driver or a kernel that has no such thing
        return None
    return tuple(each for each in MERGING if each in features and features[each].enable)


def _parameter(name: str, parameter: str) -> int | None:
    """What is in force on an interface: the greater of its own and that of all."""
    values = [read_number(f"/proc/sys/net/ipv4/conf/{each}/{parameter}") for each in ("all", name)]
    return max((value for value in values if value is not None), default=None)
