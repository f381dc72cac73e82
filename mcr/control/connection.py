"""One connection to the control socket. Its failures are answers, not exceptions."""

import array
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
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
    """One client.

    Attributes:
        in_hand: bytes of the request that is parsed or carried out, or of the reply that is sent.
        waits: for which request it wants progress messages, and since when; None: for none.
    """

    def __init__(self, connection: socket.socket, peer: Peer, *, may_change: bool) -> None:
        self.in_hand = 0
        self.waits: tuple[wire.RequestId, float] | None = None
        self.peer = peer
        self.may_change = may_change
        self.lines = wire.LineBuffer(wire.MAX_LINE if may_change else SHORT)
        self._chunk = _CHUNK if may_change else _SMALL_CHUNK
        self._socket = connection
        self._socket.setblocking(False)

    @property
    def held(self) -> int:
        """Bytes that the daemon keeps for this client."""
        return self.lines.held + self.in_hand

    @property
    def has_left(self) -> bool:
        """Whether the client has left and no longer reads replies."""
        return has_left(self._socket)

    async def wait_for_data(self) -> None:
        """Wait until `receive` has something."""
        await trio.lowlevel.wait_readable(self._socket)

    async def receive(self) -> bytes:
        """The next bytes, none at the end of the stream."""
        while True:
            try:
                return self._socket.recv(self._chunk)
            except BlockingIOError:
                await self.wait_for_data()
            except OSError:
                return b""

    async def send(self, reply: bytes) -> bool:
        """Send a whole reply; False if the client left or did not read it in time. A short one waits for nobody."""
        try:
            rest = self._send_some(memoryview(reply))
            if rest:
                with trio.fail_after(SEND_TIMEOUT):
                    while rest:
                        await trio.lowlevel.wait_writable(self._socket)
                        rest = self._send_some(rest)
        except OSError:
            return False
        except trio.TooSlowError:
            _log.notice("Process %d did not read its reply for %d s: disconnected", self.peer.pid, SEND_TIMEOUT)
            return False
        return True

    def _send_some(self, data: memoryview) -> memoryview:
        """Send what there is room for; the rest."""
        with suppress(BlockingIOError):
            return data[self._socket.send(data) :]
        return data

    def tell_progress(self, after: float) -> None:
        """Say that its request is carried out, if it wants to know and that has taken so many seconds."""
        if not self.waits:
            return
        request_id, since = self.waits
        seconds = trio.current_time() - since
        if seconds >= after:
            # The kernel takes so short a line whole or not at all.
            with suppress(OSError):  # it has left, or reads nothing
                self._socket.send(wire.encode_progress(request_id, seconds))

    async def send_descriptors(self, descriptors: Sequence[int]) -> bool:
        """Send descriptors, with a blank before the line that is to come; False if the client left."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        with trio.move_on_after(SEND_TIMEOUT):
            await trio.lowlevel.wait_writable(self._socket)
            with suppress(OSError):
                self._socket.sendmsg([b" "], rights)
                return True
        return False

    def stop_receiving(self) -> None:
        """Let `receive` return the end of the stream, now or when it is called next."""
        self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
