"""How it stands with rules, judged from what is known of the network."""

from collections.abc import Set as AbstractSet
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address

import attrs
import pytest

from mcr.model.flow import Address, Input
from mcr.model.output_options import Sockets
from mcr.model.rule import Output, Rule, RuleState, RuleView
from mcr.net.interfaces import wait_for_interface
from mcr.net.network import Link, Neighbour, Network
from mcr.rules.conditions import (
    Attachment,
    Conditions,
    Hop,
    Standing,
    find_oddity,
    find_refusal,
    judge,
    judge_input,
    judge_output,
    view_of,
)
from mcr.rules.hop_cache import find_silent

IN0, OUT0, OUT1 = Link(7, "in0"), Link(8, "out0"), Link(9, "out1")
HOST, GATEWAY = IPv4Address("198.18.10.2"), IPv4Address("198.18.10.254")
NETWORK = Network(
    1, {link.index: link for link in (IN0, OUT0, OUT1)}, {8: (IPv4Interface("198.18.10.1/24"),)}, {}, routes=1
)
STANDING = Standing(5, {"in0": Attachment("in0", 7)}, {"out0": Attachment("out0", 8), "out1": Attachment("out1", 9)})
GROUP_OUTPUT, HOST_OUTPUT = Output(IPv4Address("239.2.2.2"), 6000, "out1"), Output(HOST, 6000, "out0")
RULE = Rule("tv", Input("in0", IPv4Address("239.1.1.1"), 5000), (GROUP_OUTPUT, HOST_OUTPUT))


def without(*indices: int, **links: Link) -> Network:
    """The network, but for these interfaces, or with others."""
    kept = {index: link for index, link in NETWORK.links.items() if index not in indices}
    return attrs.evolve(NETWORK, links=kept | {link.index: link for link in links.values()})


def view(
    network: Network = NETWORK,
    hop: Hop | None = None,
    generation: int = 5,
    silent: AbstractSet[tuple[int, Address]] = frozenset(),
) -> RuleView:
    return view_of(RULE, generation, judge(STANDING, network, {(HOST, "out0"): hop} if hop else {}, silent))


def test_all_is_well() -> None:
    found = view(hop=Hop(HOST))
    assert (found.state, found.reason, found.warnings) == (RuleState.ACTIVE, "", ())
    assert [(each.state, each.reason) for each in found.outputs] == [(RuleState.ACTIVE, "")] * 2
    assert found.outputs[0].destination == GROUP_OUTPUT.destination


@pytest.mark.parametrize(
    ("addresses6", "state", "reason"),
    [
        ({7: "fe80::1/64", 9: "fe80::2/64"}, RuleState.ACTIVE, ""),
        ({7: "fe80::1/64"}, RuleState.DEGRADED, "1 of 2 outputs: out1 has no IPv6 address"),
        (
            {7: "2001:db8::1/64", 9: "fe80::2/64"},
            RuleState.DEGRADED,
            "in0 has no link-local IPv6 address, which MLD needs to ask for groups",
        ),
    ],
)
def test_groups_of_ipv6_need_addresses_of_it(addresses6: dict[int, str], state: RuleState, reason: str) -> None:
    group = IPv6Address("ff15::1")
    outputs = Output(group, 6000, "out1"), Output(group, 6001, "out1", source=IPv6Address("fe80::1"))
    rule = attrs.evolve(RULE, input=Input("in0", group, 5000), outputs=outputs)
    held = {index: (IPv6Interface(each),) for index, each in addresses6.items()}
    conditions = judge(STANDING, attrs.evolve(NETWORK, addresses6=held))
    found = view_of(rule, 5, conditions)
    assert (found.state, found.reason) == (state, reason)
    assert conditions.concern(rule) == (state is not RuleState.ACTIVE)


def test_rule_that_workers_have_not_taken_over_is_pending_with_its_outputs() -> None:
    found = view(generation=6)
    assert {found.state, *(each.state for each in found.outputs)} == {RuleState.PENDING}
    assert found.reason


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (without(7), "there is no interface in0 in this network namespace any more"),
        (without(new=attrs.evolve(IN0, up=False)), "in0 is down"),
        (without(new=attrs.evolve(IN0, carrier=False)), "in0 has no carrier"),
    ],
)
def test_input_that_cannot_be_served_is_waited_for(network: Network, reason: str) -> None:
    found = view(network)
    assert (found.state, found.reason) == (RuleState.WAITING, reason)
    assert {each.state for each in found.outputs} == {RuleState.ACTIVE}


def test_interface_that_was_renamed_is_named() -> None:
    """Before its sockets were given up, and after that; if another has the name, that one is used."""
    renamed = without(new=attrs.evolve(IN0, name="in9"))
    reason = "there is no interface in0 in this network namespace any more: it is called in9 now"
    absent = Attachment("in0", wait_for_interface("in0", 7).index, lost=True, former=7)
    for attachment in (Attachment("in0", 7, lost=True, former=7, stale=True), absent):
        assert judge_input(attachment, renamed).reason == reason
        taken = judge_input(attachment, without(new=attrs.evolve(IN0, name="in9"), other=Link(20, "in0", up=False)))
        assert (taken.state, taken.passing) == (RuleState.WAITING, True)
    assert judge_input(absent, without(7)).reason == "there is no interface in0 in this network namespace any more"
    assert view(without(new=attrs.evolve(IN0, name="in9", altnames=("in0",)))).state is RuleState.ACTIVE


