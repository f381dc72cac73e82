"""A socket that receives one group, or one port of this host, as any application would."""

import errno
import socket
import struct
from collections.abc import Mapping
from ipaddress import IPv4Address

import attrs

from mcr.errors import McrError, SystemFault, UsageError

_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8  # index; linux/sock_diag.h
_IP_MULTICAST_ALL = 49


@attrs.frozen
class Subscription:
    """A socket to open, and what should arrive on it."""

    address: IPv4Address
    """A group to join, or an address of this host."""
    port: int
    interface: str | None = None
    """Only what arrives on it is received. None: on any; a group is joined where the routing table says."""
    expected: Mapping[str, int] = attrs.field(factory=dict)
    """How many packets of each flow, by the name its sender gave it."""
    any_flow: int = 0
    """Expect flows not named, too: so many packets of each one that is seen, and of one if none is."""

    def __str__(self) -> str:
        return f"{self.address}:{self.port}" + (f"@{self.interface}" if self.interface else "")


def open_subscription(subscription: Subscription, rcvbuf: int) -> socket.socket:
    """Open its socket in this thread's network namespace, and join.

    Args:
        subscription: what to receive.
        rcvbuf: bytes of receive buffer; without CAP_NET_ADMIN no more than the sysctl net.core.rmem_max.

    Raises:
        UsageError: there is no such interface or address here.
        SystemFault: the system refuses.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _set_receive_buffer(sock, rcvbuf)
        if subscription.address.is_multicast:
            _join(sock, subscription)
        elif subscription.interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, subscription.interface.encode())
        sock.bind((str(subscription.address), subscription.port))
    except OSError as error:
        sock.close()
        raise _refusal(subscription, error) from None
    return sock


def granted_receive_buffer(wanted: int) -> int:
    """Return how many of the bytes of receive buffer asked for a socket of ours is given."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _set_receive_buffer(sock, wanted)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def kernel_drops(sock: socket.socket) -> int:
    """How many datagrams reached a socket but were not queued: no room, or a wrong UDP checksum."""
    counters = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    return int(struct.unpack_from("I", counters, 4 * _SK_MEMINFO_DROPS)[0])


def _set_receive_buffer(sock: socket.socket, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _join(sock: socket.socket, subscription: Subscription) -> None:
    index = socket.if_nametoindex(subscription.interface) if subscription.interface else 0
    request = struct.pack("4s4xi", subscription.address.packed, index)  # struct ip_mreqn
    sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)  # keep out groups that another socket joined
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def _refusal(subscription: Subscription, error: OSError) -> McrError:
    number = error.errno or errno.ENODEV  # if_nametoindex gives no number
    if number == errno.ENODEV:
        where = f"interface {subscription.interface}" if subscription.interface else "route to that group"
        return UsageError(f"Cannot receive {subscription}: no {where}", "name an interface: G:P@IF; see: ip link show")
    if number == errno.EADDRNOTAVAIL:
        return UsageError(f"Cannot receive {subscription}: no such address on this host", "see: ip address show")
    return SystemFault(f"Cannot receive {subscription}", number)
