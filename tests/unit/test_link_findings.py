"""What doctor makes of interfaces: each judgement with values, no machine."""

import socket
from ipaddress import IPv4Address

import attrs
import pytest

from calls import count_calls
from doctor_world import (
    ADVICE,
    FAULT,
    IN0,
    MACHINE,
    OK,
    OUT0,
    WORKER,
    expect,
)
from mcr.config.settings import Settings
from mcr.diagnosis import doctor, link_findings, machine_findings
from mcr.diagnosis.doctor import Relay, examine
from mcr.diagnosis.present import new_names
from mcr.diagnosis.shared_outputs import judge_shared_outputs
from mcr.model.finding import Verdict
from mcr.model.flow import Input
from mcr.model.log import LogLevels
from mcr.model.rule import OutputView, RuleState, RuleView
from mcr.model.stats import (
    EgressStats,
    IngressStats,
    InterfaceStats,
    ParseErrors,
    Stats,
)
from mcr.net.interfaces import wait_for_interface
from mcr.net.links import Link
from mcr.rules.conditions import UNUSABLE, Attachment, Standing

USED = {"in0": Attachment("in0", IN0.index), "out0": Attachment("out0", OUT0.index)}


def test_interfaces_that_are_up_are_one_line() -> None:
    links = {"in0": IN0, "out0": OUT0}
    expect(link_findings.judge_presence(frozenset(links), links, USED, {}), OK, "Up: in0, out0")
    expect(link_findings.judge_presence(frozenset(), {}, {}, {}), OK, "No rules yet")


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (None, ["is gone", "by itself"]),
        (attrs.evolve(IN0, up=False, running=False), ["is down", "sudo ip link set dev in0 up"]),
        (attrs.evolve(IN0, running=False), ["no carrier", "cable"]),
    ],
)
def test_an_interface_that_cannot_work_is_a_fault(link: Link | None, words: list[str]) -> None:
    links = {"out0": OUT0} | ({"in0": link} if link else {})
    expect(link_findings.judge_presence(frozenset({"in0", "out0"}), links, USED, {}), FAULT, "in0", *words)


def test_interfaces_that_no_rule_names_any_more_are_not_judged() -> None:
    """They are counted on after their last rule."""
    counted = (InterfaceStats("gone0", 9, 5, ParseErrors(loop=7), 1.5), InterfaceStats("lo", 9, 0))
    stats = Stats(IngressStats(recv=18, kernel_drops=5), EgressStats(), (), (), counted)
    findings = examine(Settings("", 1, LogLevels()), Relay((WORKER,), stats, (), Standing(), {}))
    told = " ".join(each.what for each in findings)
    assert "No rules yet, so no interfaces" in told
    assert "on 0 of 0 input interfaces" in told or "also go through" in told
    assert not {"gone0", "lo"} & set(told.replace(":", " ").split())
    rule = RuleView("a", None, Input("lo", IPv4Address("239.1.1.1"), 5000), (), RuleState.ACTIVE)
    relay = Relay((WORKER,), stats, (rule,), Standing(), {})
    assert relay.inputs == {"lo"}
    assert [each.interface for each in relay.counters().interfaces] == ["lo"]


def test_interface_that_mcrd_could_not_use_again_is_a_fault() -> None:
    used = USED | {"in0": Attachment("in0", 7, lost=True, fault="Too many open files")}
    links = {"in0": attrs.evolve(IN0, index=99), "out0": OUT0}
    (fault,) = link_findings.judge_presence(frozenset(links), links, used, {})
    expect(fault, FAULT, "is another interface now", "Too many open files", "index 99", "had 7")


def test_interface_that_rules_have_waited_for_was_not_there_before() -> None:
    used = USED | {"in0": Attachment("in0", wait_for_interface("in0").index, lost=True)}
    (advice,) = link_findings.judge_presence(frozenset(used), {"out0": OUT0}, used, {})
    expect(advice, ADVICE, "in0 is not there", "uses one of that name by itself")
    (fault,) = link_findings.judge_presence(frozenset(used), {"in0": IN0, "out0": OUT0}, used, {})
    expect(fault, FAULT, "in0 is there now, and mcrd does not use it", "index 2")
    assert "sockets had" not in fault.evidence


