"""Interfaces of the calling thread's network namespace: made, set up, and waited for. No process is started for it."""

import fcntl
import os
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator
from ipaddress import ip_interface

import attrs

_RTMGRP_LINK, _RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR = 1, 16, 17, 18, 20  # <linux/rtnetlink.h>
_NLMSG_ERROR, _NLM_F_REQUEST, _NLM_F_ACK = 2, 1, 4  # <linux/netlink.h>
_NLM_F_MAKE = _NLM_F_REQUEST | _NLM_F_ACK | 0x200 | 0x400  # NLM_F_EXCL, NLM_F_CREATE
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 4, 18, 28  # <linux/if_link.h>
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2  # <linux/if_addr.h>
_IFLA_OPERSTATE, _IF_OPER_UP = 16, 6  # <linux/if_link.h>, <linux/if.h>
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)
_MESSAGE_BYTES = 65_536


@attrs.frozen
class End:
    """Of a cable: an interface's name, and its index; 0: the next one."""

    name: str
    index: int


def make_cable(here: End, there: End, namespace: int, mtu: int) -> None:
    """As ``ip link add NAME index N mtu M type veth peer name NAME index N mtu M netns FD``.

    Raises:
        OSError: the kernel refuses.
    """
    peer = _of_end(there, mtu) + _attribute(_IFLA_NET_NS_FD, struct.pack("=i", namespace))
    data = _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, peer))
    _request(_RTM_NEWLINK, _of_end(here, mtu) + _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, b"veth") + data))


def add_address(interface: str, address: str) -> None:
    """As ``ip address add ADDRESS/LENGTH dev INTERFACE``.

    Raises:
        OSError: it is missing, or the kernel refuses.
    """
    given = ip_interface(address)
    family = socket.AF_INET if given.version == 4 else socket.AF_INET6  # noqa: PLR2004
    body = struct.pack("=BBBBi", family, given.network.prefixlen, 0, 0, socket.if_nametoindex(interface))
    _request(_RTM_NEWADDR, body + b"".join(_attribute(each, given.ip.packed) for each in (_IFA_LOCAL, _IFA_ADDRESS)))


def delete(interface: str) -> None:
    """As ``ip link delete dev INTERFACE``.

    Raises:
        OSError: it is missing, or the kernel refuses.
    """
    header = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(interface), 0, 0)
    _request(_RTM_DELLINK, header, _NLM_F_REQUEST | _NLM_F_ACK)


def act(command: str) -> bool:
    """Do what ``ip COMMAND`` does, if it is a frequent one that is known here; whether it is.

    Raises:
        OSError: the interface is missing, or the kernel refuses.
    """
    for pattern, action in _ACTS.items():
        if found := pattern.fullmatch(command):
            action(*found.groups())
            return True
    return False


def _of_end(end: End, mtu: int) -> bytes:
    header = struct.pack("=BxHiII", 0, 0, end.index, 0, 0)
    name = _attribute(_IFLA_IFNAME, end.name.encode() + b"\0")
    return header + name + _attribute(_IFLA_MTU, struct.pack("=I", mtu))


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(_aligned(length) - length)


def _request(kind: int, body: bytes, flags: int = _NLM_F_MAKE) -> None:
    """Have something done."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as links:
        links.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body)
        answer = links.recv(_MESSAGE_BYTES)
    _, told, error = struct.unpack_from("=IH10xi", answer)
    assert told == _NLMSG_ERROR
    if error:
        raise OSError(-error, os.strerror(-error))


def set_up(interface: str) -> None:
    """As ``ip link set dev INTERFACE up``.

    Raises:
        OSError: it is missing, or the kernel refuses.
    """
    _change_flags(interface, lambda flags: flags | _IFF_UP)


def set_down(interface: str) -> None:
    """As ``ip link set dev INTERFACE down``.

    Raises:
        OSError: it is missing, or the kernel refuses.
    """
    _change_flags(interface, lambda flags: flags & ~_IFF_UP)


def _change_flags(interface: str, change: Callable[[int], int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16s24x", interface.encode()))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", interface.encode(), change(flags)))


# Not ``up``: what is sent before the interface carries traffic is lost, and who waits for nothing else counts on the
# milliseconds that a process takes.
_ACTS: dict[re.Pattern[str], Callable[..., None]] = {
    re.compile(r"link set (?:dev )?(\S+) down"): set_down,
    re.compile(r"link del(?:ete)? (?:dev )?(\S+)"): delete,
    re.compile(r"address add (\S+) dev (\S+)"): lambda address, interface: add_address(interface, address),
}


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
