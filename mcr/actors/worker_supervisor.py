"""Owns the workers, their sockets and the group memberships; turns rules into commands to workers.

A worker has no state that can't be sent again: sockets live here, counters in its segment. So a worker that starts gets
the whole state, and one that runs gets only changes.
"""

from collections.abc import Callable
from typing import assert_never

import attrs
import trio

from mcr.actors.interface_news import Heed, InterfaceNews, follow
from mcr.actors.mailbox import Reached, Reply, ask, repeat
from mcr.actors.network_watch import NetworkWatch
from mcr.actors.predecessors import Predecessors
from mcr.actors.refusing import Refuse, heed_refusal
from mcr.actors.reviews import PauseSuppression, Review, ReviewRaw, Reviews, SuppressOn, heed_review, open_reviews
from mcr.actors.stats_aggregator import StatsAggregator
from mcr.actors.succession import Succession, close_beside
from mcr.actors.worker_ending import Ending, KillSilent, Rouse, Stop, heed_ending
from mcr.actors.worker_process import (
    Post,
    WorkerEvent,
    WorkerExited,
    WorkerReported,
    WorkerStarted,
    open_workshop,
    run_worker_process,
)
from mcr.actors.worker_table import WorkerTable
from mcr.config.settings import Settings
from mcr.errors import McrError
from mcr.logs.worker_records import log_record
from mcr.model.log import Facility, Level, LogLevels
from mcr.model.rule import RuleChange
from mcr.model.worker import WorkerView
from mcr.net.filter.suppress import Suppressor
from mcr.net.filter.tap import StreamTap
from mcr.net.ip_bypass import Blockers
from mcr.net.network import Network
from mcr.net.own import OwnKeys
from mcr.process.accounts import unprivileged_user
from mcr.relay.kernel_path import KernelRules
from mcr.relay.refusals import Refusal
from mcr.relay.relay import Relay
from mcr.rules.conditions import Standing
from mcr.shm import records
from mcr.shm.kept import Kept
from mcr.stats.captures import watched
from mcr.worker.policy import usable_cores, worker_cores

_WATCH_SECONDS = 1.0
_ANSWER_SECONDS = 1.0  # for workers that mcrd is about to leave; it takes them a batch


@attrs.frozen
class _Apply:
    change: RuleChange
    reply: Reply[Standing]


@attrs.frozen
class _Describe:
    reply: Reply[tuple[WorkerView, ...]]


@attrs.frozen
class _Stand:
    reply: Reply[Standing]


@attrs.frozen
class _SetLogLevels:
    levels: LogLevels
    reply: Reply[None]


@attrs.frozen
class _TakeOver:
    reply: Reply[None]


@attrs.frozen
class _Watch:
    pass


_Command = _Watch | Review | _Apply | _Describe | _Stand | Heed | _SetLogLevels | _TakeOver | Ending | Refuse


@attrs.frozen
class WorkerSupervisor:
    """Handle of the supervisor."""

    _inbox: trio.MemorySendChannel[_Command]
    _acknowledged: Reached

    async def apply(self, change: RuleChange) -> Standing:
        """Have the workers forward by the next generation of the rules; all of the change or none of it.

        Returns:
            The state then; the workers have only got the commands so far.

        Raises:
            InterfaceNotFound: a rule names an interface that isn't there.
            SystemFault: a socket could not be opened, or a group not joined.
            LimitReached: a table is full.
        """
        return await ask(self._inbox, lambda reply: _Apply(change, reply))

    async def settled(self, generation: int) -> int:
        """Wait until every worker that runs forwards by this generation or a newer one, and one does run.

        Returns:
            The newest generation of which that is true.
        """
        return await self._acknowledged.at_least(generation)

    async def standing(self) -> Standing:
        """What workers have acknowledged, and whether sockets still stand for the interfaces that rules name."""
        return await ask(self._inbox, _Stand)

    async def describe(self) -> tuple[WorkerView, ...]:
        """Every worker, as it is now."""
        return await ask(self._inbox, _Describe)

    async def set_log_levels(self, levels: LogLevels) -> None:
        """Have the workers log at these levels."""
        await ask(self._inbox, lambda reply: _SetLogLevels(levels, reply))

    async def refuse(self, wanted: tuple[Refusal, ...]) -> None:
        """Have the workers refuse these flows and no others, for some seconds.

        Raises:
            SystemFault: the kernel path can't be told. Nothing has changed.
        """
        await ask(self._inbox, lambda reply: Refuse(wanted, reply))

    async def take_over(self) -> None:
        """Have the workers of the mcrd before this one end (or raise), and those of this one go on from there."""
        await ask(self._inbox, _TakeOver)

    async def end_hung(self) -> None:
        """End workers that do not answer, before mcrd leaves the others to the next one. No rule may change then."""
        with trio.move_on_after(_ANSWER_SECONDS):
            await self.settled(await ask(self._inbox, Rouse))
            return
        await ask(self._inbox, KillSilent)

    async def stop(self) -> None:
        """Let nothing more in, have the workers send what has arrived, and wait until they have ended."""
        await ask(self._inbox, Stop)


