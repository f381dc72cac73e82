"""UDP sockets that send out of one interface each."""

import errno
import socket
import struct

from mcr.errors import SystemFault
from mcr.model.flow import Address
from mcr.net import uapi
from mcr.net.buffer import set_buffer
from mcr.net.filter.cbpf import REJECT_ALL, attach_filter
from mcr.net.interfaces import Interface

_LOW_PORT = (
    "ports below net.ipv4.ip_unprivileged_port_start (1024) take CAP_NET_BIND_SERVICE: add it to "
    "AmbientCapabilities= and CapabilityBoundingSet= of mcrd.service, or choose a higher port"
)
_NO_GROUP = "224.0.0.0"  # that nobody sends to (RFC 5771)


def open_egress(
    interface: Interface,
    send_buffer: int,
    *,
    to: Address | None = None,
    shared_port: int | None = None,
    source: Address | None = None,
    is_chosen: bool = False,
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

    Raises:
        SystemFault: naming the step; nothing stays open.
    """
    what = f"Cannot send to {to} on {interface.name}" if to else f"Cannot send on {interface.name}"
    step = "socket"
    try:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise SystemFault(f"{what}: {step}", error.errno or 0, *_hints(error)) from None
    try:
        step = "SO_ATTACH_FILTER"
        attach_filter(opened, REJECT_ALL)  # it only sends: nobody may fill its receive buffer
        step = "SO_BINDTOIFINDEX"
        opened.setsockopt(socket.SOL_SOCKET, uapi.SO_BINDTOIFINDEX, interface.index)
        if not interface.is_absent:  # else the binding alone makes each datagram an error
            step = "IP_MULTICAST_IF"
            mreqn = struct.pack("4s4si", b"", b"", interface.index)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
        step = "IP_MULTICAST_LOOP"
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        step = "bind"
        # Now, as raw frames come from its port, too. Bound to a group, it takes nothing that is sent to this machine.
        _bind(opened, _NO_GROUP if is_chosen else str(source or ""), shared_port)
        step = "SO_SNDBUF"
        set_buffer(opened, socket.SO_SNDBUF, send_buffer)
    except OSError as error:
        opened.close()
        hints = _port_hints(error, shared_port) if is_chosen and step == "bind" else ()
        raise SystemFault(f"{what}: {step}", error.errno or 0, *hints) from None
    return opened


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
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return ()
    return ("a host takes a descriptor for each worker: raise LimitNOFILE of mcrd.service, or send to a group",)
