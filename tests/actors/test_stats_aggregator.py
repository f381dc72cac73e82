"""Statistics from segments that the test fills as a worker would."""

import errno
import math
import re
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from types import SimpleNamespace
from typing import cast

import attrs
import pytest
import trio
import trio.testing

from mcr.actors import stats_aggregator
from mcr.actors.stats_aggregator import StatsAggregator, run_stats_aggregator
from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.model.stats import Stats
from mcr.net.filter.base import Rejected
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.placement import LeavingOutput, OutputSlot, PlacedRule
from mcr.shm.kept import Kept
from mcr.shm.kernel_counters import Taken
from mcr.shm.places import Place, digest
from mcr.shm.segment import Segment
from mcr.stats.captures import Watched
from mcr.stats.stalls import Checked

RULE = Rule(
    "tv",
    Input("eth0", ip_address("239.1.1.1"), 5000),
    (Output(ip_address("239.9.9.1"), 6000, "eth1"), Output(ip_address("239.9.9.2"), 6000, "eth2")),
)
PLACED = PlacedRule(
    RULE, tag=7, slot=3, outputs=(OutputSlot(4, 7), OutputSlot(5, 7)), ways=(None, None), neighbours=(None, None)
)
ANOTHER = attrs.evolve(PLACED, tag=8, outputs=(OutputSlot(4, 8), OutputSlot(5, 8)))


@pytest.fixture
def kept() -> Iterator[Kept]:
    with Kept.open(DescriptorStore(), 2) as made:
        yield made


@pytest.fixture
def segments(kept: Kept) -> Sequence[Segment]:
    return kept.segments


@pytest.fixture
async def stats(nursery: trio.Nursery, kept: Kept) -> StatsAggregator:
    started: StatsAggregator = await nursery.start(run_stats_aggregator, kept)
    return started


def forward(segment: Segment, packets: int, size: int = 100) -> None:
    """Count as a worker does that forwarded `packets` to both outputs of the rule."""
    shared = segment.shared
    shared.totals.recv += packets
    shared.totals.matched += packets
    shared.totals.submitted += 2 * packets
    shared.totals.sent += 2 * packets
    shared.totals.bytes += 2 * packets * size
    shared.rules[3].tag = 7
    shared.rules[3].matched += packets
    for slot in (4, 5):
        shared.outputs[slot].tag = 7
        shared.outputs[slot].submitted += packets
        shared.outputs[slot].sent += packets
        shared.outputs[slot].bytes += packets * size


async def test_workers_are_added_up(stats: StatsAggregator, segments: Sequence[Segment]) -> None:
    await stats.rules_placed((PLACED,), ())
    forward(segments[0], 30)
    forward(segments[1], 12)
    read = await stats.read()
    assert (read.ingress.recv, read.ingress.matched, read.egress.submitted, read.egress.sent) == (42, 42, 84, 84)
    assert [worker.recv for worker in read.workers] == [30, 12]
    (rule,) = read.rules
    assert (rule.rule_id, rule.matched, rule.sent, rule.bytes) == ("tv", 42, 84, 8400)
    assert [(str(output.group), output.sent) for output in rule.outputs] == [("239.9.9.1", 42), ("239.9.9.2", 42)]


async def test_counters_are_current_at_every_reading(stats: StatsAggregator, segments: Sequence[Segment]) -> None:
    """No interval passes between a packet and its showing."""
    await stats.rules_placed((PLACED,), ())
    for expected in range(1, 5):
        forward(segments[0], 1)
        assert (await stats.read()).rules[0].matched == expected


async def test_rates_follow_the_traffic(
    stats: StatsAggregator,
    segments: Sequence[Segment],
    autojump_clock: trio.testing.MockClock,  # a fixture's has no effect
) -> None:
    await stats.rules_placed((PLACED,), ())
    for _ in range(40):
        forward(segments[0], 50)
        await trio.sleep(0.1)
    read: Stats = await stats.read()
    assert read.ingress.pps == pytest.approx(500, rel=0.1)
    assert read.egress.pps == pytest.approx(1000, rel=0.1)
    assert read.rules[0].pps == pytest.approx(500, rel=0.1)
    assert read.rules[0].bps == pytest.approx(1000 * 100 * 8, rel=0.1)
    for output in read.rules[0].outputs:
        assert output.pps == pytest.approx(500, rel=0.1)
        assert output.bps == pytest.approx(500 * 100 * 8, rel=0.1)
    segments[0].shared.outputs[4].errors += 30
    assert [output.error_pps > 0 for output in (await stats.read()).rules[0].outputs] == [True, False]
    await trio.sleep(3)
    read = await stats.read()
    assert read.ingress.pps == read.rules[0].pps == 0
    assert {(each.pps, each.bps, each.error_pps) for each in read.rules[0].outputs} == {(0, 0, 0)}


