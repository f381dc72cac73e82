"""Groups of IPv6 are joined again when the kernel may have forgotten them, and only then."""

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, IPv6Interface
from typing import Any, cast

import attrs
import pytest

from lab import Lab
from mcr.errors import SystemFault
from mcr.net.interfaces import Interface
from mcr.net.membership import Memberships
from mcr.net.network import Link, Network
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay import forgotten
from mcr.relay.captures import Capture
from mcr.relay.forgotten import ForgottenGroups

GROUPS = [IPv6Address("ff15::1"), IPv6Address("ff15::2")]
OWN = IPv6Address("ff02::1")  # the kernel's, where there is IPv6
LOCAL = (IPv6Interface("fe80::1/64"),)
OTHER = 4_711


class Watched(Memberships):
    """Notes what is joined again."""

    def __init__(self) -> None:
        super().__init__(DescriptorStore())
        self.again: list[IPv6Address] = []

    def join_again(self, interface: Interface, forgotten: Any) -> None:
        self.again += [key.group for key in reversed(forgotten)]
        super().join_again(interface, forgotten)


class World:
    """One interface with the groups."""

    def __init__(self, memberships: Watched) -> None:
        self.memberships = memberships
        self.index = socket.if_nametoindex("a0")
        interface = Interface("a0", self.index, 1500, None)
        self.capture = Capture(0, 0, interface, cast("Any", None), cast("Any", None))
        for group in GROUPS:
            memberships.join(group, interface)
        self.joined = frozenset((self.index, each) for each in (OWN, *GROUPS))
        self.mute = Network(links={self.index: Link(self.index, "a0")})
        self.speaking = attrs.evolve(self.mute, addresses6={self.index: LOCAL})
        self._forgotten = ForgottenGroups(memberships)

    def follow(self, before: Network, now: Network) -> list[IPv6Address]:
        """What is joined again."""
        self.memberships.again = []
        if concerned := self._forgotten.concerned([self.capture], before, now):
            self._forgotten.join_again(concerned, before, now)
        return self.memberships.again


@pytest.fixture
def world(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    inside, memberships = lab.namespace("inside"), Watched()
    inside.ip("link add a0 type veth peer name a1")
    with inside.entered():
        made = World(memberships)
        monkeypatch.setattr(forgotten, "joined_groups6", lambda: made.joined)
        yield made
        memberships.close()


def test_an_interface_that_was_mute_reports_all(world: World) -> None:
    """Whoever joined before has not been heard, also if it was mute when mcrd began, or between two looks only."""
    assert world.follow(world.mute, world.speaking) == GROUPS[::-1]  # the kernel lists the newest first
    lost = attrs.evolve(world.speaking, lost6={world.index: 1})
    assert sorted(world.follow(world.speaking, lost)) == GROUPS
    assert world.follow(Network(), world.speaking) == []
    down = attrs.evolve(world.mute, links={world.index: Link(world.index, "a0", up=False)})
    assert world.follow(down, world.speaking) == []  # the kernel reports them itself


def test_what_others_do_costs_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        pytest.fail("it reads what the kernel has")

    monkeypatch.setattr(forgotten, "joined_groups6", fail)
    links = {**world.speaking.links, OTHER: Link(OTHER, "veth7")}
    more = attrs.evolve(world.speaking, links=links, addresses6={world.index: LOCAL, OTHER: LOCAL})
    assert world.follow(world.speaking, more) == []


def test_what_could_not_be_read_is_read_at_the_next_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise SystemFault("Cannot read /proc/thread-self/net/igmp6", 24)

    with monkeypatch.context() as patch:
        patch.setattr(forgotten, "joined_groups6", fail)
        assert world.follow(world.mute, world.speaking) == []
    assert world.follow(world.speaking, world.speaking) == GROUPS[::-1]
    assert world.follow(world.speaking, world.speaking) == []


def narrowed(world: World, mtu: int) -> Network:
    return attrs.evolve(world.speaking, links={world.index: Link(world.index, "a0", mtu=mtu)})


@pytest.mark.parametrize("others", [frozenset, lambda: frozenset(GROUPS[:1])])
def test_where_all_were_forgotten_all_are_joined(world: World, others: Callable[[], frozenset[IPv6Address]]) -> None:
    """Also what another program has joined there meanwhile: it may have asked for other sources."""
    wide, narrow = narrowed(world, 1500), narrowed(world, 1200)
    world.joined = frozenset()
    assert world.follow(wide, narrow) == []
    world.joined = frozenset((world.index, each) for each in {OWN, *others()})
    assert world.follow(narrow, wide) == GROUPS[::-1]
