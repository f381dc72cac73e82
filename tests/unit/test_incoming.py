"""What is said of a rule's way in, given what was found there."""

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import attrs
import pytest

from arrivals import ENTRANCE, FLOW, GROUP, HEARD, LINK, OTHER, RULE, SOURCE, UNHEARD, arrival, stats, verdicts
from mcr.actors.querier_watch import Hearing
from mcr.diagnosis.arrival import judge_arrival
from mcr.diagnosis.incoming import Entrance, judge_entrance, judge_rule
from mcr.diagnosis.queriers import Queriers, judge_gone
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import Address, Input
from mcr.model.rule import RuleState, RuleView
from mcr.model.worker import WorkerState, WorkerView
from mcr.net.firewall import Chain, Firewall
from mcr.tap.sighting import Look, Sighting, Tag

SENDER = IPv4Address("198.18.0.1")

CLOSED = Firewall((Chain("inet filter", "input", "input", drops=True, rules=1, igmp=False),))
OPEN = Firewall((Chain("inet filter", "input", "input", drops=False, rules=3, igmp=True),))


def troubles(findings: Iterable[Finding]) -> list[str]:
    return verdicts(each for each in findings if each.verdict is not Verdict.OK)


# The rule


def workers(*states: WorkerState) -> tuple[WorkerView, ...]:
    return tuple(WorkerView(i, 1, i, ("in0",), state, 0, 1) for i, state in enumerate(states))


RUNNING, WAITING = WorkerState.RUNNING, WorkerState.WAITING


@pytest.mark.parametrize(
    ("rule", "states", "expected"),
    [
        (RULE, [RUNNING, RUNNING], []),
        (RULE, [RUNNING, WAITING], ["advice workers_running"]),
        (RULE, [WAITING, WAITING], ["fault workers_running"]),
        (attrs.evolve(RULE, state=RuleState.PENDING), [WAITING], ["fault rule_active"]),
        (attrs.evolve(RULE, state=RuleState.WAITING, reason="in0 is down"), [RUNNING], ["advice rule_active"]),
        (attrs.evolve(RULE, state=RuleState.DEGRADED, reason="out0 is down"), [RUNNING], ["advice rule_active"]),
    ],
)
def test_rule(rule: RuleView, states: list[WorkerState], expected: list[str]) -> None:
    findings = list(judge_rule(rule, workers(*states)))
    assert troubles(findings) == expected
    assert all(f"worker {i} {state}" in findings[-1].evidence for i, state in enumerate(states))


# The interface


@pytest.mark.parametrize(
    ("entrance", "expected"),
    [
        (ENTRANCE, []),
        (Entrance(None), ["fault input_interface"]),
        (attrs.evolve(ENTRANCE, captured={10}), ["fault input_interface"]),
        (attrs.evolve(ENTRANCE, link=attrs.evolve(LINK, up=False, carrier=False)), ["fault input_up"]),
        (attrs.evolve(ENTRANCE, link=attrs.evolve(LINK, carrier=False)), ["fault input_carrier"]),
        (attrs.evolve(ENTRANCE, link=attrs.evolve(LINK, addresses=())), ["advice input_address"]),
        (attrs.evolve(ENTRANCE, joined={(12, GROUP), (11, OTHER)}), ["fault group_joined"]),
    ],
)
def test_entrance(entrance: Entrance, expected: list[str]) -> None:
    findings = list(judge_entrance(SOURCE, entrance))
    assert troubles(findings) == expected
    assert all(each.remedy for each in findings if each.verdict is not Verdict.OK)
    assert not any(each.remedy for each in findings if each.verdict is Verdict.OK)


def test_the_reason_that_the_rule_gives_says_what_became_of_its_interface() -> None:
    missing = "there is no interface in0 in this network namespace any more"
    for reason, what, remedy in (
        (missing, missing, "bring it back"),
        (f"{missing}: it is called studio now", f"{missing}: it is called studio now", "give it its name back"),
        ("in0 is down", "there is no interface in0", "bring it back"),
    ):
        (finding,) = judge_entrance(SOURCE, Entrance(None), reason)
        assert (finding.what, finding.remedy.startswith(remedy)) == (what, True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"igmp": "V3"}, []),
        ({"igmp": "V2"}, ["advice source_joined"]),
        ({"igmp": "V3", "sources": {11: {(OTHER, SENDER)}, 12: {(GROUP, SENDER)}}}, ["fault source_joined"]),
        ({"igmp": "V3", "sources": {11: ()}}, ["fault source_joined"]),
        ({"igmp": "V3", "sources": {12: {(GROUP, SENDER)}}}, []),  # nothing is known of its interface
        ({"igmp": "V2", "sources": {}}, ["advice source_joined"]),
    ],
)
def test_a_source_is_asked_for_in_a_language_that_has_words_for_it(change: dict[str, Any], expected: list[str]) -> None:
    source = attrs.evolve(SOURCE, sources=(SENDER,))
    entrance = attrs.evolve(ENTRANCE, **{"sources": {11: {(GROUP, SENDER)}}} | change)
    assert troubles(judge_entrance(source, entrance)) == expected


