"""Sockets with as little room for filters as Linux 6.1 gives them: two of the kernel path's are too many."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import attrs
import pytest

from filters import IN_VLAN, WANTED, Wire, frame, may_load_ebpf, opened
from mcr.model.flow import Input
from mcr.model.health import Health
from mcr.model.rule import Output, Rule
from mcr.net.filter import attach
from mcr.net.filter.ebpf import EbpfFilters
from mcr.net.filter.path import INHERITED, REVIEWED, KernelPath
from mcr.net.filter.tap import StreamTap
from mcr.net.interfaces import find_interface
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.placement import PlacedRule
from mcr.relay.watched import WatchedStreams
from mcr.shm.kernel_counters import KernelCounters

CAPTURE, STREAM = 3, 7
OLDER = "20480"  # bytes
ROOM = "net.core.optmem_max"
TAG = b"\x81\x00\0\7"
SOURCED = attrs.evolve(WANTED[1], source=IPv4Address("198.18.0.1"))
SOURCE = Input("b0", WANTED[0].group, WANTED[0].port)
RULE = Rule("tv", SOURCE, (Output(WANTED[0].group, 6000, "b0"),), health=Health.TS)
WATCHED = PlacedRule(RULE, 1, STREAM, (), (), ())
OTHER = attrs.evolve(WATCHED, rule=attrs.evolve(RULE, rule_id="other", health=Health.NONE), slot=STREAM + 1)


class Relay:
    """Filters of a capture with a kernel path."""

    def __init__(self, wire: Wire) -> None:
        self.store, self.tap, self.wire = DescriptorStore(), StreamTap(), wire
        with wire.b.entered():
            self.path = KernelPath(1, KernelCounters.make(self.store))
            self.filters = EbpfFilters(self.store, self.path, self.tap, suppress=True)
        self.path.unbar(REVIEWED)
        self.path.unbar(INHERITED)
        self.filters.change([(CAPTURE, WANTED[0]), (CAPTURE, IN_VLAN)], ())
        self.streams = WatchedStreams(self.tap, self.filters, lambda _: CAPTURE)

    @property
    def is_open(self) -> bool:
        return bool(self.path._gates[CAPTURE].epoch)

    def reason(self) -> str:
        return self.tap.read(STREAM, Health.TS).reason

    def close(self) -> None:
        self.filters.close()
        self.path.__exit__()
        self.tap.__exit__()


@pytest.fixture
def relay(wire: Wire) -> Iterator[Relay]:
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces)")
    try:
        wire.b.sysctl(ROOM, OLDER)
    except OSError:
        pytest.skip("all network namespaces of this kernel have the same room for filters")
    made = Relay(wire)
    if not made.filters._path:
        pytest.skip("there is no kernel path here")
    yield made
    made.close()


def before_each_attempt(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> list[bool]:
    """Do it before each attempt to attach a program; whether they succeeded."""
    attempts: list[bool] = []
    attach_one = attach._attach

    def attempt(*args: object) -> None:
        do()
        attempts.append(False)
        attach_one(*args)  # type: ignore[arg-type]
        attempts[-1] = True

    monkeypatch.setattr(attach, "_attach", attempt)
    return attempts


def test_health_that_has_no_room_is_refused_once_and_rules_go_on(
    relay: Relay, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what helps. Nobody tries again until the rule changes, and a rule that names its source is taken."""
    count = opened(relay.filters, wire, CAPTURE)
    relay.streams.change((), [WATCHED])
    assert "sudo sysctl -w net.core.optmem_max=" in relay.reason()
    attempts = before_each_attempt(monkeypatch, lambda: None)
    relay.streams.change((), [OTHER])
    assert attempts == []
    relay.filters.change([(CAPTURE, SOURCED)], ())
    wire.send(frame(), frame(port=5002), frame(port=5003))
    assert wire.receive(2) == [frame(), frame(port=5002)]
    assert "optmem_max" in relay.reason()
    wire.b.sysctl(ROOM, "131072")
    relay.streams.change((), [WATCHED])
    assert (relay.reason(), relay.tap.captures) == ("", {CAPTURE})
    count.close()


def test_a_filter_takes_the_place_of_one_as_long_and_nothing_is_lost(
    relay: Relay, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In between, workers get all of it, and the kernel path nothing: it could overtake what they have."""
    count = opened(relay.filters, wire, CAPTURE)
    relay.path.link(CAPTURE)
    gates = []

    def send() -> None:
        gates.append(relay.is_open)
        wire.send(frame(), frame(port=5001, vlan=TAG))

    attempts = before_each_attempt(monkeypatch, send)
    relay.filters.change([(CAPTURE, SOURCED)], ())
    assert (attempts, gates) == ([False, True], [True, False])
    wire.send(frame(), frame(port=5003))
    assert wire.receive(5) == [*[frame(), frame(port=5001)] * 2, frame()]
    assert relay.is_open
    count.close()


def test_filters_that_were_left_are_replaced_and_health_is_refused(relay: Relay, wire: Wire) -> None:
    """By the next mcrd, which rejects what it does not want."""
    opened(relay.filters, wire, CAPTURE).close()
    successor = Relay(wire)
    with wire.b.entered():
        count = successor.filters.adopt(CAPTURE, find_interface("b0"), [wire.capture])
    successor.filters.change([(CAPTURE, SOURCED)], [(CAPTURE, WANTED[0])])
    successor.streams.change((), [WATCHED])
    assert successor.reason() == ""
    successor.filters.install()
    successor.streams.show()
    assert "optmem_max" in successor.reason()
    wire.send(frame(), frame(port=5002), frame(port=5001, vlan=TAG))
    assert wire.receive(2) == [frame(port=5002), frame(port=5001)]
    count.close()
    successor.close()
