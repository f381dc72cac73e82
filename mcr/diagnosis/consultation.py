"""Diagnosis in the daemon: collects what the actors and the kernel know, and passes it to the judges."""

import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import attrs
import trio

from mcr.actors.config_files import ConfigFiles
from mcr.actors.loop_watch import LoopWatch
from mcr.actors.querier_watch import QuerierWatch
from mcr.actors.rule_store import RuleStore
from mcr.actors.stats_aggregator import StatsAggregator
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.config.settings import Settings
from mcr.diagnosis.doctor import Relay, examine
from mcr.diagnosis.fading import Losses
from mcr.diagnosis.loop_findings import with_loops
from mcr.diagnosis.present import present_names, present_view
from mcr.diagnosis.queriers import judge_gone
from mcr.diagnosis.why import Walk
from mcr.errors import LimitReached, McrError, ShuttingDown
from mcr.logs.logger import get_logger
from mcr.model.finding import Finding
from mcr.model.flow import Address, Input
from mcr.model.log import Facility
from mcr.model.rule import RuleView
from mcr.model.saving import Saving
from mcr.model.stats import RuleStats
from mcr.process.garbage import seek_later
from mcr.rules.catalog import not_found
from mcr.tap.unmatched import RefusedFlow, Unmatched, look_for_unmatched, real_name

log = get_logger(Facility.CONTROL)

_WALKS = 4  # at the same time
_PATIENCE = 0.7  # seconds to wait for one to end; with the walk itself, less than a client waits
_EXAMINATIONS = 2  # one of users who may only read, and one of users who may change something
_LONG_PATIENCE = 3.0
_FREED_AT_ONCE = 100


@attrs.frozen
class Consultation:
    """Answers `why` and `doctor`. Calls that may wait in the kernel run in a thread."""

    _rules: RuleStore
    _workers: WorkerSupervisor
    _stats: StatsAggregator
    _settings: Settings
    _watch: QuerierWatch
    _loops: LoopWatch
    _files: ConfigFiles
    _saving: Callable[[], Saving]
    _losses: Losses = attrs.field(factory=Losses, init=False)
    _walking: set[trio.CancelScope] = attrs.field(factory=set, init=False)
    _examinations: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(_EXAMINATIONS), init=False)
    _walks: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(_WALKS), init=False)

    async def why(self, rule: str) -> tuple[Finding, ...]:
        """Walk a rule from wire to wire.

        Raises:
            RuleNotFound: no rule has this id or name.
            LimitReached: the limit of walks at the same time is reached.
            SystemFault: the system refused an observation.
            ShuttingDown: the daemon began to stop meanwhile.
        """
        rules = await self._rules.list()
        view = next((each for each in rules if rule in (each.rule_id, each.name)), None)
        if view is None:
            known = [name for each in rules for name in (each.rule_id, each.name) if name]
            raise not_found("id or name", rule, known)
        others = tuple(each for each in rules if each is not view)
        with self._until_stopped(), _contained():
            return await self._walk(view, others)
        raise ShuttingDown("The daemon is stopping", "start it again: mcrd supervisor")

    @contextmanager
    def _until_stopped(self) -> Iterator[None]:
        """Be cancelled by `stop`, and go on behind this then."""
        with trio.CancelScope() as walking:
            self._walking.add(walking)
            try:
                yield
            finally:
                self._walking.remove(walking)

    async def trace(self, interface: str, seconds: int) -> Unmatched:
        """Look for what arrives on an interface and no rule takes.

        Raises:
            InterfaceNotFound: there is none of this name.
            LimitReached: the limit of walks at the same time is reached.
            SystemFault: the system refused to let it look.
            ShuttingDown: the daemon began to stop meanwhile.
        """
        name = real_name(interface)
        with self._until_stopped(), _contained():
            async with _place(self._walks, _PATIENCE):
                rules, standing = await self._rules.list(), await self._workers.standing()
                names = present_names(standing.all())
                # The thread ends by itself: nobody waits for it if the daemon stops.
                look = partial(_look_for_unmatched, name, rules, names, seconds)
                seen = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
                return attrs.evolve(seen, refused=(*self._refused_on(name, names),))
        raise ShuttingDown("The daemon is stopping", "start it again: mcrd supervisor")

    async def _walk(self, rule: RuleView, others: tuple[RuleView, ...]) -> tuple[Finding, ...]:
        async with _place(self._walks, _PATIENCE):
            workers, standing = await self._workers.describe(), await self._workers.standing()
            names = present_names(standing.all())
            if _are_others(names):
                others = await trio.to_thread.run_sync(_present_all, others, names)
            found = await Walk(
                present_view(rule, names),
                others,
                workers,
                self._stats,
                self._watch,
                {names[each.name]: each.index for each in standing.all() if each.name in names},
                {name: former for former, name in names.items() if name != former},
            ).go()
            return with_loops(found, (each for each in self._loops.told() if each.rule.rule_id == rule.rule_id), names)

    def _refused_on(self, interface: str, names: Mapping[str, str]) -> Iterator[RefusedFlow]:
        for loop in self._loops.loops():
            taken, rule = loop.rule.input, loop.rule.rule_id
            if names.get(taken.interface, taken.interface) == interface:
                yield from (RefusedFlow(taken.group, taken.port, each, rule, taken.vlan) for each in loop.refused)

    def refused(self) -> Mapping[str, tuple[Address, ...]]:
        """Sources that rules refuse at present, by the ids of these."""
        return {each.rule.rule_id: each.refused for each in self._loops.loops() if each.refused}

    def stop(self) -> None:
        """Cancel every walk and trace: it would take longer than the daemon may take to stop."""
        for walking in self._walking:
            walking.cancel(reason="the daemon stops")

    async def doctor(self) -> tuple[Finding, ...]:
        """Check the machine and the daemon."""
        async with _place(self._examinations, _LONG_PATIENCE):
            with seek_later():
                return await self._examine()

    async def _examine(self) -> tuple[Finding, ...]:
        stats = await self._stats.read()
        counted = [*stats.rules]
        relay = Relay(
            workers=await self._workers.describe(),
            stats=attrs.evolve(stats, rules=counted),
            rules=await self._rules.list(),
            standing=await self._workers.standing(),
            idle=await self._stats.idle(),
            saving=self._saving(),
            yielding=await self._rules.yielding(),
        )
        with _contained():
            del stats
            found = await trio.to_thread.run_sync(_examine_and_free, self._settings, relay, counted)
            heard = {each.name: self._watch.on(each.index) for each in relay.standing.inputs.values()}
            lately = self._losses.fade(found, trio.current_time())
            known = with_loops(lately, self._loops.told(), present_names(relay.standing.all()))
            return (*known, *judge_gone(heard), *self._files.findings())