def test_without_an_address_the_reverse_path_check_matters() -> None:
    (advice,) = (
        each
        for each in judge_entrance(SOURCE, attrs.evolve(ENTRANCE, link=attrs.evolve(LINK, addresses=(), rp_filter=2)))
        if each.verdict is Verdict.ADVICE
    )
    assert "keeps it from answering queriers" in advice.what
    assert "rp_filter: 2" in advice.evidence


# What arrives


def test_flow_on_the_wire() -> None:
    (finding,) = arrival(FLOW)
    assert verdicts([finding]) == ["ok flow_arrives"]
    assert finding.evidence == "within 2.0 s: 10 frames with 188 bytes of payload"


def test_flow_that_only_the_counter_shows() -> None:
    """The look may miss it among a flood."""
    (finding,) = arrival(Sighting("in0", GROUP, 5001), grown=3)
    assert verdicts([finding]) == ["ok flow_arrives"]
    assert finding.evidence == "mcrctl stats: matched grew by 3 within 2.0 s"


@pytest.mark.parametrize(
    ("querier", "unheard", "firewall", "expected", "said"),
    [
        (HEARD, 0, Firewall(), ["ok querier"], "an IGMP querier is on in0"),
        (Hearing(259.0), 0, Firewall(), [], ""),  # too early to tell
        (Hearing(260.0), 0, Firewall(), ["advice querier"], "no IGMP querier is on in0"),
        (Hearing(9000.0, 261.0, OTHER), 0, Firewall(), ["advice querier"], "has gone silent"),
        (Hearing(9000.0, 12.0, OTHER, 3.0, 1.0), 0, Firewall(), ["advice querier"], "has gone silent"),
        (Hearing(9000.0, 2.0, OTHER, 3.0, 1.0), 0, Firewall(), ["ok querier"], "is on in0"),
        (HEARD, 1, Firewall(), ["advice querier"], "this machine drops them"),
        (Hearing(260.0), 0, CLOSED, ["advice querier"], "no rule that accepts IGMP"),
        (Hearing(None), 0, Firewall(), [], ""),
    ],
)
def test_querier_of_a_flow_that_arrives(
    querier: Hearing, unheard: int, firewall: Firewall, expected: list[str], said: str
) -> None:
    findings = arrival(FLOW, querier=querier, unheard=unheard, firewall=firewall)[1:]
    assert verdicts(findings) == expected
    assert all(said in each.what for each in findings)


@pytest.mark.parametrize("port", [5000, None])
@pytest.mark.parametrize("group", [GROUP, IPv6Address("ff15::1")])
def test_flow_a_part_of_which_is_cut(group: Address, port: int | None) -> None:
    rule = attrs.evolve(RULE, input=Input("in0", group, 5000))
    findings = arrival(Sighting("in0", group, 5000), Sighting("in0", group, port, (), fragment=True), rule=rule)
    assert not troubles(findings)
    assert "arrives in fragments, which are put together" in " ".join(each.what for each in findings)


def test_ipv6_leaves_less_room_for_what_is_not_cut() -> None:
    group = IPv6Address("ff15::1")
    rule = attrs.evolve(RULE, input=Input("in0", group, 5000))
    (finding,) = arrival(Sighting("in0", group, None, (), fragment=True), rule=rule)
    assert verdicts([finding]) == ["fault fragments"]
    assert "with 1500, 1,452 bytes of payload" in finding.remedy


