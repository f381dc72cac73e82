"""Owns the control socket and its clients.

Rules of the module:

1. One task a client. Whatever a client does (reset, send garbage, not read), only its own connection ends.
2. The requests of one connection are answered in order, one at a time; the next ones wait in its socket.
3. What clients can make the daemon hold is bounded: their number, and the bytes of long requests and replies.
4. An `McrError` is the client's to hear; any other exception is a bug, and ends the daemon.
"""

import errno
import math
import socket
from typing import Final

import attrs
import trio

from mcr import wire
from mcr.api import Api
from mcr.control_socket import control_socket
from mcr.errors import LimitReached, McrError, ShuttingDown, describe_errno
from mcr.logs import get_logger
from mcr.model import Facility
from mcr.rights import Rights, peer_of

MAX_CLIENTS: Final = 1_000
"""Connections at the same time. The next one is told so and closed."""

MAX_LOOKERS: Final = 750
"""Connections of those who may only look: places are left for who may change something."""

MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of long requests and replies of all clients together. Who exceeds it is told so."""

SEND_TIMEOUT: Final = 10
"""Seconds for a client to read a reply. Ordinary replies fit into the socket's buffer and wait for nobody."""

STOP_GRACE: Final = 2
"""Seconds for the requests in progress to finish when the server stops."""

_LONG = 64 * 1024  # a request or reply up to this length is too short to count against MAX_HELD
_MEDIUM = 16 * 1024  # bytes of a request from which on a thread looks through it
_CHUNK = 64 * 1024
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE = 0.1  # seconds; descriptors come back when a client leaves, and nothing tells us when
_WARNING_INTERVAL = 60

_log = get_logger(Facility.CONTROL)


@attrs.frozen
class ControlServer:
    """The handle of a running control server."""

    path: str
    _stopping: trio.Event
    _stopped: trio.Event

    async def stop(self) -> None:
        """Stop accepting, let requests in progress finish for up to `STOP_GRACE` seconds, close the clients.

        Returns when the socket is gone and the last client is closed. Stop it before the actors that answer.
        """
        self._stopping.set()
        await self._stopped.wait()