def test_interface_that_was_renamed_is_a_fault() -> None:
    used = USED | {"in0": Attachment("in0", wait_for_interface("in0").index, lost=True, former=7)}
    (fault,) = link_findings.judge_presence(frozenset(used), {"out0": OUT0}, used, {})
    expect(fault, FAULT, "in0 was renamed", "ip link show dev in0")  # and has gone since
    (fault,) = link_findings.judge_presence(frozenset(used), {"out0": OUT0}, used, {"in0": "studio"})
    expect(fault, FAULT, "in0 is called studio now, and rules name in0", "ip link show dev studio")


def test_what_a_renamed_interface_is_called_now_is_looked_up() -> None:
    lost = Attachment("in0", wait_for_interface("in0").index, lost=True)
    loopback = socket.if_nametoindex("lo")
    assert new_names([attrs.evolve(lost, former=loopback), lost, USED["out0"]]) == {"in0": "lo"}
    assert new_names([attrs.evolve(lost, former=2**30)]) == {}


def test_interface_that_is_called_otherwise_now_is_spoken_of_by_both_names() -> None:
    links = {"in0": attrs.evolve(IN0, name="in9"), "out0": OUT0}
    expect(link_findings.judge_presence(frozenset(links), links, USED, {}), OK, "Up: in0 (is called in9 now), out0")
    links = {"in0": attrs.evolve(IN0, name="in9", up=False), "out0": OUT0}
    expect(link_findings.judge_presence(frozenset(links), links, USED, {}), FAULT, "sudo ip link set dev in9 up")


def test_hosts_that_do_not_answer_are_faults_and_what_is_odd_is_advice() -> None:
    silent = "198.18.1.2 does not answer ARP on out0"
    output = OutputView(IPv4Address("198.18.1.2"), 6000, "out0", state=RuleState.WAITING, reason=silent)
    source = Input("in0", IPv4Address("239.1.1.1"), 5000)
    rules = [
        RuleView(str(each), None, source, (output,), RuleState.DEGRADED, silent, ("in0 is odd",)) for each in range(3)
    ]
    fault, advice = link_findings.judge_rules(rules)
    expect(fault, FAULT, silent, "mcrctl list: 0 and 2 more")
    expect(advice, ADVICE, "in0 is odd")
    group = (OutputView(IPv4Address("239.2.2.2"), 6000, "out0"),)
    port = RuleView("4", None, source, group, RuleState.DEGRADED, "in0 is a port of bridge br0")
    (advice,) = link_findings.judge_rules([port])
    expect(advice, ADVICE, "in0 is a port of bridge br0")
    assert link_findings.judge_rules([attrs.evolve(port, state=RuleState.ACTIVE)]) == ()


SOURCE = Input("in0", IPv4Address("239.1.1.1"), 5000)
GROUP = OutputView(IPv4Address("239.2.2.2"), 6000, "out0")


def waiting(reason: str, state: RuleState = RuleState.DEGRADED, of_rule: str = "") -> RuleView:
    """A rule one of whose outputs waits."""
    output = attrs.evolve(GROUP, port=6001, state=RuleState.WAITING, reason=reason)
    return RuleView("r", None, SOURCE, (GROUP, output), state, of_rule or f"1 of 2 outputs: {reason}")


