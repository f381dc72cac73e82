"""Reads what comes to a packet socket during a look at the wire: in C, and no datagram wakes anybody."""

import errno
import os
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from mcr._native import ffi, lib
from mcr.tap.copies import Origin

MOST: Final[int] = lib.MCR_LOOK_MOST
"""Datagrams of one look, or frames, whoever takes them."""

_HEARD: Final = struct.Struct("=QQ")  # struct mcr_heard: hash of a payload, number of a way
_SECRET = struct.Struct("=QQ")
_IPV4_BYTES, _IPV6_BYTES, _MAC_BYTES = 4, 16, 6


def way_of(way: Any, *, has_mac: bool = True) -> tuple[Origin, bytes]:
    """Who sends by it, and the address and the port that it goes to."""
    size = _IPV4_BYTES if way.family == socket.AF_INET else _IPV6_BYTES
    mac = ffi.buffer(way.mac, _MAC_BYTES)[:] if has_mac else b""
    flow = ffi.buffer(way.group, size)[:] + socket.ntohs(way.port).to_bytes(2)
    return Origin(mac, ffi.buffer(way.source, size)[:]), flow


class Reading:
    """What comes to a socket, datagram by datagram, also out of super-frames.

    Attributes:
        frames: so far, whatever is in them.
        is_whole: nothing was lost so far. What was read came before anything was.
        is_behind: more is there than was read last.
    """

    def __init__(self, tap: socket.socket, link: int, vlan: int, takes: Callable[[Origin, bytes], bool]) -> None:
        """Read by a packet socket with auxiliary data, offload headers and counts of what was lost (SO_RXQ_OVFL).

        Args:
            tap: the socket.
            link: bytes of the link layer's header (`mcr.net.interfaces.link_header`).
            vlan: of the frames that are meant; 0: without a tag, or with one of a priority alone.
            takes: whether datagrams of an origin to a flow (bytes of address and port) are wanted.

        Raises:
            OSError: there is no memory.
        """
        spec = {"fd": tap.fileno(), "link": link, "vlan": vlan, "secret": _SECRET.unpack(os.urandom(_SECRET.size))}
        self._look = lib.mcr_look_open(ffi.new("struct mcr_look_spec *", spec))
        if not self._look:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self._has_mac, self._takes = link > 0, takes
        self._origins = list[Origin | None]()  # by the numbers of ways; None: its datagrams are not wanted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        lib.mcr_look_close(self._look)

    @property
    def frames(self) -> int:  # noqa: D102 - see the class
        return int(self._look.frames)

    @property
    def is_whole(self) -> bool:  # noqa: D102 - see the class
        return not self._look.lost

    @property
    def is_behind(self) -> bool:  # noqa: D102 - see the class
        return bool(self._look.behind)

    def read(self, seconds: float) -> list[tuple[Origin, int]]:
        """Who has sent what, by a hash of payload and flow: for so long, or until some hundreds have come.

        Raises:
            OSError: the socket says so.
        """
        ret = lib.mcr_look_read(self._look, max(int(seconds * 1e9), 0))
        if ret:
            raise OSError(-ret, os.strerror(-ret))
        for number in range(len(self._origins), self._look.way_count):
            origin, flow = way_of(self._look.ways[number], has_mac=self._has_mac)
            self._origins.append(origin if self._takes(origin, flow) else None)
        heard = ffi.buffer(self._look.heard, self._look.count * _HEARD.size)
        return [(origin, payload) for payload, way in _HEARD.iter_unpack(heard) if (origin := self._origins[way])]
