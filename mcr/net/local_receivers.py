"""Finds local receivers: who else on this machine could want what comes in by an interface.

That is a device on top of it, or multicast routing; below IP also a packet socket, or a program of tc. UDP sockets are
not asked for here: the program that suppresses local delivery looks for them, packet by packet.
"""

import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from mcr._native import lib
from mcr.net import uapi
from mcr.net.netlink import PATIENCE_SECONDS, drain, error_of, look_at_links
from mcr.net.rtnetlink import split

_MESSAGE_BYTES = 65_536
_EVERY_INTERFACE = 0
_ALL_HOSTS = "01005e000001"  # the MAC of 224.0.0.1


class LinkChanges:
    """Hears of every change of an interface in this network namespace, multicast routing's use of it among them.

    Raises:
        OSError: no netlink socket could be opened.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, uapi.RTMGRP_LINK | uapi.RTMGRP_IPV4_NETCONF | uapi.RTMGRP_IPV6_NETCONF))
        except OSError:
            self.close()
            raise

    def heard(self) -> bool:
        """Whether there were some since the last call."""
        return drain(self._socket)

    def fileno(self) -> int:
        """The descriptor to wait on: readable when there are changes."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def without_local_receivers(interfaces: Collection[int]) -> frozenset[int]:
    """Those of these interfaces, by index, that no other device owns and multicast routing does not use.

    A bridge gives the frames of its ports to sockets and routing of its own, which look like nobody's from the port.

    Raises:
        OSError: no netlink socket could be opened, or the kernel refuses to tell.
    """
    return frozenset(link.index for link in look_at_links(interfaces) if not link.master and not _is_routed(link.name))


def _is_routed(name: str) -> bool:
    """Whether it is one of multicast routing's (netconf's mc_forwarding); what can't be seen may be."""
    return any(_is_routed_by(family, name) for family in ("ipv4", "ipv6"))


def _is_routed_by(family: str, name: str) -> bool:
    try:
        return int(Path(f"/proc/sys/net/{family}/conf/{name}/mc_forwarding").read_text(encoding="ascii")) != 0
    except FileNotFoundError:  # as in a kernel without IPv6, or without multicast routing of it
        return family == "ipv4"
    except (OSError, ValueError):
        return True


def without_others_below_ip(interfaces: Collection[int]) -> frozenset[int]:
    """Those of these interfaces, by index, whose frames nobody takes behind our program at their ingress, except IP.

    The kernel does not tell of all changes: devices in other network namespaces come up unheard.

    Raises:
        OSError: it can't be seen.
    """
    others = {*_with_packet_sockets(), *_with_devices_on_top(), *_with_tc()}
    sole = () if _EVERY_INTERFACE in others else {*interfaces} - others
    return frozenset(index for index in sole if lib.mcr_bpf_count_ingress(index) == 1)


def _with_packet_sockets() -> Iterator[int]:
    """Interfaces that packet sockets are bound to for IPv4 or IPv6 alone: those for all protocols come before."""
    for line in _lines("packet")[1:]:
        _, _, _, protocol, interface, *_ = line.split()
        if int(protocol, 16) in (uapi.ETH_P_IP, uapi.ETH_P_IPV6):
            yield int(interface)


def _with_devices_on_top() -> Iterator[int]:
    """Interfaces that a device is on top of, and up, in whatever network namespace.

    IP joins all hosts on each device, and macvlan, ipvlan, MACsec and VLANs pass that on to the interface below.
    """
    for line in _lines("dev_mcast"):
        interface, _, users, _, mac = line.split()
        if mac == _ALL_HOSTS and int(users) > 1:
            yield int(interface)


def _with_tc() -> Iterator[int]:
    """Interfaces with an ingress that filters of tc may be at."""
    request = uapi.NLMSGHDR.pack(
        uapi.NLMSGHDR.size + uapi.TCMSG.size, uapi.RTM_GETQDISC, uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP, 1, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(PATIENCE_SECONDS)
        netlink.send(request + bytes(uapi.TCMSG.size))
        while True:
            for message in split(netlink.recv(_MESSAGE_BYTES)):
                if message.kind == uapi.NLMSG_DONE:
                    return
                if message.kind == uapi.NLMSG_ERROR:
                    raise OSError(error_of(message), os.strerror(error_of(message)))
                _, index, _, parent, _ = uapi.TCMSG.unpack_from(message.body)
                if parent == uapi.TC_H_INGRESS:
                    yield index


def _lines(table: str) -> list[str]:
    return Path(f"/proc/thread-self/net/{table}").read_text(encoding="ascii").splitlines()
