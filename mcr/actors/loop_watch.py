"""Notices loops over other machines, and names them. What returns is refused (actors/damping.py); no rule moves.

A packet pays nothing for it until a rule is busy. Then short looks at the wire, ever more seldom, tell whether somebody
returns what others send (tap/returns.py).
"""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from time import thread_time
from typing import Final

import attrs
import trio

from mcr.actors.damping import CROWDED, Damper, Tried, rules_beside
from mcr.actors.mailbox import next_beat
from mcr.actors.network_watch import NetworkWatch
from mcr.actors.stats_aggregator import StatsAggregator
from mcr.actors.suspicions import Suspicions
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.errors import McrError, SystemFault
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.model.loop import Loop, Suspicion
from mcr.net.network import Network
from mcr.relay.placement import PlacedRule
from mcr.rules.change_log import fields_of
from mcr.stats.meter import Meter
from mcr.stats.moment import Counts
from mcr.stats.readings import Reading
from mcr.tap.copies import Origin, Return
from mcr.tap.returns import Verdict, View, look_for_returners

log = get_logger(Facility.NETWORK)

_APART: Final = 0.5  # seconds between two looks at the rates; every other one only if anything came
_SOON: Final = 0.25  # the same, while some rule may be busy
_AT_ONCE: Final = 0.125  # the same, once what comes for all rules has jumped
_JUMP: Final = 64.0  # packets a second that such a jump reaches, at the least
_FADES: Final = 0.9  # of the highest rate of late, at each look at the rates
_LOOKS_APART: Final = 0.2  # seconds between the beginnings of two looks at the wire, at the least
_DEAR_APART: Final = 1.0  # the same, at the most, after one that took much of a processor:
_REST: Final = 9.0  # seconds after it for each second of a processor
_MOST: Final = 100_000.0  # above that a look slows down what it looks at, so they are a minute apart
_LOOKS: Final = 2  # at the wire at a time
_ORIGINS: Final = 8  # that are told of a loop
_BUSY: Final = 500.0  # packets a second of a rule that may be in a loop
_SURELY_BUSY: Final = 1_000.0  # the same, by one reading
_GROWN: Final = 2.0  # times the highest rate at which it was looked at in vain
_SHORTEST: Final = 2.0  # seconds between the beginnings of two looks at a rule; doubled each time
_LONGEST: Final = 60.0
_LONGEST_VARIED: Final = 600.0  # where few datagrams came again
_KNOWN_APART: Final = 10.0  # seconds between two looks at a loop that is told of; fewer, if that or a refusal is new
_MOMENT: Final = 0.01  # seconds, at the least, between two looks at the rates
_FORGOTTEN: Final = 180.0  # seconds in which it is not seen


@attrs.define
class _Case:
    """When a rule is looked at again: at once, if its rate has doubled."""

    at: float = 0.0
    wait: float = _SHORTEST
    rate: float = 0.0
    """The highest at which nobody returned anything."""
    is_looked_at: bool = False
    told: float | None = None
    """When a loop of it was told of last."""

    def is_due(self, rate: float, time: float) -> bool:
        """Whether it is to be looked at now."""
        return not self.is_looked_at and (time >= self.at or self.is_grown(rate))

    def is_grown(self, rate: float) -> bool:
        """Whether that is much more than what was looked at in vain."""
        return self.told is None and self.rate > 0 and rate >= _GROWN * self.rate


@attrs.define
class _Arrivals:
    """What comes for all rules together, as far as that tells when one of them may have become busy.

    Attributes:
        matched: packets, when that was read last.
        time: when that was.
        usual: the highest rate of late.
        has_jumped: the last rate is far above what it was before.
    """

    matched: int = 0
    time: float = 0.0
    usual: float = 0.0
    has_jumped: bool = False

    def are_many(self, matched: int, time: float) -> bool:
        """Whether so many come that a rule may be busy, or far more than before, now or when that was read last."""
        rate, had_jumped = (matched - self.matched) / max(time - self.time, _MOMENT), self.has_jumped
        self.has_jumped = rate >= max(_JUMP, _GROWN * self.usual)
        self.matched, self.time, self.usual = matched, time, max(rate, _FADES * self.usual)
        return rate >= _BUSY or self.has_jumped or had_jumped


@attrs.define
class _Told:
    """A loop that is told of."""

    placed: PlacedRule
    origins: tuple[Origin, ...]
    verdict: Verdict
    began: float
    seen: float


