"""Network interfaces by name."""

import difflib
import errno
import fcntl
import socket
import struct

import attrs

from mcr.errors import InterfaceNotFound, SystemFault

_SIOCGIFMTU = 0x8921  # <linux/sockios.h>
_IFREQ = struct.Struct("16si20x")


@attrs.frozen
class Interface:
    """An interface as it is now. `mtu` in bytes."""

    name: str
    index: int
    mtu: int


def find_interface(name: str) -> Interface:
    """Look an interface up.

    Raises:
        InterfaceNotFound: with the interfaces there are, the nearest name first.
        SystemFault: out of descriptors or memory.
    """
    try:
        index = socket.if_nametoindex(name)
        return Interface(name, index, _mtu(name))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise SystemFault(f"Cannot look up interface {name}", error.errno) from None
        raise _not_found(name) from None


def _mtu(name: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        answer = fcntl.ioctl(probe, _SIOCGIFMTU, _IFREQ.pack(name.encode(), 0))
    return int(_IFREQ.unpack(answer)[1])


def _not_found(name: str) -> InterfaceNotFound:
    names = [known for _, known in socket.if_nameindex()]
    nearest = difflib.get_close_matches(name, names, n=1)
    hints = [f"did you mean {nearest[0]}?"] if nearest else []
    hints.append("interfaces here: " + (", ".join(names) or "none"))
    return InterfaceNotFound(f"Interface not found: {name}", *hints)