@pytest.mark.parametrize(
    ("rule", "check"),
    [
        (waiting("198.18.1.2 does not answer ARP on out0"), "neighbour"),
        (waiting("its source 198.18.9.9 is not an address of this machine"), "rule_waits"),
        (waiting("Too many open files"), "rule_waits"),
        (waiting("out0 is down"), "rule_waits"),  # and up again since
        (RuleView("r", None, SOURCE, (GROUP,), RuleState.WAITING, "in0 is down"), "rule_waits"),
        (RuleView("r", None, SOURCE, (GROUP,), RuleState.DEGRADED, "in0: no memory"), "rule_warnings"),
        (RuleView("r", None, SOURCE, (GROUP,), RuleState.PENDING, "not every worker has acknowledged"), "rule_pending"),
    ],
)
def test_every_rule_that_is_not_active_is_told(rule: RuleView, check: str) -> None:
    (finding,) = link_findings.judge_rules([rule, attrs.evolve(rule, rule_id="other")])
    assert (finding.check, finding.verdict is Verdict.OK) == (check, False)
    assert finding.evidence == "mcrctl list: r and 1 more"


def test_what_is_wrong_with_input_and_output_is_both_told() -> None:
    findings = link_findings.judge_rules([waiting("no memory", of_rule="in0 is a port of bridge br0")])
    assert [each.what for each in findings] == ["no memory", "in0 is a port of bridge br0"]


def test_what_another_finding_tells_of_an_interface_is_not_told_again() -> None:
    links = {"in0": IN0, "out0": attrs.evolve(OUT0, up=False, running=False)}
    missing = link_findings.missing_interfaces(frozenset(links), links, USED)
    assert missing == {"out0"}
    assert link_findings.judge_rules([waiting("out0 is down")], missing) == ()
    unusable = RuleView("r", None, SOURCE, (GROUP,), RuleState.WAITING, f"{UNUSABLE}no room")
    assert link_findings.judge_rules([unusable]) == ()


@pytest.mark.parametrize(("group", "joins"), [("239.1.1.1", True), ("198.51.100.1", False), ("198.51.100.255", False)])
def test_only_what_is_joined_needs_an_address_for_igmp(group: str, joins: bool) -> None:
    links = {"in0": attrs.evolve(IN0, addresses=())}
    rule = RuleView("a", None, Input("in0", IPv4Address(group), 5000), (GROUP,), RuleState.ACTIVE)
    relay = Relay((WORKER,), Stats(IngressStats(), EgressStats()), (rule,), Standing(), {})
    assert [each.check for each in doctor._judge_input_addresses(relay, links)] == ["input_address"] * joins


def test_outputs_of_several_rules_are_advice() -> None:
    other = attrs.evolve(SOURCE, port=5001)
    rules = [
        RuleView("a", "news", SOURCE, (GROUP,), RuleState.ACTIVE),
        RuleView("b", None, other, (GROUP,), RuleState.ACTIVE),
    ]
    (advice,) = judge_shared_outputs(rules)
    expect(advice, ADVICE, "239.2.2.2:6000:out0 is an output of several rules", "news, b")
    tagged = attrs.evolve(rules[1], outputs=(attrs.evolve(GROUP, vlan=7),))
    assert not list(judge_shared_outputs([rules[0], tagged]))


def test_ranges_that_several_rules_send_to_are_advice() -> None:
    """Each range once. What a rule takes of a range and sends where that would have, does not go there twice."""
    pairs = [
        RuleView(
            f"p{number}",
            None,
            Input("in0", IPv4Address("239.1.0.0") + number, 5000, last_port=5001),
            (attrs.evolve(GROUP, last_port=GROUP.port + 1),),
            RuleState.ACTIVE,
        )
        for number in range(300)
    ]
    inside = RuleView("inside", None, Input("in0", pairs[0].input.group, 5000), (GROUP,), RuleState.ACTIVE)
    assert not list(judge_shared_outputs([inside, pairs[0]]))
    (advice,) = judge_shared_outputs([inside, *pairs[:3]])
    expect(advice, ADVICE, "239.2.2.2:6000-6001:out0 is an output of several rules", "p0, p1 and 2 more")
    beside = attrs.evolve(inside, input=attrs.evolve(inside.input, port=7000))
    (advice,) = judge_shared_outputs([beside, pairs[0]])
    expect(advice, ADVICE, "239.2.2.2:6000-6001:out0", "p0, inside")
    assert count_calls(lambda: list(judge_shared_outputs(pairs))) < 60 * len(pairs)