@pytest.mark.parametrize(
    ("seen", "check", "said", "remedy"),
    [
        ([Sighting("in0", GROUP, 5001)], "port", "239.1.1.1:5001 on in0", "--input-port 5001"),
        ([Sighting("in1", GROUP, 5000)], "arrival_interface", "239.1.1.1:5000 on in1", "--input-interface in1"),
        ([Sighting("in0", OTHER, 5000)], "group", "239.1.1.2:5000 on in0", "--input-group 239.1.1.2"),
        (
            [Sighting("in0", GROUP, 5000, (Tag(100),))],
            "vlan_tag",
            "does not arrive untagged on in0, but this does: 239.1.1.1:5000 on in0 with VLAN tag 100",
            "add the rule with --input-interface in0 --input-vlan 100",
        ),
        (
            [Sighting("in0", GROUP, 5000, (Tag(7, 0x88A8), Tag(100)))],
            "vlan_tag",
            "with VLAN tag 7 with VLAN tag 100",
            (
                "sudo ip link add link in0 name in0.7 type vlan proto 802.1ad id 7 && sudo ip link set dev in0.7 up && "
                "sudo ip link add link in0.7 name in0.7.100 type vlan id 100 && sudo ip link set dev in0.7.100 up"
            ),
        ),
        (
            [Sighting("in0", GROUP, 5000, (Tag(100),)), Sighting("in0.100", GROUP, 5000)],
            "vlan_tag",
            "with VLAN tag 100",
            "--input-interface in0.100, where it comes without the tag",
        ),
        (
            [Sighting("enp129s0f1np1", GROUP, 5000, (Tag(100, 0x88A8),))],
            "vlan_tag",
            "on enp129s0f1np1 with VLAN tag 100",
            "name vlan100 type vlan proto 802.1ad id 100",  # the other name would be too long
        ),
        ([Sighting("in0", GROUP, 5000, (), fragment=True)], "fragments", "in fragments", "1,472 bytes"),
        (
            [Sighting("in0", GROUP, None, (), fragment=True)],
            "fragments",
            "239.1.1.1 on in0 in fragments",
            "1,472 bytes",
        ),
        (
            [Sighting("in1", GROUP, 5001)],
            "arrival_interface",
            "239.1.1.1:5001 on in1",
            "--input-interface in1, or connect the right cable; add the rule with --input-port 5001",
        ),
    ],
)
def test_flow_gone_astray(seen: list[Sighting], check: str, said: str, remedy: str) -> None:
    (finding,) = arrival(*seen)
    assert verdicts([finding]) == [f"fault {check}"]
    assert finding.what.startswith("239.1.1.1:5000 does not arrive ")
    assert said in finding.what
    assert remedy in finding.remedy


def test_what_is_nearest_to_the_flow_is_named_alone() -> None:
    """One that differs in one thing before one that differs in two, a tag before all."""
    two = Sighting("in1", GROUP, 5001)
    group, port = Sighting("in0", OTHER, 5000), Sighting("in0", GROUP, 5001)
    elsewhere, tagged = Sighting("in1", GROUP, 5000), Sighting("in0", GROUP, 5000, (Tag(1),))
    seen: list[Sighting] = []
    for each, check in [
        (two, "arrival_interface"),
        (group, "group"),
        (port, "port"),
        (elsewhere, "arrival_interface"),
        (tagged, "vlan_tag"),
    ]:
        seen.append(each)
        (finding,) = arrival(*seen)
        assert finding.check == check
        assert f"{each.group}:{each.port} on {each.interface}" in finding.what
        assert finding.what.count(" on ") == 2


def test_many_of_a_kind_are_counted() -> None:
    (finding,) = arrival(*(Sighting("in0", GROUP, port) for port in range(6000, 6008)))
    assert finding.what.count("239.1.1.1:60") == 5
    assert finding.what.endswith(" and 3 more")
    assert finding.evidence == "within 2.0 s: 80 frames"


def test_what_other_rules_take_is_not_gone_astray() -> None:
    inputs = [Input("in0", OTHER, 5000), Input("in1", GROUP, 5000)]
    others = [attrs.evolve(RULE, input=each) for each in inputs]
    seen = [Sighting(each.interface, each.group, each.port) for each in inputs]
    assert verdicts(arrival(*seen, others=others)) == ["fault flow_arrives"]
    assert verdicts(arrival(*seen, others=others[:1])) == ["fault arrival_interface"]


def test_what_other_rules_take_of_the_group_is_named() -> None:
    """The group arrives, so nobody is sent to look for its source, nor for a querier."""
    silent = Hearing(4000.0)
    media, spare = Input("in0", GROUP, 5002), Input("in1", GROUP, 5000)
    others = [attrs.evolve(RULE, rule_id=name, name=name, input=each) for name, each in (("m m", media), ("b", spare))]
    (finding,) = arrival(Sighting("in1", GROUP, 5000), Sighting("in0", GROUP, 5002), others=others, querier=silent)
    assert verdicts([finding]) == ["fault flow_arrives"]
    assert finding.what == (
        "239.1.1.1:5000 does not arrive on in0; of its group this does: 239.1.1.1:5002 on in0, which rule m m takes; "
        "239.1.1.1:5000 on in1, which rule b takes"
    )
    assert finding.evidence.endswith("no frame of it; matched so far: 50, 20 frames for other rules")
    assert "mcrctl change 'm m' --add-outputs" in finding.remedy
    (elsewhere,) = arrival(Sighting("in1", GROUP, 5000), others=others, querier=silent)
    assert elsewhere.what.startswith(
        "nothing of 239.1.1.1 arrives on in0, only elsewhere: 239.1.1.1:5000 on in1, which rule b takes, and no IGMP"
    )


