"""Interfaces of the calling thread's network namespace: set up, and waited for. No process is started for it."""

import fcntl
import select
import socket
import struct
import time
from collections.abc import Collection, Iterator

_RTMGRP_LINK, _NLM_F_REQUEST, _RTM_NEWLINK, _RTM_GETLINK = 1, 1, 16, 18  # <linux/rtnetlink.h>, <linux/netlink.h>
_IFLA_OPERSTATE, _IF_OPER_UP = 16, 6  # <linux/if_link.h>, <linux/if.h>
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)
_MESSAGE_BYTES = 65_536


def set_up(interface: str) -> None:
    """As ``ip link set dev INTERFACE up``.

    Raises:
        OSError: it is missing, or the kernel refuses.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16s24x", interface.encode()))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", interface.encode(), flags | _IFF_UP))


def wait_until_up(interfaces: Collection[str], seconds: float) -> list[str]:
    """Wait until they carry traffic; those that do not by then.

    A frame that is sent before the kernel has raised the operational state is lost without a trace.

    Raises:
        OSError: one is missing.
    """
    down = {socket.if_nametoindex(each): each for each in interfaces}
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as links:
        links.bind((0, _RTMGRP_LINK))  # before they are asked for, so that no change goes unseen
        for index in tuple(down):
            links.send(struct.pack("=IHHII4xiII", 32, _RTM_GETLINK, _NLM_F_REQUEST, 0, 0, index, 0, 0))
        while down and select.select([links], [], [], max(0.0, deadline - time.monotonic()))[0]:
            for index, state in _operational_states(links.recv(_MESSAGE_BYTES)):
                if state == _IF_OPER_UP:
                    down.pop(index, None)
    return list(down.values())


def _operational_states(messages: bytes) -> Iterator[tuple[int, int]]:
    """Index and operational state of each interface that rtnetlink(7) tells of."""
    while messages:
        length, kind = struct.unpack_from("=IH", messages)
        if kind == _RTM_NEWLINK:
            (index,) = struct.unpack_from("=i", messages, 20)
            attributes = dict(_attributes(messages[32:length]))
            if _IFLA_OPERSTATE in attributes:
                yield index, attributes[_IFLA_OPERSTATE][0]
        messages = messages[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, name = struct.unpack_from("=HH", data)
        yield name, data[4:length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
