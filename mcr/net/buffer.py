"""Socket buffers, beyond the system's limit where that is allowed."""

import socket

_FORCED = {socket.SO_SNDBUF: 32, socket.SO_RCVBUF: 33}  # SO_SNDBUFFORCE, SO_RCVBUFFORCE; <asm-generic/socket.h>


def set_buffer(target: socket.socket, option: int, size: int) -> None:
    """Set SO_SNDBUF or SO_RCVBUF to `size` bytes; without CAP_NET_ADMIN, to what wmem_max or rmem_max allows.

    Raises:
        OSError: from setsockopt(2).
    """
    try:
        target.setsockopt(socket.SOL_SOCKET, _FORCED[option], size)
    except PermissionError:
        target.setsockopt(socket.SOL_SOCKET, option, size)
