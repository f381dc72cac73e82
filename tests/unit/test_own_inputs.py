"""Inputs that are addresses of this machine: what is let in, and which ports are held."""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from mcr.model.flow import Address, Flow, Input
from mcr.net.network import Link, Neighbour, Network
from mcr.net.port_guard import GuardedPort
from mcr.relay import local_inputs
from mcr.relay.local_inputs import LocalInputs

LO, IN0 = 1, 5
OWN, LINKED = IPv4Address("198.18.0.2"), IPv6Address("fe80::7")
NETWORK = Network(
    links={LO: Link(LO, "lo", loopback=True), IN0: Link(IN0, "in0")},
    addresses={LO: (IPv4Interface("127.0.0.1/8"),), IN0: (IPv4Interface("198.18.0.2/24"),)},
    addresses6={IN0: (IPv6Interface("fe80::7/64"),)},
)


class World:
    """What the inputs are given, and what they ask for."""

    def __init__(self) -> None:
        self.index = {"lo": LO, "in0": IN0}
        self.held: set[GuardedPort] = set()
        self.admitted: list[tuple[int, Flow]] = []
        self.inputs = LocalInputs(Any, self.capture, self)  # type: ignore[arg-type]

    def capture(self, name: str) -> Any:
        return SimpleNamespace(slot=self.index[name], interface=SimpleNamespace(index=self.index[name]))

    def change(self, added: Iterable[tuple[int, Flow]], removed: Iterable[tuple[int, Flow]]) -> None:
        self.admitted = [each for each in self.admitted if each not in [*removed]] + [*added]

    def hold(self, ports: Collection[GuardedPort]) -> None:
        self.held = {*ports}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World.__new__(World)
    monkeypatch.setattr(local_inputs, "PortGuards", lambda _: made)
    made.__init__()  # type: ignore[misc]
    return made


def test_what_else_changes_in_the_network_costs_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours change all the time, and there may be thousands of inputs."""
    world.inputs.change([Input("in0", OWN, 5000)], [])
    assert world.inputs.follow(NETWORK) == (Input("in0", OWN, 5000),)
    assert (world.admitted, world.held) == ([(IN0, Flow(OWN, 5000))], {GuardedPort(OWN, 5000, interface=IN0)})

    def listens_to(self: Network, address: Address, index: int, vlan: int | None) -> bool:
        raise AssertionError((self, address, index, vlan))

    with monkeypatch.context() as patched:
        patched.setattr(Network, "listens_to", listens_to)
        neighbours = attrs.evolve(NETWORK, neighbours={(IN0, OWN): Neighbour(2)})
        assert world.inputs.follow(neighbours) == ()
    assert world.inputs.follow(attrs.evolve(NETWORK, addresses={})) == (Input("in0", OWN, 5000),)
    assert (world.admitted, world.held) == ([], set())


def test_ports_are_held_on_interfaces_as_they_were_opened_again(world: World) -> None:
    world.inputs.change([Input("in0", LINKED, 5000), Input("in0", OWN, 5000)], [])
    moved = attrs.evolve(NETWORK, addresses6={IN0: NETWORK.addresses6[IN0], 6: NETWORK.addresses6[IN0]})
    world.inputs.follow(moved)
    assert world.held == {GuardedPort(LINKED, 5000, scope=IN0), GuardedPort(OWN, 5000, interface=IN0)}
    world.index["in0"] = 6
    world.inputs.renew()
    assert world.held == {GuardedPort(LINKED, 5000, scope=6), GuardedPort(OWN, 5000, interface=6)}


def test_the_loopback_takes_all_of_its_networks(world: World) -> None:
    other, every = IPv4Address("127.0.0.2"), IPv4Address("127.255.255.255")
    assert [NETWORK.listens_to(other, each) for each in (LO, IN0)] == [True, False]
    assert [NETWORK.listens_to(OWN, each) for each in (LO, IN0)] == [True, True]
    assert not NETWORK.listens_to(IPv4Address("198.18.0.3"), IN0)
    world.inputs.follow(NETWORK)
    world.inputs.change([Input("lo", each, 5000) for each in (other, every)], [])
    assert world.held == {GuardedPort(other, 5000, interface=LO)}


def test_a_broadcast_in_a_vlan_is_that_of_its_device(world: World) -> None:
    """On this interface, and in this VLAN."""
    every = IPv4Address("198.18.5.255")
    tagged, other, elsewhere = Input("in0", every, 5000, 7), Input("in0", every, 5000, 8), Input("lo", every, 5000, 7)
    world.inputs.change([tagged, other, elsewhere, Input("in0", every, 5000)], [])
    assert world.inputs.follow(NETWORK) == ()
    links = {**NETWORK.links, 9: Link(9, "in0.7", kind="vlan", tags=(IN0, 7))}
    addresses = {**NETWORK.addresses, 9: (IPv4Interface("198.18.5.1/24"),)}
    assert world.inputs.follow(attrs.evolve(NETWORK, links=links, addresses=addresses)) == (tagged,)
    assert (world.admitted, world.held) == ([(IN0, Flow(every, 5000, 7))], set())
