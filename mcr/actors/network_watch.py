"""Owns what is known of the machine's network: it alone listens to changes of links, addresses, routes and neighbours.

Listening needs no rights. Changes come in bursts (a cable or a scan makes thousands). They are read by the hundred, and
a task that waits for news gets the newest state, not each change.
"""

import errno
import math
import socket
from typing import assert_never

import attrs
import trio

from mcr.actors.mailbox import Reached, Reply, ask
from mcr.errors import SystemFault, errno_of
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.net.buffer import set_buffer
from mcr.net.network import Network
from mcr.net.rtnetlink import DUMPS, GROUPS, Known, request_dump

log = get_logger(Facility.NETWORK)

_MESSAGE_BYTES = 65_536
_BUFFER_BYTES = 4 << 20
_AT_ONCE = 100  # datagrams, before others get their turn
_APART = 0.2  # seconds between two times that everything is asked for: while all changes, an answer is soon untrue


@attrs.frozen
class _Snapshot:
    reply: Reply[Network]


@attrs.frozen
class _News:
    """There is something to read, or to request."""

    reply: Reply[None]


_Command = _Snapshot | _News


@attrs.frozen
class NetworkWatch:
    """Handle of the watch."""

    _inbox: trio.MemorySendChannel[_Command]
    _version: Reached

    async def snapshot(self) -> Network:
        """The newest state, with every change that the kernel has reported so far."""
        return await ask(self._inbox, _Snapshot)

    async def changed(self, since: int) -> Network:
        """Wait until there is something newer than the version `since`, and return the newest there is then."""
        await self._version.at_least(since + 1)
        return await self.snapshot()


async def run_network_watch(*, task_status: trio.TaskStatus[NetworkWatch] = trio.TASK_STATUS_IGNORED) -> None:
    """Watch until cancelled. It starts with everything that is there.

    Raises:
        SystemFault: the kernel does not report changes.
    """
    send, receive = trio.open_memory_channel[_Command](0)
    with receive, _open() as news:
        state = _State(news)
        while not state.complete:
            with trio.move_on_after(_APART):
                await trio.lowlevel.wait_readable(news)
            state.hear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_listen, state, news, send)
            task_status.started(NetworkWatch(send, state.version))
            async for command in receive:
                _handle(state, command)


def _open() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError as error:
        hint = "netlink tells of interfaces: a sandbox has to allow AF_NETLINK (RestrictAddressFamilies= of its unit)"
        raise SystemFault("Cannot watch the network", errno_of(error), hint) from None
    opened.setblocking(False)
    set_buffer(opened, socket.SO_RCVBUF, _BUFFER_BYTES)
    opened.bind((0, GROUPS))
    return opened


async def _listen(state: "_State", news: socket.socket, inbox: trio.MemorySendChannel[_Command]) -> None:
    while True:
        with trio.move_on_after(math.inf if state.complete else _APART):
            await trio.lowlevel.wait_readable(news)
        await ask(inbox, _News)


def _handle(state: "_State", command: _Command) -> None:
    match command:
        case _News(reply):
            with reply:
                state.hear()
                reply.resolve(None)
        case _Snapshot(snapshot):
            with snapshot:
                state.hear()
                snapshot.resolve(state.network())
        case _:
            assert_never(command)


class _State:
    def __init__(self, news: socket.socket) -> None:
        self._news = news
        self._known = Known(news.getsockname()[0])
        self.version = Reached()
        self._due: list[int] = []  # what is still to be asked for
        self._lost = True
        self._asked_at = -math.inf
        self._ask_on()

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to be asked for."""
        return not (self._due or self._known.dumping or self._lost)

    def network(self) -> Network:
        return self._known.network()

    def hear(self) -> None:
        """Take in what has come, but not for long."""
        for _ in range(_AT_ONCE):
            try:
                self._known.heed(self._news.recv(_MESSAGE_BYTES))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost = True
            self._ask_on()
        self._ask_on()
        self.version.set(self.network().version)

    def _ask_on(self) -> None:
        """Request one table after the other. Start over if a change was missed, or happened during an answer."""
        if self._known.dumping:
            return
        self._lost |= self._known.torn
        if self._lost and trio.current_time() >= self._asked_at + _APART:
            self._asked_at = trio.current_time()
            self._lost = False
            self._due = [*DUMPS]
        if self._due:
            self._known.begin(self._due[0])
            self._news.send(request_dump(self._due.pop(0)))
