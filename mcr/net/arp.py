"""Asks neighbours whether they are there (ARP, RFC 826). The kernel's table alone can be half a minute behind.

Whoever answers is there, whatever the kernel's table says: it takes a dead host for reachable until it has asked in
vain, and asks only while something is sent there.
"""

import selectors
import socket
import struct
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import Final, cast

from mcr.model.flow import IPV4, Address
from mcr.net import uapi
from mcr.net.links import Link

ASKED_TIMES: Final = 3
ASKED_SECONDS: Final = 0.6
"""How long all of it takes if somebody does not answer."""

_BROADCAST: Final = b"\xff" * 6
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # hardware, protocol, their lengths, operation, sender, target
_MAX_PACKET = 128

Hop = tuple[Address, int]
"""A neighbour, and the index of the interface that it is asked for on."""


def ask_neighbours(hops: Collection[tuple[Address, Link]]) -> tuple[frozenset[Hop], frozenset[Hop]]:
    """Ask them all at once, in the network namespace of the calling thread.

    Returns:
        The hosts that were asked, and those that answered. On an interface that is not Ethernet no host is asked, nor
        is one of IPv6.

    Raises:
        OSError: no packet socket could be opened.
    """
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.PollSelector())
        sockets = {}
        for link in {link.index: link for _, link in hops}.values():
            sock = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0))
            sock.setblocking(False)  # an interface that sends nothing, as under flow control, is waited for by nobody
            try:
                sock.bind((link.name, uapi.ETH_P_ARP))
            except OSError:  # gone, or down
                continue
            if sock.getsockname()[3] == uapi.ARPHRD_ETHER:
                sockets[link.index] = sock
                selector.register(sock, selectors.EVENT_READ, link.index)
        asked = {(hop, link.index): link for hop, link in hops if link.index in sockets and hop.version == IPV4}
        answered: set[Hop] = set()
        for _ in range(ASKED_TIMES):
            for hop, link in asked.items():
                if hop not in answered:
                    _ask(sockets[link.index], hop[0], link)
            deadline = time.monotonic() + ASKED_SECONDS / ASKED_TIMES
            while len(answered) < len(asked) and (left := deadline - time.monotonic()) > 0:
                answered.update(hop for hop in _hear(selector, left) if hop in asked)
        return frozenset(asked), frozenset(answered)


def _ask(sock: socket.socket, hop: Address, link: Link) -> None:
    own = next((each.ip for each in link.addresses if hop in each.network), link.address or IPv4Address(0))
    mac = sock.getsockname()[4]
    request = _ARP.pack(uapi.ARPHRD_ETHER, 0x0800, 6, 4, 1, mac, own.packed, bytes(6), hop.packed)
    try:
        sock.sendto(request, (link.name, uapi.ETH_P_ARP, 0, 0, _BROADCAST))
    except OSError:  # down meanwhile, or its queue is full: one that is not sent is not answered
        return


def _hear(selector: selectors.BaseSelector, seconds: float) -> Iterator[Hop]:
    """Who has spoken within so many seconds, from any of its ARP packets."""
    for key, _ in selector.select(seconds):
        try:
            data, address = cast("socket.socket", key.fileobj).recvfrom(_MAX_PACKET)
        except OSError:
            continue
        if address[2] != uapi.PACKET_OUTGOING and len(data) >= _ARP.size:
            yield IPv4Address(_ARP.unpack_from(data)[6]), key.data
