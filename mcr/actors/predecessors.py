"""The workers of the mcrd before this one. They forward by its rules until they are told to end, for others to go on.

Each is known by mcrd's end of its channel alone: it was left in the store of descriptors, and the worker ends when it
is shut down. The kernel knows which process made the channel.
"""

import os
import select
import signal
import socket
import struct
from contextlib import ExitStack, suppress
from typing import Self

import attrs
import trio

from mcr.actors.worker_process import CHANNELS
from mcr.errors import McrError
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.process.descriptor_store import DescriptorStore, adopt_socket

log = get_logger(Facility.SUPERVISOR)

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_PATIENCE_SECONDS = 2.0  # to send what has arrived; it takes milliseconds


@attrs.frozen
class _Former:
    """A worker that runs."""

    pid: int
    pidfd: int
    channel: socket.socket


class Predecessors:
    """All of them. A context manager: leaving it lets go of those that were not told to end."""

    def __init__(self, store: DescriptorStore) -> None:
        """Take their channels out of the store; those that lead nowhere are closed."""
        self._store = store
        self._held = ExitStack()
        self._running: dict[str, _Former] = {}
        for name in store.inherited(CHANNELS):
            descriptor = store.take(name)
            assert descriptor is not None
            channel = adopt_socket(descriptor)
            former = _find(channel) if channel is not None else None
            if former is None:
                store.refuse(name, channel.detach() if channel is not None else descriptor)
                continue
            self._held.callback(os.close, former.pidfd)
            self._held.enter_context(former.channel)
            self._running[name] = former
            store.put(name, former.channel.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._held.close()

    def __len__(self) -> int:
        return len(self._running)

    async def end(self) -> None:
        """Have them send what has arrived, and wait until they have ended.

        Raises:
            McrError: one doesn't: nobody may read its packets beside it.
        """
        for former in self._running.values():
            former.channel.shutdown(socket.SHUT_WR)
        for name, former in self._running.items():
            await _wait_for(former)
            self._store.drop(name)  # not before: if this mcrd is killed meanwhile, the next one must know of the worker
        self._running = {}


def _find(channel: socket.socket) -> _Former | None:
    """The worker at the other end; None: nobody is there."""
    if (channel.family, channel.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        return None
    try:
        pid, _, _ = _CREDENTIALS.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if _is_hung_up(channel):  # then the number may be another's by now
        os.close(pidfd)
        return None
    return _Former(pid, pidfd, channel)


def _is_hung_up(channel: socket.socket) -> bool:
    poll = select.poll()
    poll.register(channel, 0)
    return bool(poll.poll(0))


async def _wait_for(former: _Former) -> None:
    """Wait until it has let go of the rings, which it says, or has ended: either way there is something to read."""
    for last_resort in (True, False):
        with trio.move_on_after(_PATIENCE_SECONDS):
            await trio.lowlevel.wait_readable(former.channel)
            return
        if last_resort:
            log.error("worker of the mcrd before this one (pid %d) does not end: it is killed", former.pid)
            with suppress(OSError):
                signal.pidfd_send_signal(former.pidfd, signal.SIGKILL)
    raise McrError(f"A worker of the mcrd before this one does not end: kill -9 {former.pid}")
