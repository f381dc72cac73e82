"""One worker: its process, its channel, its rings.

The only importer of trio_parallel. Knows nothing of rules: it starts the process, hands it descriptors, writes
commands into the rule ring and reports the records of the event ring; and starts the next process when one dies. A
worker's state is lost with it, so its owner answers every `WorkerStarted` with the whole state.
"""

import array
import math
import os
import signal
import socket
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import islice
from multiprocessing import resource_tracker
from typing import Any, NoReturn, Self

import attrs
import trio
import trio_parallel

from mcr._native import lib
from mcr.actors.mailbox import tell
from mcr.actors.reception import Caller, Reception, open_reception
from mcr.errors import describe_errno
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.process.descriptor_store import DescriptorStore
from mcr.process.refusal import describe_refusal
from mcr.shm import records
from mcr.shm.ring import EventRing, RuleRing
from mcr.shm.segment import Segment
from mcr.worker.main import FAILED, WorkerSpec, prepare, warm_up
from mcr.worker.main import main as worker_main
from mcr.worker.policy import RestartHistory

log = get_logger(Facility.SUPERVISOR)

CHANNELS = "channel."
"""Beginning of the names of the workers' channels, in the store of descriptors."""

_STANDBY_SECONDS = 1.0  # after a start, when the new worker has caught up
_ATTACH_SECONDS = 10  # for a new process to call back; it takes a tenth of one
_EVENTS_AT_ONCE = 256  # read from an event ring before others get their turn
_DESCRIPTORS_AT_ONCE: int = lib.MCR_CHANNEL_FDS
_RING_FULL_PAUSE = 0.001  # a full rule ring empties within a few batches


@attrs.frozen
class WorkerStarted:
    """A process is attached, and has had no commands yet. Commands reach it if they carry this incarnation."""

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
    """A process ended. `delay` seconds until the next start; None after a stop command."""

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
        """Write commands to the worker, in order; they are dropped if that incarnation is gone.

        Never blocks: its owner and this actor wait for each other otherwise. What may queue up is bounded by the
        requests of an operator, and by how often the supervisor looks at routes.
        """
        with suppress(trio.BrokenResourceError):  # it has ended, after a stop command
            self._inbox.send_nowait(_Deliver(incarnation, commands))


@attrs.frozen
class _Doorbells:
    """Eventfds: one wakes the worker to its rule ring, the other this process to the event ring.

    The worker has them too, and may have filled or emptied them: neither may block or fail here.
    """

    wake: int
    event: int

    @classmethod
    @contextmanager
    def open(cls) -> Generator[Self]:
        """Make them, and close them at the end."""
        with ExitStack() as stack:
            made = []
            for _ in range(2):
                made.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
                stack.callback(os.close, made[-1])
            yield cls(*made)

    def show(self, ring: RuleRing) -> None:
        """Publish what is in the rule ring, and wake the worker to it."""
        ring.publish()
        with suppress(BlockingIOError):
            os.eventfd_write(self.wake, 1)

    async def wait_for_event(self) -> None:
        """Wait until the worker has rung."""
        await trio.lowlevel.wait_readable(self.event)
        with suppress(BlockingIOError):
            os.eventfd_read(self.event)


@attrs.frozen
class Workshop:
    """Starts worker processes, and receives their calls."""

    context: trio_parallel.WorkerContext
    reception: Reception


def do_without_tracker() -> None:
    """Keep multiprocessing from starting its resource tracker: one more Python, for what nobody here uses.

    It would run with mcrd's rights, remove what it is told to, and let in signals that mcrd holds
    (mcr/process/signals.py). multiprocessing tells a child of its parent's tracker in the same way.
    """
    tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001 - there is no other way
    if tracker._fd is None:  # noqa: SLF001
        tracker._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # noqa: SLF001


@asynccontextmanager
async def open_workshop() -> AsyncGenerator[Workshop]:
    """Start worker processes. Leaving the context waits for them, so it goes outside their nursery."""
    do_without_tracker()
    processes = trio_parallel.open_worker_context(idle_timeout=math.inf, init=prepare)
    try:
        async with open_reception() as reception, processes as context:
            yield Workshop(context, reception)
    except trio_parallel.BrokenWorkerError as error:  # the standby process: nothing depended on it
        log.info("a standby process had ended: %s", describe_exit(getattr(error.args[-1], "exitcode", None)))


