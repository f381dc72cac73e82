"""Network interfaces by name."""

import difflib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address
from itertools import count

import attrs

from mcr.errors import InterfaceNotFound, SystemFault, errno_of
from mcr.net import uapi

# struct ifreq is a name and what is asked for.
_ABSENT = 1 << 30  # and above: indices that the kernel, which counts from 1, gives nobody
_absent_indices = count(_ABSENT)
_USUAL_MTU = 1500
_ETHERNET = 14  # bytes of a header
_WITH_ETHERNET = {uapi.ARPHRD_ETHER, uapi.ARPHRD_LOOPBACK}
_NAME = struct.Struct("16s24x")
_NUMBER = struct.Struct("16si20x")  # an index, or an MTU
_ADDRESS = struct.Struct("16s4x4s16x")


@attrs.frozen
class Interface:
    """An interface as it was when it was looked up. `mtu` in bytes; `address` is its first IPv4 address.

    Sockets are bound to its index: `name` is the one that rules have for it, and may be another's by now. One that is
    absent is waited for: sockets are opened for it, and are bound to nothing that there is. `former` is the index of
    the one that had its name then, if that has another one now.
    """

    name: str
    index: int
    mtu: int
    address: IPv4Address | None
    is_absent: bool = False
    former: int = 0


def was_never_there(index: int) -> bool:
    """Whether an index is that of an interface which rules have waited for since they were added."""
    return index >= _ABSENT


def wait_for_interface(name: str, former: int = 0) -> Interface:
    """An interface that is not there, for rules that wait for it. `former`: see `Interface`."""
    return Interface(name, next(_absent_indices), _USUAL_MTU, None, is_absent=True, former=former)


def find_interface(name: str) -> Interface:
    """Look an interface up.

    Raises:
        InterfaceNotFound: with the interfaces there are, the nearest name first.
        SystemFault: out of descriptors or memory.
    """
    try:
        index = socket.if_nametoindex(name)
        with _probe() as probe:
            return Interface(name, index, *_settings(probe, name))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise SystemFault(f"Cannot look up interface {name}", error.errno) from None
        # Out of descriptors the C library finds no interface either, and says no more.
        raise not_found(name, "if it comes later: mcrctl add --wait") from None


def find_anew(known: Interface) -> Interface:
    """The interface that has the name of a known one now, or one to wait for if none has.

    Raises:
        SystemFault: out of descriptors or memory.
    """
    try:
        return find_interface(known.name)
    except InterfaceNotFound:
        return wait_for_interface(known.name, known.former if known.is_absent else known.index)


def name_in_rules(name: str, used: Mapping[int, str]) -> str:
    """The one name that rules know an interface by, so that the same is never taken for two.

    Args:
        name: its own, or an altname (``ip link property``).
        used: names that rules have for interfaces already, by index; some may be another's by now.

    Returns:
        `name` itself if there is no such interface.
    """
    try:
        index = socket.if_nametoindex(name)
        own = socket.if_indextoname(index)
    except OSError:
        return name
    known = used.get(index)
    return known if known and _is_of(known, index) else own


def _is_of(name: str, index: int) -> bool:
    try:
        return socket.if_nametoindex(name) == index
    except OSError:
        return False


def is_there(name: str) -> bool:
    """Whether there is an interface of this name."""
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def is_gone(interface: Interface) -> bool:
    """Whether it was there, and is no more, also if another has its name."""
    try:
        return not interface.is_absent and not socket.if_indextoname(interface.index)
    except OSError:
        return True


@attrs.frozen
class Binding:
    """What an AF_PACKET socket is bound to, as against the interface that has a name now.

    Attributes:
        lost: it is not bound to the interface that has the name, as its own or as an altname.
        renamed: it is bound to one that had the name, and has another.
        stale: it is lost, and if it were opened again it would be bound otherwise.
    """

    lost: bool = False
    renamed: bool = False
    stale: bool = False


def look_at_binding(bound: socket.socket, name: str) -> Binding:
    """Compare them.

    When its interface is deleted or leaves this network namespace, a socket stays bound to nothing, also if the
    interface comes back with the index that it had.
    """
    own = bound.getsockname()[0]
    if own == name:
        return Binding()
    there = _present_index(bound, name)
    if own and there and _present_index(bound, own) == there:
        return Binding()
    return Binding(lost=True, renamed=bool(own), stale=bool(own or there))


def bind_packet(packet: socket.socket, index: int, protocol: int) -> None:
    """Bind an AF_PACKET socket to an interface, whatever it is called.

    Raises:
        OSError: the interface has gone.
    """
    packet.bind((_present_name(packet, index), protocol))


def link_header(packet: socket.socket) -> int:
    """Bytes of the link layer's header before IP's, as an AF_PACKET socket has frames: tunnels have none."""
    return _ETHERNET if packet.type == socket.SOCK_RAW and packet.getsockname()[3] in _WITH_ETHERNET else 0


def open_witness(interface: Interface) -> socket.socket:
    """Open a socket that takes part in nothing, see `look_at_binding`.

    Raises:
        SystemFault: it could not be opened.
    """
    try:
        with ExitStack() as undo:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            undo.callback(opened.close)
            if not interface.is_absent:
                bind_packet(opened, interface.index, 0)  # protocol 0: nothing comes in
            undo.pop_all()
    except OSError as error:
        raise SystemFault(f"Cannot watch {interface.name}", errno_of(error)) from None
    return opened


def _probe() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _present_name(asked: socket.socket, index: int) -> str:
    """By a socket that is there: the C library opens one, and without a descriptor left finds no interface."""
    name, _ = _NUMBER.unpack(fcntl.ioctl(asked, uapi.SIOCGIFNAME, _NUMBER.pack(b"", index)))
    return os.fsdecode(name.rstrip(b"\0"))


def _present_index(asked: socket.socket, name: str) -> int:
    """0: no interface has this name."""
    try:
        _, index = _NUMBER.unpack(fcntl.ioctl(asked, uapi.SIOCGIFINDEX, _NUMBER.pack(os.fsencode(name), 0)))
    except OSError:
        return 0
    return int(index)


def _settings(probe: socket.socket, name: str) -> tuple[int, IPv4Address | None]:
    asked = _NAME.pack(os.fsencode(name))
    _, mtu = _NUMBER.unpack(fcntl.ioctl(probe, uapi.SIOCGIFMTU, asked))
    try:
        _, address = _ADDRESS.unpack(fcntl.ioctl(probe, uapi.SIOCGIFADDR, asked))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return mtu, None
    return mtu, IPv4Address(address)


def not_found(name: str, *more_hints: str) -> InterfaceNotFound | SystemFault:
    """The error for a name that no interface has, with what there is."""
    try:
        names = [known for _, known in socket.if_nameindex()]
    except OSError as error:
        return SystemFault(f"Cannot look up interface {name}", errno_of(error))
    nearest = difflib.get_close_matches(name, names, n=1)
    hints = [f"did you mean {nearest[0]}?"] if nearest else []
    hints.append("interfaces here: " + (", ".join(names) or "none"))
    return InterfaceNotFound(f"Interface not found: {name}", *hints, *more_hints)
