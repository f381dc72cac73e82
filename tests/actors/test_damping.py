"""When workers are told of who is refused, and of who is not any more."""

import errno
from typing import Any

import trio
import trio.testing

from loop_scene import LOOP, PLACED, Actors
from mcr.actors.damping import Damper
from mcr.errors import SystemFault
from mcr.shm.kept import Kept
from mcr.stats.meter import Meter
from mcr.tap.copies import Origin, Return
from mcr.tap.returns import Verdict

OTHER = Origin(bytes.fromhex("020000000008"), bytes([198, 18, 0, 8]))


async def test_who_was_not_asked_for_is_not_spared(kept: Kept, autojump_clock: trio.testing.MockClock) -> None:
    """But considered while others could not be refused."""
    actors: Any = Actors()
    damper = Damper(actors, Meter(kept.segments), lambda _tried: None)
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


async def test_no_place_is_taken_in_which_workers_may_still_count(
    kept: Kept, autojump_clock: trio.testing.MockClock
) -> None:
    actors: Any = Actors()
    damper = Damper(actors, Meter(kept.segments), lambda _tried: None)
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
