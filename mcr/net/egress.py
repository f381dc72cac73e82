"""Sockets that send UDP out of one interface each."""

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Final

from mcr.errors import SystemFault, errno_of
from mcr.model.flow import IPV4, IPV6, Address
from mcr.net import uapi
from mcr.net.buffer import set_buffer
from mcr.net.filter.cbpf import REJECT_ALL, attach_filter
from mcr.net.interfaces import Interface

NO_IPV6: Final = (
    "this kernel has no IPv6, or RestrictAddressFamilies= of mcrd.service lacks AF_INET6: cat "
    "/sys/module/ipv6/parameters/disable"
)
"""A hint, where no socket of IPv6 can be had."""

_FAMILIES = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}
_LOW_PORT = (
    "ports below net.ipv4.ip_unprivileged_port_start (1024) take CAP_NET_BIND_SERVICE: add it to "
    "AmbientCapabilities= and CapabilityBoundingSet= of mcrd.service, or choose a higher port"
)
_NO_GROUP = {IPV4: "224.0.0.0", IPV6: "ff00::"}  # that nobody sends to (RFC 5771; RFC 4291, 2.7)
_IN6_ANY = "::"
_CHECKSUM_AT = 6  # in a UDP header
_USUAL_TTL = 64
_Option = tuple[str, int, int, int | bytes]


def open_egress(
    interface: Interface,
    send_buffer: int,
    *,
    to: Address | None = None,
    shared_port: int | None = None,
    source: Address | None = None,
    is_chosen: bool = False,
    has_df: bool = True,
    of_neighbours: bool = False,
    version: int = IPV4,
) -> socket.socket:
    """Open a socket for outputs on an interface: groups leave by it, hosts are reached through it.

    At most `send_buffer` bytes, as the kernel counts them, wait in it; a datagram beyond that is an error.

    Args:
        interface: what it leaves by.
        send_buffer: in bytes.
        to: the one host or group that it is for, to name it in an error.
        shared_port: the port that it sends from, as others that are opened with it may; 0: a free one.
        source: the address that it sends from.
        is_chosen: an operator has chosen the port, which others may listen on.
        has_df: routers may not cut what is sent, in IPv4.
        of_neighbours: it is for hosts and gateways: what is sent to a group by it has to name its TTL. By others what
            is sent to a broadcast address has to.
        version: of IP.

    Raises:
        SystemFault: naming the step; nothing stays open.
    """
    options = chain(_options(interface, version), () if has_df else _cut(version))
    if version == IPV6:
        options = chain([("IPV6_V6ONLY", socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)], options)
    opened = _open(socket.SOCK_DGRAM, version, interface, options, to)
    step = "bind"
    try:
        # Now, as raw frames come from its port, too. Bound to a group, it takes nothing that is sent to this machine.
        anywhere = "" if version == IPV4 else _IN6_ANY
        _bind(opened, _NO_GROUP[version] if is_chosen else str(source or anywhere), shared_port)
        step = "SO_SNDBUF"
        set_buffer(opened, socket.SO_SNDBUF, send_buffer)
        step = "IP_MULTICAST_TTL"
        _equal_ttls(opened, version, of_hosts=of_neighbours)
    except OSError as error:
        opened.close()
        hints = _port_hints(error, shared_port) if is_chosen and step == "bind" else ()
        raise SystemFault(f"{_what(interface, to)}: {step}", errno_of(error), *hints) from None
    return opened


def open_alike(
    open_one: Callable[..., socket.socket], port: int, number: int, undo: ExitStack
) -> tuple[socket.socket, ...]:
    """Open a socket for each worker, all of them with one source port: receivers and switches may go by it.

    Args:
        open_one: opens it, by its argument `shared_port`.
        port: that they send from; 0: a free one.
        number: how many.
        undo: closes them.

    Raises:
        SystemFault: as `open_one` does.
    """
    opened: list[socket.socket] = []
    for _ in range(number):
        opened.append(undo.enter_context(open_one(shared_port=port)))
        port = port or opened[0].getsockname()[1]
    return tuple(opened)


def open_raw_egress(
    interface: Interface,
    send_buffer: int,
    *,
    to: Address | None = None,
    foreign: bool,
    has_df: bool = True,
    version: int = IPV4,
) -> socket.socket:
    """Open a raw socket for outputs on an interface: what is sent begins with its UDP header, from whatever port.

    What is sent to a group by it has to name its TTL.

    Args:
        interface: what it leaves by.
        send_buffer: in bytes.
        to: the one host or group that it is for, to name it in an error.
        foreign: it may send from addresses that this machine does not have (IP_TRANSPARENT, ip(7)).
        has_df: routers may not cut what is sent, in IPv4.
        version: of IP.

    Raises:
        SystemFault: naming the step; nothing stays open.
    """
    options = chain(
        _options(interface, version), _raw_options(version, foreign=foreign), () if has_df else _cut(version)
    )
    opened = _open(socket.SOCK_RAW, version, interface, options, to)
    step = "bind"
    try:
        opened.bind((_NO_GROUP[version], 0))  # so that no datagram is copied for it, whoever that is sent to
        step = "SO_SNDBUF"
        set_buffer(opened, socket.SO_SNDBUF, send_buffer)
        step = "IP_MULTICAST_TTL"
        _equal_ttls(opened, version, of_hosts=True)
    except OSError as error:
        opened.close()
        raise SystemFault(f"{_what(interface, to)}: {step}", errno_of(error)) from None
    return opened


