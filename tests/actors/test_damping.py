"""When workers are told of who is refused, and of who is not any more."""

import errno
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from mcr.actors.damping import Damper
from mcr.errors import SystemFault
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.placement import PlacedRule
from mcr.shm.kept import Kept
from mcr.stats.meter import Meter
from mcr.tap.copies import Origin, Return
from mcr.tap.returns import Verdict
from test_loop_watch import LOOP, NAMED, PLACED, Actors

OTHER = Origin(bytes.fromhex("020000000008"), bytes([198, 18, 0, 8]))


@pytest.fixture
def kept() -> Iterator[Kept]:
    with Kept.open(DescriptorStore(), 1) as made:
        yield made


async def test_who_was_not_asked_for_is_not_spared(kept: Kept, autojump_clock: trio.testing.MockClock) -> None:
    """But considered while others could not be refused."""
    actors: Any = Actors()
    damper = Damper(actors, Meter(kept.segments))
    actors.fault, actors.slowness = SystemFault("Cannot filter by rules", errno.ENOMEM), 1.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(damper.run)
        damper.consider(PLACED, LOOP)
        await trio.sleep(10.5)  # the last time that it is tried has begun
        damper.consider(PLACED, Verdict((Return(OTHER, 48, 50),), seconds=0.5))
        await trio.sleep(0.9)
        actors.fault = None
        await trio.sleep(2)
        assert [str(each.flow.source) for each in actors.refused] == ["198.18.0.8"]
        nursery.cancel_scope.cancel()


class Counts:
    """What rules have matched, by their tags, and what was refused."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {}
        self.came = 0

    def matched(self, placed: PlacedRule) -> int:
        return self.of.get(placed.tag, 0)

    def refused(self, place: int) -> int:
        assert place == 0
        return self.came


@pytest.mark.parametrize(("beside", "refused", "doubts"), [(False, [], set[int]()), (True, ["198.18.0.9"], {7})])
async def test_who_is_alone_but_for_another_rule_s_source_is_looked_at(
    autojump_clock: trio.testing.MockClock,
    *,
    beside: bool,
    refused: list[str],
    doubts: set[int],
) -> None:
    """That source's datagrams come back, too, so to go on proves nothing while it sends. Then it does."""
    actors: Any = Actors()
    counts: Any = Counts()
    damper = Damper(actors, counts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(damper.run)
        damper.follow((PLACED, NAMED))
        damper.consider(PLACED, LOOP)
        for _ in range(20):
            counts.of[PLACED.tag] = counts.of.get(PLACED.tag, 0) + 10
            counts.came += 10
            await trio.sleep(0.05)
        assert damper.doubts == set()
        for _ in range(20):
            counts.of[NAMED.tag] = counts.of.get(NAMED.tag, 0) + 10 * beside
            counts.came += 10
            await trio.sleep(0.05)
        assert (list(map(str, damper.refused(PLACED.tag))), damper.doubts) == (refused, doubts)
        damper.doubts.clear()
        for _ in range(20):
            counts.came += 10
            await trio.sleep(0.05)
        assert (damper.refused(PLACED.tag), damper.doubts) == ((), set())
        nursery.cancel_scope.cancel()


async def test_no_place_is_taken_in_which_workers_may_still_count(
    kept: Kept, autojump_clock: trio.testing.MockClock
) -> None:
    actors: Any = Actors()
    damper = Damper(actors, Meter(kept.segments))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(damper.run)
        damper.consider(PLACED, LOOP)
        await trio.sleep(1)
        damper.end(PLACED.tag, "the test says so")
        damper.consider(PLACED, Verdict((Return(OTHER, 48, 50),), seconds=0.5))
        await trio.sleep(1)
        assert [each.place for each in actors.refused] == [1]
        damper.consider(PLACED, LOOP)
        await trio.sleep(1)
        assert [each.place for each in actors.refused] == [1, 0]
        nursery.cancel_scope.cancel()