async def stand_by(workshop: Workshop, count: int) -> None:
    """Have so many processes started, that wait to become workers. Without them the workers start a little later."""

    async def start() -> None:
        with suppress(trio_parallel.BrokenWorkerError, OSError), trio.move_on_after(_ATTACH_SECONDS):
            await workshop.context.run_sync(warm_up, kill_on_cancel=True, limiter=limiter)

    if count:
        limiter = trio.CapacityLimiter(count)
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(start)


@attrs.frozen
class Post:
    """Where a worker serves, whichever process does."""

    worker_id: int
    core: int
    segment: Segment
    workshop: Workshop
    user: tuple[int, int]
    """User and group id that its processes become."""
    standbys: trio.CapacityLimiter
    """Lets one task at a time start a standby process, so that there is one for all workers."""
    owner: trio.MemorySendChannel[WorkerEvent]
    store: DescriptorStore
    """Keeps the channel open beyond mcrd: for as long, the worker goes on."""
    vacant: trio.Event
    """The worker of another mcrd has left the post."""
    drains: tuple[int, ...] = ()
    """Descriptor of the map in which the workers say which of their rings are empty; none: there is no kernel path."""


async def run_worker_process(
    post: Post, *, task_status: trio.TaskStatus[WorkerProcess] = trio.TASK_STATUS_IGNORED
) -> None:
    """Keep a worker running until it ends after a stop command.

    Resource handling: opens and closes eventfds, closes the channel; what is in `post` stays the caller's.
    Cancellation kills the process.
    """
    send, receive = trio.open_memory_channel[_Deliver](math.inf)
    history = RestartHistory()
    incarnation = 0
    with receive:
        task_status.started(WorkerProcess(send))
        await post.vacant.wait()
        while True:
            incarnation += 1
            started = trio.current_time()
            life = _Life(post, incarnation)
            await life.run(receive)
            if life.stopped:
                await post.owner.send(WorkerExited(post.worker_id, life.pid, life.reason, None))
                return
            history = history.after_exit(trio.current_time() - started)
            await post.owner.send(WorkerExited(post.worker_id, life.pid, life.reason, history.delay))
            await trio.sleep(history.delay)


