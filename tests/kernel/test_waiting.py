"""Interfaces that come and go, and routes that change, under the rules of a relay without workers."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

from lab import Lab, Namespace
from mcr.config.settings import Settings
from mcr.errors import LimitReached, SystemFault
from mcr.model.flow import Input
from mcr.model.log import LogLevels
from mcr.model.rule import Output, Rule, RuleChange
from mcr.net.capture import open_captures
from mcr.net.interfaces import find_interface
from mcr.net.ip_bypass import UNSURE, Blocker, Blockers
from mcr.net.patience import close_all
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay import inherited, inputs
from mcr.relay.captures import Capture
from mcr.relay.kernel_path import KernelRules
from mcr.relay.placement import Key
from mcr.relay.relay import Relay, Step
from mcr.shm.kept import Kept

GROUP, HOST = IPv4Address("239.1.1.1"), IPv4Address("198.18.0.9")


@pytest.fixture
def inside() -> Iterator[Namespace]:
    with Lab() as lab:
        made = lab.namespace("inside")
        made.ip("link add in0 type veth peer name out0")
        made.bring_up("in0", "out0")
        with made.entered():
            yield made


@pytest.fixture
def relay(inside: Namespace) -> Iterator[Relay]:
    assert inside
    with ExitStack() as closing, Uncounted(closing) as made:
        yield made


class Uncounted(Relay):
    """Closes at the end what the statistics would."""

    def __init__(self, closing: ExitStack, store: DescriptorStore | None = None) -> None:
        kept = closing.enter_context(Kept.open(store or DescriptorStore(), 1))
        super().__init__(Settings("", 1, LogLevels(), absorb=False, raw_send=False), kept, KernelRules(None))
        self._end = closing
        for capture in self.inputs.former:
            self._uncount(capture)

    def _apply(self, change: RuleChange) -> Step:
        return self._note(super()._apply(change))

    def _renew(self, generation: int) -> Step:
        return self._note(super()._renew(generation))

    def _note(self, step: Step) -> Step:
        for capture in step.captures:
            self._uncount(capture)
        return step

    def _uncount(self, capture: Capture) -> None:
        self._end.callback(capture.rejected.close)
        self._end.callback(close_all, capture.group.watched)

    def left(self) -> DescriptorStore:
        """What the next mcrd is passed."""
        self._leave_note()
        return DescriptorStore(inherited={name: os.dup(each) for name, each in self._kept.store.all().items()})


def rule(source: str, output: str, to: IPv4Address = GROUP) -> Rule:
    return Rule(f"{source}-{output}-{to}", Input(source, GROUP, 5000), (Output(to, 6000, output),))


def add(relay: Relay, generation: int, *rules: Rule) -> None:
    relay._apply(RuleChange(generation, added=rules, wait=True))


def renew(relay: Relay, generation: int) -> None:
    relay._renew(generation)


def test_what_is_sent_by_an_interface_that_cannot_be_captured_leaves_by_it(
    relay: Relay, inside: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input waits, and the output is in use: a host that is added then is reached."""
    add(relay, 2, rule("late0", "out0"), rule("in0", "late0"))
    inside.ip("link add late0 type veth peer name end0")
    with monkeypatch.context() as short:
        short.setattr(inputs, "open_captures", refuse)
        renew(relay, 3)
    assert relay.inputs["late0"].fault == "No memory: Cannot allocate memory (os error 12)"
    relay._apply(RuleChange(4, removed=(rule("in0", "late0"),), added=(rule("in0", "late0", HOST),), wait=True))
    (neighbour,) = relay._neighbours._by_key.values()
    assert neighbour.interface.index == relay.outputs["late0"].interface.index == find_interface("late0").index


def refuse(*_arguments: object) -> None:
    raise SystemFault("No memory", errno.ENOMEM)


@pytest.mark.parametrize(
    "becomes_late",
    [
        ("link property add dev in0 altname late0",),
        ("link add late1 type veth peer name end1", "link property add dev late1 altname late0"),
    ],
    ids=["altname", "both waited for"],
)
def test_an_interface_is_never_captured_under_two_names(
    relay: Relay, inside: Namespace, becomes_late: tuple[str, ...]
) -> None:
    """Each packet would be taken, and forwarded, twice."""
    add(relay, 2, rule("in0", "out0"), rule("late0", "out0"), rule("late1", "out0"))
    for command in becomes_late:
        inside.ip(command)
    renew(relay, 3)
    captured = [each.interface.index for each in relay.inputs if not each.is_lost]
    assert len(captured) == len({*captured})
    assert "that other rules call" in relay.inputs["late0"].fault + relay.inputs["late1"].fault


