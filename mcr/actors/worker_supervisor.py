"""Owns the workers, their sockets and the group memberships; turns rules into what workers are told.

A worker keeps nothing that can't be told again: sockets live here, counters in its segment. So one that starts is
told everything, and one that runs only what changes.
"""

import math
import os
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from socket import socket
from typing import assert_never

import attrs
import trio

from mcr.actors.mailbox import Reply, ask
from mcr.actors.network_watch import NetworkWatch
from mcr.actors.stats_aggregator import StatsAggregator
from mcr.actors.worker_process import (
    Post,
    WorkerEvent,
    WorkerExited,
    WorkerProcess,
    WorkerReported,
    WorkerStarted,
    open_workshop,
    run_worker_process,
)
from mcr.capture_counts import Watched
from mcr.conditions import WELL, Standing, judge
from mcr.errors import McrError
from mcr.interface_log import InterfaceLog
from mcr.logs import get_logger
from mcr.model import Facility, Level, LogLevels, RuleChange, WorkerState, WorkerView
from mcr.net.bystanders import LinkChanges, without_bystanders
from mcr.net.network import Network
from mcr.net.own import own_keys
from mcr.net.past_ip import EgressChanges, describe_hidden, find_bar, kernel_bar
from mcr.net.patience import close_all
from mcr.ownership import unprivileged_user
from mcr.policy import usable_cores, worker_cores
from mcr.relay import Relay
from mcr.settings import Settings
from mcr.shm import records
from mcr.shm.segment import Segment
from mcr.worker_log import describe

log = get_logger(Facility.SUPERVISOR)
network_log = get_logger(Facility.NETWORK)

_WATCH_SECONDS = 1.0
_OVERDUE_WATCHES = 3  # without an acknowledgement that is due: the worker hangs
_REVIEW_SHARE = 0.05  # of the time, unless the pause would be longer
_REVIEW_PAUSE = 1.0
_RETRY_SECONDS = 5.0


@attrs.frozen
class _Apply:
    change: RuleChange
    reply: Reply[None]


@attrs.frozen
class _Settle:
    generation: int
    reply: Reply[None]


@attrs.frozen
class _Describe:
    reply: Reply[tuple[WorkerView, ...]]


@attrs.frozen
class _Stand:
    reply: Reply[Standing]


@attrs.frozen
class _HasReturned:
    reply: Reply[bool]


@attrs.frozen
class _Heed:
    network: Network
    reply: Reply[None]


@attrs.frozen
class _SetLogLevels:
    levels: LogLevels
    reply: Reply[None]


@attrs.frozen
class _Stop:
    reply: Reply[None]


@attrs.frozen
class _Watch:
    pass


@attrs.frozen
class _PauseAbsorbing:
    reply: Reply[frozenset[int]]


@attrs.frozen
class _AbsorbOn:
    free: frozenset[int] | None
    reply: Reply[None]


@attrs.frozen
class _ReviewRaw:
    bar: str
    reply: Reply[None]


_Command = (
    _Watch
    | _PauseAbsorbing
    | _AbsorbOn
    | _ReviewRaw
    | _Apply
    | _Settle
    | _Describe
    | _Stand
    | _HasReturned
    | _Heed
    | _SetLogLevels
    | _Stop
    | WorkerEvent
)


@attrs.frozen
class WorkerSupervisor:
    """Handle of the supervisor."""

    _inbox: trio.MemorySendChannel[_Command]

    async def apply(self, change: RuleChange) -> None:
        """Have the workers forward by the next generation of the rules; all of the change or none of it.

        Raises:
            InterfaceNotFound: a rule names an interface that isn't there.
            SystemFault: a socket or a group membership could not be had.
            LimitReached: a table is full.
        """
        await ask(self._inbox, lambda reply: _Apply(change, reply))

    async def settled(self, generation: int) -> None:
        """Wait until every worker that runs forwards by this generation or a newer one, and one does run."""
        await ask(self._inbox, lambda reply: _Settle(generation, reply))

    async def standing(self) -> Standing:
        """What workers have acknowledged, and whether sockets still stand for the interfaces that rules name."""
        return await ask(self._inbox, _Stand)

    async def has_returned(self) -> bool:
        """Whether interfaces that were lost are back, or what they need can be tried again: renew them."""
        return await ask(self._inbox, _HasReturned)

    async def describe(self) -> tuple[WorkerView, ...]:
        """Every worker, as it is now."""
        return await ask(self._inbox, _Describe)

    async def set_log_levels(self, levels: LogLevels) -> None:
        """Have the workers log at these levels."""
        await ask(self._inbox, lambda reply: _SetLogLevels(levels, reply))

    async def stop(self) -> None:
        """Let nothing more in, have the workers send what has arrived, and wait until they have ended."""
        await ask(self._inbox, _Stop)


