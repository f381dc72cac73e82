"""Notices loops over other machines: rules whose packets grow many and are the same again and again.

A packet pays nothing for it until a rule's rate has doubled. Then a short look tells whether the same datagrams
come again and again. If so the workers tell what comes back from what a source repeats (native/returns.h): that is
sure, and loses nothing of a source's. They go on as long as something comes back, and a while longer.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NoReturn

import attrs
import trio

from mcr.actors.stats_aggregator import StatsAggregator
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.errors import McrError
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.model.loop import Loop
from mcr.relay.placement import PlacedRule
from mcr.rules.change_log import fields_of
from mcr.shm.segment import Cells
from mcr.stats.moment import Moment
from mcr.stats.readings import Reading
from mcr.tap.repeats import look_for_repeats

log = get_logger(Facility.INGRESS)

OVER_SECONDS: Final = 60.0
"""After the last datagram that came back, until a loop is over."""

_APART = 0.5  # seconds between two looks at the rates
_BUSY = 500.0  # packets a second of a rule that may be in a loop
_GROWN = 2.0  # times the rate at which it was found to be in none
_FORGETS = 0.9  # of that rate, after each look at the rates, while the rate is lower
_LOOKS = 2  # at the wire, after each; at the busiest rules
_DOUBT_SECONDS = 2.0  # in which workers find out whether it is one


@attrs.define
class _Suspect:
    placed: PlacedRule
    rate: float
    since: float
    returned: int
    last: float | None = None


@attrs.frozen
class LoopWatch:
    """Handle of the watch."""

    _suspects: Mapping[str, _Suspect]

    def loops(self) -> tuple[Loop, ...]:
        """Those that there are, or were a minute ago."""
        now = trio.current_time()
        return tuple(
            Loop(each.placed.rule, round(now - each.since, 1), round(now - each.last, 1), each.returned)
            for each in self._suspects.values()
            if each.last is not None
        )


async def run_loop_watch(
    stats: StatsAggregator,
    workers: WorkerSupervisor,
    *,
    task_status: trio.TaskStatus[LoopWatch] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Watch until cancelled."""
    state = _State(workers)
    task_status.started(LoopWatch(state.suspects))
    while True:
        await state.look(await stats.moment())
        await trio.sleep(_APART)


class _State:
    def __init__(self, workers: WorkerSupervisor) -> None:
        self._workers = workers
        self.suspects: dict[str, _Suspect] = {}
        self._innocent: dict[int, float] = {}  # rates at which rules were found to be in no loop, by their tags
        self._before: Reading | None = None
        self._returned: Mapping[str, int] = {}

    async def look(self, moment: Moment) -> None:
        told = self.suspects.keys()
        known = frozenset(told)
        returned = {each.interface: each.parse_errors.loop_by_others for each in moment.stats.interfaces}
        self._follow(moment, returned)
        busy = sorted(self._busy(moment), key=lambda each: -each[1])
        self._before, self._returned = moment.now, returned
        for placed, rate in busy[:_LOOKS]:
            if await self._is_suspect(placed):
                now = trio.current_time()
                self.suspects[placed.rule.rule_id] = _Suspect(placed, rate, now, 0)
                what = "rule %s: %.0f packets a second, most of them the same again and again: a worker looks into it"
                log.info(what, placed.rule.label, rate, **fields_of(placed.rule))
            else:
                self._innocent[placed.tag] = rate
        if known != told:
            await self._workers.break_loops(frozenset(told))

    def _follow(self, moment: Moment, returned: Mapping[str, int]) -> None:
        """See what has come of those that are suspected."""
        now, tags = trio.current_time(), {each.tag for each in moment.rules}
        for rule_id, each in [*self.suspects.items()]:
            interface = each.placed.rule.input.interface
            more = returned.get(interface, 0) - self._returned.get(interface, 0)
            if more > 0:
                each.returned += more
                each.last = now
            if each.placed.tag not in tags:
                del self.suspects[rule_id]
            elif each.last is None and now - each.since >= _DOUBT_SECONDS:
                self._innocent[each.placed.tag] = each.rate
                log.info("rule %s: it is no loop: a source says the same again and again", each.placed.rule.label)
                del self.suspects[rule_id]
            elif each.last is not None and now - each.last >= OVER_SECONDS:
                log.notice("rule %s: nothing comes back any more: the loop is over", each.placed.rule.label)
                del self.suspects[rule_id]

    def _busy(self, moment: Moment) -> Iterator[tuple[PlacedRule, float]]:
        """Rules whose rates have grown so that they may be in a loop."""
        now, before = moment.now, self._before
        if not before or now.time <= before.time:
            return
        seconds = now.time - before.time
        if now.totals.matched - before.totals.matched < _BUSY * seconds:
            self._innocent.clear()
            return
        cells = Cells.of_rules((each.slot, each.tag) for each in moment.rules)
        counts = zip(moment.rules, now.rules_matched(cells), before.rules_matched(cells), strict=True)
        rates = {placed: max(0, count - past) / seconds for placed, count, past in counts}
        self._innocent = {
            each.tag: max(rate, _FORGETS * self._innocent[each.tag])
            if rate < self._innocent[each.tag]
            else self._innocent[each.tag]
            for each, rate in rates.items()
            if each.tag in self._innocent
        }
        for placed, rate in rates.items():
            limit = max(_BUSY, _GROWN * self._innocent.get(placed.tag, 0.0))
            if rate >= limit and placed.rule.rule_id not in self.suspects:
                yield placed, rate

    async def _is_suspect(self, placed: PlacedRule) -> bool:
        source = placed.rule.input
        attached = (await self._workers.standing()).inputs.get(source.interface)
        if attached is None or attached.lost:
            return False
        try:
            return (await trio.to_thread.run_sync(look_for_repeats, source, attached.index)).are_suspect
        except McrError as error:
            log.info("rule %s: whether it is in a loop cannot be seen: %s", placed.rule.label, error)
            return False
