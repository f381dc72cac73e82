"""One connection to the control socket. Its failures are answers, not exceptions."""

import array
import select
import socket
from collections.abc import Sequence
from typing import Final

import trio

from mcr.control import wire
from mcr.control.peers import Peer
from mcr.logs.logger import get_logger
from mcr.model.log import Facility

SEND_TIMEOUT: Final = 10
"""Seconds for a client to read a reply. Ordinary replies fit into the socket's buffer and wait for nobody."""

SHORT: Final = 64 * 1024
"""Bytes of the longest request of a user who may only read. Shorter ones don't count against the bound for all."""

_CHUNK = 64 * 1024
_SMALL_CHUNK = 8 * 1024  # for users who may only read: no more work at a time than in one request

_log = get_logger(Facility.CONTROL)


def has_left(connection: socket.socket | trio.socket.SocketType) -> bool:
    """Whether the other end is closed. It is not if the client has only shut down its sending side."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))  # POLLHUP or POLLERR, which are always told


class ControlClient:
    """One client."""

    def __init__(self, connection: socket.socket, peer: Peer, *, may_change: bool) -> None:
        self.in_hand = 0  # bytes of the request that is carried out, or of the reply that is sent
        self.peer = peer
        self.may_change = may_change
        self.lines = wire.LineBuffer(wire.MAX_LINE if may_change else SHORT)
        self._chunk = _CHUNK if may_change else _SMALL_CHUNK
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))

    @property
    def held(self) -> int:
        """Bytes that the daemon keeps for this client."""
        return self.lines.held + self.in_hand

    @property
    def has_left(self) -> bool:
        """Whether the client has left and no longer reads replies."""
        return has_left(self._stream.socket)

    async def wait_for_data(self) -> None:
        """Wait until `receive` has something."""
        await trio.lowlevel.wait_readable(self._stream.socket)

    async def receive(self) -> bytes:
        """The next bytes, none at the end of the stream."""
        try:
            return bytes(await self._stream.receive_some(self._chunk))
        except trio.BrokenResourceError:
            return b""

    async def send(self, reply: bytes) -> bool:
        """Send a whole reply; False if the client left or did not read it in time."""
        with trio.move_on_after(SEND_TIMEOUT):
            try:
                await self._stream.send_all(reply)
            except trio.BrokenResourceError:
                return False
            return True
        _log.notice("Process %d did not read its reply for %d s: disconnected", self.peer.pid, SEND_TIMEOUT)
        return False

    async def send_descriptors(self, descriptors: Sequence[int]) -> bool:
        """Send descriptors, with a blank before the line that is to come; False if the client left."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        with trio.move_on_after(SEND_TIMEOUT):
            try:
                await self._stream.socket.sendmsg([b" "], rights)
            except OSError:
                return False
            return True
        return False

    def stop_receiving(self) -> None:
        """Let `receive` return the end of the stream, now or when it is called next."""
        self._stream.socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the connection."""
        self._stream.socket.close()
