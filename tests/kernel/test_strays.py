"""Datagrams that another program at the ingress has taken, and that no packet has followed on their processor."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from filters import Wire, frame, look_for_lost
from mcr._native import lib
from mcr.net.filter.path import KernelPath
from mcr.process.descriptor_store import DescriptorStore
from mcr.process.service import ServiceManager
from mcr.relay.inputs import InputInterfaces
from mcr.shm.kernel_counters import KernelCounters, Taken
from test_gates import CAPTURE, Relay, relay

__all__ = ["relay"]

pytestmark = pytest.mark.usefixtures("one_processor")


@pytest.fixture
def stray(relay: Relay, wire: Wire) -> Relay:
    """One is lost, and nobody has counted it."""
    assert relay.filters.suppressor
    lib.mcr_bpf_unlink(os.dup(*relay.filters.suppressor._links.values()))
    wire.send(frame())
    relay.counters.look()
    assert relay.taken() == Taken()
    return relay


def test_a_capture_that_closes_has_counted_them(stray: Relay) -> None:
    """However short that was before."""
    stray.counters.look_at_last(CAPTURE + 1)
    assert stray.taken() == Taken()
    stray.counters.look_at_last(CAPTURE)
    assert stray.taken() == Taken(lost=1)


def test_the_next_capture_in_a_slot_begins_without_them(stray: Relay, wire: Wire) -> None:
    assert look_for_lost(stray.counters, CAPTURE) == 1
    stray.path.start_capture(CAPTURE)
    stray.counters.look()
    assert not any(each.since for each in stray.counters._strays)
    wire.send(frame())  # its filter finds what nobody has carried out
    assert wire.receive(1) == [frame()]
    assert stray.taken() == Taken()


def test_the_next_packet_counts_them_in_their_place(stray: Relay, wire: Wire) -> None:
    assert look_for_lost(stray.counters, CAPTURE) == 1
    wire.send(frame())
    assert wire.receive(1) == [frame()]
    assert stray.taken() == Taken(lost=1)
    stray.counters.look()
    assert not any(each.since for each in stray.counters._strays)
    assert stray.taken() == Taken(lost=1)


@pytest.mark.parametrize("is_anew", [False, True], ids=["capture goes on", "another capture"])
def test_they_are_counted_once_when_mcrd_is_replaced(stray: Relay, is_anew: bool) -> None:
    """At once: no sum may be less than what the mcrd before has told."""
    assert look_for_lost(stray.counters, CAPTURE) == 1
    store = DescriptorStore(inherited=left_by(stray))
    found = KernelCounters.adopt(store)
    assert found
    with found as counters, KernelPath(1, counters) as path:
        assert store.all()["kernel.hand"] != path.maps.hand  # the next mcrd has to know what these have lost, too
        lost = [counters.taken(CAPTURE).lost]
        if is_anew:
            path.start_capture(CAPTURE)
        for step in (counters.look, counters.settle, counters.look):
            step()
            lost.append(counters.taken(CAPTURE).lost)
        assert lost == [1] + [int(not is_anew)] * 3
        assert store.inherited("") == []
        assert [store.all()[f"kernel.{name}"] for name in ("hand", "gates")] == [path.maps.hand, path.maps.gates]


class Manager(ServiceManager):
    """Keeps copies of descriptors, as a service manager does."""

    def __init__(self, kept: Mapping[str, int]) -> None:
        super().__init__("@", "", "", "9")
        self.kept = dict(kept)

    def keep(self, name: str, descriptor: int, *, patient: bool = True) -> bool:
        assert patient
        if name not in self.kept:
            self.kept[name] = os.dup(descriptor)
        return True

    def forget(self, name: str, *, patient: bool = True) -> bool:
        assert patient
        if name in self.kept:
            os.close(self.kept.pop(name))
        return True

    @contextmanager
    def next_mcrd(self) -> Iterator[KernelCounters]:
        """Its counters."""
        found = KernelCounters.adopt(DescriptorStore(self, {name: os.dup(fd) for name, fd in self.kept.items()}))
        assert found
        with found:
            yield found


def left_by(relay: Relay) -> dict[str, int]:
    return {name: os.dup(fd) for name, fd in relay.store.all().items() if name.startswith("kernel.")}


def test_the_next_mcrd_may_fail_before_it_has_counted_them(stray: Relay) -> None:
    manager, lost = Manager(left_by(stray)), []
    for _ in range(3):
        with manager.next_mcrd() as counters:
            lost.append(counters.taken(CAPTURE).lost)
    with manager.next_mcrd() as counters:
        counters.settle()
    with manager.next_mcrd() as counters:
        lost.append(counters.taken(CAPTURE).lost)
    assert lost == [1] * 4
    for each in [*manager.kept]:
        manager.forget(each)


def test_the_next_mcrd_may_be_killed_when_it_has_just_counted_them(stray: Relay) -> None:
    """The store of descriptors has not been told then."""
    manager = Manager(left_by(stray))
    with manager.next_mcrd() as counters:
        assert not lib.mcr_bpf_path_settle(counters._former)
    with manager.next_mcrd() as counters:
        assert counters.taken(CAPTURE).lost == 1
    for each in [*manager.kept]:
        manager.forget(each)


def test_the_programs_of_the_mcrd_before_have_ended_when_they_are_counted(relay: Relay, wire: Wire) -> None:
    """Otherwise these could count them, too, or forward what a worker gets now."""
    assert relay.filters.suppressor
    (link,) = relay.filters.suppressor._links.values()
    inputs: Any = SimpleNamespace(
        _filters=SimpleNamespace(install=lambda: None),
        watched=SimpleNamespace(show=lambda: None),
        _store=DescriptorStore(inherited={"link.3.1": os.dup(link)}),
    )
    InputInterfaces.take_over(cast("InputInterfaces", inputs))
    wire.send(frame())
    assert look_for_lost(relay.counters, CAPTURE) == 1
    assert relay.taken() == Taken(lost=1)


def test_what_an_older_mcrd_has_left_is_enough(relay: Relay) -> None:
    """It has not left what tells of them."""
    left = {f"kernel.{name}": os.dup(getattr(relay.counters.maps, name)) for name in ("taken", "rules", "outputs")}
    found = KernelCounters.adopt(DescriptorStore(inherited=left))
    assert found
    with found as counters:
        counters.settle()
        assert counters.taken(CAPTURE) == Taken()