def open_ear(interface: Interface) -> socket.socket:
    """Open a socket by which the kernel hears what is too long for any way of IPv6 (Packet Too Big, RFC 8201).

    It heeds that if a socket sends from the address and port that the router names: none that has chosen its port is
    bound to an address. A raw socket stands for every port (rawv6_err() in Linux), if it asks to be told of errors.
    It is bound to no interface: the answer may come in by another than the datagram has left by.

    Args:
        interface: the first that is sent by, to name it in an error.

    Raises:
        SystemFault: naming the step; nothing stays open.
    """
    options = [
        ("IPV6_RECVERR", socket.IPPROTO_IPV6, uapi.IPV6_RECVERR, 1),
        ("SO_RCVBUF", socket.SOL_SOCKET, socket.SO_RCVBUF, 0),  # nobody reads what it is told
    ]
    return _open(socket.SOCK_RAW, IPV6, interface, options, None)


def hosts_ttl() -> int:
    """The TTL that what is sent to hosts has on this machine (net.ipv4.ip_default_ttl)."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            return asked.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
    except OSError:  # no descriptor is left
        return _USUAL_TTL


def share_egress(opened: socket.socket, interface: Interface, to: Address | None = None) -> socket.socket:
    """Another descriptor of a socket, for one more that is sent to by it.

    Raises:
        SystemFault: there are too many.
    """
    try:
        return opened.dup()
    except OSError as error:
        raise SystemFault(f"{_what(interface, to)}: dup", errno_of(error), *_hints(error)) from None


def _what(interface: Interface, to: Address | None) -> str:
    return f"Cannot send to {to} on {interface.name}" if to else f"Cannot send on {interface.name}"


def _open(
    kind: int, version: int, interface: Interface, options: Iterable[_Option], to: Address | None
) -> socket.socket:
    """A socket of UDP that has these options, for the interface."""
    step = "socket"
    try:
        opened = socket.socket(_FAMILIES[version], kind | socket.SOCK_CLOEXEC, socket.IPPROTO_UDP)
    except OSError as error:
        raise SystemFault(f"{_what(interface, to)}: {step}", errno_of(error), *_hints(error)) from None
    try:
        step = "SO_ATTACH_FILTER"
        attach_filter(opened, REJECT_ALL)  # it only sends: nobody may fill its receive buffer
        for name, level, option, value in options:
            step = name
            opened.setsockopt(level, option, value)
    except OSError as error:
        opened.close()
        raise SystemFault(f"{_what(interface, to)}: {step}", errno_of(error)) from None
    return opened


def _equal_ttls(opened: socket.socket, version: int, *, of_hosts: bool) -> None:
    """Have hosts and groups get one TTL, that of hosts or that of groups, unless they name another.

    Linux keeps one route for all that goes by a next hop, a gateway or the link itself, with the kind of what was sent
    first: hosts have the TTL of groups then, or groups that of hosts.
    """
    if version == IPV4:
        usual, other = (socket.IP_TTL, socket.IP_MULTICAST_TTL)[:: 1 if of_hosts else -1]
        opened.setsockopt(socket.IPPROTO_IP, other, opened.getsockopt(socket.IPPROTO_IP, usual))


def _cut(version: int) -> Iterator[_Option]:
    """Routers may cut what is sent; those of IPv6 never do."""
    if version == IPV4:
        yield "IP_MTU_DISCOVER", socket.IPPROTO_IP, uapi.IP_MTU_DISCOVER, uapi.IP_PMTUDISC_DONT


def _raw_options(version: int, *, foreign: bool) -> Iterator[_Option]:
    """What a raw one is to have beyond that."""
    if version == IPV6:
        yield "IPV6_CHECKSUM", socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, _CHECKSUM_AT  # the kernel does it
        # Else it is given what comes to any group, whatever it is bound to.
        yield "IPV6_MULTICAST_ALL", socket.IPPROTO_IPV6, uapi.IPV6_MULTICAST_ALL, 0
    if foreign and version == IPV6:
        yield "IPV6_TRANSPARENT", socket.IPPROTO_IPV6, uapi.IPV6_TRANSPARENT, 1
    elif foreign:
        yield "IP_TRANSPARENT", socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1


def _options(interface: Interface, version: int) -> Iterator[_Option]:
    """What it is to have: name, level, option, value."""
    yield "SO_BINDTOIFINDEX", socket.SOL_SOCKET, uapi.SO_BINDTOIFINDEX, interface.index
    if version == IPV6:
        if not interface.is_absent:
            yield "IPV6_MULTICAST_IF", socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index
        yield "IPV6_MULTICAST_LOOP", socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0
        # The kernel makes labels of a secret, so the kernel path can't have the same. None is right, too (RFC 6437, 3).
        yield "IPV6_AUTOFLOWLABEL", socket.IPPROTO_IPV6, uapi.IPV6_AUTOFLOWLABEL, 0
        return
    if not interface.is_absent:  # else the binding alone makes each datagram an error
        mreqn = struct.pack("4s4si", b"", b"", interface.index)
        yield "IP_MULTICAST_IF", socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn
    yield "IP_MULTICAST_LOOP", socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0
    yield "SO_BROADCAST", socket.SOL_SOCKET, socket.SO_BROADCAST, 1  # whoever names such an address asks for it


def _bind(opened: socket.socket, address: str, shared_port: int | None) -> None:
    if shared_port:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((address, shared_port or 0))
    if shared_port == 0:  # only after bind, or bind could give it a port that others share
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _port_hints(error: OSError, port: int | None) -> tuple[str, ...]:
    match error.errno:
        case errno.EADDRINUSE:
            return (f"who has the port: ss -lunp 'sport = :{port}'",)
        case errno.EACCES:
            return (_LOW_PORT,)
    return ()


def _hints(error: OSError) -> tuple[str, ...]:
    if error.errno == errno.EAFNOSUPPORT:
        return (NO_IPV6,)
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return ()
    return ("a host takes a descriptor for each worker: raise LimitNOFILE of mcrd.service, or send to a group",)
