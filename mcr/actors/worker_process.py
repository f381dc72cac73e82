"""One worker: its process, its channel, its rings.

The only importer of trio_parallel. Knows nothing of rules: it starts the process, hands it descriptors, writes
commands into the rule ring and reports what the event ring says; and starts the next process when one dies. What a
worker was told is lost with it, so its owner answers every `WorkerStarted` with the whole state.
"""

import array
import math
import os
import secrets
import signal
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NoReturn

import attrs
import trio
import trio_parallel

from mcr.logs import get_logger
from mcr.model import Facility
from mcr.policy import RestartHistory
from mcr.shm import records
from mcr.shm.ring import EventRing, RuleRing
from mcr.shm.segment import Segment
from mcr.worker import WorkerExit, WorkerSpec, retire
from mcr.worker import main as worker_main

log = get_logger(Facility.SUPERVISOR)

_RING_FULL_PAUSE = 0.001  # a full rule ring empties within a few batches
_PEERCRED = struct.Struct("iII")


@attrs.frozen
class WorkerStarted:
    """A process is attached and knows nothing yet. Commands reach it if they carry this incarnation."""

    worker_id: int
    incarnation: int
    pid: int


@attrs.frozen
class WorkerReported:
    """What a worker wrote into its event ring, in order."""

    worker_id: int
    events: tuple[records.Event, ...]


@attrs.frozen
class WorkerExited:
    """A process ended. `delay` seconds until the next start; None if it was told to stop."""

    worker_id: int
    pid: int | None
    reason: str
    delay: float | None


WorkerEvent = WorkerStarted | WorkerReported | WorkerExited


@attrs.frozen
class _Deliver:
    incarnation: int
    commands: tuple[records.Command, ...]


@attrs.frozen
class WorkerProcess:
    """Handle of one worker."""

    _inbox: trio.MemorySendChannel[_Deliver]

    def deliver(self, incarnation: int, commands: tuple[records.Command, ...]) -> None:
        """Have commands written to the worker, in order; dropped if that incarnation is gone.

        Never blocks: its owner and this actor wait for each other otherwise. What may queue up is bounded by the
        requests of an operator.
        """
        self._inbox.send_nowait(_Deliver(incarnation, commands))


@attrs.define
class _Attachment:
    """What ties the supervisor to one living process."""

    incarnation: int
    channel: trio.socket.SocketType
    wake_fd: int
    ring: RuleRing


@asynccontextmanager
async def worker_context() -> AsyncGenerator[None]:
    """What worker processes are started in. Leaving it waits for them, so it goes outside their nursery."""
    async with trio_parallel.open_worker_context(retire=retire):
        yield


