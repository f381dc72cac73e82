"""Which flows are refused, and what workers and filters are told of them."""

import errno
import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from mcr._native import ffi, lib
from mcr.config.settings import Settings
from mcr.errors import LimitReached, SystemFault
from mcr.model.flow import Flow, Input
from mcr.model.log import LogLevels
from mcr.model.loop import REFUSED_SECONDS
from mcr.model.rule import Output, Rule, RuleChange
from mcr.net.filter.classic import ClassicFilters
from mcr.net.filter.tap import StreamTap
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.inputs import InputInterfaces
from mcr.relay.kernel_path import KernelRules
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.relay.refusals import Refusal, Refusals
from mcr.relay.relay import Relay, Step
from mcr.shm import records
from mcr.shm.flows import make_flow
from mcr.shm.kept import Kept
from mcr.shm.records import Command

GROUP, SOURCE, OTHER = map(ip_address, ("239.1.1.1", "198.18.0.9", "198.18.0.8"))
REFUSED = Refusal("eth0", Flow(GROUP, 5000, source=SOURCE), 3)
OUTPUT = Output(ip_address("239.9.9.1"), 6000, "eth1")
RULE = Rule("any", Input("eth0", GROUP, 5000), (OUTPUT,))
NAMED = Rule("named", Input("eth0", GROUP, 5000, sources=(SOURCE,)), (OUTPUT,))


def placed(*rules: Rule) -> list[PlacedRule]:
    return [PlacedRule(each, 7, 3, (OutputSlot(4, 7),), (None,), (None,)) for each in rules]


class World:
    """Captures by name, and a filter that notes what it was told."""

    def __init__(self) -> None:
        self.captures: dict[str, Any] = {"eth0": SimpleNamespace(slot=5)}
        self.steered: set[tuple[int, Flow]] = set()
        self.policies: list[int] = []  # by which it was told
        self.policy = os.SCHED_OTHER
        self.fault: SystemFault | None = None
        filters: Any = self
        self.refusals = Refusals(self.captures.get, filters)

    def change(self, added: Iterable[tuple[int, Flow]], removed: Iterable[tuple[int, Flow]]) -> None:
        if self.fault:
            raise self.fault
        self.policies.append(self.policy)
        for each in added:
            assert each not in self.steered
            self.steered.add(each)
        for each in removed:
            self.steered.remove(each)

    def refuse(self, *wanted: Refusal, rules: Collection[Rule] = (RULE,)) -> int:
        return count(self.refusals.change(wanted, placed(*rules)))


def count(command: Command) -> int:
    assert command.type == lib.MCR_REC_REFUSED
    number: int = ffi.from_buffer("struct mcr_rec_refused *", command.body, require_writable=False).count
    return number


def held(command: Command) -> Any:
    table = ffi.new("struct mcr_refused *")
    size = ffi.sizeof("struct mcr_rec_refused")
    flows = ffi.from_buffer("struct mcr_refusal[]", command.body[size:], require_writable=False)
    assert not lib.mcr_refused_set(table, flows, count(command))
    return table


def test_a_worker_refuses_a_flow_for_a_while() -> None:
    """Of its source, interface, VLAN, group and port; it ends though nobody says so."""
    until = time.monotonic() + REFUSED_SECONDS
    table = held(records.refused([(REFUSED.flow, 5, 3, until)]))
    lib.mcr_refused_expire(table, int((until - 0.1) * 1e9))
    assert lib.mcr_refused_find(table, make_flow(REFUSED.flow, 5)).place == 3
    for flow, slot in (
        (REFUSED.flow, 6),
        (Flow(GROUP, 5000, source=OTHER), 5),
        (Flow(GROUP, 5001, source=SOURCE), 5),
        (Flow(GROUP, 5000, 7, SOURCE), 5),
        (Flow(GROUP, 5000), 5),
    ):
        assert not lib.mcr_refused_find(table, make_flow(flow, slot))
    six = Flow(ip_address("ff15::1"), 5000, source=ip_address("fd00::9"))
    table = held(records.refused([(REFUSED.flow, 5, 3, until), (six, 5, 4, until + 1)]))
    assert lib.mcr_refused_find(table, make_flow(six, 5)).place == 4
    lib.mcr_refused_expire(table, int((until + 0.1) * 1e9))
    assert table.count == 1
    assert not lib.mcr_refused_find(table, make_flow(REFUSED.flow, 5))
    assert lib.mcr_refused_find(table, make_flow(six, 5)).place == 4
    lib.mcr_refused_expire(table, int((until + 1.1) * 1e9))
    assert table.count == 0  # packets pay for it no more


@pytest.mark.parametrize(
    ("flow", "place"), [(Flow(GROUP, 5000), 0), (REFUSED.flow, lib.MCR_MAX_REFUSED)], ids=["any source", "no place"]
)
def test_a_worker_takes_no_other(flow: Flow, place: int) -> None:
    with pytest.raises(AssertionError):
        held(records.refused([(flow, 5, place, 1.0)]))


def test_what_is_refused() -> None:
    """What a rule takes from any source, and none names; the kernel path leaves it to workers."""
    world = World()
    assert world.refuse(REFUSED) == 1
    assert world.steered == {(5, REFUSED.flow)}
    assert world.refuse(REFUSED) == 1
    assert world.refuse() == 0
    assert not world.steered
    assert world.refuse(REFUSED, rules=(RULE, NAMED)) == 0
    assert world.refuse(REFUSED, rules=()) == 0
    assert world.refuse(Refusal("eth9", REFUSED.flow, 0)) == 0