@pytest.mark.parametrize("there", [NETWORK, without(7, again=Link(17, "in0"))], ids=["same index", "other index"])
def test_sockets_that_lost_their_interface_are_bound_to_nothing(there: Network) -> None:
    """Whatever has its index, or its name, now."""
    lost = judge_input(Attachment("in0", 7, lost=True), there)
    assert (lost.state, lost.passing) == (RuleState.WAITING, True)
    failed = judge_input(Attachment("in0", 7, lost=True, fault="No memory"), there)
    assert (failed.state, failed.passing) == (RuleState.WAITING, False)
    assert failed.reason == "in0 is back, but cannot be used: No memory"
    awaited = judge_input(Attachment("in0", wait_for_interface("in0").index, lost=True, fault="No memory"), there)
    assert awaited.reason == "in0 is there now, but cannot be used: No memory"


def test_what_is_gone_is_not_said_to_be_back() -> None:
    """Though it was, and could not be used then."""
    found = judge_input(Attachment("in0", 7, lost=True, fault="No memory"), without(7))
    assert found.reason == "there is no interface in0 in this network namespace any more"


def test_input_whose_groups_are_not_all_joined_is_degraded() -> None:
    found = judge_input(Attachment("in0", 7, fault="Cannot join 239.1.1.1 on in0"), NETWORK)
    assert (found.state, found.reason) == (RuleState.DEGRADED, "in0: Cannot join 239.1.1.1 on in0")


def test_port_of_a_bridge_is_named_with_its_bridge() -> None:
    bridge = Link(30, "brx", kind="bridge")
    found = view(without(new=attrs.evolve(IN0, master=30), bridge=bridge))
    assert found.state is RuleState.DEGRADED
    assert found.reason == "in0 is a port of bridge brx: joins on it last one membership interval"
    assert judge_output(Attachment("out0", 8), without(o=attrs.evolve(OUT0, master=30), bridge=bridge)).reason == ""
    vrf = Link(30, "red", kind="vrf")
    assert view(without(new=attrs.evolve(IN0, master=30), vrf=vrf)).state is RuleState.ACTIVE


@pytest.mark.parametrize(
    ("address", "there"),
    [
        ("198.18.10.1", True),  # of another interface: it is this machine's
        ("198.18.0.2", True),
        ("198.18.0.255", True),
        ("255.255.255.255", True),
        ("198.18.0.9", False),
        ("198.18.10.255", False),  # a broadcast address elsewhere
        ("fe80::2", True),
        ("fe80::3", False),  # of another interface, and with it another's
    ],
)
def test_input_that_is_no_address_of_this_machine_waits_for_it(address: str, there: bool) -> None:
    network = attrs.evolve(
        NETWORK,
        addresses={**NETWORK.addresses, 7: (IPv4Interface("198.18.0.2/24"),)},
        addresses6={7: (IPv6Interface("fe80::2/64"),), 8: (IPv6Interface("fe80::3/64"),)},
    )
    rule = attrs.evolve(RULE, input=Input("in0", ip_address(address), 5000))
    conditions = judge(STANDING, network)
    found = view_of(rule, 5, conditions)
    assert found.state is (RuleState.ACTIVE if there else RuleState.WAITING)
    reason = f"{address} is not an address of this machine, nor a broadcast address of in0"
    assert found.reason == ("" if there else reason)
    assert conditions.concern(rule) is not there
    assert found.warnings == ()


@pytest.mark.parametrize(("address", "begin"), [("39.1.1.1", "224 to 239"), ("15::1", "ff")])
def test_an_input_that_no_network_here_can_have_was_perhaps_meant_to_be_a_group(address: str, begin: str) -> None:
    network = attrs.evolve(NETWORK, addresses={7: (IPv4Interface("198.18.0.2/24"),)})
    rule = attrs.evolve(RULE, input=Input("in0", ip_address(address), 5000))
    (warning,) = view_of(rule, 5, judge(STANDING, network)).warnings
    assert warning == (
        f"{address} is no group, nor on a network of this machine; if a group was meant: those begin with {begin}"
    )


def test_output_that_cannot_be_served_degrades_its_rule() -> None:
    found = view(without(9))
    assert found.state is RuleState.DEGRADED
    assert found.reason == "1 of 2 outputs: there is no interface out1 in this network namespace any more"
    assert [each.state for each in found.outputs] == [RuleState.WAITING, RuleState.ACTIVE]
    none = view(without(a=attrs.evolve(OUT0, up=False), b=attrs.evolve(OUT1, carrier=False)))
    assert none.reason == "all 2 outputs: out1 has no carrier, and out0 is down"
    assert none.state is RuleState.DEGRADED