class _Life:
    """One process from start to exit. Whatever fails in it, or for want of descriptors, fails for it alone."""

    def __init__(self, post: Post, incarnation: int) -> None:
        self._post = post
        self._incarnation = incarnation
        self._unreported: list[records.Event] = []
        self._told_to_stop = False
        self.pid: int | None = None
        self.reason = ""
        self.stopped = False
        """It ended after a stop command."""

    async def run(self, inbox: trio.MemoryReceiveChannel[_Deliver]) -> None:
        """Live."""
        self._post.segment.write_header()
        try:
            with (
                _Doorbells.open() as bells,
                self._post.workshop.reception.expect(self._post.worker_id, self._incarnation) as calls,
            ):
                await self._serve(inbox, bells, calls)
        except* OSError as errors:
            self.reason = f"could not be started: {describe_refusal(_first(errors))}"
        except* trio.TooSlowError:
            self.reason = f"did not attach within {_ATTACH_SECONDS} s"

    async def _serve(
        self, inbox: trio.MemoryReceiveChannel[_Deliver], bells: _Doorbells, calls: trio.MemoryReceiveChannel[Caller]
    ) -> None:
        events = EventRing(self._post.segment)
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as alive:
                nursery.start_soon(self._listen, bells, events, alive)
                nursery.start_soon(self._attend, calls, bells, inbox)
                nursery.start_soon(self._keep_standby)
                spec = WorkerSpec(self._post.worker_id, self._incarnation, self._post.core, *self._post.user)
                await self._run_process(spec)
            nursery.cancel_scope.cancel()
        await self._report(events)  # its last words

    async def _run_process(self, spec: WorkerSpec) -> None:
        try:
            await self._post.workshop.context.run_sync(
                worker_main, spec, kill_on_cancel=True, limiter=trio.CapacityLimiter(1)
            )
        except trio_parallel.BrokenWorkerError as error:  # it never comes back in another way, once it has called
            self._note_exit(getattr(error.args[-1], "exitcode", None))
        except Exception as error:  # noqa: BLE001 - whatever failed in the worker's process is its failure alone
            what = describe_refusal(error) if isinstance(error, OSError) else repr(error)
            self.reason = f"failed to start: {what}"

    def _note_exit(self, status: int | None) -> None:
        self.stopped = self._told_to_stop and status == 0
        if self.stopped:
            self.reason = "stopped"
        elif status == 0:
            self.reason = "gave up: it was not told to stop"
        elif status is not None and 0 < status < FAILED:
            self.reason = f"gave up: {self._post.segment.step}: {describe_errno(status)}"
        else:
            self.reason = describe_exit(status)

    async def _keep_standby(self) -> None:
        """Keep a standby process ready: starting Python takes longer than a ring lasts."""
        if self._incarnation > 1:  # at the start it comes before there are rules, whose packets it would keep waiting
            await trio.sleep(_STANDBY_SECONDS)
        # One that hangs is ended.
        with suppress(trio_parallel.BrokenWorkerError, OSError), trio.move_on_after(_ATTACH_SECONDS):
            await self._post.workshop.context.run_sync(warm_up, kill_on_cancel=True, limiter=self._post.standbys)
            log.debug("a standby process is ready")

    async def _attend(
        self, calls: trio.MemoryReceiveChannel[Caller], bells: _Doorbells, inbox: trio.MemoryReceiveChannel[_Deliver]
    ) -> None:
        """Take the worker's call, give it its descriptors, then write what is delivered into its ring."""
        with trio.fail_after(_ATTACH_SECONDS):
            caller = await calls.receive()
        self.pid = caller.pid
        with caller.channel as channel, self._left(channel):
            ring = RuleRing(self._post.segment)
            await _send_descriptors(channel, [self._post.segment.fd, bells.wake, bells.event, *self._post.drains])
            await self._post.owner.send(WorkerStarted(self._post.worker_id, self._incarnation, caller.pid))
            async for delivery in inbox:
                if delivery.incarnation == self._incarnation:
                    await self._write(delivery.commands, channel, ring, bells)

    @contextmanager
    def _left(self, channel: trio.socket.SocketType) -> Generator[None]:
        """Leave the channel to the next mcrd, so that it can end the worker, and the worker does not end before."""
        name = f"{CHANNELS}{self._post.worker_id}"
        self._post.store.put(name, channel.fileno())
        try:
            yield
        finally:
            self._post.store.drop(name)

    async def _write(
        self,
        commands: tuple[records.Command, ...],
        channel: trio.socket.SocketType,
        ring: RuleRing,
        bells: _Doorbells,
    ) -> None:
        for some in portions(commands, _DESCRIPTORS_AT_ONCE):
            descriptors = [each.sockets[self._post.worker_id].fileno() for each in some if each.sockets]
            if descriptors:
                await _send_descriptors(channel, descriptors)
            self._told_to_stop |= any(each.type == records.STOP for each in some)
            waiting = b"".join(each.record for each in some)
            while waiting := waiting[ring.reserve(waiting) :]:
                bells.show(ring)
                await trio.sleep(_RING_FULL_PAUSE)
            # The channel has room for some hundred descriptors: let the worker take those that it knows of.
            bells.show(ring)

    async def _listen(self, bells: _Doorbells, events: EventRing, alive: trio.CancelScope) -> NoReturn:
        while True:
            await bells.wait_for_event()
            if not await self._report(events):
                self.reason = "wrote a malformed event and was ended"
                alive.cancel()

    async def _report(self, events: EventRing) -> bool:
        """Pass on what is in the event ring. False: the worker broke its format."""
        sound = more = True
        while more:
            before = len(self._unreported)
            try:
                self._unreported.extend(records.decode_event(*each) for each in islice(events.drain(), _EVENTS_AT_ONCE))
            except (OSError, ValueError):
                sound = False
            more = len(self._unreported) - before == _EVENTS_AT_ONCE
            if self._unreported:
                # A cancellation here loses nothing: the last report sends what this one could not.
                await tell(self._post.owner, WorkerReported(self._post.worker_id, tuple(self._unreported)))
                self._unreported.clear()
        return sound


def portions(commands: Sequence[records.Command], descriptors: int) -> Iterator[Sequence[records.Command]]:
    """Cut commands so that each portion comes with so many descriptors, at most."""
    begin = count = 0
    for at, command in enumerate(commands):
        if command.sockets and count == descriptors:
            yield commands[begin:at]
            begin, count = at, 0
        count += bool(command.sockets)
    yield commands[begin:]


async def _send_descriptors(channel: trio.socket.SocketType, descriptors: list[int]) -> None:
    payload = array.array("i", descriptors).tobytes()
    # One that has just died is reported by who waits for the process.
    with suppress(BrokenPipeError, ConnectionResetError):
        await channel.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)])


def _first(error: OSError | BaseExceptionGroup[OSError]) -> OSError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


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
