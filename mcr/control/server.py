"""Owns the control socket and its clients.

Rules of the module:

1. One task per client. Whatever a client does (reset, send garbage, not read), only its own connection ends.
2. The requests of one connection are answered in order, one at a time; the next ones wait in its socket.
3. What clients can make the daemon hold is bounded: their number, and the bytes of long requests and replies.
4. Users who may only read wait for a turn before a request of theirs is read or carried out: others never wait for
   more than one of them.
5. A request that only reads is dropped if its client has left.
6. An `McrError` is the client's to hear; any other exception is a bug, and ends the daemon.
"""

import socket
from collections import Counter
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext, suppress
from functools import lru_cache, partial
from typing import Final, NoReturn

import attrs
import trio

from mcr.actors.mailbox import next_beat
from mcr.control import wire
from mcr.control.connection import SHORT, ControlClient, has_left
from mcr.control.door import Door
from mcr.control.handover import METHOD, HandOver
from mcr.control.methods import Api, changes, examines
from mcr.control.peers import Peer, Rights, peer_of
from mcr.control.turns import Turns
from mcr.errors import LimitReached, McrError, ShuttingDown
from mcr.logs.asker import set_asker
from mcr.logs.logger import get_logger
from mcr.model.log import Facility

MAX_CLIENTS: Final = 1_000
"""Connections at the same time. The next one gets an error and is closed."""

MAX_LOOKERS: Final = 750
"""Connections of users who may only read: places are left for users who may change something."""

MAX_LOOKERS_OF_A_USER: Final = 100
"""Connections of one of these users: places are left for others."""

MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of long requests and replies of all clients together. A request beyond fails with an error."""

LOOKERS_SHARE: Final = 0.2
"""Share of the daemon's time for the requests of all users who may only read."""

EXAMINATIONS_SHARE: Final = 0.5
"""Share of the time for their `why` and `doctor`: one at a time, and most of it is waiting."""

PROGRESS_INTERVAL: Final = 1.0
"""Seconds between two progress messages to a client that asked for them."""

STOP_GRACE: Final = 2
"""Seconds for the requests in progress to finish when the server stops."""

_MEDIUM = 16 * 1024  # bytes of a request from which on a thread looks through it

_LONG_REQUESTS = "The long requests in progress exceed what mcrd holds"

_log = get_logger(Facility.CONTROL)


@attrs.frozen
class ControlServer:
    """The handle of a running control server."""

    _stopping: trio.Event
    _stopped: trio.Event

    async def stop(self) -> None:
        """Stop accepting, let requests in progress finish for up to `STOP_GRACE` seconds, close the clients.

        Returns when the socket is gone and the last client is closed. Stop it before the actors that answer.
        """
        self._stopping.set()
        await self._stopped.wait()


