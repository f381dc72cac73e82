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
from contextlib import asynccontextmanager, suppress
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


@attrs.frozen
class _Doorbells:
    """Eventfds: one wakes the worker to its rule ring, the other this process to the event ring."""

    wake: int = attrs.field(factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    event: int = attrs.field(factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def close(self) -> None:
        os.close(self.wake)
        os.close(self.event)


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
        self._unreported: list[records.Event] = []
        self.pid: int | None = None
        self.reason = ""

    async def run(self, inbox: trio.MemoryReceiveChannel[_Deliver]) -> bool:
        """Live. True: the worker ended because it was told to."""
        name = f"mcr-{os.getpid()}-{secrets.token_hex(8)}"
        events = EventRing(self._segment)
        bells = _Doorbells()
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stopped = False
        try:
            await listener.bind(f"\0{name}")  # abstract: gone with this process, whatever ends it
            listener.listen(1)
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as alive:
                    nursery.start_soon(self._listen, bells, events, alive)
                    nursery.start_soon(self._attend, listener, bells, inbox)
                    stopped = await self._run_process(WorkerSpec(self._worker_id, self._core, name))
                nursery.cancel_scope.cancel()
            await self._report(events)  # its last words
        finally:
            listener.close()
            bells.close()
        return stopped

    async def _run_process(self, spec: WorkerSpec) -> bool:
        try:
            ended: WorkerExit = await trio_parallel.run_sync(
                worker_main, spec, kill_on_cancel=True, limiter=trio.CapacityLimiter(1)
            )
        except trio_parallel.BrokenWorkerError as error:
            self.reason = describe_exit(getattr(error.args[-1], "exitcode", None))
        except Exception as error:  # noqa: BLE001 - whatever failed in the worker's process is its failure alone
            self.reason = f"failed to start: {error!r}"
        else:
            if not ended.errno:
                self.reason = "stopped"
                return True
            self.reason = f"gave up: {ended.step}: {os.strerror(ended.errno)} (os error {ended.errno})"
        return False

    async def _attend(
        self, listener: trio.socket.SocketType, bells: _Doorbells, inbox: trio.MemoryReceiveChannel[_Deliver]
    ) -> None:
        """Take the worker's call, give it its descriptors, then write what is delivered into its ring."""
        with await self._accept(listener) as channel:
            ring = RuleRing(self._segment)
            await _send_descriptors(channel, [self._segment.fd, bells.wake, bells.event])
            assert self.pid is not None
            await self._owner.send(WorkerStarted(self._worker_id, self._incarnation, self.pid))
            async for delivery in inbox:
                if delivery.incarnation == self._incarnation:
                    await self._write(delivery.commands, channel, ring, bells)

    async def _accept(self, listener: trio.socket.SocketType) -> trio.socket.SocketType:
        """Accept the first caller that runs as the user this process started workers as."""
        while True:
            channel, _ = await listener.accept()
            pid, uid, _gid = _PEERCRED.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid == os.geteuid():
                self.pid = pid
                return channel
            channel.close()

    async def _write(
        self,
        commands: tuple[records.Command, ...],
        channel: trio.socket.SocketType,
        ring: RuleRing,
        bells: _Doorbells,
    ) -> None:
        for command in commands:
            if command.sockets:
                await _send_descriptors(channel, [command.sockets[self._worker_id].fileno()])
            while not ring.reserve(command.type, command.body):
                ring.publish()
                os.eventfd_write(bells.wake, 1)
                await trio.sleep(_RING_FULL_PAUSE)
        ring.publish()
        os.eventfd_write(bells.wake, 1)

    async def _listen(self, bells: _Doorbells, events: EventRing, alive: trio.CancelScope) -> NoReturn:
        while True:
            await trio.lowlevel.wait_readable(bells.event)
            os.eventfd_read(bells.event)
            if not await self._report(events):
                self.reason = "wrote a malformed event and was ended"
                alive.cancel()

    async def _report(self, events: EventRing) -> bool:
        """Pass on what is in the event ring. False: the worker broke its format."""
        sound = True
        try:
            self._unreported.extend(records.decode_event(kind, body) for kind, body in events.drain())
        except (OSError, ValueError):
            sound = False
        if self._unreported:
            # A cancellation here loses nothing: the last report sends what this one could not.
            await self._owner.send(WorkerReported(self._worker_id, tuple(self._unreported)))
            self._unreported.clear()
        return sound


async def _send_descriptors(channel: trio.socket.SocketType, descriptors: list[int]) -> None:
    payload = array.array("i", descriptors).tobytes()
    # One that has just died is reported by who waits for the process.
    with suppress(BrokenPipeError, ConnectionResetError):
        await channel.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)])


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
