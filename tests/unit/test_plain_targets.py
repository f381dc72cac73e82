"""What the kernel path makes of outputs as most are: the same as of any."""

from ipaddress import IPv4Address, IPv6Address
from itertools import product
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.net.filter.path import MAX_OUTPUTS
from mcr.net.raw import RawLink
from mcr.relay.next_hops import NextHops
from mcr.relay.placement import Key, OutputSlot, PlacedRule, Way
from mcr.relay.targets import find_targets, has_path_mtu, hops_of, plain_targets, why_not

GROUP = Output(IPv4Address("239.2.2.2"), 6000, "out0")
HOST = Output(IPv4Address("192.0.2.7"), 6000, "out0")
RULE = Rule("id", Input("in0", IPv4Address("239.1.1.1"), 5000), (GROUP,))
RULE6 = attrs.evolve(RULE, input=attrs.evolve(RULE.input, group=IPv6Address("ff15::1")))
WAY = Way(IPv4Address("192.0.2.1"))
UP = RawLink(bytes(6), 1500)


class World:
    """One output interface, and neighbours' sockets. `raw`: what frames leave by."""

    def __init__(self, raw: RawLink | None, *, carrier: bool = True) -> None:
        self.egress: Any = SimpleNamespace(raw=raw, interface=SimpleNamespace(index=1), port=4321, carrier=carrier)
        self.egress.why_not_raw = ""

    def egress_of(self, _name: str) -> Any:
        return self.egress

    def port_of(self, _key: Key) -> int:
        return 40_000


def place(rule: Rule, *ways: Way | None, neighbour: Key | None = None) -> PlacedRule:
    several = range(len(rule.outputs))
    outputs = tuple(OutputSlot(each, 1) for each in several)
    return PlacedRule(rule, 1, 1, outputs, ways, (*(None for _ in several[1:]), neighbour))


@pytest.mark.parametrize(
    ("output", "way", "is_plain"),
    [
        (GROUP, WAY, True),
        (GROUP, None, False),
        (GROUP, attrs.evolve(WAY, hop=IPv4Address("192.0.2.254")), False),
        (HOST, attrs.evolve(WAY, hop=HOST.group, ttl=64), False),
        (attrs.evolve(GROUP, group=IPv4Address("192.0.2.255")), attrs.evolve(WAY, ttl=64), False),
        (attrs.evolve(GROUP, group=IPv6Address("ff15::2")), WAY, False),
        (attrs.evolve(GROUP, gso="off"), WAY, False),
        (attrs.evolve(GROUP, ttl=8), WAY, False),
    ],
)
def test_plain_outputs_get_what_any_would(output: Output, way: Way | None, *, is_plain: bool) -> None:
    """Also where carrier is missing. An interface that is down, or a neighbour that is waited for, is not plain."""
    hops, rule = NextHops(), attrs.evolve(RULE, outputs=(attrs.evolve(GROUP, port=7000), output))
    links, neighbours = (UP, attrs.evolve(UP, up=False), None), (None, Key("out0", HOST.group))
    for link, carrier, neighbour in product(links, (True, False), neighbours):
        world, placed = World(link, carrier=carrier), place(rule, WAY, way, neighbour=neighbour)
        targets = plain_targets(placed, world.egress_of)
        assert (targets is not None) == (is_plain and link == UP and not neighbour)
        if targets is not None:
            assert not why_not(placed, world.egress_of, world.port_of, hops)
            assert not has_path_mtu(placed)
            assert not hops_of(placed, world.egress_of)
            assert targets == find_targets(placed, world.egress_of, world.port_of, hops)


def test_a_rule_that_the_kernel_path_does_not_take_is_not_plain() -> None:
    """It crosses families, or has too many outputs."""
    world, most = World(UP), [attrs.evolve(GROUP, port=each) for each in range(6000, 6001 + MAX_OUTPUTS)]
    assert plain_targets(place(RULE6, WAY), world.egress_of) is None
    for outputs, is_plain in ((most[1:], True), (most, False)):
        rule = attrs.evolve(RULE, outputs=tuple(outputs))
        assert (plain_targets(place(rule, *[WAY] * len(outputs)), world.egress_of) is not None) == is_plain