async def run_control_server(
    path: str, api: Api, *, task_status: trio.TaskStatus[ControlServer] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the control protocol on a unix socket until `ControlServer.stop` is called.

    Resource handling: the socket file is made with mode 0660; its directory too, with mode 0750, if only the
    last component is missing. The file is removed at the end, unless somebody put another in its place.

    Error handling: a client's failure ends its connection. A bug in a handler ends this coroutine, and all
    connections with it.

    Raises:
        SystemFault: the socket cannot be made, or another daemon serves it.
    """
    stopping, stopped = trio.Event(), trio.Event()
    clients = _Clients(api)
    try:
        async with trio.open_nursery() as nursery:
            with control_socket(path) as listener:
                task_status.started(ControlServer(path, stopping, stopped))
                async with trio.open_nursery() as door:
                    door.start_soon(clients.accept, listener, nursery)
                    await stopping.wait()
                    door.cancel_scope.cancel(reason="the control server stops")
            clients.stop()
            nursery.cancel_scope.deadline = trio.current_time() + STOP_GRACE
    finally:
        stopped.set()


class _Client:
    """One connection. Its failures are answers, not exceptions: an exception in its task is a handler's."""

    def __init__(self, stream: trio.SocketStream, rights: Rights) -> None:
        self.in_hand = 0  # bytes of the request that is carried out, or of the reply that is sent
        self._stream = stream
        self.peer = peer_of(stream.socket)
        self.may_change = rights.may_change(self.peer)
        self.lines = wire.LineBuffer(wire.MAX_LINE if self.may_change else _LONG)

    @property
    def held(self) -> int:
        """Bytes that the daemon keeps for this client."""
        return self.lines.held + self.in_hand

    async def receive(self) -> bytes:
        """The next bytes, none at the end of the stream."""
        try:
            return bytes(await self._stream.receive_some(_CHUNK))
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

    def stop_receiving(self) -> None:
        """Let `receive` return the end of the stream, now or when it is called next."""
        self._stream.socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self._stream.socket.close()


class _Clients:
    """All connections."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._rights = Rights.of_this_machine()
        self._open: set[_Client] = set()
        self._stopping = False
        self._next_warning = -math.inf

    def stop(self) -> None:
        """Refuse every further request, and let the clients that have none in progress go."""
        self._stopping = True
        for client in self._open:
            client.stop_receiving()

    async def accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        """Start a task in the nursery for every client that comes."""
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._warn_seldom(f"Cannot accept a client: {describe_errno(error.errno)}")
                await trio.sleep(_EXHAUSTED_PAUSE)
                continue
            client = _Client(stream, self._rights)
            places = MAX_CLIENTS if client.may_change else MAX_LOOKERS
            if len(self._open) < places:
                self._open.add(client)
                nursery.start_soon(self._serve, client)
                continue
            self._warn_seldom(f"Refused a client: {places:,} are connected")
            try:
                await client.send(_too_much(f"{places:,} clients are connected to the control socket"))
            finally:
                client.close()

    async def _serve(self, client: _Client) -> None:
        _log.debug("Process %d connected, uid %d", client.peer.pid, client.peer.uid)
        try:
            await self._converse(client)
        finally:
            self._open.remove(client)
            client.close()
        _log.debug("Process %d left", client.peer.pid)

    async def _converse(self, client: _Client) -> None:
        while data := await client.receive():
            for line in client.lines.feed(data):
                if not await self._answer(client, line):
                    return
            if self._exceeds(client):
                await client.send(_too_much("The long requests in progress exceed what mcrd holds"))
                return
        if rejection := client.lines.end():
            await client.send(rejection.reply)

    async def _answer(self, client: _Client, line: bytes | wire.Rejection) -> bool:
        """Answer a line; False if the client is gone."""
        if isinstance(line, wire.Rejection):
            return await client.send(line.reply)
        request = wire.parse_request(line)
        if isinstance(request, wire.Rejection):
            return await client.send(request.reply)
        try:
            client.in_hand = len(line)
            reply = await self._carry_out(request, client, long=len(line) > _MEDIUM)
            if request.notification:
                return True
            client.in_hand = len(reply)
            # What was changed is said, come what may: an error would tell that it was not.
            if self._exceeds(client) and not self._api.changes(request.method):
                reply = _too_much("The long replies in progress exceed what mcrd holds", request.id)
            return await client.send(reply)
        finally:
            client.in_hand = 0

    async def _carry_out(self, request: wire.Request, client: _Client, *, long: bool) -> bytes:
        started = trio.current_time()
        try:
            if self._stopping:
                raise ShuttingDown("mcrd is stopping")
            if self._api.changes(request.method) and not client.may_change:
                raise await trio.to_thread.run_sync(self._rights.refusal, client.peer, request.method)
            result = await self._api.call(request.method, request.params, long=long)
            if wire.is_long(result):
                return await trio.to_thread.run_sync(wire.encode_result, request.id, result)
            return wire.encode_result(request.id, result)
        except McrError as error:
            return wire.encode_error(request.id, error)
        finally:
            milliseconds = (trio.current_time() - started) * 1_000
            _log.debug("%.80s for process %d took %.1f ms", request.method, client.peer.pid, milliseconds)

    def _exceeds(self, client: _Client) -> bool:
        return client.held > _LONG and sum(other.held for other in self._open if other.held > _LONG) > MAX_HELD

    def _warn_seldom(self, message: str) -> None:
        if trio.current_time() >= self._next_warning:
            self._next_warning = trio.current_time() + _WARNING_INTERVAL
            _log.warning("%s", message)


def _too_much(message: str, request_id: wire.RequestId = None) -> bytes:
    return wire.encode_error(request_id, LimitReached(message, "try again when others are done"))