def test_other_groups_elsewhere_or_tagged_are_no_likeness() -> None:
    seen = [Sighting("in1", OTHER, 5000), Sighting("in0", OTHER, 5000, (Tag(1),))]
    assert verdicts(arrival(*seen)) == ["fault flow_arrives"]


def test_what_comes_by_the_other_version_of_ip_is_no_likeness() -> None:
    """Nobody types an address of the other version by mistake."""
    assert verdicts(arrival(Sighting("in0", IPv6Address("ff15::1"), 5000))) == ["fault flow_arrives"]
    assert verdicts(arrival(Sighting("in0", OTHER, 5000))) == ["fault group"]


@pytest.mark.parametrize(
    ("querier", "check", "evidence"),
    [
        (HEARD, "flow_arrives", "the last IGMP query came from 198.18.0.254 20 s ago"),
        (Hearing(None), "flow_arrives", "mcrd could not listen for queriers"),
        (Hearing(37.0), "flow_arrives", ""),  # the next query may still be to come
        (Hearing(125.0), "flow_arrives", ""),
        (Hearing(126.0), "querier", "no IGMP query since mcrd began to listen 126 s ago"),
        (Hearing(4000.0), "querier", "no IGMP query since mcrd began to listen 4,000 s ago"),
        (Hearing(4000.0, 300.0, OTHER), "querier", "the last IGMP query came from 239.1.1.2 300 s ago"),
        (Hearing(90.0, 12.0, OTHER, 3.0, 1.0), "querier", "239.1.1.2 12 s ago; they came every 1 s"),
    ],
)
def test_nothing_arrives(querier: Hearing, check: str, evidence: str) -> None:
    (finding,) = arrival(querier=querier)
    assert verdicts([finding]) == [f"fault {check}"]
    assert finding.what.startswith("nothing of 239.1.1.1 arrives on in0")
    assert finding.evidence.startswith("within 2.0 s: no frame of it; matched so far: 50")
    assert evidence in finding.evidence
    assert finding.remedy.startswith("does the source send? ")
    assert ("quer" in str(finding)) is (bool(evidence))


@pytest.mark.parametrize("where", ["loopback", "tunnel"])
def test_nobody_has_to_ask_where_no_switch_is(where: str) -> None:
    for frames, expected in (({}, ["fault flow_arrives"]), ({FLOW: 1}, ["ok flow_arrives"])):
        look = Look(2.0, frames, {}, 188 if frames else None)
        queriers = Queriers(Hearing(4000.0), loopback=where == "loopback", tunnel=where == "tunnel")
        found = list(judge_arrival(RULE, look, stats(50), stats(50), others=(), queriers=queriers))
        assert verdicts(found) == expected
        assert "quer" not in str(found)


def test_frames_that_the_interface_drops_are_told_where_nothing_arrives() -> None:
    queriers = Queriers(HEARD)
    look = Look(2.0, {}, {}, None)
    (finding,) = judge_arrival(RULE, look, stats(50), stats(50), others=(), queriers=queriers, dropped=9, mtu=1400)
    assert "in0 dropped 9 frames meanwhile" in finding.evidence
    assert finding.remedy.endswith("are its frames longer than the MTU of in0, 1,400?")


def test_a_group_that_nobody_has_to_join_needs_no_querier() -> None:
    rule = attrs.evolve(RULE, input=Input("in0", IPv4Address("224.0.0.1"), 5000))
    look = Look(2.0, Counter(), Counter(), None)
    (finding,) = judge_arrival(rule, look, stats(50), stats(50), others=(), queriers=Queriers(UNHEARD))
    assert verdicts([finding]) == ["fault flow_arrives"]
    assert "on the network of in0 itself" in finding.remedy