async def run_worker_process(
    worker_id: int,
    core: int,
    segment: Segment,
    owner: trio.MemorySendChannel[WorkerEvent],
    *,
    task_status: trio.TaskStatus[WorkerProcess] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep worker `worker_id` running on `core` until it ends after a stop command.

    Resource handling: opens and closes channel and eventfds; `segment` and `owner` stay the caller's.
    Cancellation kills the process.
    """
    send, receive = trio.open_memory_channel[_Deliver](math.inf)
    history = RestartHistory()
    incarnation = 0
    with receive:
        task_status.started(WorkerProcess(send))
        while True:
            incarnation += 1
            started = trio.current_time()
            life = _Life(worker_id, core, segment, owner, incarnation)
            stopped = await life.run(receive)
            if stopped:
                await owner.send(WorkerExited(worker_id, life.pid, life.reason, None))
                return
            history = history.after_exit(trio.current_time() - started)
            await owner.send(WorkerExited(worker_id, life.pid, life.reason, history.delay))
            await trio.sleep(history.delay)


class _Life:
    """One process from start to exit."""

    def __init__(
        self,
        worker_id: int,
        core: int,
        segment: Segment,
        owner: trio.MemorySendChannel[WorkerEvent],
        incarnation: int,
    ) -> None:
        self._worker_id = worker_id
        self._core = core
        self._segment = segment
        self._owner = owner
        self._incarnation = incarnation
        self.pid: int | None = None
        self.reason = ""

    async def run(self, inbox: trio.MemoryReceiveChannel[_Deliver]) -> bool:
        """Live. True: the worker ended because it was told to."""
        name = f"mcr-{os.getpid()}-{secrets.token_hex(8)}"
        events = EventRing(self._segment)
        wake_fd, event_fd = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stopped = False
        try:
            await listener.bind(f"\0{name}")  # abstract: gone with this process, whatever ends it
            listener.listen(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._attend, nursery, listener, wake_fd, event_fd, inbox, events)
                stopped = await self._run_process(WorkerSpec(self._worker_id, self._core, name))
                nursery.cancel_scope.cancel()
            await self._report(events)  # its last words
        finally:
            listener.close()
            os.close(wake_fd)
            os.close(event_fd)
        return stopped

    async def _run_process(self, spec: WorkerSpec) -> bool:
        try:
            ended: WorkerExit = await trio_parallel.run_sync(
                worker_main, spec, kill_on_cancel=True, limiter=trio.CapacityLimiter(1)
            )
        except trio_parallel.BrokenWorkerError as error:
            self.reason = describe_exit(getattr(error.args[-1], "exitcode", None))
        except Exception as error:
            # Raised in the worker's Python part before its loop ran: as fatal to it, and only to it, as a crash.
            self.reason = f"failed to start: {error!r}"
        else:
            if not ended.errno:
                self.reason = "stopped"
                return True
            self.reason = f"gave up: {ended.step}: {os.strerror(ended.errno)} (os error {ended.errno})"
        return False

    async def _attend(
        self,
        nursery: trio.Nursery,
        listener: trio.socket.SocketType,
        wake_fd: int,
        event_fd: int,
        inbox: trio.MemoryReceiveChannel[_Deliver],
        events: EventRing,
    ) -> NoReturn:
        """Take the worker's call, give it its descriptors, then write commands and read events."""
        channel = await self._accept(listener)
        with channel:
            ring = RuleRing(self._segment)
            await _send_descriptors(channel, [self._segment.fd, wake_fd, event_fd])
            assert self.pid is not None
            nursery.start_soon(self._listen, event_fd, events)
            await self._owner.send(WorkerStarted(self._worker_id, self._incarnation, self.pid))
            attachment = _Attachment(self._incarnation, channel, wake_fd, ring)
            async for delivery in inbox:
                if delivery.incarnation == self._incarnation:
                    await self._write(attachment, delivery.commands)
        raise AssertionError("the inbox ended before its actor")

    async def _accept(self, listener: trio.socket.SocketType) -> trio.socket.SocketType:
        """Accept the first caller that runs as the user this process started workers as."""
        while True:
            channel, _ = await listener.accept()
            pid, uid, _gid = _PEERCRED.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid == os.geteuid():
                self.pid = pid
                return channel
            channel.close()

    async def _write(self, to: _Attachment, commands: tuple[records.Command, ...]) -> None:
        for command in commands:
            if command.sockets:
                await _send_descriptors(to.channel, [command.sockets[self._worker_id].fileno()])
            while not to.ring.reserve(command.type, command.body):
                to.ring.publish()
                os.eventfd_write(to.wake_fd, 1)
                await trio.sleep(_RING_FULL_PAUSE)
        to.ring.publish()
        os.eventfd_write(to.wake_fd, 1)

    async def _listen(self, event_fd: int, events: EventRing) -> NoReturn:
        while True:
            await trio.lowlevel.wait_readable(event_fd)
            os.eventfd_read(event_fd)
            await self._report(events)

    async def _report(self, events: EventRing) -> None:
        decoded: list[records.Event] = []
        try:
            decoded.extend(records.decode_event(kind, body) for kind, body in events.drain())
        except (OSError, ValueError) as error:
            log.error("worker %d wrote a malformed event: %s", self._worker_id, error)
            if self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)
        if decoded:
            await self._owner.send(WorkerReported(self._worker_id, tuple(decoded)))


async def _send_descriptors(channel: trio.socket.SocketType, descriptors: list[int]) -> None:
    payload = array.array("i", descriptors).tobytes()
    try:
        await channel.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)])
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has just died; its exit is reported by who waits for the process


def describe_exit(exitcode: int | None) -> str:
    """Word an exit code as multiprocessing gives it: negative for a signal."""
    if exitcode is None:
        return "exit status unknown"
    if exitcode < 0:
        try:
            return f"killed by signal {-exitcode} ({signal.Signals(-exitcode).name})"
        except ValueError:
            return f"killed by signal {-exitcode}"
    return f"exited with status {exitcode}"
