"""Owns the clients that are served metrics.

Rules of the module:

1. One task per client. Whatever a client does, only its own connection ends.
2. One page is made at a time, and all of them take a share of the daemon's time at most; peers take turns.
3. What clients can make the daemon hold is bounded: their number, and the bytes of pages that they have not read.
4. Where there are too many, those make room that have been idle the longest: a scraper gets in.
5. A bug in a page ends the daemon.
"""

import math
import socket
from collections.abc import Hashable
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from typing import Final

import attrs
import trio

from mcr.control.door import Door
from mcr.control.peers import peer_of
from mcr.control.turns import Turns
from mcr.errors import LimitReached
from mcr.metrics.connection import Client
from mcr.metrics.pages import STATUS_SECONDS, Answer, Following, Pages

MAX_CLIENTS: Final = 100
"""Connections at the same time."""

MAX_CLIENTS_OF_A_PEER: Final = 25
"""Connections of one address, or of one user of a unix socket."""

MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of pages that are being sent, to all clients together; one peer has half of them at most."""

SHARE: Final = 0.2
"""Share of the daemon's time for metrics."""

ANSWER_SECONDS: Final = 10.0
"""For a client to get its turn, and again for its page: Prometheus waits as long."""

_BUSY = Answer.of(HTTPStatus.SERVICE_UNAVAILABLE, "Error: mcrd is busy with others who ask for metrics")


@attrs.frozen
class MetricsServer:
    """The handle of a running server of metrics."""

    _scope: trio.CancelScope
    _stopped: trio.Event

    async def stop(self) -> None:
        """Close the socket and all clients."""
        self._scope.cancel(reason="the server of metrics stops")
        await self._stopped.wait()


async def run_metrics_server(
    listener: socket.socket,
    closing: ExitStack,
    pages: Pages,
    *,
    task_status: trio.TaskStatus[MetricsServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve metrics until `MetricsServer.stop` is called.

    Resource handling: `closing` closes and removes the listener when this ends.

    Error handling: a client's failure ends its connection. A bug in a page ends this coroutine.
    """
    stopped, clients = trio.Event(), _Clients(pages)
    try:
        with closing:
            async with trio.open_nursery() as nursery:
                task_status.started(MetricsServer(nursery.cancel_scope, stopped))
                await Door().accept(listener, partial(clients.welcome, nursery))
    finally:
        stopped.set()


class _Clients:
    """All connections."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._open: set[Client] = set()
        self._turns = Turns(SHARE)

    def welcome(self, nursery: trio.Nursery, connection: socket.socket) -> bool:
        """Serve a client, if there is room."""
        try:
            peer = _peer(connection)
        except OSError:  # it has left
            connection.close()
            return False
        if not self._make_room(peer):
            connection.close()
            return False
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(connection)), peer)
        self._open.add(client)
        nursery.start_soon(self._serve, client)
        return True

    def _make_room(self, peer: Hashable) -> bool:
        """Whether there is room for another of this peer, if need be since an idle one has to leave."""
        of_peer = [each for each in self._open if each.peer == peer]
        if len(of_peer) < MAX_CLIENTS_OF_A_PEER and len(self._open) < MAX_CLIENTS:
            return True
        candidates = of_peer if len(of_peer) >= MAX_CLIENTS_OF_A_PEER else self._open
        idle = [each for each in candidates if each.waits_since is not None and not each.scope.cancel_called]
        if not idle:
            return False
        min(idle, key=lambda each: each.waits_since or math.inf).scope.cancel(reason="others want its place")
        return True

    async def _serve(self, client: Client) -> None:
        try:
            await client.converse(partial(self._respond, client))
        finally:
            self._open.remove(client)
            client.close()

    async def _respond(self, client: Client, target: str, accept: str) -> Answer:
        with trio.move_on_after(ANSWER_SECONDS) as waiting:
            async with self._turns.turn(client.peer):
                waiting.deadline = trio.current_time() + ANSWER_SECONDS
                if client.has_left:
                    return _BUSY
                answer = await self._pages.get(target, accept)
        if waiting.cancelled_caught:
            return _BUSY
        if self._is_too_much(client, answer.size):
            return _BUSY
        if not answer.following:
            return answer
        return attrs.evolve(answer, following=partial(self._follow, client, answer.following))

    async def _follow(self, client: Client, following: Following) -> bytes:
        """What comes next, when it is the client's turn.

        Raises:
            LimitReached: too much is being sent already.
        """
        await trio.sleep(STATUS_SECONDS)
        async with self._turns.turn(client.peer):
            data = await following()
        if self._is_too_much(client, len(data)):
            raise LimitReached("too much is being sent already")
        return data

    def _is_too_much(self, client: Client, size: int) -> bool:
        """Whether so many bytes more would be too many to hold."""
        of_peer = sum(each.held for each in self._open if each.peer == client.peer)
        total = sum(each.held for each in self._open)
        return of_peer + size > MAX_HELD // 2 or total + size > MAX_HELD


def _peer(connection: socket.socket) -> Hashable:
    """Who is at the other end: a user, or an address."""
    if connection.family == socket.AF_UNIX:
        return peer_of(connection).uid
    return str(connection.getpeername()[0])
