"""What the log says of raw frames."""

import errno
import logging
import socket
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address

import pytest

from mcr.config.settings import Settings
from mcr.model.flow import Input
from mcr.model.log import LogLevels
from mcr.model.rule import Output, Rule
from mcr.net.interfaces import Interface
from mcr.net.ip_bypass import UNSURE, Blocker, Blockers
from mcr.net.network import Link, Network
from mcr.net.raw import RawLink
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay import outputs, routing
from mcr.relay.kernel_path import KernelRules
from mcr.relay.outputs import Egress, OutputInterfaces, is_down, tagless
from mcr.relay.placement import Key, Way
from mcr.relay.relay import Relay
from mcr.shm.kept import Kept
from placing import place

LEAVE = "{}: datagrams to groups leave as raw frames, which bypass the IP stack; MTU {}"
FIREWALL = Blocker("nftables has a chain c at output, in table inet t")


@pytest.fixture
def mtus(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """MTUs of the interfaces that raw frames can leave by, by index."""
    mtus = {1: 1500, 2: 1500}
    links = lambda _: {index: RawLink(bytes(6), mtu) for index, mtu in mtus.items()}  # noqa: E731
    monkeypatch.setattr(outputs, "find_links", links)
    monkeypatch.setattr(outputs, "open_raw", lambda *_: ())
    return mtus


@pytest.fixture
def interfaces(caplog: pytest.LogCaptureFixture) -> Iterator[OutputInterfaces]:
    caplog.set_level(logging.INFO, "mcr.network")
    with socket.socket() as witness:
        made = OutputInterfaces(Settings("", 1, LogLevels()))
        made.adopt({f"eth{i}": Egress(i, Interface(f"eth{i}", i, 1500, None), (), witness) for i in (1, 2)})
        yield made


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [each.message for each in caplog.records]
    caplog.clear()
    return lines


def test_reason_that_lasts_is_logged_once_and_again_when_it_is_back(
    interfaces: OutputInterfaces,
    mtus: dict[int, int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one for each of two interfaces."""

    def refuse(index: int, *_: object) -> None:
        raise OSError(22 + index, "")

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "open_raw", refuse)
        interfaces.review(None)
        assert len(said(caplog)) == 2
        for _ in range(5):
            interfaces.review(None)
        assert said(caplog) == []
    interfaces.review(None)
    assert said(caplog) == [LEAVE.format("eth1", 1500), LEAVE.format("eth2", 1500)]
    for _ in range(2):
        interfaces.review(FIREWALL)
        assert f"not everything may leave as raw frames: {FIREWALL.reason}" in said(caplog)
        interfaces.review(None)
        caplog.clear()


def test_interface_that_was_down_for_a_moment_is_not_told_of(
    interfaces: OutputInterfaces, mtus: dict[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    interfaces.review(None)
    caplog.clear()
    up, down = (Network(links={1: Link(1, "eth1", up=up)}) for up in (True, False))
    assert interfaces.suspect(up, down)
    assert interfaces.review(None)[0]
    assert said(caplog) == []
    mtus[1] = 9000
    interfaces.review(None)
    assert said(caplog) == [LEAVE.format("eth1", 9000)]


@pytest.mark.usefixtures("mtus")
def test_interface_that_loses_an_address_is_looked_at_before_anything_leaves(interfaces: OutputInterfaces) -> None:
    for before in (
        Network(addresses={1: (IPv4Interface("198.18.0.1/24"),)}),
        Network(addresses6={1: (IPv6Interface("2001:db8::1/64"),)}),
    ):
        interfaces.review(None)
        assert not interfaces.suspect(before, before)
        assert [each.interface.name for each in interfaces.suspect(before, Network())] == ["eth1"]


def test_what_turns_out_to_be_nothing_is_not_told(
    interfaces: OutputInterfaces, mtus: dict[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """A firewall that has changed, and lets everything pass as before."""
    interfaces.review(None)
    caplog.clear()
    assert interfaces.review(UNSURE)[0]
    assert interfaces.review(None)[0]
    assert said(caplog) == []
    interfaces.review(UNSURE)
    interfaces.review(FIREWALL)
    assert said(caplog) == [
        f"not everything may leave as raw frames: {FIREWALL.reason}",
        f"eth1: no raw frames leave any more: {FIREWALL.reason}",
        f"eth2: no raw frames leave any more: {FIREWALL.reason}",
    ]


@pytest.mark.parametrize("by", ["firewall", "interface"])
def test_tagged_frames_leave_as_before_while_it_is_in_doubt(
    interfaces: OutputInterfaces, mtus: dict[int, int], by: str
) -> None:
    """No UDP socket could send them. They end with the first review that finds a blocker; workers are told."""
    egress = interfaces["eth1"]
    for blocker in (None, FIREWALL):
        interfaces.review(None)
        found = egress.raw
        for _ in range(2):
            if by == "firewall":
                interfaces.review(UNSURE)
            else:
                interfaces.suspect(*(Network(links={1: Link(1, "eth1", up=up)}) for up in (True, False)))
            assert (egress.raw, egress.doubted) == (None, found)
            assert "eth1" not in why_tagless(interfaces)
        assert egress in interfaces.review(blocker)[0]
        assert (egress.raw, egress.doubted) == (None if blocker else found, None)
    assert why_tagless(interfaces)["eth1"] == FIREWALL.reason


def test_interfaces_that_are_new_or_have_changed_are_named(interfaces: OutputInterfaces, mtus: dict[int, int]) -> None:
    """Their rules have to be seen to, and no others."""
    assert interfaces.review(None)[1] == {"eth1", "eth2"}
    assert interfaces.review(None) == ([], set())
    interfaces.is_clear = False  # or it is looked at now
    with socket.socket() as witness:
        interfaces.adopt({"tun3": Egress(3, Interface("tun3", 3, 1500, None), (), witness)})
    assert interfaces.is_stale
    assert interfaces.review(None) == ([], {"tun3"})
    mtus[1] = 9000
    assert interfaces.review(None)[1] == {"eth1"}


def why_tagless(interfaces: OutputInterfaces) -> dict[str, str]:
    """By the interface of an output in a VLAN, to which there is a way."""
    group, way = ip_address("239.9.9.9"), Way(ip_address("198.18.0.1"))
    tagged = [(Output(group, 6000, each.interface.name, vlan=7), way) for each in interfaces]
    return {output.interface: why for output, why in tagless(interfaces, tagged).items()}


def test_each_interface_has_its_own_reason_why_no_tagged_frames_leave(
    interfaces: OutputInterfaces, mtus: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has not been looked at is no other than Ethernet for that, nor is one whose sockets are refused."""

    def refuse(index: int, *_: object) -> None:
        raise OSError(22 + index, "")

    assert {*why_tagless(interfaces).values()} == {
        "it has not been seen yet what acts on packets that leave, which takes CAP_NET_ADMIN"
    }
    del mtus[2]
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "open_raw", refuse)
        patch.setattr(outputs, "why_unfit", lambda _: "it is not Ethernet")
        interfaces.review(None)
    refused = "Too many open files in system (os error 23)"
    assert why_tagless(interfaces) == {"eth1": refused, "eth2": "it is not Ethernet"}
    mtus[2] = 1500
    interfaces.review(None)
    assert why_tagless(interfaces) == {}
    interfaces.is_clear = False
    with socket.socket() as witness:
        interfaces.adopt({"eth3": Egress(3, Interface("eth3", 3, 1500, None), (), witness)})
    assert why_tagless(interfaces) == {"eth3": "it is about to be checked"}
    interfaces.review(FIREWALL)
    assert {*why_tagless(interfaces).values()} == {FIREWALL.reason}


def test_what_failed_is_seen_to_again(
    interfaces: OutputInterfaces, mtus: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "")

    interfaces.review(None)
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "find_links", refuse)
        assert interfaces.review(None)[1] == {"eth1", "eth2"}
    assert interfaces.is_stale
    assert interfaces.review(None)[1] == {"eth1", "eth2"}
    mtus[1] = 9000
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "bind_raw", refuse)
        patch.setattr(outputs, "open_raw", refuse)
        interfaces.review(None)
    assert interfaces.is_stale
    assert interfaces.review(None)[1] == {"eth1", "eth2"}


