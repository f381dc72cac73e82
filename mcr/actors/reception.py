"""Receives the calls of processes that have become workers; each gets a channel of its own.

They call on a socket that mcrd's children inherit as their standard input. It has no name, so no other process can
call. With its call a process hands over every descriptor that it was started with. They are held here until it has
ended: to trio-parallel a closed pipe means that the process is gone, and it would wait for its end in the event loop.
"""

import array
import errno
import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import attrs
import trio

from mcr.errors import describe_errno
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.worker.main import CALL, RECEPTION

log = get_logger(Facility.SUPERVISOR)

_MAX_DESCRIPTORS = 253  # that one message carries (SCM_MAX_FD)
_INT = array.array("i").itemsize


@attrs.frozen
class Caller:
    """A process that has called. The receiver of this value closes `channel`."""

    pid: int
    channel: trio.socket.SocketType


class Reception:
    """Hands each caller to the task that expects it."""

    def __init__(self, door: trio.socket.SocketType) -> None:
        self._door = door
        self._expected: dict[tuple[int, int], trio.MemorySendChannel[Caller]] = {}

    @contextmanager
    def expect(self, worker_id: int, incarnation: int) -> Generator[trio.MemoryReceiveChannel[Caller]]:
        """Have the call of one process received. A call that nobody expects any more is hung up on."""
        send, receive = trio.open_memory_channel[Caller](1)
        self._expected[worker_id, incarnation] = send
        try:
            yield receive
        finally:
            del self._expected[worker_id, incarnation]
            with suppress(trio.WouldBlock):
                receive.receive_nowait().channel.close()

    async def run(self, *, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive calls until the scope that it reports is cancelled, which is for after the last process."""
        with trio.CancelScope(shield=True) as scope:
            task_status.started(scope)
            async with trio.open_nursery() as nursery:
                while True:
                    await self._receive(nursery)

    async def _receive(self, nursery: trio.Nursery) -> None:
        room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * _INT)
        call, ancillary, _, _ = await self._door.recvmsg(CALL.size, room, socket.MSG_CMSG_CLOEXEC)
        worker_id, incarnation, pid, count = CALL.unpack(call)
        descriptors = _descriptors(ancillary)
        with ExitStack() as held:
            for descriptor in descriptors[1:]:
                held.callback(os.close, descriptor)
            channel = trio.socket.from_stdlib_socket(socket.socket(fileno=descriptors[0])) if descriptors else None
            if not channel or len(descriptors) < count:  # without its channel the process ends
                log.error("worker %d: %s", worker_id, describe_errno(errno.EMFILE))
            else:
                nursery.start_soon(_hold, pid, held.pop_all())
                channel = self._pass_on((worker_id, incarnation), Caller(pid, channel))
            if channel:
                channel.close()

    def _pass_on(self, key: tuple[int, int], caller: Caller) -> trio.socket.SocketType | None:
        """Close the channel, if no task has taken it."""
        try:
            self._expected[key].send_nowait(caller)
        except (KeyError, trio.WouldBlock):
            return caller.channel
        return None


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    received = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(data[: len(data) - len(data) % _INT])
    return list(received)


async def _hold(pid: int, held: ExitStack) -> None:
    """Close what is held when the process, a child of this one, has ended."""
    with held:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError:  # not permitted, as in some containers
            with suppress(ChildProcessError):
                await trio.to_thread.run_sync(
                    os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT, limiter=trio.CapacityLimiter(1)
                )
            return
        held.callback(os.close, pidfd)
        await trio.lowlevel.wait_readable(pidfd)


@contextmanager
def _door() -> Generator[trio.socket.SocketType]:
    """Put one end of a socket pair in place of standard input, which mcrd does not read; this is the other."""
    before = os.dup(RECEPTION)
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                os.dup2(theirs.fileno(), RECEPTION)
            yield trio.socket.from_stdlib_socket(ours)
    finally:
        os.dup2(before, RECEPTION)
        os.close(before)


@asynccontextmanager
async def open_reception() -> AsyncGenerator[Reception]:
    """Receive calls. Goes around the context in which processes are started: the last of them may call at its end."""
    with _door() as door:
        reception = Reception(door)
        async with trio.open_nursery() as nursery:
            scope = await nursery.start(reception.run)
            try:
                yield reception
            finally:
                scope.cancel()