async def run_worker_supervisor(
    segments: Sequence[Segment],
    stats: StatsAggregator,
    settings: Settings,
    network: NetworkWatch,
    *,
    task_status: trio.TaskStatus[WorkerSupervisor] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run one worker a segment until cancelled, which kills them; see `WorkerSupervisor.stop` for a gentle end.

    Resource handling: opens and closes every socket; `segments` stay the caller's.
    """
    send, receive = trio.open_memory_channel[_Command](0)
    spares = trio.CapacityLimiter(1)
    cores = worker_cores(len(segments), usable_cores())
    async with open_workshop() as workshop, trio.open_nursery() as nursery:
        with receive, Relay(settings) as relay, _egress_changes(settings) as egress_changes:
            due, due_received = trio.open_memory_channel[None](0)
            raw_due, raw_due_received = trio.open_memory_channel[None](0)
            state = _State(relay, segments, stats, settings.levels, _Due(due, raw_due, egress_changes), nursery=nursery)
            user = unprivileged_user()
            for worker_id, (core, segment) in enumerate(zip(cores, segments, strict=True)):
                post = Post(worker_id, core, segment, workshop, user, spares, send)
                process = await nursery.start(run_worker_process, post)
                state.workers.append(_Worker(worker_id, core, process))
            nursery.start_soon(_watch, send)
            nursery.start_soon(_follow, network, send)
            if relay.absorber:
                nursery.start_soon(_hear_of_changes, relay.absorber.changes, due)
                nursery.start_soon(_keep_absorbing, due_received, send)
            if egress_changes:
                nursery.start_soon(_hear_of_changes, egress_changes, raw_due)
                nursery.start_soon(_keep_raw, egress_changes, raw_due_received, send)
            task_status.started(WorkerSupervisor(send))
            async for command in receive:
                await _handle(state, command)
                await state.let_go()


async def _close(sockets: Sequence[socket]) -> None:
    """Close sockets, beside what the supervisor does: the kernel waits each time."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(close_all, sockets)


async def _watch(inbox: trio.MemorySendChannel[_Command]) -> None:
    while True:
        await trio.sleep(_WATCH_SECONDS)
        await inbox.send(_Watch())


async def _follow(network: NetworkWatch, inbox: trio.MemorySendChannel[_Command]) -> None:
    """Have what is known of the network heeded whenever it changes."""
    now = Network()
    while True:
        now = await network.changed(now.version)
        await ask(inbox, partial(_Heed, now))


async def _hear_of_changes(changes: LinkChanges | EgressChanges, due: trio.MemorySendChannel[None]) -> None:
    """Have bystanders looked for at once when something changes."""
    while True:
        await trio.lowlevel.wait_readable(changes)
        await due.send(None)


async def _keep_absorbing(due: trio.MemoryReceiveChannel[None], inbox: trio.MemorySendChannel[_Command]) -> None:
    """Have packets absorbed where only UDP sockets could want them, and nowhere while that is not known."""
    blind = False
    async for _ in due:
        interfaces = await ask(inbox, _PauseAbsorbing)
        if interfaces:
            free: frozenset[int] | None = None
            try:
                free = await trio.to_thread.run_sync(without_bystanders, interfaces)
            except Exception as error:  # noqa: BLE001 - whatever it is, relaying does not depend on it
                if not blind:
                    log.warning(
                        "cannot tell whether others want the packets, so local delivery is not suppressed: %s", error
                    )
            blind = free is None
            await ask(inbox, partial(_AbsorbOn, free))


@contextmanager
def _egress_changes(settings: Settings) -> Generator[EgressChanges | None]:
    """Hears of what raw frames depend on; None: there are none."""
    changes = None
    if settings.raw_send:
        try:
            changes = EgressChanges()
        except OSError as error:
            log.info("MCR_RAW_SEND has no effect: %s", describe_hidden(error))
    try:
        yield changes
    finally:
        if changes:
            changes.close()


async def _keep_raw(
    changes: EgressChanges, due: trio.MemoryReceiveChannel[None], inbox: trio.MemorySendChannel[_Command]
) -> None:
    """Have raw frames sent while nobody is between IP and the interfaces, as far as can be seen."""
    able = kernel_bar
    while True:
        begun = trio.current_time()
        changes.hear()
        bar, again = "", math.inf
        try:
            bar = await trio.to_thread.run_sync(able)
            if not bar:
                able = str  # it stays so
                bar = await trio.to_thread.run_sync(find_bar)
        except Exception as error:  # noqa: BLE001 - whatever it is, relaying does not depend on it
            bar, again = f"firewall rules and the like cannot be seen: {error}", trio.current_time() + _RETRY_SECONDS
        await ask(inbox, partial(_ReviewRaw, bar))
        took = trio.current_time() - begun
        with trio.move_on_at(again):
            await due.receive()
        # Where routes change all the time only a share is spent on them. Who may bar raw frames does so now.
        with trio.move_on_after(min(took / _REVIEW_SHARE, _REVIEW_PAUSE)):
            while True:
                if changes.hear():
                    await ask(inbox, partial(_ReviewRaw, "who is between IP and the interfaces has changed"))
                await due.receive()


async def _handle(state: "_State", command: _Command) -> None:
    match command:
        case _Apply(change, reply):
            with reply:
                reply.resolve(await state.apply(change))
        case _Settle(generation, reply):
            state.settle(generation, reply)
        case _Describe() | _Stand() | _HasReturned():
            _tell(state, command)
        case _Heed(network, reply):
            with reply:
                state.heed(network)
                reply.resolve(None)
        case _SetLogLevels(levels, reply):
            with reply:
                state.set_log_levels(levels)
                reply.resolve(None)
        case _Stop(reply):
            state.stop(reply)
        case _Watch():
            await state.kill_hung_workers()
            state.log_interfaces()
            state.look_for_bystanders()
        case _PauseAbsorbing() | _AbsorbOn() | _ReviewRaw():
            await _heed_bystanders(state, command)
        case WorkerStarted():
            state.on_started(command)
        case WorkerReported(worker_id, events):
            await state.on_reported(worker_id, events)
        case WorkerExited():
            state.on_exited(command)
        case _:
            assert_never(command)


def _tell(state: "_State", command: _Describe | _Stand | _HasReturned) -> None:
    match command:
        case _Describe(reply):
            with reply:
                reply.resolve(state.describe())
        case _Stand(reply):
            with reply:
                reply.resolve(state.standing())
        case _HasReturned(reply):
            with reply:
                reply.resolve(state.has_returned())
        case _:
            assert_never(command)


async def _heed_bystanders(state: "_State", command: _PauseAbsorbing | _AbsorbOn | _ReviewRaw) -> None:
    match command:
        case _PauseAbsorbing(reply):
            with reply:
                reply.resolve(await state.pause_absorbing())
        case _AbsorbOn(free, reply):
            with reply:
                await state.absorb_on(free)
                reply.resolve(None)
        case _ReviewRaw(bar, reply):
            with reply:
                await state.review_raw(bar)
                reply.resolve(None)


@attrs.frozen
class _Due:
    """Where to say that bystanders have to be looked for. `egress_changes`: None where there are no raw frames."""

    absorbing: trio.MemorySendChannel[None]
    raw: trio.MemorySendChannel[None]
    egress_changes: EgressChanges | None


@attrs.define
class _Worker:
    """What the supervisor knows of one worker."""

    worker_id: int
    core: int
    process: WorkerProcess
    state: WorkerState = WorkerState.STARTING
    pid: int | None = None
    incarnation: int = 0
    generation: int = 0
    restarts: int = 0
    last_exit: str | None = None
    overdue: int = 0
    """For how many watches it has acknowledged nothing although something is due."""
    hung: int | None = None
    """Pid that was killed since it did not do its work."""
    ended: bool = False


class _State:
    def __init__(
        self,
        relay: Relay,
        segments: Sequence[Segment],
        stats: StatsAggregator,
        levels: LogLevels,
        due: _Due,
        *,
        nursery: trio.Nursery,
    ) -> None:
        self._relay = relay
        self._segments = segments
        self._stats = stats
        self._levels = levels
        self._due = due
        self._nursery = nursery
        self._generation = 1  # without rules
        self._settling: list[tuple[int, Reply[None]]] = []
        self._stopping: Reply[None] | None = None
        self.workers: list[_Worker] = []
        self._network = Network()
        self._own_keys = b""
        self._interfaces = InterfaceLog()
        self._show_unmatched()

    # The network.

    def standing(self) -> Standing:
        return self._relay.standing(self.acknowledged())

    def has_returned(self) -> bool:
        return self._relay.has_returned()

    def heed(self, network: Network) -> None:
        before, self._network = self._network, network
        if network.links is before.links and network.addresses is before.addresses:
            return
        self._tell_own()
        if commands := self._relay.suspect(before, network):
            self._tell_all(tuple(commands))
            with suppress(trio.WouldBlock):  # it is being looked at
                self._due.raw.send_nowait(None)
        self.log_interfaces()

    def _tell_own(self) -> None:
        """What bears one of these as its source was sent here."""
        keys = own_keys(self._network, self._relay.used())
        if keys != self._own_keys:
            self._own_keys = keys
            self._tell_all((records.own(keys),))

    def log_interfaces(self) -> None:
        standing = self.standing()
        conditions = judge(standing, self._network)
        well = dict.fromkeys((each.name for each in standing.all()), WELL)
        self._interfaces.note(well | {**conditions.outputs, **conditions.inputs})
        for level, line in self._interfaces.lines(self._relay.users(), trio.current_time()):
            network_log.log(level, "%s", line)

    # Rules.

    async def apply(self, change: RuleChange) -> McrError | None:
        try:
            step = await self._relay.apply(change)
        except McrError as error:
            return error
        self._generation = change.generation
        for capture in step.captures:
            for segment in self._segments:
                segment.start_capture(capture.slot)
            await self._stats.capture_opened(
                capture.slot, Watched(capture.interface.name, capture.group.watched, capture.rejected)
            )
        await self._stats.rules_placed(step.added, tuple(rule.rule_id for rule in change.removed))
        self._tell_own()
        self._tell_all((*step.commands, records.generation(change.generation)))
        return None

    def _tell_all(self, commands: tuple[records.Command, ...]) -> None:
        for worker in self.workers:
            worker.process.deliver(worker.incarnation, commands)

    async def let_go(self) -> None:
        """Let go of the sockets that no worker reads or writes any more."""
        attached = [worker.generation for worker in self.workers if worker.pid is not None]
        forwarded_by = min(attached, default=self._generation)
        sockets = self._relay.release_outputs(forwarded_by)
        for capture in self._relay.captures_to_release(forwarded_by):
            for worker in self.workers:
                if worker.pid is None:
                    self._segments[worker.worker_id].settle(capture.slot)
            await self._stats.capture_closing(capture.slot)
            sockets += self._relay.release_capture(capture)
        if sockets:
            self._nursery.start_soon(_close, sockets)

    def look_for_bystanders(self) -> None:
        """If there is a reason beside changes that are heard of at once."""
        with suppress(trio.WouldBlock):  # they are being looked for
            if self._relay.absorber and self._relay.absorber.is_stale:
                self._due.absorbing.send_nowait(None)
        with suppress(trio.WouldBlock):
            changes = self._due.egress_changes
            if changes and (self._relay.has_new_outputs or changes.unheard()):
                self._due.raw.send_nowait(None)

    async def pause_absorbing(self) -> frozenset[int]:
        absorber = self._relay.absorber
        if not absorber or not absorber.is_due():
            return frozenset()
        return await trio.to_thread.run_sync(absorber.pause)

    async def absorb_on(self, free: frozenset[int] | None) -> None:
        if self._relay.absorber:
            await trio.to_thread.run_sync(self._relay.absorber.absorb_on, free)

    async def review_raw(self, bar: str) -> None:
        if commands := await self._relay.review_raw(bar):
            self._tell_all(commands)

    def settle(self, generation: int, reply: Reply[None]) -> None:
        self._settling.append((generation, reply))
        self._answer_settled()

    def acknowledged(self) -> int:
        running = (worker.generation for worker in self.workers if worker.state is WorkerState.RUNNING)
        return min(running, default=0)

    def _answer_settled(self) -> None:
        done = self.acknowledged()
        for generation, reply in self._settling:
            if generation <= done:
                with reply:
                    reply.resolve(None)
        self._settling = [(generation, reply) for generation, reply in self._settling if generation > done]

    def _show_unmatched(self) -> None:
        """What a filter rejects no worker can log."""
        self._relay.show_unmatched(show=self._levels.of(Facility.INGRESS) >= Level.DEBUG)

    def set_log_levels(self, levels: LogLevels) -> None:
        self._levels = levels
        self._show_unmatched()
        self._tell_all((records.levels(levels),))

    # Workers.

    def describe(self) -> tuple[WorkerView, ...]:
        interfaces = self._relay.input_interfaces()
        return tuple(
            WorkerView(
                worker_id=worker.worker_id,
                pid=worker.pid,
                core=worker.core,
                interfaces=interfaces,
                state=worker.state,
                restarts=worker.restarts,
                generation=worker.generation,
                last_exit=worker.last_exit,
                io=self._segments[worker.worker_id].engine,
            )
            for worker in self.workers
        )

    def on_started(self, started: WorkerStarted) -> None:
        worker = self.workers[started.worker_id]
        worker.pid = started.pid
        worker.incarnation = started.incarnation
        worker.state = WorkerState.STARTING
        worker.overdue = 0
        told = (records.levels(self._levels), records.own(self._own_keys))
        whole = (*told, *self._relay.snapshot(), records.generation(self._generation))
        worker.process.deliver(worker.incarnation, whole)
        if self._stopping:
            worker.process.deliver(worker.incarnation, (records.stop(),))
        log.info("worker %d started, pid %d, core %d", worker.worker_id, worker.pid, worker.core)

    async def on_reported(self, worker_id: int, events: tuple[records.Event, ...]) -> None:
        worker = self.workers[worker_id]
        for event in events:
            match event:
                case records.Ack(generation):
                    worker.generation = min(generation, self._generation)
                    worker.overdue = 0
                    if worker.state is WorkerState.STARTING:
                        worker.state = WorkerState.RUNNING
                case records.Sample():
                    await self._stats.sampled(event)
                case records.LogRecord():
                    text = describe(event, self._relay)
                    log_of = get_logger(event.facility)
                    log_of.log_kind(f"code {event.code}", event.level, "worker %d: %s", worker_id, text)
                case _:
                    assert_never(event)
        self._answer_settled()

    def on_exited(self, exited: WorkerExited) -> None:
        worker = self.workers[exited.worker_id]
        worker.pid = None
        worker.generation = 0
        if exited.delay is None:
            worker.ended = True
            worker.state = WorkerState.STOPPING
            log.info("worker %d stopped", worker.worker_id)
        else:
            worker.restarts += 1
            worker.state = WorkerState.WAITING
            killed = exited.pid == worker.hung and exited.reason.startswith("killed")
            why = f"hung and was {exited.reason} from mcrd" if killed else exited.reason
            worker.last_exit = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {why}"
            log.error(
                "Worker process exited unexpectedly: worker %d (pid %s) %s; restart %d in %.1f s",
                worker.worker_id,
                exited.pid,
                exited.reason,
                worker.restarts,
                exited.delay,
            )
        self._answer_stopped()
        self._answer_settled()

    async def kill_hung_workers(self) -> None:
        for worker_id in await self._stats.stalled():
            _kill(self.workers[worker_id], "takes no packets although some wait")
        # Counted, not timed: a supervisor that was itself stopped has first to hear what was said meanwhile.
        for worker in self.workers:
            worker.overdue = worker.overdue + 1 if worker.generation < self._generation else 0
            if worker.overdue >= _OVERDUE_WATCHES:
                _kill(worker, f"has not acknowledged generation {self._generation}")

    def stop(self, reply: Reply[None]) -> None:
        self._stopping = reply
        self._relay.reject_input()
        for worker in self.workers:
            worker.state = WorkerState.STOPPING
        self._tell_all((records.stop(),))
        self._answer_stopped()

    def _answer_stopped(self) -> None:
        if self._stopping and all(worker.ended for worker in self.workers):
            with self._stopping:
                self._stopping.resolve(None)


def _kill(worker: _Worker, what: str) -> None:
    """End a process that hangs; another takes its place."""
    if worker.pid is not None:
        log.error("worker %d (pid %d) %s: it hangs and is killed", worker.worker_id, worker.pid, what)
        worker.hung = worker.pid
        worker.overdue = 0
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