async def test_rules_are_looked_through_for_changed_routes_and_new_interfaces_alone(
    interfaces: OutputInterfaces, mtus: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[list[str]] = []

    def look(rules: Sequence[Rule], _: object) -> frozenset[Key]:
        looked_at.append([rule.rule_id for rule in rules])
        return frozenset()

    monkeypatch.setattr(routing, "find_neighbours", look)
    monkeypatch.setattr(interfaces, "ways", lambda *_: {})
    with Kept.open(DescriptorStore(), 1) as kept, Relay(Settings("", 1, LogLevels()), kept, KernelRules(None)) as those:
        monkeypatch.setattr(those.routing, "_outputs", interfaces)
        for number in (1, 2):
            sends_to = Output(ip_address("239.9.9.9"), 6000, f"eth{number}")
            rule = Rule(f"r{number}", Input("eth0", ip_address("239.1.1.1"), 5000 + number), (sends_to,))
            place(those._placement, rule, {}, ())
        await those.routing.review_raw(Blockers(), anew=False)
        await those.routing.review_raw(Blockers(), anew=False)
        mtus[2] = 9000
        await those.routing.review_raw(Blockers(), anew=False)
        await those.routing.review_raw(Blockers(), anew=True)
    assert looked_at == [["r1", "r2"], [], ["r2"], ["r1", "r2"]]


def test_a_new_interface_is_looked_at_at_once_if_nothing_stops_raw_frames(
    interfaces: OutputInterfaces, mtus: dict[int, int]
) -> None:
    """What has a tag can't wait for the next review; one that finds a blocker is asked again."""
    for index, blocker, is_left in (3, None, False), (4, FIREWALL, True), (5, UNSURE, True):
        interfaces.review(None)
        interfaces.review(blocker)
        mtus[index] = 1500
        with socket.socket() as witness:
            name = f"eth{index}"
            egress = Egress(index, Interface(name, index, 1500, None), (), witness)
            interfaces.adopt({name: egress})
            assert (interfaces.is_clear, egress.raw is None, interfaces.is_stale) == (not is_left, is_left, is_left)


async def test_a_flap_between_two_looks_leaves_what_is_tagged_its_way(
    interfaces: OutputInterfaces, mtus: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was up when it was looked at, and down when IP was asked. Workers are told of what has no way to lose."""
    flaps = False

    def ask(*_: object) -> tuple[IPv4Address]:
        if flaps:
            raise OSError(errno.ENETDOWN, "")
        return (IPv4Address("198.18.0.1"),)

    monkeypatch.setattr(outputs, "find_sources", ask)
    monkeypatch.setattr(outputs, "open_egress", lambda *_, **__: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    monkeypatch.setattr(routing, "find_neighbours", lambda *_: frozenset())
    told: list[tuple[Way | None, ...]] = []
    with Kept.open(DescriptorStore(), 1) as kept, Relay(Settings("", 1, LogLevels()), kept, KernelRules(None)) as those:
        monkeypatch.setattr(those.routing, "_outputs", interfaces)
        monkeypatch.setattr(those.routing, "_attach", lambda placed: told.append(placed.ways))
        output = Output(ip_address("239.9.9.9"), 6000, "eth1", vlan=7)
        place(those._placement, Rule("r", Input("eth0", ip_address("239.1.1.1"), 5000), (output,)), {}, ())
        for flaps, ways in (
            (True, [(None,)]),
            (True, [(None,)]),
            (False, [(Way(ip_address("198.18.0.1")),)]),
            (True, []),
            (False, []),
        ):
            told.clear()
            interfaces.suspect(*(Network(links={1: Link(1, "eth1", up=up)}) for up in (True, False)))
            await those.routing.review_raw(Blockers(), anew=True)
            assert (told, interfaces.is_stale, is_down(interfaces["eth1"])) == (ways, flaps, flaps)