@pytest.mark.parametrize(
    ("firewall", "unroutable", "said", "evidence", "remedy"),
    [
        (
            CLOSED,
            7,
            "the firewall of this machine has no rule that accepts IGMP",
            "nft list chain inet filter input: policy drop",
            "sudo nft insert rule inet filter input ip protocol igmp accept",
        ),
        (Firewall(), 7, "no route back to the querier", "IPReversePathFilter: +7", "net.ipv4.conf.in0.rp_filter=0"),
        (
            OPEN,
            0,
            "a firewall rule or the reverse-path filter",
            "table inet filter, chain input has 3 rules",
            "nft list",
        ),
        (
            Firewall(hidden="Operation not permitted"),
            0,
            "a firewall rule or",
            "cannot be seen: Operation",
            "rp_filter=0",
        ),
        (Firewall(legacy=("filter",)), 0, "a firewall rule or", "iptables rules are loaded", "iptables-save"),
    ],
)
def test_queries_that_come_in_and_are_dropped_here(
    firewall: Firewall, unroutable: int, said: str, evidence: str, remedy: str
) -> None:
    """Also where some were heard before the firewall came."""
    for querier in (UNHEARD, HEARD):
        (finding,) = arrival(querier=querier, unheard=2, firewall=firewall, unroutable=unroutable)
        assert verdicts([finding]) == ["fault querier"]
        assert "IGMP queries reach in0, but this machine drops them" in finding.what
        assert said in finding.what
        assert "2 IGMP queries came in" in finding.evidence
        assert evidence in finding.evidence
        assert remedy in finding.remedy


@pytest.mark.parametrize("querier", [UNHEARD, Hearing(900.0, 300.0, OTHER), Hearing(900.0, 200.0, OTHER)])
def test_a_firewall_that_is_closed_is_named_before_a_querier_that_is_not_heard(querier: Hearing) -> None:
    (finding,) = arrival(querier=querier, firewall=CLOSED)
    assert verdicts([finding]) == ["fault querier"]
    assert "the firewall of this machine has no rule that accepts IGMP" in finding.what
    assert finding.remedy == "sudo nft insert rule inet filter input ip protocol igmp accept"


def test_a_firewall_that_lets_queries_in_all_the_same_is_not_blamed() -> None:
    (finding,) = arrival(querier=HEARD, firewall=CLOSED)
    assert verdicts([finding]) == ["fault flow_arrives"]


# This machine sends it


# What the rule takes


def test_a_flow_that_lacks_the_tag_of_its_rule_is_told_so() -> None:
    rule = attrs.evolve(RULE, input=attrs.evolve(SOURCE, vlan=7))
    look = Look(2.0, {FLOW: 10}, {}, None)
    (finding,) = judge_arrival(rule, look, stats(), stats(), others=(), queriers=Queriers(UNHEARD, 0, Firewall(), 0))
    assert finding.what.startswith("239.1.1.1:5000 does not arrive in VLAN 7 on in0, but this does: 239.1.1.1:5000 on")
    assert finding.remedy == "add the rule without --input-vlan"
    taker = attrs.evolve(RULE, rule_id="news", name="news")
    (taken,) = arrival(FLOW, rule=rule, others=[taker])
    assert taken.what == (
        "239.1.1.1:5000 does not arrive in VLAN 7 on in0; without a tag it does: 239.1.1.1:5000 on in0, which rule "
        "news takes"
    )
    assert taken.remedy.startswith(
        "does the source send it with the tag of VLAN 7, and does no switch change that? what"
    )
    (tagged,) = arrival(attrs.evolve(FLOW, tags=(Tag(7),)), others=[attrs.evolve(rule, name="tv7")])
    assert tagged.what.startswith(
        "239.1.1.1:5000 does not arrive on in0; with a tag it does: 239.1.1.1:5000 on in0 with"
    )
    ranged = attrs.evolve(RULE, input=Input("in0", GROUP, 5000, last_port=5009))
    (excepted,) = arrival(FLOW, rule=ranged, others=[taker])
    assert "; of its group this does: 239.1.1.1:5000 on in0, which rule news takes" in excepted.what
    (nothing,) = arrival(rule=rule)
    assert nothing.what.startswith("nothing of 239.1.1.1 arrives in VLAN 7 on in0")
    (arrives,) = (
        each for each in arrival(attrs.evolve(FLOW, tags=(Tag(7),)), grown=9, rule=rule) if "arrives" in each.what
    )
    assert arrives.what == "239.1.1.1:5000 arrives in VLAN 7 on in0"


def test_doctor_names_queriers_that_have_gone() -> None:
    """Not those that were never there, or are about to ask again; nor where nobody listens."""
    heard = {"in0": Hearing(9000.0, 261.0, OTHER), "in1": Hearing(9000.0, 259.0, OTHER), "in2": Hearing(9000.0)}
    heard["in3"] = Hearing(None, 261.0, OTHER)
    (gone,) = judge_gone(heard)
    assert (gone.check, gone.verdict) == ("querier", Verdict.ADVICE)
    assert gone.what.startswith("the IGMP querier on in0 has gone silent")
