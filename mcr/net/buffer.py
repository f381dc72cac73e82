"""Socket buffers, beyond the system's limit where that is allowed."""

import socket

from mcr.net import uapi

_FORCED = {socket.SO_SNDBUF: uapi.SO_SNDBUFFORCE, socket.SO_RCVBUF: uapi.SO_RCVBUFFORCE}


def set_buffer(target: socket.socket, option: int, size: int) -> None:
    """Set SO_SNDBUF or SO_RCVBUF to `size` bytes; without CAP_NET_ADMIN, to what wmem_max or rmem_max allows.

    Raises:
        OSError: from setsockopt(2).
    """
    try:
        target.setsockopt(socket.SOL_SOCKET, _FORCED[option], size)
    except PermissionError:
        target.setsockopt(socket.SOL_SOCKET, option, size)


def granted(option: int, size: int) -> int:
    """Bytes that this process gets when it asks for `size`: tried with a socket of its own.

    Raises:
        OSError: no socket could be opened.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        set_buffer(probe, option, size)
        return probe.getsockopt(socket.SOL_SOCKET, option) // 2  # the kernel doubles what it is asked for, socket(7)
