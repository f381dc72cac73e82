"""Programs in the place of sockets' filters, as far as a socket has room for both (net.core.optmem_max)."""

import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from mcr.errors import describe_errno, errno_of
from mcr.net import uapi
from mcr.net.filter.cbpf import Instruction, accept_udp, attach_filter

_NO_ROOM: Final = "net.core.optmem_max is too small for the filter (sudo sysctl -w net.core.optmem_max=131072)"


class NoRoomError(OSError):
    """The kernel charges a socket for a filter of its own, and for the one before until that is gone."""

    def __init__(self) -> None:
        super().__init__(errno.ENOMEM, _NO_ROOM)


def why_unattached(error: OSError) -> str:
    """In words."""
    return _NO_ROOM if isinstance(error, NoRoomError) else describe_errno(errno_of(error))


def attach_programs(
    sockets: Sequence[socket.socket], load: Callable[[int], int], vlans: Iterable[int] | None = None
) -> None:
    """Attach a program to each.

    Args:
        sockets: of one capture.
        load: gives the descriptor of that for the socket with this number.
        vlans: make room for it: for a moment all UDP, untagged or of these, is let in.

    Raises:
        NoRoomError: for one.
        OSError: from loading one, or from setsockopt(2).
    """
    small = _small(vlans) if vlans is not None else None
    for number, each in enumerate(sockets):
        program = load(number)
        try:
            if small:
                attach_filter(each, small)
            _attach(each, program)
        finally:
            os.close(program)  # the socket keeps it


def let_all_in(sockets: Sequence[socket.socket], vlans: Iterable[int]) -> None:
    """Have the workers tell what rules take, as far as there is memory for that: no filter of another mcrd stays."""
    with suppress(OSError):
        small = _small(vlans)
        for each in sockets:
            attach_filter(each, small)


def _small(vlans: Iterable[int]) -> tuple[Instruction, ...]:
    try:
        return accept_udp(vlans)
    except OverflowError:
        raise NoRoomError from None


def _attach(target: socket.socket, program: int) -> None:
    """Put an eBPF program in the place of the socket's filter, between two packets."""
    try:
        target.setsockopt(socket.SOL_SOCKET, uapi.SO_ATTACH_BPF, program)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise NoRoomError from None
        raise