def test_frames_that_an_interface_loses_are_told() -> None:
    assert link_findings.judge_drops(attrs.evolve(IN0, rx_packets=1_000_000, rx_dropped=50)) == ()
    assert link_findings.judge_drops(attrs.evolve(IN0, rx_packets=10, rx_dropped=9)) == ()
    lossy = attrs.evolve(IN0, rx_packets=1000, rx_dropped=10, rx_missed=5, tx_packets=1000, tx_dropped=10)
    missed, inward, outward = link_findings.judge_drops(lossy)
    expect(missed, ADVICE, "lost 5 of 1,005", "ethtool -G in0")
    expect(inward, ADVICE, "10 of 1,010 incoming frames")
    expect(outward, ADVICE, "outgoing frames", "ethtool -S in0")


def test_merging_is_no_reason_for_concern() -> None:
    expect(link_findings.judge_merging("in0", ()), OK, "does not merge frames")
    expect(link_findings.judge_merging("in0", ("rx-gro", "rx-lro")), OK, "rx-gro, rx-lro on")
    expect(link_findings.judge_merging("in0", None), OK)


@pytest.mark.parametrize(
    ("rp_filter", "addressed", "unroutable", "verdict"),
    [
        (0, False, 9, OK),
        (0, True, 0, OK),
        (1, True, 0, OK),
        (1, True, 9, ADVICE),
        (1, False, 0, ADVICE),
        (2, True, 9, OK),
        (2, False, 0, ADVICE),
    ],
)
def test_a_reverse_path_filter_matters_if_queries_may_meet_it(
    rp_filter: int, addressed: bool, unroutable: int, verdict: Verdict
) -> None:
    link = attrs.evolve(IN0, rp_filter=rp_filter, addresses=IN0.addresses if addressed else ())
    finding = expect(link_findings.judge_reverse_path(link, unroutable), verdict)
    assert ("198.18.0.0/24" in finding.what) == (addressed and rp_filter > 0)
    if verdict is ADVICE:
        assert "net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.in0.rp_filter=0" in finding.remedy


def test_parameters_that_cannot_be_read_are_not_judged() -> None:
    hidden = attrs.evolve(IN0, rp_filter=None, forced_igmp=None)
    expect(link_findings.judge_reverse_path(hidden, 0), OK, "cannot be seen")
    assert link_findings.judge_igmp_version(hidden) == ()
    expect(machine_findings.judge_backlog(None, None), OK, "cannot be seen")
    expect(machine_findings.judge_memberships(attrs.evolve(MACHINE, memberships=None)), OK, "unknown")


def test_a_forced_version_of_igmp_is_mentioned() -> None:
    assert link_findings.judge_igmp_version(IN0) == ()
    expect(link_findings.judge_igmp_version(attrs.evolve(IN0, forced_igmp=2)), ADVICE, "version 2 is forced on in0")


def test_an_output_interface_needs_an_address() -> None:
    assert link_findings.judge_source(OUT0) == ()
    expect(link_findings.judge_source(attrs.evolve(OUT0, addresses=())), ADVICE, "no IPv4 address")


@pytest.mark.parametrize(
    ("route", "pps", "verdict"),
    [
        ("224.0.0.0/4", 10**6, OK),
        ("239.2.0.0/16", 10**6, OK),
        (None, 19_999, OK),
        (None, 20_000, ADVICE),
        ("0.0.0.0/0", 20_000, ADVICE),
        ("0.0.0.0/0", 0, OK),
    ],
)
def test_a_missing_route_matters_at_high_rates(route: str | None, pps: int, verdict: Verdict) -> None:
    finding = expect(link_findings.judge_route(OUT0, route, pps, raw=False), verdict, "out0")
    assert finding.remedy == ("sudo ip route append 224.0.0.0/4 dev out0" if verdict is ADVICE else "")
    expect(link_findings.judge_route(OUT0, route, pps, raw=True), OK, "does not need a route")