@attrs.frozen
class LoopWatch:
    """Handle of the watch."""

    _told: Mapping[int, _Told]
    _damper: Damper
    _suspicions: Suspicions

    def told(self) -> tuple[Loop | Suspicion, ...]:
        """The loops that there seem to be, and those that there may be."""
        return (*self.loops(), *self._suspicions.all())

    def loops(self) -> tuple[Loop, ...]:
        """Those that there seem to be."""
        now = trio.current_time()
        return tuple(
            Loop(
                each.placed.rule,
                tuple(map(str, each.origins)),
                each.verdict.returners[0].returned,
                each.verdict.returners[0].sent,
                each.verdict.seconds,
                now - each.began,
                now - each.seen,
                self._damper.refused(tag),
                self._damper.dropped(tag),
                self._damper.why_not(tag),
                each.verdict.returners[0].before,
                each.verdict.returners[0].after,
            )
            for tag, each in self._told.items()
        )


async def run_loop_watch(
    stats: StatsAggregator,
    workers: WorkerSupervisor,
    network: NetworkWatch,
    meter: Meter,
    *,
    task_status: trio.TaskStatus[LoopWatch] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Watch until cancelled, or until a bug shows: packets have nothing to do with it."""
    state = _State(workers, network, meter)
    damper = state.damper
    task_status.started(LoopWatch(state.told, damper, state.suspicions))
    try:
        async with trio.open_nursery() as looks:
            looks.start_soon(damper.run)
            while True:
                try:
                    if state.is_due():
                        await state.tick(await stats.counts(), looks)
                except McrError:  # the actors end, as mcrd does
                    log.debug("loops over other machines are not looked for: mcrd ends")
                await next_beat(state.until_next)
    except* Exception as errors:  # noqa: BLE001 - whatever it is
        state.told.clear()
        damper.clear()
        state.suspicions.keep(())
        what = "loops over other machines are not looked for any more, by a bug in mcrd: %s"
        log.critical(what, "".join(traceback.format_exception(errors)))
        with suppress(McrError):  # workers would forget by themselves
            await workers.refuse(())


class _State:
    def __init__(self, workers: WorkerSupervisor, network: NetworkWatch, meter: Meter) -> None:
        self._workers = workers
        self._network = network
        self.damper = Damper(workers, meter, self._heed_trial)
        self._lines = self.damper.lines
        self._meter = meter
        self._slots = 0  # of rules, and of some that are not there
        self._arrivals = _Arrivals()
        self.suspicions = Suspicions()
        self.told: dict[int, _Told] = {}  # by the tags of rules, as those below
        self._cases: dict[int, _Case] = {}
        self._looks = 0
        self._before: Reading | None = None
        self._rules: tuple[PlacedRule, ...] = ()
        self._by_slot: dict[int, PlacedRule] = {}
        self._busy = set[int]()  # a second ago: of a part of one a rate tells little
        self._is_refused = False
        self._next = 0.0  # when a look may begin
        self._is_busy = False  # some rule may be

    @property
    def until_next(self) -> float:
        """Seconds between this look at the rates and the next one."""
        if self._arrivals.has_jumped:
            return _AT_ONCE
        return _SOON if self._is_busy else _APART

    def is_due(self) -> bool:
        """Whether the rates are to be looked at: once a second, or more often while something comes."""
        time = trio.current_time()
        are_many = self._arrivals.are_many(self._meter.all_matched(self._slots), time)
        is_whole = int(time / _APART) % 2 == 0  # seconds
        return is_whole or self._is_busy or are_many

    async def tick(self, counts: Counts, looks: trio.Nursery) -> None:
        """See which rules are busy, and begin to look at the one that needs it most."""
        if counts.rules is not self._rules:
            self._follow(counts.rules)
        self._forget()
        due = [*self._due(counts.now)]
        self._before = counts.now
        if not due or self._looks >= _LOOKS or trio.current_time() < self._next:
            return
        placed, rate = max(due, key=self._urgency)
        case = self._case(placed)
        attached = (await self._workers.standing()).inputs.get(placed.rule.input.interface)
        if attached is None or attached.lost:
            case.at = trio.current_time() + _SHORTEST  # others have their turn
            return
        network = await self._network.snapshot()
        case.is_looked_at, case.at = True, trio.current_time() + case.wait
        self._next = trio.current_time() + _LOOKS_APART
        self._looks += 1
        known = self.told.get(placed.tag)
        origins = frozenset(known.origins if known else ())
        around = partial(_around, placed, self._rules, network)
        is_to_be_tried = not known and rate >= CROWDED and self.damper.may_try(placed)
        view = View(placed.flows, attached.index, rate, known=origins, is_to_be_tried=is_to_be_tried)
        see = partial(_see, view, around)
        looks.start_soon(self._look, placed, case, view, see)

    def _urgency(self, due: tuple[PlacedRule, float]) -> tuple[bool, float, float]:
        """Loops that are told of go first, then what is new, most packets first, then what waits for longest."""
        placed, rate = due
        case = self._case(placed)
        return placed.tag in self.told, rate if case.rate == 0 or case.is_grown(rate) else 0.0, -case.at

    def _follow(self, rules: tuple[PlacedRule, ...]) -> None:
        """Rules have changed: what was told of those that are gone is over."""
        self._rules = rules
        self.damper.follow(rules)
        self._by_slot = {each.slot: each for each in rules}
        self._slots = max(self._by_slot, default=-1) + 1
        there = {each.tag: each for each in rules}
        self._cases = {tag: each for tag, each in self._cases.items() if tag in there}
        self.suspicions.keep(there)
        for tag in [*self.told]:
            if tag in there:
                self.told[tag].placed = there[tag]
            else:
                del self.told[tag]
                self._lines.end(tag)

    def _case(self, placed: PlacedRule) -> _Case:
        return self._cases.setdefault(placed.tag, _Case())

    def _due(self, now: Reading) -> Iterator[tuple[PlacedRule, float]]:
        """Rules that are to be looked at, and their rates."""
        before = self._before
        if not before or now.time <= before.time:
            return
        seconds, time = now.time - before.time, trio.current_time()
        looked_at = self._looked_at(now, before, _BUSY * seconds)
        self._is_busy = bool(looked_at)
        busy = set[int]()
        for placed in looked_at:
            rate = (now.rule_matched(placed) - before.rule_matched(placed)) / seconds
            is_busy = rate >= _BUSY or (rate > 0 and placed.tag in self.told)
            if is_busy:
                busy.add(placed.tag)
            is_sure = placed.tag in self._busy or rate >= _SURELY_BUSY
            if is_busy and is_sure and self._case(placed).is_due(rate, time):
                yield placed, rate
        self._busy = busy

    def _looked_at(self, now: Reading, before: Reading, least: float) -> list[PlacedRule]:
        """Rules that may have matched so many packets since, and those that loops are told of; not thousands."""
        slots = now.rules_grown(before, least) | {each.placed.slot for each in self.told.values()}
        return [self._by_slot[slot] for slot in sorted(slots) if slot in self._by_slot]

    async def _look(self, placed: PlacedRule, case: _Case, view: View, see: "partial[tuple[Verdict, float]]") -> None:
        began, matched = trio.current_time(), self._meter.matched(placed)
        try:
            verdict, cost = await trio.to_thread.run_sync(see, abandon_on_cancel=True)
            self._next = max(self._next, min(trio.current_time() + _REST * cost, began + _DEAR_APART))
        except SystemFault as error:
            case.at = trio.current_time() + _LONGEST
            if not self._is_refused:
                self._is_refused = True
                log.info("rule %s: whether it is in a loop cannot be seen: %s", placed.rule.label, error)
            return
        finally:
            self._looks -= 1
            case.is_looked_at = False
        if placed.tag in self._cases:  # the rule is still there
            seconds = max(trio.current_time() - began, _MOMENT)
            meanwhile = (self._meter.matched(placed) - matched) / seconds
            may_try = view.is_to_be_tried and placed.tag not in self.told
            if may_try and verdict.crowd and self.damper.try_crowd(placed, verdict.crowd, meanwhile):
                return
            self.suspicions.heed(placed, view.rate, verdict)
            self._judge(placed, case, view.rate, verdict)

    def _heed_trial(self, tried: Tried) -> None:
        """Somebody was refused for a moment. If it was no loop, that may be one in which everything takes longer."""
        time, case, told = trio.current_time(), self._case(tried.placed), self.told.get(tried.placed.tag)
        case.at = time
        if not tried.why_not:
            fall = tried.fall
            found = Return(tried.origin, 0, 0, is_part=True, before=fall.before, after=fall.after)
            self._tell(tried.placed, case, Verdict((found,)), time)
        elif not told:
            self._lines.end(tried.placed.tag)
        elif told.origins == (tried.origin,):
            self._end(told, f"{tried.origin} {tried.why_not}")

    def _judge(self, placed: PlacedRule, case: _Case, rate: float, verdict: Verdict) -> None:
        time, proven = trio.current_time(), self.damper.heed(placed, verdict)
        returners = verdict.returners or tuple(Return(each.origin, each.returned, each.sent) for each in proven)
        told = self.told.get(placed.tag)
        if returners:
            self._tell(placed, case, attrs.evolve(verdict, returners=returners), time)
            self.damper.consider(placed, verdict)
        elif told and verdict.is_over and not self.damper.is_part(placed.tag):
            self._end(told, "nothing comes back any more: the loop over another machine is over")
        elif not told:
            if case.rate and rate >= _GROWN * case.rate:
                case.wait = _SHORTEST
            if rate > _MOST:
                case.wait = max(case.wait, _LONGEST)
            case.rate, case.told = max(case.rate, rate), None
            case.at = max(case.at, time + case.wait)
            log.debug("rule %s: nobody is seen to return its %.0f packets a second", placed.rule.label, rate)
            case.wait = min(2 * case.wait, _LONGEST_VARIED if verdict.is_varied else _LONGEST)
        if placed.tag in self.told:
            since = max(self.damper.since(placed.tag) or 0.0, self.told[placed.tag].began)
            case.at = time + min(max(time - since, _SOON), _KNOWN_APART)

    def _tell(self, placed: PlacedRule, case: _Case, verdict: Verdict, time: float) -> None:
        found, told = tuple(each.origin for each in verdict.returners), self.told.get(placed.tag)
        if told:
            told.origins = (*found, *(each for each in told.origins if each not in found))[:_ORIGINS]
            told.verdict, told.seen = verdict, time
            return
        self.told[placed.tag] = _Told(placed, found, verdict, time, time)
        case.told = time
        self._lines.begin(placed.tag)
        self._say_told(self.told[placed.tag])

    def _say_told(self, told: _Told) -> None:
        rule = told.placed.rule
        what = "rule %s: what it sends on seems to come back to %s from %s: a loop over another machine"
        say = log.debug if self._lines.are_quiet(told.placed.tag) else log.warning
        say(what, rule.label, rule.input.interface, ", ".join(map(str, told.origins)), **fields_of(rule))

    def _forget(self) -> None:
        """Loops that were not seen for long. What lasts, and was told of in `debug`, is told of aloud."""
        time = trio.current_time()
        for each in [*self.told.values()]:
            if time - each.seen >= _FORGOTTEN:
                what = f"its loop over another machine was not seen for {_FORGOTTEN:.0f} s"
                self._end(each, f"{what}; whether it is over is not known")
            elif self._lines.is_late(each.placed.tag):
                self._say_told(each)

    def _end(self, told: _Told, why: str) -> None:
        del self.told[told.placed.tag]
        self.damper.end(told.placed.tag, "nothing is told of its loop any more")
        rule, case = told.placed.rule, self._case(told.placed)
        case.at, case.rate, case.wait = trio.current_time(), 0.0, _SHORTEST
        say = log.debug if self._lines.are_quiet(told.placed.tag) else log.notice
        say("rule %s: %s", rule.label, why, **fields_of(rule))
        self._lines.end(told.placed.tag)


_Around = Callable[[], tuple[frozenset[bytes], frozenset[bytes]]]


def _see(view: View, around: _Around) -> tuple[Verdict, float]:
    """Look, in a thread. What it has found out, and the seconds of a processor that it took."""
    begun = thread_time()
    left, named = around()
    verdict = look_for_returners(attrs.evolve(view, left=left, named=named))
    return verdict, thread_time() - begun


def _around(
    placed: PlacedRule, rules: tuple[PlacedRule, ...], network: Network
) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """This machine's addresses and MACs; and those from which other rules take what this one takes from any."""
    own = {each.packed for each in network.own_addresses()} | {link.mac for link in network.links.values() if link.mac}
    beside = rules_beside(placed.rule.input, rules)
    return frozenset(own), frozenset(source.packed for each in beside for source in each.rule.input.sources)
