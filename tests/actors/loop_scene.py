"""Rules, counters and looks for the watch for loops over other machines: the looks are the test's."""

import logging
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Interface, ip_address
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from mcr.actors import loop_watch
from mcr.actors.loop_watch import LoopWatch, run_loop_watch
from mcr.actors.stats_aggregator import StatsAggregator, run_stats_aggregator
from mcr.errors import SystemFault
from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.net.network import Network
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.relay.refusals import Refusal
from mcr.shm.kept import Kept
from mcr.stats.meter import Meter
from mcr.stats.moment import Counts
from mcr.tap.copies import Crowd, Echo, Origin, Return, Sightings
from mcr.tap.returns import Verdict, View

RULE = Rule("tv", Input("eth0", ip_address("239.1.1.1"), 5000), (Output(ip_address("239.9.9.1"), 6000, "eth1"),))
PLACED = PlacedRule(RULE, tag=7, slot=3, outputs=(OutputSlot(4, 7),), ways=(None,), neighbours=(None,))
NAMED = attrs.evolve(
    PLACED,
    rule=attrs.evolve(RULE, rule_id="one", input=attrs.evolve(RULE.input, sources=(ip_address("198.18.0.7"),))),
    tag=8,
    slot=5,
    outputs=(OutputSlot(6, 8),),
)
RETURNER = Origin(bytes.fromhex("020000000009"), bytes([198, 18, 0, 9]))
OWN = IPv4Interface("198.18.0.1/24")
LOOP = Verdict((Return(RETURNER, 48, 50),), seconds=0.5)
VARIED, UNSURE, OVER = Verdict(is_varied=True), Verdict(), Verdict(is_over=True)
PART = attrs.evolve(LOOP, returners=(attrs.evolve(LOOP.returners[0], returned=20, is_part=True),))
SOURCE = Origin(bytes.fromhex("020000000007"), bytes([198, 18, 0, 7]))
CROWD = Verdict(crowd=Crowd(RETURNER, 16_000, 4, 9), seconds=0.5)


def echoed(times: int) -> Verdict:
    """A look that saw each datagram come back so many times."""
    seen = Sightings()
    seen.settle()
    for number in range(50):
        for origin in (SOURCE, *[RETURNER] * times):
            seen.add(origin, number)
    return Verdict(echoes=seen.echoes({RETURNER}), seconds=0.5)


def silent(sent: int) -> Verdict:
    """A look that saw nothing come back."""
    return Verdict(is_over=True, echoes=(Echo(RETURNER, 0, 0, sent),), seconds=0.5)


class Actors:
    """What the watch asks others for."""

    async def standing(self) -> Any:
        return SimpleNamespace(inputs={"eth0": SimpleNamespace(index=2, lost=False)})

    async def snapshot(self) -> Network:
        return Network(addresses={2: (OWN,)})

    refused: tuple[Refusal, ...] = ()
    fault: SystemFault | None = None
    slowness = 0.0

    async def refuse(self, wanted: tuple[Refusal, ...]) -> None:
        await trio.sleep(self.slowness)
        if self.fault:
            raise self.fault
        self.refused = wanted
        self.heard += not self.is_stopped

    heard = 0
    is_stopped = False
    """Whether the worker stands still, and reads nothing of what it is told."""


class Scene:
    """Two rules, and looks that end as the test says. Packets are counted when somebody reads the counters."""

    watch: LoopWatch
    matching = PLACED
    """The rule that takes what comes."""

    def __init__(self, segments: Sequence[Any], stats: StatsAggregator, actors: Actors) -> None:
        self.stats, self.actors = stats, actors
        self.shared = segments[0].shared
        self.shared.rules[PLACED.slot].tag = PLACED.tag
        self.looks: list[View] = []
        self.verdict: Verdict | Exception = VARIED
        self.look_seconds = 0.0
        self._meter = Meter(segments)
        self._flows = (0, 0)  # packets a second: taken, refused
        self._begin()

    def look(self, view: View) -> Verdict:
        self.looks.append(view)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    async def pass_time(
        self, seconds: float, rate: int = 0, verdict: Verdict | Exception | None = None, returned: int = 0
    ) -> int:
        """How often the rule was looked at, with so many packets a second, and so many that are refused."""
        self.verdict, looks = verdict or self.verdict, len(self.looks)
        self._begin()
        self._flows = rate, returned
        await trio.sleep(seconds)
        self._count()
        self._flows = 0, 0
        self._begin()
        return len(self.looks) - looks

    def _begin(self) -> None:
        self._since = trio.current_time()
        matched = self.shared.rules[self.matching.slot].matched
        self._before = matched, self.shared.refused[0]

    def _count(self) -> None:
        """Have the counters of rules show what has come by now; totals of the kernel path come once a second."""
        seconds = trio.current_time() - self._since
        taken, refused = (round(rate * seconds) for rate in self._flows)
        self.shared.rules[self.matching.slot].matched = self._before[0] + taken
        self.shared.refused[0] = self._before[1] + refused

    # What the watch reads.

    async def counts(self) -> Counts:
        self._count()
        return await self.stats.counts()

    def matched(self, placed: PlacedRule) -> int:
        self._count()
        return self._meter.matched(placed)

    def all_matched(self, slots: int) -> int:
        self._count()
        return self._meter.all_matched(slots)

    def refused(self, place: int) -> int:
        self._count()
        return self._meter.refused(place)

    def heard(self) -> tuple[int, ...]:
        self.shared.rule_ring.head = self.actors.heard
        return self._meter.heard()

    def sources(self) -> list[str]:
        """That are refused."""
        return [str(each.flow.source) for each in self.actors.refused]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Counters of one worker."""
    with Kept.open(DescriptorStore(), 1) as made:
        yield made


@pytest.fixture
async def scene(
    nursery: trio.Nursery, kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Scene:
    """The watch, and what it asks others for."""
    caplog.set_level(logging.INFO, "mcr.network")
    stats: StatsAggregator = await nursery.start(run_stats_aggregator, kept)
    actors: Any = Actors()
    await stats.rules_placed((PLACED, NAMED), ())
    made: Any = Scene(kept.segments, stats, actors)
    made.watch = await nursery.start(run_loop_watch, made, actors, actors, made)

    async def at_once(work: Callable[..., object], *arguments: object, abandon_on_cancel: bool = False) -> object:
        """A clock that jumps when all tasks wait does not know of threads."""
        assert abandon_on_cancel
        await trio.sleep(made.look_seconds)
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    monkeypatch.setattr(loop_watch, "look_for_returners", made.look)
    await trio.sleep(0.0001)  # no pass ends at the very moment of a look at the rates, and no packet comes after it
    scene: Scene = made
    return scene