async def test_it_is_known_for_how_long_a_rule_has_matched_nothing(
    stats: StatsAggregator, segments: Sequence[Segment], autojump_clock: trio.testing.MockClock
) -> None:
    """To within a second, and never too long."""

    async def last_packet_ago() -> float | None:
        (rule,) = (await stats.read()).rules
        return rule.last_packet_ago

    await trio.sleep(100)
    await stats.rules_placed((PLACED,), ())
    await trio.sleep(60)
    assert 59 <= (await stats.idle())["tv"] <= 60
    assert await last_packet_ago() is None
    forward(segments[0], 1)
    assert (await stats.idle())["tv"] == await last_packet_ago() == 0
    await trio.sleep(60)
    assert await last_packet_ago() == (await stats.idle())["tv"]
    assert 59 <= (await stats.idle())["tv"] <= 60
    await stats.rules_placed((ANOTHER,), ("tv",))
    assert (await stats.idle())["tv"] == 0
    await stats.rules_placed((), ("tv",))
    assert await stats.idle() == {}


async def test_the_log_says_when_a_feed_goes_and_when_it_is_back(
    stats: StatsAggregator,
    segments: Sequence[Segment],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once each; of a rule that never had a packet there is nothing to tell."""
    caplog.set_level(1)

    def told() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("feed")]
        caplog.clear()
        return lines

    others = [
        attrs.evolve(PLACED, rule=attrs.evolve(RULE, rule_id=f"r{number}"), tag=100 + number, slot=100 + number)
        for number in range(9)
    ]
    await stats.rules_placed((PLACED, *others), ())
    await trio.sleep(200)
    assert told() == []
    forward(segments[0], 1)
    await trio.sleep(58)
    assert told() == []
    await trio.sleep(200)
    assert told() == ["feed silent: rule tv has had no packet for 60 s"]
    forward(segments[0], 1)
    await trio.sleep(2)
    (back,) = told()
    assert re.fullmatch(r"feed back: rule tv has packets again, after 25[789] s", back)
    for each in others:
        segments[0].shared.rules[each.slot].tag = each.tag
        segments[0].shared.rules[each.slot].matched += 1
    await trio.sleep(100)
    assert told()[-1] == "feeds silent: 9 rules have had no packet for 60 s: r0, r1, r2, r3, r4 and 4 more"
    events = await stats.events(2)
    assert [(each.number, each.event, each.rule_id) for each in events[:2]] == [
        (3, "feed_silent", "tv"),
        (4, "feed_silent", "r0"),
    ]
    assert await stats.events(events[-1].number) == ()


async def test_slot_of_another_rule_counts_nothing(stats: StatsAggregator, segments: Sequence[Segment]) -> None:
    """A rule placed where another was starts at zero, also before the worker has heard of it."""
    await stats.rules_placed((PLACED,), ())
    forward(segments[0], 10)
    await stats.rules_placed((ANOTHER,), ("tv",))
    (rule,) = (await stats.read()).rules
    assert (rule.matched, rule.sent, rule.pps) == (0, 0, 0)
    assert (await stats.read()).egress.sent == 20  # the totals keep what was


class Kernel:
    """Plays the kernel path's counters: its datagrams to the rule's outputs all fail."""

    def __init__(self, segment: Segment) -> None:
        self.read, self._outputs = segment.read, segment.shared.outputs
        self._errors = 0

    def fail(self, count: int, slot: int = 4) -> None:
        self._errors += count
        self._outputs[slot].tag = 7
        self._outputs[slot].errors += count
        self._outputs[slot].last_error = errno.ENETDOWN

    def look(self) -> None:
        """Nothing is lost."""

    def look_at_last(self, _capture: int) -> None:
        """Nothing is lost."""

    def taken(self, _capture: int) -> Taken:
        return Taken(errors=self._errors)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with Segment(0) as counters:
        yield Kernel(counters)


async def test_the_log_has_what_the_kernel_path_cannot_send(
    kept: Kept,
    kernel: Kernel,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a rule of another mcrd only what has failed since, however late it is placed here."""
    rule = attrs.evolve(RULE, rule_id="late")
    late = attrs.evolve(PLACED, rule=rule, slot=8, outputs=(OutputSlot(9, 7), OutputSlot(8, 7)))
    kernel.fail(3)
    kernel.fail(5, slot=9)
    kept.places.put_outputs([digest("late")], [Place(9, *kept.places.new_tags(1))])
    stats: StatsAggregator = await nursery.start(run_stats_aggregator, kept, 0.0, kernel)
    rejected = SimpleNamespace(read=lambda: 0, state=0, close=lambda: None)
    await stats.capture_opened(0, Watched("eth0", (), cast("Rejected", rejected)))
    await stats.rules_placed((PLACED,), ())
    kernel.fail(1)
    await trio.sleep(2)
    await stats.rules_placed((late,), ())
    await trio.sleep(2)
    kernel.fail(1, slot=9)
    await trio.sleep(2)
    told = [each for each in caplog.messages if each.startswith("kernel path: ")]
    assert told == ["kernel path: send to 239.9.9.1:6000:eth1 failed: Network is down (os error 100)"] * 2


async def test_removed_rule_is_no_longer_shown(stats: StatsAggregator) -> None:
    await stats.rules_placed((PLACED,), ())
    await stats.rules_placed((), ("tv",))
    assert (await stats.read()).rules == ()


async def test_rates_are_finite_at_the_first_moment(stats: StatsAggregator, segments: Sequence[Segment]) -> None:
    forward(segments[0], 5)
    assert math.isfinite((await stats.read()).ingress.pps)


async def test_a_long_reading_holds_nobody_else_up(
    stats: StatsAggregator, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who starts workers anew asks the same actor."""
    begun, gate = trio.Event(), trio.Event()

    async def wait(look: Callable[..., object], *given: object) -> object:
        if given:  # the look that comes each second, which may be first
            return look(*given)
        begun.set()
        await gate.wait()
        return ()

    monkeypatch.setattr(stats_aggregator, "_MANY_RULES", -1)
    monkeypatch.setattr(trio.to_thread, "run_sync", wait)
    nursery.start_soon(stats.read)
    await begun.wait()
    with trio.fail_after(5):
        assert await stats.stalled((1.0, 1.0)) == Checked()
    gate.set()


async def test_what_a_changed_rule_keeps_goes_on_and_its_sums_never_go_back(
    stats: StatsAggregator, segments: Sequence[Segment]
) -> None:
    """Workers count for an output that has left until they have heard of it; then its slot is another's."""
    await stats.rules_placed((PLACED,), ())
    forward(segments[0], 10)
    kept, left = PLACED.outputs
    renamed = attrs.evolve(RULE, name="news", outputs=RULE.outputs[:1])
    changed = attrs.evolve(PLACED, rule=renamed, outputs=(kept,), ways=(None,), neighbours=(None,))
    await stats.rules_placed((changed,), ())
    forward(segments[0], 5)
    (rule,) = (await stats.read()).rules
    assert (rule.name, rule.matched, rule.sent, rule.bytes) == ("news", 15, 30, 3000)
    assert [output.sent for output in rule.outputs] == [15]
    await stats.outputs_closing((LeavingOutput(left, PLACED.tag),))
    segments[0].shared.outputs[left.slot].tag = 99
    (rule,) = (await stats.read()).rules
    assert (rule.matched, rule.sent, rule.bytes) == (15, 30, 3000)
    grown = attrs.evolve(PLACED, outputs=(kept, OutputSlot(left.slot, 100)))
    await stats.rules_placed((grown,), ())
    (rule,) = (await stats.read()).rules
    assert [output.sent for output in rule.outputs] == [15, 0]
    await stats.rules_placed((ANOTHER,), ("tv",))
    (rule,) = (await stats.read()).rules
    assert (rule.matched, rule.sent) == (0, 0)


async def test_sums_of_outputs_that_left_outlive_mcrd_from_the_moment_they_left(
    stats: StatsAggregator, segments: Sequence[Segment], kept: Kept, nursery: trio.Nursery
) -> None:
    """It may be killed before the next tick: the next one has the rule as it was changed."""
    await stats.rules_placed((PLACED,), ())
    forward(segments[0], 10)
    stays, left = PLACED.outputs
    changed = attrs.evolve(
        PLACED,
        rule=attrs.evolve(RULE, outputs=RULE.outputs[:1]),
        outputs=(stays,),
        ways=(None,),
        neighbours=(None,),
    )

    async def sent_as_the_next_one_knows_it() -> int:
        following: StatsAggregator = await nursery.start(run_stats_aggregator, kept)
        await following.rules_placed((changed,), ())
        return (await following.read()).rules[0].sent

    await stats.rules_placed((changed,), ())
    await trio.testing.wait_all_tasks_blocked()
    assert await sent_as_the_next_one_knows_it() == 20
    forward(segments[0], 5)
    await stats.outputs_closing((LeavingOutput(left, PLACED.tag),))
    segments[0].shared.outputs[left.slot].tag = 99
    assert await sent_as_the_next_one_knows_it() == 30


async def test_rates_begin_where_another_mcrd_has_ended(
    stats: StatsAggregator,
    segments: Sequence[Segment],
    kept: Kept,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,  # a fixture's has no effect
) -> None:
    """What it has counted before is no rate of the next one, though the counters go on."""
    await stats.rules_placed((PLACED,), ())
    forward(segments[0], 100_000)
    await stats.save()
    following: StatsAggregator = await nursery.start(run_stats_aggregator, kept)
    await following.rules_placed((PLACED,), ())
    for _ in range(5):
        forward(segments[0], 50)
        await trio.sleep(0.1)
    (rule,) = (await following.read()).rules
    assert rule.matched == 100_250
    assert 0 < rule.pps <= 500
    assert 0 < rule.outputs[0].pps <= 500