def test_filters_alone_are_told_before_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look through thousands of rules is no work that may keep the kernel from its packets."""
    world, looked = World(), list[int]()
    monkeypatch.setattr(os, "sched_setscheduler", lambda _, policy, __: setattr(world, "policy", policy))

    class Rules(list[PlacedRule]):
        def __iter__(self) -> Iterator[PlacedRule]:
            looked.append(world.policy)
            return super().__iter__()

    several = [Refusal("eth0", Flow(GROUP, 5000, source=SOURCE + number), number) for number in range(32)]
    assert count(world.refusals.change(several, Rules(placed(RULE)))) == 32
    assert looked == [os.SCHED_OTHER], "once for all"
    assert world.policies == [os.SCHED_FIFO]
    assert world.policy == os.SCHED_OTHER


@pytest.mark.parametrize(
    "change",
    [RuleChange(2, added=(NAMED,)), RuleChange(2, removed=(RULE,)), RuleChange(2, changed=(RULE,))],
    ids=["named", "removed", "changed"],
)
def test_a_refusal_gives_way_to_rules(change: RuleChange) -> None:
    """And comes back with those that there were before, if the change fails."""
    world, undo = World(), ExitStack()
    assert world.refusals.give_way(change, undo) == ()
    world.refuse(REFUSED)
    (command,) = world.refusals.give_way(change, undo)
    assert count(command) == 0
    assert not world.steered
    assert world.refusals.give_way(change, undo) == ()
    undo.close()
    assert world.steered == {(5, REFUSED.flow)}
    assert len(world.refusals.give_way(change, undo)) == 1


def test_what_cannot_be_refused_again_hides_no_failure() -> None:
    """Of the change; it is refused as soon as it can be."""
    world, undo = World(), ExitStack()
    world.refuse(REFUSED)
    world.refusals.give_way(RuleChange(2, added=(NAMED,)), undo)
    world.fault = SystemFault("Cannot filter by rules", errno.ENOMEM)
    undo.close()
    world.fault = None
    assert world.refuse(REFUSED) == 1
    assert world.steered == {(5, REFUSED.flow)}


@pytest.mark.parametrize("fails", [True, False])
def test_a_refusal_is_in_force_when_a_change_has_failed(monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> None:
    with Kept.open(DescriptorStore(), 1) as kept, Relay(Settings("", 1, LogLevels()), kept, KernelRules(None)) as relay:
        world = World()
        relay.inputs.refusals = world.refusals
        world.refuse(REFUSED)

        def prepare(change: RuleChange) -> None:
            assert change.added == (NAMED,)
            assert not world.steered
            if fails:
                raise LimitReached("There are too many outputs")

        monkeypatch.setattr(relay, "_prepare_all", prepare)
        monkeypatch.setattr(relay, "_commit", lambda *_: Step((), (), ()))
        with pytest.raises(LimitReached) if fails else nullcontext():
            relay._apply(RuleChange(2, added=(NAMED,)))
        assert world.steered == ({(5, REFUSED.flow)} if fails else set())


ELSEWHERE = Rule("elsewhere", Input("eth0", GROUP, 5001, sources=(SOURCE,)), (OUTPUT,))
BESIDE = Rule("beside", Input("eth0", GROUP, 5000, sources=(OTHER,)), (OUTPUT,))


@pytest.mark.parametrize(
    "change",
    [RuleChange(2, added=(ELSEWHERE,)), RuleChange(2, removed=(BESIDE,)), RuleChange(2, changed=(BESIDE,))],
    ids=["elsewhere", "removed", "changed"],
)
def test_other_changes_leave_it(change: RuleChange) -> None:
    """Of rules that do not take it, though they name other sources of its group."""
    world = World()
    world.refuse(REFUSED)
    assert world.refusals.give_way(change, ExitStack()) == ()
    assert world.steered == {(5, REFUSED.flow)}


def test_filters_without_a_kernel_path_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers get all that rules take. A classic filter would only fill up, and one of eBPF look twice."""
    store = DescriptorStore()
    filters = ClassicFilters(store)
    monkeypatch.setattr("mcr.relay.inputs.open_filters", lambda *_, **__: filters)
    path: Any = SimpleNamespace(maps=None)
    with StreamTap() as tap:
        inputs = InputInterfaces(Settings("", 1, LogLevels()), store, {}, path, tap)
        inputs._by_name["eth0"] = World().captures["eth0"]
        filters.change([(5, Flow(GROUP, 5000))], ())
        assert count(inputs.refusals.change([REFUSED], placed(RULE))) == 1
        assert filters._wanted[5] == {Flow(GROUP, 5000)}
        inputs._by_name.clear()
        inputs.close()


def test_a_flow_that_is_refused_again_at_another_place() -> None:
    world = World()
    world.refuse(REFUSED)
    assert world.refuse(attrs.evolve(REFUSED, place=4)) == 1
    assert world.steered == {(5, REFUSED.flow)}


def test_a_capture_that_is_opened_anew() -> None:
    """What its filter had is gone with it: it is told again, and what has its slot by then is left alone."""
    world = World()
    world.refuse(REFUSED)
    world.captures["eth0"] = SimpleNamespace(slot=6)
    world.steered.clear()
    assert world.refuse(REFUSED) == 1
    assert world.steered == {(6, REFUSED.flow)}
    del world.captures["eth0"]
    world.steered.clear()
    assert world.refuse(REFUSED) == 0
