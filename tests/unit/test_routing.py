"""How outputs leave is looked at again, within a share of the time."""

from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from mcr.relay.routing import Routing


def test_a_long_look_at_gateways_comes_seldom() -> None:
    """All else that the relay does waits for it."""
    clock, looks = MockClock(), list[float]()
    kernel: Any = SimpleNamespace(hops=SimpleNamespace(gateways={"r1"}, are_doubtful=False), blocker="")
    took = 0.01

    class Slow(Routing):
        def _follow_gateways_of_kernel(self) -> tuple[()]:
            looks.append(clock.current_time())
            clock.jump(took)
            return ()

    unused: Any = None
    routing = Slow(unused, unused, unused, kernel, unused, local=unused)

    async def look_each_second(seconds: int) -> int:
        looks.clear()
        for _ in range(seconds):
            await routing.look_after_hops()
            clock.jump(1.0)
        return len(looks)

    async def look() -> None:
        nonlocal took
        assert await look_each_second(10) == 10
        took = 0.5
        assert await look_each_second(20) == 2

    trio.run(look, clock=clock)
