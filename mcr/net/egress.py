"""UDP sockets that send out of one interface each."""

import socket
import struct

from mcr.errors import SystemFault
from mcr.net.buffer import set_buffer
from mcr.net.filter import REJECT_ALL, attach_filter
from mcr.net.interfaces import Interface


def open_egress(interface: Interface, send_buffer: int) -> socket.socket:
    """Open a socket for every output on an interface: groups leave by it, hosts are reached through it.

    At most `send_buffer` bytes, as the kernel counts them, wait in it; a datagram beyond that is an error.

    Raises:
        SystemFault: naming the step; nothing stays open.
    """
    step = "socket"
    try:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise SystemFault(f"Cannot send on {interface.name}: {step}", error.errno or 0) from None
    try:
        step = "SO_ATTACH_FILTER"
        attach_filter(opened, REJECT_ALL)  # it only sends: nobody may fill its receive buffer
        step = "SO_BINDTODEVICE"
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode())
        step = "IP_MULTICAST_IF"
        mreqn = struct.pack("4s4si", b"", b"", interface.index)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
        step = "IP_MULTICAST_LOOP"
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        step = "bind"
        opened.bind(("", 0))  # now, as raw frames come from its port, too
        step = "SO_SNDBUF"
        set_buffer(opened, socket.SO_SNDBUF, send_buffer)
    except OSError as error:
        opened.close()
        raise SystemFault(f"Cannot send on {interface.name}: {step}", error.errno or 0) from None
    return opened