async def test_the_next_mcrd_is_told_of_a_capture_when_its_count_is_at_zero(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on from the count that it finds: the one of who had the slot before would have it read elsewhere."""
    (segment,) = relay._kept.segments
    segment.shared.captures[0].cursor, segment.shared.captures[0].recv = 5, 4
    found = []

    async def in_this_namespace(call: Any, *arguments: Any) -> Any:
        return call(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", in_this_namespace)
    monkeypatch.setattr(relay, "_leave_note", lambda: found.append(segment.captured(0)))
    await relay.apply(RuleChange(2, added=(rule("in0", "out0"),)))
    assert found == [(0, 0)]


def test_an_interface_that_was_left_is_not_captured_under_a_second_name(inside: Namespace) -> None:
    with ExitStack() as closing:
        with Uncounted(closing) as before:
            add(before, 2, rule("in0", "out0"))
            store = before.left()
        closing.callback(store.close_inherited)
        inside.ip("link property add dev in0 altname late0")
        other = Input("late0", IPv4Address("239.1.1.2"), 5000)
        with Uncounted(closing, store) as relay:
            with pytest.raises(LimitReached, match="Interface late0 is the one that other rules call in0"):
                add(relay, 2, rule("in0", "out0"), attrs.evolve(rule("late0", "out0"), input=other))
            add(relay, 2, rule("in0", "out0"))
            assert relay.inputs["in0"].inherited


def test_a_ring_that_is_made_anew_for_another_size_is_told(inside: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with ExitStack() as closing:
        with Uncounted(closing) as before:
            add(before, 2, rule("in0", "out0"))
            store = before.left()
        closing.callback(store.close_inherited)
        monkeypatch.setattr(inherited, "slot_size", lambda _mtu: 16384)
        monkeypatch.setattr(inherited, "log", SimpleNamespace(warning=lambda text, *given: said.append(text % given)))
        with Uncounted(closing, store) as relay:
            add(relay, 2, rule("in0", "out0"))
            assert not relay.inputs["in0"].inherited
    (line,) = said
    assert line.startswith(
        "in0 is captured anew, and packets lost meanwhile: its ring had 2048 slots of 2048 bytes, and"
    )


def test_an_interface_that_goes_while_it_is_opened_is_waited_for(
    relay: Relay, inside: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that udev renames while mcrd starts: a saved rule on it is not given up."""
    there = iter([True])

    def open_too_late(*arguments: Any, given: Any = open_captures) -> Any:
        if next(there, False):
            inside.ip("link delete dev in0")
        return given(*arguments)

    monkeypatch.setattr(inputs, "open_captures", open_too_late)
    add(relay, 2, rule("in0", "out0"))
    inside.ip("link add in0 type veth peer name out0")
    renew(relay, 3)
    assert [each.is_lost for each in relay.inputs] == [False]
    assert relay.outputs["out0"].interface.index == find_interface("out0").index


def test_the_index_of_an_interface_that_is_gone_may_be_anothers(relay: Relay, inside: Namespace) -> None:
    """A rule that waits for the one that had it takes nothing from the one that has it."""
    inside.ip("link add late0 index 77 type veth peer name end0")
    add(relay, 2, rule("in0", "late0"))
    inside.ip("link delete dev late0")
    inside.ip("link add in7 index 77 type veth peer name end7")
    inside.bring_up("in7", "end7")
    add(relay, 3, rule("in7", "out0"))
    add(relay, 4, rule("late0", "out0"))
    inside.ip("link add late0 type veth peer name end0")
    renew(relay, 5)
    assert not any(each.is_lost for each in relay.inputs)
    assert str(GROUP) in inside.ip("maddr show dev in7").split()


def test_memberships_follow_rules_that_wait(relay: Relay, inside: Namespace) -> None:
    """Of two rules on an interface that is waited for, one goes before it comes: the group is joined, then left."""
    first, second = rule("late0", "out0"), Rule("second", Input("late0", GROUP, 5001), rule("in0", "out0").outputs)
    add(relay, 2, first)
    add(relay, 3, second)
    relay._apply(RuleChange(4, removed=(first,)))
    inside.ip("link add late0 type veth peer name end0")
    inside.bring_up("late0", "end0")
    renew(relay, 5)
    assert str(GROUP) in inside.ip("maddr show dev late0").split()
    relay._apply(RuleChange(6, removed=(second,)))
    assert str(GROUP) not in inside.ip("maddr show dev late0").split()
    assert not relay.inputs._memberships._users


def test_rules_follow_names_that_are_swapped(relay: Relay, inside: Namespace) -> None:
    """Inputs with their groups, outputs, and a host; what two rules ask for stays told apart."""
    inside.ip("link add in1 type veth peer name out1")
    inside.bring_up("in1", "out1")
    other = IPv4Address("239.1.1.2")
    more = Rule("more", Input("in1", other, 5000), (Output(HOST, 6000, "out1"),))
    add(relay, 2, rule("in0", "out0"), rule("in1", "out1"), more)
    for pair in (("in0", "in1"), ("out0", "out1")):
        for old, new in ((pair[0], "spare"), (pair[1], pair[0]), ("spare", pair[1])):
            inside.ip(f"link set dev {old} name {new}")
    renew(relay, 3)
    for name in ("in0", "in1"):
        assert relay.inputs[name].interface.index == find_interface(name).index
    (neighbour,) = relay._neighbours._by_key.values()
    assert neighbour.interface.index == relay.outputs["out1"].interface.index == find_interface("out1").index
    assert not relay.standing(0).stale
    assert {str(GROUP), str(other)} <= set(inside.ip("maddr show dev in1").split())
    assert str(other) not in inside.ip("maddr show dev in0").split()
    relay._apply(RuleChange(4, removed=(more,)))
    assert str(other) not in inside.ip("maddr show dev in1").split()


def test_an_interface_that_was_renamed_is_let_go(relay: Relay, inside: Namespace) -> None:
    """Its rule waits, joins nothing, takes nothing, and goes on with whoever gets the name."""
    add(relay, 2, rule("in0", "out0"))
    inside.ip("link set dev in0 name in9")
    assert relay.standing(0).stale
    renew(relay, 3)
    standing = relay.standing(0)
    assert standing.inputs["in0"].lost
    assert standing.inputs["in0"].former == find_interface("in9").index
    assert not standing.stale
    assert str(GROUP) not in inside.ip("maddr show dev in9").split()
    inside.ip("link add in0 type veth peer name far0")
    renew(relay, 4)
    assert relay.inputs["in0"].interface == find_interface("in0")
    assert str(GROUP) in inside.ip("maddr show dev in0").split()


def test_gateways_are_followed_where_no_raw_frames_may_leave(relay: Relay, inside: Namespace) -> None:
    """A group whose route leads to one has its own sockets from then on, and no longer than that."""
    inside.ip("address add 198.18.0.1/24 dev out0")
    add(relay, 2, rule("in0", "out0"))

    def awaited() -> list[object]:
        return [each for placed in relay._placement for each in placed.neighbours]

    inside.ip(f"route add {GROUP} via {HOST} dev out0")
    assert not relay.routing._review_raw(Blockers(UNSURE), anew=True)
    assert awaited() == [None]
    assert relay.routing._review_raw(Blockers(Blocker("a firewall")), anew=True)
    assert awaited() == [Key("out0", GROUP)]
    assert not relay.routing._review_raw(Blockers(Blocker("a firewall")), anew=True)
    inside.ip(f"route delete {GROUP}")
    assert relay.routing._review_raw(Blockers(Blocker("a firewall")), anew=True)
    assert awaited() == [None]


def test_an_output_in_a_vlan_waits_where_its_group_has_no_way_without_ip(relay: Relay, inside: Namespace) -> None:
    """Nothing would leave. A gateway is that of the frames without a tag, of whatever rule they are."""
    inside.ip("address add 198.18.0.1/24 dev out0")
    tagged, plain = (Output(GROUP, 6000, "out0", vlan=vlan) for vlan in (7, None))
    add(relay, 2, Rule("both", Input("in0", GROUP, 5000), (tagged, plain)))

    def why() -> str:
        relay.routing._review_raw(Blockers(), anew=True)
        return relay.standing(0).tagless.get(tagged, "")

    assert why() == ""
    inside.ip(f"route add {GROUP} dev out0 mtu 1400")
    assert f"IP would do more for {GROUP} than add headers" in why()
    inside.ip(f"route replace {GROUP} via {HOST} dev out0")
    assert why() == ""
    ((way, beside),) = (placed.ways for placed in relay._placement)
    assert (way and way.hop, beside and beside.hop) == (None, HOST)
    inside.run(["sysctl", "-qw", "net.ipv4.ip_no_pmtu_disc=1"])
    assert "net.ipv4.ip_no_pmtu_disc" in why()
    relay._apply(RuleChange(4, removed=tuple(placed.rule for placed in relay._placement)))
    assert not relay.standing(0).tagless
