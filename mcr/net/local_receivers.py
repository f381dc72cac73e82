"""Finds local receivers: who else on this machine could want what comes in by an interface.

That is a device on top of it, or multicast routing. UDP sockets are not asked for here: the program that suppresses
local delivery looks for them, packet by packet.
"""

import socket
from collections.abc import Collection
from pathlib import Path

from mcr.net import uapi
from mcr.net.netlink import drain, look_at_links


class LinkChanges:
    """Hears of every change of an interface in this network namespace, multicast routing's use of it among them.

    Raises:
        OSError: no netlink socket could be opened.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, uapi.RTMGRP_LINK | uapi.RTMGRP_IPV4_NETCONF))
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
    return frozenset(
        index
        for index, link in look_at_links(interfaces)
        if link.get("master") is None and not _is_routed(str(link.get("ifname")))
    )


def _is_routed(name: str) -> bool:
    """Whether it is one of multicast routing's (netconf's mc_forwarding); what can't be seen may be."""
    try:
        return int(Path(f"/proc/sys/net/ipv4/conf/{name}/mc_forwarding").read_text(encoding="ascii")) != 0
    except (OSError, ValueError):
        return True
