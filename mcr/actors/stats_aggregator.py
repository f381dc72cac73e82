"""Owns totals and rates.

It reads counters where the workers write them, for each request. No worker is ever asked, so statistics cost the packet
path nothing and are current at any rate of traffic.
"""

from collections import deque
from collections.abc import Callable
from typing import TypeVar, assert_never

import attrs
import trio

from mcr.actors.mailbox import ask, repeat, tell
from mcr.actors.stats_requests import (
    CaptureClosing,
    CaptureOpened,
    Command,
    Count,
    Events,
    Idle,
    Inherited,
    LinesDue,
    OutputsClosing,
    Read,
    RulesPlaced,
    Sampled,
    Save,
    Stalled,
    Tick,
)
from mcr.logs.limit import UNLIMITED
from mcr.logs.logger import get_logger
from mcr.model.event import Event
from mcr.model.log import Facility, Level
from mcr.model.stats import Stats
from mcr.net.filter.tap import StreamTap
from mcr.relay.placement import LeavingOutput, PlacedRule
from mcr.shm.kept import Kept
from mcr.shm.kernel_counters import KernelCounters
from mcr.stats.activity import Activity
from mcr.stats.captures import CaptureCounts, Watched
from mcr.stats.feed_log import Feeds
from mcr.stats.former_outputs import FormerOutputs
from mcr.stats.loss_log import Losses, LossNews
from mcr.stats.moment import Counts, Moment, healths
from mcr.stats.readings import (
    Reading,
    egress_stats,
    ingress_stats,
    kernel_path_stats,
    stats_lines,
    worker_stats,
)
from mcr.stats.send_log import SendErrors, log_send_errors
from mcr.stats.stalls import Checked, Stalls
from mcr.text.plurals import counted

_T = TypeVar("_T")

log = get_logger(Facility.STATS)
ingress_log = get_logger(Facility.INGRESS)

_TICK = 1.0  # seconds between the readings that rates are taken from
_MANY_RULES = 200  # beyond that, others get their turn while statistics are put together
_SAMPLE_PACKETS = 100_000  # on both paths, between two pairs of [STATS:…] lines: as a worker has it
_MOMENT = 0.1  # seconds for which a reading is of now, for rates
_LINES_APART = 1.0  # seconds between two pairs of [STATS:…] lines, at least


@attrs.frozen
class StatsAggregator:
    """Handle of the aggregator."""

    _inbox: trio.MemorySendChannel[Command]

    async def read(self, rule_id: str | None = None) -> Stats:
        """All counters, as of now; of one rule alone, if it is named."""
        moment = await self.moment()
        if rule_id is not None:
            moment = moment.only(rule_id)
        # Not by the actor: who starts workers anew waits for it, too.
        if len(moment.rules) > _MANY_RULES:
            rules = await trio.to_thread.run_sync(moment.of_rules)
        else:
            rules = moment.of_rules()
        return attrs.evolve(moment.stats, rules=rules)

    async def moment(self) -> Moment:
        """What all counters are made of, as of now."""
        return await ask(self._inbox, Read)

    async def counts(self) -> Counts:
        """What rules have matched, as of now; at a tick, as of that: it is one reading for both."""
        return await ask(self._inbox, Count)

    async def idle(self) -> dict[str, float]:
        """Seconds for which each rule, by id, has matched nothing, or that it exists; one less, at most."""
        return await ask(self._inbox, Idle)

    async def events(self, after: int) -> tuple[Event, ...]:
        """Those with a higher number, of the newest 1,000."""
        return await ask(self._inbox, lambda reply: Events(after, reply))

    async def capture_opened(self, capture: int, watched: Watched) -> None:
        """Count what the kernel drops and rejects of a capture, and own its watched sockets from now on."""
        await ask(self._inbox, lambda reply: CaptureOpened(capture, watched, reply))

    async def capture_closing(self, capture: int) -> None:
        """Count a capture a last time; its slot is free for another when this returns."""
        await ask(self._inbox, lambda reply: CaptureClosing(capture, reply))

    async def rules_placed(self, placed: tuple[PlacedRule, ...], removed: tuple[str, ...]) -> None:
        """Show these rules, new or changed, and no longer those ids."""
        await tell(self._inbox, RulesPlaced(placed, removed))

    async def outputs_closing(self, outputs: tuple[LeavingOutput, ...]) -> None:
        """Count outputs that rules have no more a last time; their slots are free for others when this returns."""
        await ask(self._inbox, lambda reply: OutputsClosing(outputs, reply))

    async def inherited(self, captures: tuple[tuple[int, Watched], ...]) -> None:
        """Count these captures on that another mcrd has left; others of it are gone."""
        await ask(self._inbox, lambda reply: Inherited(captures, reply))

    async def save(self) -> None:
        """Have the next mcrd go on from the counts of this moment."""
        await ask(self._inbox, Save)

    async def stalled(self, weights: tuple[float, ...]) -> Checked:
        """Which workers have let packets wait for some seconds without taking one. Each is reported once.

        Args:
            weights: of this check, for each worker (`mcr.process.turns.Turns.weight`).
        """
        return await ask(self._inbox, lambda reply: Stalled(weights, reply))

    async def sampled(self) -> None:
        """A worker has taken another round number of packets: a good moment for a log line."""
        await tell(self._inbox, Sampled())


