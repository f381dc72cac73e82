"""What rules take, as workers are told of it."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from mcr._native import lib
from mcr.model.flow import Flow, Input
from mcr.model.rule import Output, Rule
from mcr.net.interfaces import Interface
from mcr.net.raw import RawLink
from mcr.relay import commands
from mcr.relay.neighbours import Common, Neighbour
from mcr.relay.outputs import Egress
from mcr.relay.placement import Placement, Way, way_key
from mcr.shm import records
from mcr.shm.places import Places
from placing import place

ETH1 = Interface("eth1", 7, 1500, None)


@pytest.fixture
def opened() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def test_output_interface_is_attached_with_raw_frames_if_they_may_leave(opened: socket.socket) -> None:
    egress = Egress(3, ETH1, (opened,), opened)
    udp = records.egress_put(3, 1500, (opened,))
    assert commands.attach_egress(egress) == (udp,)
    egress.raw, egress.raw_sockets = RawLink(bytes(6), 9000), (opened,)
    raw = records.raw_put(3, 9000, bytes(6), (opened,))
    assert commands.attach_egress(egress) == (udp, raw)
    assert commands.change_raw(egress).sockets == (opened,)
    egress.doubt()
    tagged = records.raw_put(3, 9000, bytes(6), (opened,), tagged_only=True)
    assert commands.attach_egress(egress) == (udp, tagged)
    assert tagged != raw
    egress.doubted = None
    assert commands.change_raw(egress) == records.raw_drop(3)


def test_neighbour_names_the_sockets_that_it_shares(opened: socket.socket) -> None:
    """Both have slots behind those of the interfaces."""
    common = Common(4, ETH1, (opened,))
    neighbour = Neighbour(5, ETH1, (opened,), common)
    first = lib.MCR_MAX_INTERFACES
    assert commands.attach_neighbour(common) == records.egress_put(first + 4, 1500, (opened,))
    assert commands.attach_neighbour(neighbour) == records.egress_put(first + 5, 1500, (opened,), first + 4)
    assert [commands.detach_neighbour(each).slot for each in (common, neighbour)] == [first + 4, first + 5]


def test_rule_is_attached_with_its_slots_in_the_order_of_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a broadcast address a TTL is told: by the sockets that groups share it would be theirs."""
    monkeypatch.setattr(commands, "hosts_ttl", lambda: 63)
    group, host = ip_address("239.9.9.9"), ip_address("198.18.1.2")
    outputs = (
        Output(group, 6000, "eth1", "off"),
        Output(host, 6001, "eth1", ttl=9, dscp=46, source=ip_address("198.18.0.2")),
        Output(ip_address("255.255.255.255"), 6002, "eth1"),
    )
    source = ip_address("198.18.0.1")
    placement = Placement(Places.make())
    rule = Rule("tv", Input("eth0", ip_address("239.1.1.1"), 5000), outputs)
    placed = place(placement, rule, {way_key(outputs[0]): Way(source), way_key(outputs[1]): Way(source, host)}, ())
    assert commands.attach_rule(placed, 2, (8, 9, 8), (True, False, True)) == records.rule_put(
        tag=placed.tag,
        rule=placed.slot,
        capture=2,
        flows=[Flow(rule.input.group, 5000)],
        first_port=5000,
        outputs=[
            records.OutputPlace(*placed.outputs[0], 8, group, 6000, 1, source),
            records.OutputPlace(
                *placed.outputs[1],
                9,
                host,
                6001,
                outputs[1].max_train,
                carrier=False,
                ttl=9,
                dscp=46,
                asked_source=outputs[1].own_source,
            ),
            records.OutputPlace(*placed.outputs[2], 8, outputs[2].group, 6002, outputs[2].max_train, ttl=63),
        ],
    )
    assert commands.detach_rule(placed) == records.rule_drop(placed.slot)


def test_plain_rules_are_attached_as_others_are() -> None:
    """A gateway that an output does not wait for has it leave through IP; the interface in2 is the second capture."""
    group, source = ip_address("239.1.1.1"), ip_address("198.18.0.1")
    ways = Way(source), Way(source, ip_address("198.18.0.2")), None
    captures, egress = {"in1": 1, "in2": 2}, {"out1": (8, True), "out2": (9, False)}
    placement = Placement(Places.make())
    rules = [
        Rule(name, Input(interface, group, 5000, vlan), tuple(Output(group, 6000 + each, out) for each in range(count)))
        for name, interface, vlan, out, count in [("a", "in1", None, "out1", 1), ("b", "in2", 7, "out2", 3)]
    ]
    known = {way_key(output): way for rule in rules for output, way in zip(rule.outputs, ways, strict=False) if way}
    placed = placement.place(rules, known, ())
    assert all(map(commands.is_plain, placed))
    assert commands.attach_plain(placed, captures, egress) == [
        commands.attach_rule(placed[0], 1, [8], [True]),
        commands.attach_rule(placed[1], 2, [9] * 3, [False] * 3),
    ]


def test_what_has_an_option_a_range_or_another_family_is_not_plain() -> None:
    group, other, host = (ip_address(each) for each in ("239.1.1.1", "ff15::1", "198.18.1.2"))
    source, output = Input("eth0", group, 5000), Output(group, 6000, "eth1")
    inputs = [Input("eth0", group, 1, last_port=2), Input("eth0", group, 1, sources=(host,))]
    outputs = [Output(other, 6000, "eth1"), Output(host, 6000, "eth1"), Output(group, 6001, "eth1", ttl=2)]
    rules = [
        Rule("a", source, (output,)),
        *(Rule(f"i{number}", each, (output,)) for number, each in enumerate(inputs)),
        *(Rule(f"o{number}", source, (output, each)) for number, each in enumerate(outputs)),
    ]
    placed = Placement(Places.make()).place(rules, {}, ())
    assert [commands.is_plain(each) for each in placed] == [True, *[False] * 5]
