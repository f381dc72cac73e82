"""Reads network interfaces from the kernel. It only looks; others judge.

pyroute2 is imported only when it is asked for: it takes longer than anything else at a start.
"""

import errno
import socket
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import TYPE_CHECKING, Any

import attrs

from mcr.net import uapi
from mcr.net.machine import read_number

if TYPE_CHECKING:
    from pyroute2 import IPRoute


@attrs.frozen
class Link:
    """An interface as it is now.

    Attributes:
        name: its own; a rule may know it by another (``ip link property``).
        up: somebody has set it up.
        carrier: its driver sees somebody at the other end.
        running: the kernel takes it to be able to carry traffic (RFC 2863, ifOperStatus). It follows `carrier` within
            a second, unless something else holds it back, as 802.1X does.
        arp: neighbours are found by ARP; false for tunnels and other point-to-point links.
        loopback: what is sent by it comes back in, on this machine.
        tunnel: there is but one other end, and no switch.
        mtu: in bytes.
        bridge: the bridge that it is a port of; empty: of none.
        mac: its link address.
        kind: of device, as ``ip -details link`` says; empty for a network card.
        addresses: IPv4 addresses with their networks.
        addresses6: IPv6 addresses likewise.
        rx_packets: frames received.
        rx_dropped: frames dropped on the way in, by the driver or since no protocol here wants them.
        rx_missed: frames that the network card had no room for.
        tx_packets: frames sent.
        tx_dropped: frames dropped on the way out.
        rp_filter: the reverse-path filter in force (Documentation/networking/ip-sysctl.rst): 0 off, 1 strict, 2 loose;
            None: not to be seen here.
        forced_igmp: the version of IGMP that is forced; 0: the querier's; None: not to be seen here.
    """

    name: str
    index: int
    up: bool = True
    carrier: bool = True
    running: bool = True
    arp: bool = True
    loopback: bool = False
    tunnel: bool = False
    mtu: int = 1500
    bridge: str = ""
    addresses: tuple[IPv4Interface, ...] = ()
    rx_packets: int = 0
    rx_dropped: int = 0
    rx_missed: int = 0
    tx_packets: int = 0
    tx_dropped: int = 0
    rp_filter: int | None = 0
    forced_igmp: int | None = 0
    addresses6: tuple[IPv6Interface, ...] = ()
    mac: bytes = b""
    kind: str = ""

    @property
    def address(self) -> IPv4Address | None:
        """The first IPv4 address."""
        return self.addresses[0].ip if self.addresses else None


def read_links(names: Collection[str] | None = None, used: Mapping[str, int] | None = None) -> dict[str, Link]:
    """Those of these interfaces that there are, or all, in the network namespace of the calling thread.

    They are in the order of their indices. Named ones are asked for one by one: there may be thousands of others.

    Args:
        names: each one's name, or another that it goes by (``ip link property``).
        used: indices of those of them that mcrd has sockets of, whatever they are called now.

    Raises:
        OSError: no netlink socket could be opened.
        NetlinkError: (of pyroute2) the kernel refuses to tell.
    """
    from pyroute2 import IPRoute  # noqa: PLC0415 - slow to import, seldom needed

    with IPRoute() as netlink:
        addresses: defaultdict[int, list[IPv4Interface]] = defaultdict(list)
        addresses6: defaultdict[int, list[IPv6Interface]] = defaultdict(list)
        for each in netlink.get_addr():
            if each["family"] == socket.AF_INET:
                addresses[each["index"]].append(IPv4Interface((each.get("local"), each["prefixlen"])))
            elif each["family"] == socket.AF_INET6:
                own = each.get("local") or each.get("address")
                addresses6[each["index"]].append(IPv6Interface((own, each["prefixlen"])))
        links: dict[int, Link] = {}  # one of each, by however many names it was asked for
        found = {}
        for name, each in _messages(netlink, names, used or {}):
            index = each["index"]
            if index not in links:
                links[index] = _link(each, tuple(addresses[index]), tuple(addresses6[index]))
            found[name] = links[index]
    return dict(sorted(found.items(), key=lambda item: item[1].index))


def _messages(
    netlink: "IPRoute", names: Collection[str] | None, used: Mapping[str, int]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from pyroute2 import NetlinkError  # noqa: PLC0415 - slow to import, seldom needed

    if names is None:
        for each in netlink.get_links():
            yield each.get("ifname"), each
        return
    for name in set(names):
        try:
            (link,) = netlink.link("get", **({"index": used[name]} if name in used else {"ifname": name}))
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
        else:
            yield name, link


def _link(link: Mapping[str, Any], addresses: tuple[IPv4Interface, ...], addresses6: tuple[IPv6Interface, ...]) -> Link:
    name = str(link.get("ifname"))
    counters = link.get("stats64") or {}
    return Link(
        name=name,
        index=link["index"],
        up=bool(link["flags"] & uapi.IFF_UP),
        carrier=bool(link.get("carrier")),
        running=bool(link["flags"] & uapi.IFF_RUNNING),
        arp=not link["flags"] & (uapi.IFF_NOARP | uapi.IFF_POINTOPOINT),
        loopback=bool(link["flags"] & uapi.IFF_LOOPBACK),
        tunnel=bool(link["flags"] & uapi.IFF_POINTOPOINT),
        mtu=int(link.get("mtu", 0)),
        bridge=_bridge(link),
        addresses=addresses,
        addresses6=addresses6,
        rx_packets=counters.get("rx_packets", 0),
        rx_dropped=counters.get("rx_dropped", 0),
        rx_missed=counters.get("rx_missed_errors", 0) + counters.get("rx_fifo_errors", 0),
        tx_packets=counters.get("tx_packets", 0),
        tx_dropped=counters.get("tx_dropped", 0),
        rp_filter=_parameter(name, "rp_filter"),
        forced_igmp=_parameter(name, "force_igmp_version"),
        mac=bytes.fromhex((link.get("address") or "").replace(":", "")),
        kind=(link.get("linkinfo") or {}).get("kind") or "",
    )


def _bridge(link: Mapping[str, Any]) -> str:
    information = link.get("linkinfo")
    if not information or information.get("slave_kind") != "bridge":
        return ""
    try:
        return socket.if_indextoname(int(link.get("master") or 0))
    except OSError:  # it has just gone
        return ""


def _parameter(name: str, parameter: str) -> int | None:
    """What is in force on an interface: the greater of its own and that of all."""
    values = [read_number(f"/proc/sys/net/ipv4/conf/{each}/{parameter}") for each in ("all", name)]
    return max((value for value in values if value is not None), default=None)
