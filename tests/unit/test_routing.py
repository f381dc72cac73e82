"""How outputs leave is looked at again, within a share of the time."""

from ipaddress import IPv4Address, IPv6Address
from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.relay.placement import OutputSlot, PlacedRule, Way
from mcr.relay.routing import Routing
from mcr.relay.targets import has_path_mtu


def test_a_long_look_at_path_mtus_comes_seldom() -> None:
    """All else that the relay does waits for it."""
    clock, looks = MockClock(), list[float]()
    kernel: Any = SimpleNamespace(hops=SimpleNamespace(with_path_mtu={"r1"}, are_doubtful=False), blocker="")
    took = 0.01

    class Slow(Routing):
        def _follow_path_mtus(self) -> tuple[()]:
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


def test_routers_may_tell_of_what_goes_by_gateways_and_to_groups_of_ipv6() -> None:
    """Of such a group also while no way is known: a path MTU is forgotten after some minutes."""
    group, group6 = Output(IPv4Address("239.2.2.2"), 6000, "out0"), Output(IPv6Address("ff15::2"), 6000, "out0")
    host6 = Output(IPv6Address("fd00::7"), 6000, "out0")
    own, own6 = IPv4Address("192.0.2.1"), IPv6Address("fd00::1")
    input4, input6 = Input("in0", IPv4Address("239.1.1.1"), 5000), Input("in0", IPv6Address("ff15::1"), 5000)

    def may_tell(source: Input, output: Output, way: Way | None) -> bool:
        return has_path_mtu(PlacedRule(Rule("id", source, (output,)), 1, 1, (OutputSlot(0, 1),), (way,), (None,)))

    assert not may_tell(input4, group, Way(own))
    assert may_tell(input4, group, Way(own, IPv4Address("192.0.2.254")))
    assert may_tell(input6, group6, Way(own6))
    assert may_tell(input6, group6, None)
    assert not may_tell(input6, host6, Way(own6, host6.group))
    assert may_tell(input6, host6, Way(own6, IPv6Address("fd00::fe")))
    assert not may_tell(input4, group6, Way(own6)), "it is the workers'"