def _examine_and_free(settings: Settings, relay: Relay, counted: list[RuleStats]) -> tuple[Finding, ...]:
    """Free the counters of rules a few at a time, so that others have their turn."""
    found = examine(settings, relay)
    while counted:
        del counted[-_FREED_AT_ONCE:]
    return found


def _look_for_unmatched(interface: str, rules: Iterable[RuleView], names: Mapping[str, str], seconds: int) -> Unmatched:
    inputs = [_present(each.input, names) for each in rules]
    return look_for_unmatched(interface, inputs, seconds)


def _present(source: Input, names: Mapping[str, str]) -> Input:
    name = names.get(source.interface, source.interface)
    return source if name == source.interface else attrs.evolve(source, interface=name)


def _present_all(rules: tuple[RuleView, ...], names: Mapping[str, str]) -> tuple[RuleView, ...]:
    return tuple(present_view(rule, names) for rule in rules)


def _are_others(names: Mapping[str, str]) -> bool:
    return any(former != name for former, name in names.items())


@asynccontextmanager
async def _place(limiter: trio.CapacityLimiter, patience: float) -> AsyncIterator[None]:
    """Wait for a place: walks are few at a time, since their threads are needed for other work as well."""
    with trio.move_on_after(patience) as waiting:
        await limiter.acquire()
    if waiting.cancelled_caught:
        raise LimitReached(f"mcrd is busy with {int(limiter.total_tokens)} such requests", "try again in a few seconds")
    try:
        yield
    finally:
        limiter.release()


@contextmanager
def _contained() -> Iterator[None]:
    """Turn a bug into an error of the request: diagnosis must never stop the relay."""
    try:
        yield
    except McrError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, packets have nothing to do with it
        log.critical("an examination failed: %s", "".join(traceback.format_exception(error)))
        raise McrError(f"The examination failed: {error!r}", "this is a bug in mcrd; its log has the details") from None