def test_output_whose_sockets_could_not_be_opened_degrades_its_rule() -> None:
    why = "its source port 4000 cannot be had: Address already in use (os error 98)"
    ported = attrs.evolve(RULE, outputs=(attrs.evolve(HOST_OUTPUT, source_port=4000), GROUP_OUTPUT))
    found = view_of(ported, 5, judge(attrs.evolve(STANDING, faults={("out0", HOST, 4000, Sockets.UDP): why}), NETWORK))
    assert (found.state, found.reason) == (RuleState.DEGRADED, f"1 of 2 outputs: {why}")
    assert [each.state for each in found.outputs] == [RuleState.WAITING, RuleState.ACTIVE]


@pytest.mark.parametrize(
    ("hop", "reason"),
    [
        (Hop(HOST), "198.18.10.2 does not answer ARP on out0"),
        (Hop(IPv6Address("fe80::7")), "the gateway fe80::7 to 198.18.10.2 does not answer neighbour discovery on out0"),
        (Hop(GATEWAY), "the gateway 198.18.10.254 to 198.18.10.2 does not answer ARP on out0"),
    ],
)
def test_host_that_does_not_answer_is_named(hop: Hop, reason: str) -> None:
    silent: set[tuple[int, Address]] = {(8, hop.neighbour)}
    found = view(hop=hop, silent=silent)
    assert (found.state, found.outputs[1].state) == (RuleState.DEGRADED, RuleState.WAITING)
    assert found.outputs[1].reason == reason
    assert found.reason == f"1 of 2 outputs: {reason}"
    assert view(hop=hop, silent={(9, GATEWAY)}).state is RuleState.ACTIVE


def test_interface_that_is_down_explains_more_than_its_hosts() -> None:
    down = without(new=attrs.evolve(OUT0, up=False))
    assert view(down, Hop(HOST), silent={(8, HOST)}).outputs[1].reason == "out0 is down"


def test_who_has_given_no_answer_is_silent() -> None:
    """As the kernel tells; of whom it has told nothing it is asked, and here it knows nobody."""
    hops: dict[tuple[IPv4Address | IPv6Address, str], Hop] = {
        (HOST, "out0"): Hop(HOST),
        (GATEWAY, "out0"): Hop(GATEWAY),
    }
    assert find_silent(hops, STANDING.outputs, NETWORK) == frozenset()
    told = attrs.evolve(NETWORK, neighbours={(8, HOST): Neighbour(0x20, silent=True), (8, GATEWAY): Neighbour(0x02)})
    assert find_silent(hops, STANDING.outputs, told) == {(8, HOST)}


@pytest.mark.parametrize(
    ("host", "routed", "oddity"),
    [
        ("198.18.10.2", True, ""),
        ("198.18.10.1", True, "198.18.10.1 is an address of this machine"),
        ("203.0.113.9", False, "no route to 203.0.113.9 leads through out0"),
        ("198.18.10.255", True, "198.18.10.255 is the broadcast address of 198.18.10.0/24: every host there gets"),
        ("255.255.255.255", False, ""),  # nobody names that by mistake
    ],
)
def test_hosts_that_cannot_be_meant_are_told(host: str, routed: bool, oddity: str) -> None:
    found = find_oddity(IPv4Address(host), "out0", NETWORK, routed=routed)
    assert found.startswith(oddity)
    assert bool(found) == bool(oddity)
    if found:
        told = view(hop=Hop(HOST, found))
        assert (told.state, told.warnings) == (RuleState.ACTIVE, (found,))


def test_by_a_tunnel_hosts_need_no_route() -> None:
    network = without(8, tun0=Link(8, "out0", arp=False))
    assert find_oddity(IPv4Address("203.0.113.9"), "out0", network, routed=False) == ""


def test_nobody_has_to_ask_for_groups_of_ipv6_on_the_loopback() -> None:
    rule = attrs.evolve(RULE, input=Input("in0", IPv6Address("ff15::1"), 5000))
    network = without(7, lo=Link(7, "in0", loopback=True))
    assert view_of(rule, 5, judge(STANDING, NETWORK)).state is RuleState.DEGRADED
    assert view_of(rule, 5, judge(STANDING, network)).state is RuleState.ACTIVE


@pytest.mark.parametrize("host", ["198.18.10.2", "198.18.10.255", "255.255.255.255"])
def test_no_route_is_needed_to_what_is_ipv4(host: str) -> None:
    assert find_refusal(IPv4Address(host), 8, NETWORK, routed=False) == ""


def test_networks_of_two_addresses_have_no_broadcast() -> None:
    pair = attrs.evolve(NETWORK, addresses={8: (IPv4Interface("198.18.10.2/31"),)})
    assert find_oddity(IPv4Address("198.18.10.3"), "out0", pair, routed=True) == ""


def test_rule_of_which_nothing_is_known_is_as_its_workers_are() -> None:
    assert view_of(RULE, 1, Conditions(acknowledged=1)).state is RuleState.ACTIVE