async def run_stats_aggregator(
    kept: Kept,
    lines_every: float = 0.0,
    kernel: KernelCounters | None = None,
    tap: StreamTap | None = None,
    *,
    task_status: trio.TaskStatus[StatsAggregator] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve statistics until cancelled.

    Args:
        kept: segments of the workers, in the order of their ids, and what the last mcrd has counted; stays the
            caller's.
        lines_every: seconds between two pairs of [STATS:…] lines; 0: when a round number of packets has come.
        kernel: counters of the kernel path; stay the caller's. None: there are none.
        tap: knows the health of streams; stays the caller's. None: nobody watches any.
        task_status: gets the handle.
    """
    send, receive = trio.open_memory_channel[Command](0)
    state = _State(kept, kernel, tap or StreamTap(), by_count=not lines_every)
    try:
        async with trio.open_nursery() as nursery:
            with receive:
                nursery.start_soon(repeat, send, Tick(), _TICK)
                if lines_every:
                    nursery.start_soon(repeat, send, LinesDue(), lines_every)
                task_status.started(StatsAggregator(send))
                async for command in receive:
                    await _handle(state, command)
    finally:
        state.close()


async def _handle(state: "_State", command: Command) -> None:
    match command:
        case Count(reply):
            with reply:
                reply.resolve(await state.counts())
        case Read() | Events() | Stalled():
            _tell(state, command)
        case Idle(reply):
            with reply:
                reply.resolve(await state.idle())
        case CaptureOpened() | CaptureClosing() | Inherited():
            _handle_captures(state, command)
        case RulesPlaced(placed, removed):
            state.place(placed, removed)
        case OutputsClosing(outputs, reply):
            with reply:
                state.close_outputs(outputs)
                reply.resolve(None)
        case Save(reply):
            with reply:
                state.save()
                reply.resolve(None)
        case Sampled():
            state.log_sample()
        case LinesDue():
            state.log_lines()
        case Tick():
            await state.tick_if_due()
        case _:
            assert_never(command)


def _tell(state: "_State", command: Read | Events | Stalled) -> None:
    match command:
        case Read(reply):
            with reply:
                reply.resolve(state.stats())
        case Events(after, reply):
            with reply:
                reply.resolve(state.feeds.after(after))
        case Stalled(weights, reply):
            with reply:
                reply.resolve(state.stalls.check(weights))
        case _:
            assert_never(command)


def _handle_captures(state: "_State", command: CaptureOpened | CaptureClosing | Inherited) -> None:
    match command:
        case CaptureOpened(capture, watched, reply):
            with reply:
                state.captures.open(capture, watched)
                state.note()
                reply.resolve(None)
        case CaptureClosing(capture, reply):
            with reply:
                state.captures.close(capture)
                state.note()
                reply.resolve(None)
        case Inherited(captures, reply):
            with reply:
                state.inherit(captures)
                reply.resolve(None)
        case _:
            assert_never(command)


class _State:
    def __init__(self, kept: Kept, kernel: KernelCounters | None, tap: StreamTap, *, by_count: bool) -> None:
        self._kept = kept
        self._tap = tap
        self._losses = Losses()
        self._send_errors = SendErrors()
        self._kernel = kernel
        self._segments = segments = kept.segments
        self._by_count = by_count
        self._rules: dict[str, PlacedRule] = {}
        self._placed: tuple[PlacedRule, ...] = ()  # these; a new tuple if they change, which `Activity` relies on
        self._former = FormerOutputs()
        # How far a reading has to reach: slots ever in use. Rules of another mcrd count on where that has left them.
        self._rule_slots = 1 + max((each.slot for each in kept.places.rules().values()), default=-1)
        self._output_slots = 1 + max((each.slot for each in kept.places.outputs().values()), default=-1)
        self._latest: Reading | None = None  # of these rules; of a later one it would say that it came all at once
        self.captures = CaptureCounts(segments, kernel)
        inherits = self._restore()
        self._settles = inherits  # counters of rules that another mcrd had are found as the rules are placed
        self._begin_rates()
        self._ticked = trio.current_time() // _TICK
        self._lines_at = -_LINES_APART
        self._dropped = self.captures.dropped_by_interface()
        self.stalls = Stalls(len(segments))
        self.feeds = Feeds()
        self._activity = Activity(from_zero=not inherits)
        self._sampled_at = 0  # datagrams on both paths at the last log line for their sake

    def _restore(self) -> bool:
        """Go on from what the last mcrd has counted; whether there was one."""
        saved = self._kept.counts.read()
        if "captures" not in saved:
            return False
        try:
            self.captures.restore(saved["captures"])
            self._former.restore(saved["former"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.log(Level.ERROR, "what the last mcrd has counted cannot be read, and counts anew: %r", error)
        return True

    def inherit(self, captures: tuple[tuple[int, Watched], ...]) -> None:
        for capture, watched in captures:
            self.captures.open(capture, watched)
        self.captures.close_former()
        self._begin_rates()
        self.note()

    def save(self) -> None:
        self.captures.update()
        self.note()

    def note(self) -> None:
        """Tell the next mcrd what was counted. What it reads of the kernel since comes on top."""
        former = self._former.save(self._read()) if self._former.all() else []
        self._kept.note_counts({"captures": self.captures.save(), "former": former})

    def close(self) -> None:
        """Close the sockets; if there was traffic, log the last figures."""
        self.save()
        self.captures.close_all()
        last = self._read()
        if last.totals.recv + last.rejected:
            self.log_lines()

    def place(self, those: tuple[PlacedRule, ...], removed: tuple[str, ...]) -> None:
        former = self._former.all()
        for rule_id in removed:
            self._former.forget(self._rules.pop(rule_id))
        for placed in those:
            if before := self._rules.get(placed.rule.rule_id):
                self._former.leave(before, placed)
            self._rules[placed.rule.rule_id] = placed
            self._rule_slots = max(self._rule_slots, placed.slot + 1)
            self._output_slots = max(self._output_slots, 1 + max(placed.outputs).slot)
        self._placed = tuple(self._rules.values())
        self._latest = None
        if self._settles:
            self._begin_rates()
        if self._former.all() is not former:
            self.note()  # where they were counted can't be found any more

    def _begin_rates(self) -> None:
        """Take rates from here on: what has been counted so far was not counted just now."""
        now = self._read()
        self._past = deque([now], maxlen=2)
        self._send_errors.begin(now)

    def close_outputs(self, outputs: tuple[LeavingOutput, ...]) -> None:
        now = self._read()
        for output in outputs:
            self._former.close(output, now)
        self.note()

    async def tick_if_due(self) -> None:
        """Once in a second, whoever comes first."""
        second = trio.current_time() // _TICK
        if second != self._ticked:
            self._ticked = second
            await self._tick()

    async def _tick(self) -> None:
        self.save()  # often enough that the kernel's 32-bit counts can't wrap
        self._latest = self._read()
        self._past.append(self._latest)
        self._settles = self._settles and not self._rules
        self._warn_of_drops()
        self._sample_kernel_path()
        self.stalls.note(map(self.captures.backlog, range(len(self._segments))))
        self.feeds.tell(await self._look_through_rules(self._activity.note, self._past[-1]))
        log_send_errors(await self._look_through_rules(self._send_errors.note, self._past[-1]))
        self.feeds.tell_losses(await self._look_through_rules(self._note_losses, self._past[-1]))

    def _note_losses(self, now: Reading, placed: tuple[PlacedRule, ...]) -> LossNews:
        return self._losses.note(healths(placed, self._tap), now.time)

    def _sample_kernel_path(self) -> None:
        """As workers do it, for both paths."""
        received = self._past[-1].totals.recv
        if received - self._sampled_at >= _SAMPLE_PACKETS:
            self._sampled_at = received
            self.log_sample()

    async def idle(self) -> dict[str, float]:
        return await self._look_through_rules(self._activity.idle, self._read())

    async def counts(self) -> Counts:
        """Without those of outputs, unless they were just read."""
        await self.tick_if_due()
        if self._latest is None or trio.current_time() - self._latest.time >= _MOMENT:
            self._latest = self._read(outputs=0)
        return Counts(self._latest, self._placed)

    def _warn_of_drops(self) -> None:
        dropped = self.captures.dropped_by_interface()
        for interface, count in (dropped - self._dropped).items():
            packets = counted(count, "packet")
            what = "capture ring of %s was full: %s dropped in the last second"
            ingress_log.warning(what, interface, packets, interface=interface, kernel_drops=count)
        self._dropped = dropped

    def stats(self) -> Moment:
        self.save()
        now, past = self._read(), self._past[0]
        drops = [self.captures.dropped(worker) for worker in range(len(self._segments))]
        stats = Stats(
            ingress=ingress_stats(now, past, sum(drops)),
            egress=egress_stats(now, past),
            workers=worker_stats(now, drops),
            interfaces=self.captures.interfaces(),
            kernel_path=kernel_path_stats(now.taken),
        )
        return Moment(stats, now, past, self._placed, self._former.all(), self._activity.last(), self._tap)

    async def _look_through_rules(self, look: Callable[[Reading, tuple[PlacedRule, ...]], _T], now: Reading) -> _T:
        if len(self._placed) > _MANY_RULES:
            return await trio.to_thread.run_sync(look, now, self._placed)
        return look(now, self._placed)

    def log_sample(self) -> None:
        if self._by_count and trio.current_time() - self._lines_at >= _LINES_APART:
            self._lines_at = trio.current_time()
            self.log_lines()

    def log_lines(self) -> None:
        self.save()
        now, past = self._read(), self._past[0]
        drops = sum(self.captures.dropped(worker) for worker in range(len(self._segments)))
        ingress, egress = ingress_stats(now, past, drops), egress_stats(now, past)
        fields = attrs.asdict(ingress), attrs.asdict(egress)
        for line, counters in zip(stats_lines(ingress, egress), fields, strict=True):
            log.log_kind(UNLIMITED, Level.INFO, "%s", line, **counters)  # as often as the settings say

    def _read(self, outputs: int | None = None) -> Reading:
        slots = self._rule_slots, self._output_slots if outputs is None else outputs
        workers = tuple(segment.read(*slots) for segment in self._segments)
        kernel = self._kernel.read(*slots) if self._kernel else None
        rejected, taken = self.captures.rejected(), self.captures.taken()
        return Reading(trio.current_time(), workers, rejected, taken=taken, kernel=kernel)