async def run_worker_supervisor(
    kept: Kept,
    stats: StatsAggregator,
    settings: Settings,
    network: NetworkWatch,
    predecessors: Predecessors,
    *,
    kernel: KernelRules,
    tap: StreamTap | None = None,
    task_status: trio.TaskStatus[WorkerSupervisor] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run one worker per segment until cancelled, which kills them; see `WorkerSupervisor.stop` for a gentle end.

    Predecessors run until `take_over`; but if one of their captures can't be gone on with, they end first: they would
    forward everything a second time, beside the one that takes its place. Every socket is closed here; `kept` and
    `predecessors` stay the caller's.
    """
    send, receive = trio.open_memory_channel[_Command](0)
    events_send, events = trio.open_memory_channel[WorkerEvent](0)
    standbys = trio.CapacityLimiter(1)
    cores = worker_cores(len(kept.segments), usable_cores())
    async with open_workshop() as workshop, trio.open_nursery() as nursery:
        with receive, Relay(settings, kept, kernel, tap) as relay, open_reviews(settings) as reviews:
            succession = Succession(kept, predecessors)
            nursery.start_soon(succession.prepare, workshop)
            state = _State(relay, kept, stats, settings.levels, reviews, succession=succession, nursery=nursery)
            if relay.inputs.former.are_torn:
                await predecessors.end()
            await stats.inherited(tuple((each.slot, watched(each)) for each in relay.inputs.former))
            user = unprivileged_user()
            for worker_id, (core, segment) in enumerate(zip(cores, kept.segments, strict=True)):
                whose = workshop, user, standbys, events_send, kept.store, succession.done, kernel.drains
                post = Post(worker_id, core, segment, *whose)
                state.workers.add(core, await nursery.start(run_worker_process, post))
            nursery.start_soon(_hear_of_workers, state, events)
            nursery.start_soon(repeat, send, _Watch(), _WATCH_SECONDS)
            await relay.routing.follow_network(await network.snapshot())  # inputs may be this machine's addresses
            nursery.start_soon(follow, network, send)
            await reviews.review_raw(state.review_raw)  # before there are outputs: UDP sockets send nothing into VLANs
            reviews.start(nursery, relay.inputs.suppressor, send)
            task_status.started(WorkerSupervisor(send, state.acknowledged))
            async for command in receive:
                async with state.relaying:
                    await _handle(state, command)
                    if state.lets_go:
                        await state.let_go()
                    if relay.kernel.is_waiting:
                        state.workers.nudge()


async def _hear_of_workers(state: "_State", events: trio.MemoryReceiveChannel[WorkerEvent]) -> None:
    """Beside the commands: a worker that starts does not wait for one that takes long."""
    async for event in events:
        match event:
            case WorkerStarted():
                state.workers.start(event)
            case WorkerReported(worker_id, reported):
                await state.on_reported(worker_id, reported)
            case WorkerExited():
                state.on_exited(event)
            case _:
                assert_never(event)
        if state.lets_go and not state.relaying.locked():  # otherwise it is done after the command
            async with state.relaying:
                await state.let_go()


async def _handle(state: "_State", command: _Command) -> None:
    match command:
        case _Apply(change, reply):
            with reply:
                reply.resolve(await state.apply(change))
        case _Describe() | _Stand():
            _tell(state, command)
        case Heed(network, reply):
            with reply:
                await state.heed(network)
                reply.resolve(None)
        case _SetLogLevels(levels, reply):
            with reply:
                state.set_log_levels(levels)
                reply.resolve(None)
        case _TakeOver(reply):
            with reply:
                reply.resolve(await state.take_over())
        case Refuse():
            await heed_refusal(command, state.refuse, state.workers)
        case Rouse() | KillSilent() | Stop():
            heed_ending(command, state.workers, state.stop)
        case _Watch():
            await state.kill_hung_workers()
            state.check_interfaces()
            state.check_reviews()
            if state.suppressor and state.suppressor.has_forwarded():
                await trio.to_thread.run_sync(state.suppressor.look_below_ip)
            await state.look_after_gateways()
        case PauseSuppression() | SuppressOn() | ReviewRaw():
            await heed_review(command, state.suppressor, state.review_raw)
        case _:
            assert_never(command)


def _tell(state: "_State", command: _Describe | _Stand) -> None:
    match command:
        case _Describe(reply):
            with reply:
                reply.resolve(state.describe())
        case _Stand(reply):
            with reply:
                reply.resolve(state.standing())
        case _:
            assert_never(command)


class _State:
    def __init__(
        self,
        relay: Relay,
        kept: Kept,
        stats: StatsAggregator,
        levels: LogLevels,
        reviews: Reviews,
        *,
        succession: Succession,
        nursery: trio.Nursery,
    ) -> None:
        self._relay = relay
        self._segments = kept.segments
        self._succession = succession
        self._stats = stats
        self._levels = levels
        self._reviews = reviews
        self._nursery = nursery
        self.acknowledged = Reached()
        """The newest generation that every worker that runs forwards by; 0 while none runs."""
        self._stopping: Reply[None] | None = None
        self.workers = WorkerTable(levels)
        self.relaying = trio.Lock()
        """Of whoever uses the relay, which may be in a thread."""
        self._network = Network()
        self._own = OwnKeys()
        self._interfaces = InterfaceNews(relay)
        self._routes_due = False  # routes have changed, and outputs have not followed
        self._show_unmatched()

    # The network.

    def standing(self) -> Standing:
        return self._relay.standing(self.workers.acknowledged())

    async def heed(self, network: Network) -> None:
        before, self._network = self._network, network
        self._routes_due |= network.routes != before.routes
        await self._relay.routing.follow_network(network)
        if network.links is not before.links or network.addresses6 is not before.addresses6:
            await self._relay.inputs.report_again(before, network)
        if network.links is before.links and network.addresses is before.addresses:
            return
        self._tell_own()
        suspected = self._relay.routing.suspect(before, network)
        if commands := (*suspected, *await self._relay.routing.review_changed()):
            self.workers.tell_all(*commands)
        if suspected:
            self._reviews.raw_is_due()
        self.workers.tell_all(*await self._relay.routing.follow_carrier(network))
        self._interfaces.tell(self.standing(), network)
        self._interfaces.is_due = True  # sockets may follow a little later

    def _tell_own(self) -> None:
        """Report the sources that this machine sends with to the workers, if they have changed."""
        if (keys := self._own.news(self._network, self._relay.used())) is not None:
            self._relay.kernel.set_own(keys)
            self.workers.tell_all(records.own(keys))

    def check_interfaces(self) -> None:
        """Log what was held back, and what came of the last changes; hold ports of addresses that could not be held."""
        self._relay.inputs.local.look_again()
        if self._interfaces.is_due:
            self._interfaces.tell(self.standing(), self._network)

    # Rules.

    async def apply(self, change: RuleChange) -> Standing | McrError:
        self._interfaces.is_due = True
        try:
            step = await self._relay.apply(change)
        except McrError as error:
            return error
        for capture in step.captures:
            await self._stats.capture_opened(capture.slot, watched(capture))
        await self._stats.rules_placed(step.placed, tuple(rule.rule_id for rule in change.removed))
        if step.leaving:  # a next mcrd has to know what they have sent
            await self._stats.save()
            self._relay.forget(step.leaving)
        self._tell_own()
        self.workers.tell_generation(change.generation, *step.commands)
        if step.later:
            await trio.to_thread.run_sync(self._relay.kernel.use, step.later, ())
        return self.standing()

    @property
    def refuse(self) -> Callable[[tuple[Refusal, ...]], records.Command]:
        return self._relay.refuse

    async def take_over(self) -> McrError | None:
        if self._relay.outputs.is_stale:  # while others send: UDP sockets send nothing into VLANs
            await self._reviews.review_raw(self.review_raw)
        return await self._succession.take_over(self._relay, self.workers, self.let_go)

    @property
    def lets_go(self) -> bool:
        """Whether there are sockets that no rule uses, and some worker may."""
        return self._relay.lets_go

    async def let_go(self) -> None:
        """Let go of the sockets that no worker reads or writes any more."""
        released = self._relay.release(self.workers.forwarded_by())
        for capture in released.captures:  # nobody takes its slot meanwhile: that takes the relay, too
            for worker in (each for each in self.workers if each.pid is None):
                self._segments[worker.worker_id].settle(capture.slot)
            await self._stats.capture_closing(capture.slot)
        if released.outputs:
            await self._stats.outputs_closing(released.outputs)
        if released.sockets:
            self._nursery.start_soon(close_beside, released.sockets)

    def check_reviews(self) -> None:
        """Start the reviews that are due for other reasons than a reported change."""
        if self._relay.inputs.suppressor and self._relay.inputs.suppressor.is_stale:
            self._reviews.suppression_is_due()
        self._reviews.check_raw(has_new_outputs=self._relay.outputs.is_stale)

    @property
    def suppressor(self) -> Suppressor | None:
        return self._relay.inputs.suppressor

    async def review_raw(self, found: Blockers, anew: bool) -> None:  # noqa: FBT001
        self.workers.tell_all(*await self._relay.routing.review_raw(found, anew=anew))

    async def look_after_gateways(self) -> None:
        """Have outputs wait for the gateways of their groups; where raw frames are reviewed, that does so."""
        commands = await self._relay.routing.look_after_hops()
        if self._routes_due and not self._reviews.follow_routes:
            self._routes_due = False
            commands += await self._relay.routing.follow_gateways()
        if commands:
            self.workers.tell_all(*commands)

    def _show_unmatched(self) -> None:
        """Let workers see what filters reject if they are to log it."""
        self._relay.inputs.show_unmatched(show=self._levels.of(Facility.INGRESS) >= Level.DEBUG)
        self._relay.kernel.trace(on=self._levels.of(Facility.EGRESS) >= Level.TRACE)

    def set_log_levels(self, levels: LogLevels) -> None:
        self._levels = levels
        self._show_unmatched()
        self.workers.tell_all(records.levels(levels))

    # Workers.

    def describe(self) -> tuple[WorkerView, ...]:
        return self.workers.describe(self._relay.inputs.present(), self._segments)

    async def on_reported(self, worker_id: int, events: tuple[records.Event, ...]) -> None:
        for event in events:
            match event:
                case records.Ack(generation):
                    self.workers.acknowledge(worker_id, generation)
                case records.Sample():
                    await self._stats.sampled()
                case records.LogRecord():
                    log_record(worker_id, event, self._relay.names)
                case _:
                    assert_never(event)
        self.acknowledged.set(self.workers.acknowledged())

    def on_exited(self, exited: WorkerExited) -> None:
        self.workers.exit(exited)
        self._answer_stopped()
        self.acknowledged.set(self.workers.acknowledged())

    async def kill_hung_workers(self) -> None:
        self.workers.kill_hung(await self._stats.stalled(self.workers.weigh()))

    def stop(self, reply: Reply[None]) -> None:
        self._stopping = reply
        self._relay.inputs.reject()
        self.workers.stop()
        self._answer_stopped()

    def _answer_stopped(self) -> None:
        if self._stopping and self.workers.have_ended:
            with self._stopping:
                self._stopping.resolve(None)