async def run_control_server(
    listener: socket.socket,
    closing: ExitStack,
    api: Api,
    hand_over: HandOver | None = None,
    *,
    task_status: trio.TaskStatus[ControlServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control protocol on a `control_socket` until `ControlServer.stop` is called.

    Resource handling: `closing` closes and removes the socket. That is done as soon as nobody is let in any more.

    Another mcrd may take over by `hand_over`.

    Error handling: a client's failure ends its connection. A bug in a handler ends this coroutine, and all
    connections with it.
    """
    stopping, stopped = trio.Event(), trio.Event()
    clients = _Clients(api, hand_over)
    try:
        async with trio.open_nursery() as nursery:
            with closing:
                task_status.started(ControlServer(stopping, stopped))
                async with trio.open_nursery() as door:
                    door.start_soon(clients.accept, listener, nursery)
                    door.start_soon(clients.tell_progress)
                    await stopping.wait()
                    door.cancel_scope.cancel(reason="the control server stops")
            clients.stop()
            nursery.cancel_scope.deadline = trio.current_time() + STOP_GRACE
    finally:
        stopped.set()


class _Clients:
    """All connections."""

    def __init__(self, api: Api, hand_over: HandOver | None) -> None:
        self._api = api
        self._hand_over = hand_over
        self._rights = Rights.of_this_machine()
        self._open: set[ControlClient] = set()
        self._lookers: Counter[int] = Counter()  # by user
        self._turns = Turns(LOOKERS_SHARE)
        self._examinations = Turns(EXAMINATIONS_SHARE)
        self._stopping = False
        self._somebody_waits = trio.Event()
        self._door = Door()

    def stop(self) -> None:
        """Refuse every further request, and let the clients that have none in progress go."""
        self._stopping = True
        self._turns.stop()
        self._examinations.stop()
        for client in self._open:
            client.stop_receiving()

    async def accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        """Start a task in the nursery for every client that comes."""
        await self._door.accept(listener, partial(self._welcome, nursery))

    def _welcome(self, nursery: trio.Nursery, connection: socket.socket) -> bool:
        """Serve a client, if there is room, and it has not left already."""
        try:
            peer = peer_of(connection)
            may_change = self._rights.may_change(peer)
            if refusal := self._refusal(peer, may_change=may_change):
                connection.send(refusal, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            stays = not refusal and (may_change or not has_left(connection))
        except OSError:  # it has left
            stays = False
        if not stays:
            connection.close()
            return False
        client = ControlClient(connection, peer, may_change=may_change)
        self._open.add(client)
        if not may_change:
            self._lookers[peer.uid] += 1
        nursery.start_soon(self._serve, client)
        return True

    def _refusal(self, peer: Peer, *, may_change: bool) -> bytes:
        """The error for one client too many; None if there is room."""
        places = MAX_CLIENTS if may_change else MAX_LOOKERS
        if len(self._open) >= places:
            self._door.warn_seldom("Refused a client: %d are connected", places)
            return _refused(f"{places:,} clients are connected to the control socket")
        if not may_change and self._lookers[peer.uid] >= MAX_LOOKERS_OF_A_USER:
            self._door.warn_seldom(
                "Refused a client of uid %d: %d of that user are connected", peer.uid, MAX_LOOKERS_OF_A_USER
            )
            return _refused(f"{MAX_LOOKERS_OF_A_USER} clients of your user are connected to the control socket")
        return b""

    async def _serve(self, client: ControlClient) -> None:
        _log.debug("Process %d connected, uid %d", client.peer.pid, client.peer.uid)
        set_asker(client.peer.uid, client.peer.pid)
        try:
            with suppress(ShuttingDown):  # it waited for a turn
                await self._converse(client)
        finally:
            self._open.remove(client)
            if not client.may_change:
                self._lookers -= Counter([client.peer.uid])
            client.close()
        _log.debug("Process %d left", client.peer.pid)

    def _turn(self, client: ControlClient, method: str = "") -> AbstractAsyncContextManager[None]:
        """When it is this client's turn, to be read or to have a method carried out."""
        if client.may_change:
            return nullcontext()
        turns = self._examinations if examines(method) else self._turns
        return turns.turn(client.peer.uid)

    async def _converse(self, client: ControlClient) -> None:
        data = b"?"
        while data:
            await client.wait_for_data()
            async with self._turn(client):
                data = await client.receive()
                lines = client.lines.feed(data)
            for number, line in enumerate(lines):
                if number:
                    await trio.lowlevel.checkpoint()  # others get their turn, however many came at once
                if not await self._answer(client, line):
                    return
            if self._exceeds(client):
                await client.send(_too_much(_LONG_REQUESTS))
                return
        if rejection := client.lines.end():
            await client.send(rejection.reply)

    async def _answer(self, client: ControlClient, line: bytes | wire.Rejection) -> bool:
        """Answer a line; False if the client is gone."""
        if isinstance(line, wire.Rejection):
            return await client.send(line.reply)
        client.in_hand = len(line)  # from now on, as a thread may be long at parsing it
        try:
            if self._exceeds(client):
                return await client.send(_too_much(_LONG_REQUESTS))
            return await self._carry_out(client, line)
        finally:
            client.in_hand = 0

    async def _carry_out(self, client: ControlClient, line: bytes) -> bool:
        """Carry a request out and answer it; False if the client is gone."""
        async with self._turn(client):
            if len(line) > _MEDIUM:
                request = await trio.to_thread.run_sync(wire.parse_long_request, line)
            else:
                request = wire.parse_request(line)
        if isinstance(request, wire.Rejection):
            return await client.send(request.reply)
        if self._hand_over and request.method == METHOD:
            return await self._hand_over.serve(client, request)
        if request.progress:
            client.waits = request.id, trio.current_time()
            self._somebody_waits.set()
        reply = await self._reply(request, client)
        client.waits = None
        if request.notification:
            return True
        client.in_hand = len(reply)
        # What was changed is said, come what may: an error would tell that it was not.
        if self._exceeds(client) and not changes(request.method):
            reply = _too_much("The long replies in progress exceed what mcrd holds", request.id)
        return await client.send(reply)

    async def tell_progress(self) -> NoReturn:
        """Send progress messages to all that want them, at each whole second, as the other actors look around then."""
        while True:
            if not any(client.waits for client in self._open):
                await self._somebody_waits.wait()
            self._somebody_waits = trio.Event()
            await next_beat(PROGRESS_INTERVAL)
            for client in self._open:
                client.tell_progress(PROGRESS_INTERVAL)

    async def _reply(self, request: wire.Request, client: ControlClient) -> bytes:
        started = trio.current_time()
        try:
            async with self._turn(client, request.method):
                if changes(request.method) and not client.may_change:
                    raise await trio.to_thread.run_sync(self._rights.refusal, client.peer, request.method)
                return await self._result(request, client)
        except McrError as error:
            return wire.encode_error(request.id, error)
        finally:
            milliseconds = (trio.current_time() - started) * 1_000
            _log.debug("%.80s for process %d took %.1f ms", request.method, client.peer.pid, milliseconds)

    async def _result(self, request: wire.Request, client: ControlClient) -> bytes:
        if self._stopping:
            raise ShuttingDown("mcrd is stopping")
        looks = not changes(request.method)
        if looks and client.has_left:
            return b""
        result = await self._api.call(request.method, request.params, long=client.in_hand > _MEDIUM)
        if looks and client.has_left:
            return b""
        if wire.is_long(result):
            return await trio.to_thread.run_sync(wire.encode_long_result, request.id, result)
        return wire.encode_result(request.id, result)

    def _exceeds(self, client: ControlClient) -> bool:
        return client.held > SHORT and sum(other.held for other in self._open if other.held > SHORT) > MAX_HELD


@lru_cache  # of which somebody may want thousands a second
def _refused(message: str) -> bytes:
    return _too_much(message)


def _too_much(message: str, request_id: wire.RequestId = None) -> bytes:
    return wire.encode_error(request_id, LimitReached(message, "try again when others are done"))
