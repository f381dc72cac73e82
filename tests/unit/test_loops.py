"""Flows that this machine sends itself, and loops; what the rule takes."""

from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest

from arrivals import FLOW, GROUP, LINK, OTHER, RULE, UNHEARD, arrival, output, stats, verdicts
from mcr.diagnosis.matching import judge_match, judge_taking
from mcr.diagnosis.queriers import Queriers
from mcr.diagnosis.why import Walk
from mcr.model.finding import Verdict
from mcr.model.flow import Claim, Input
from mcr.model.stats import IngressStats, InterfaceStats, ParseErrors, Stats
from mcr.tap.sighting import Look, Sighting

SENT_HERE = attrs.evolve(FLOW, outgoing=True)


def test_a_flow_that_this_machine_sends_itself() -> None:
    (finding,) = arrival(SENT_HERE, Sighting("in0", GROUP, 5001))
    assert verdicts([finding]) == ["fault local_source"]
    assert finding.what == "this machine itself sends 239.1.1.1:5000, out of in0; MCR relays only what comes in"
    assert finding.evidence == "within 2.0 s: 10 outgoing frames, none that came in"
    (finding,) = arrival(attrs.evolve(SENT_HERE, interface="eth9"))
    assert "out of eth9" in finding.what


def test_a_flow_that_comes_in_is_not_this_machines() -> None:
    assert verdicts(arrival(FLOW, SENT_HERE)) == ["ok flow_arrives"]
    assert verdicts(arrival(SENT_HERE, Sighting("in1", GROUP, 5000))) == ["fault arrival_interface"]


def test_of_thousands_of_other_rules_only_those_of_groups_that_came_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of those that are takes microseconds, and objects among which garbage is looked for."""
    compared: list[Claim] = []

    def claim(*of: Any) -> Claim:
        compared.append(Claim(*of))
        return compared[-1]

    monkeypatch.setattr("mcr.diagnosis.arrival.Claim", claim)
    groups = (IPv4Address("239.9.0.0") + each for each in range(300))
    others = [attrs.evolve(RULE, input=Input("in1", each, 5000)) for each in groups]
    assert verdicts(arrival(Sighting("in1", GROUP, 5000), others=others)) == ["fault arrival_interface"]
    assert len(compared) < 10


def test_what_another_rule_sends_is_not_gone_astray() -> None:
    sender = attrs.evolve(RULE, input=Input("in1", OTHER, 7000), outputs=(output(GROUP, 5000, "in0"),))
    assert verdicts(arrival(SENT_HERE, others=[sender])) == ["fault flow_arrives"]


def test_a_loop_comes_first() -> None:
    looping = (
        InterfaceStats("in0", 1, 0, ParseErrors(loop=1), 0.5),
        InterfaceStats("in1", 1, 0, ParseErrors(loop=1), 0.5),
    )
    after = attrs.evolve(stats(51), interfaces=looping)
    ring = attrs.evolve(RULE, rule_id="ring", outputs=(output(GROUP, 5000, "out0"),))
    found = list(judge_taking(RULE, Look(0.1, {FLOW: 1}, {}, 188), stats(50), after, [ring]))
    assert verdicts(found) == ["fault loop", "ok matched"]
    assert "in0" in found[0].what


def looped(ago: float, matched: int, loops: int = 40) -> Stats:
    return attrs.evolve(stats(matched), interfaces=(InterfaceStats("in0", 1, 0, ParseErrors(loop=loops), ago),))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (looped(35.0, 51), ["advice loop", "ok matched"]),  # another rule's, as this one gets its flow
        (looped(0.5, 51, 41), ["advice loop", "ok matched"]),
        (looped(0.5, 50, 41), ["fault loop", "fault matched"]),  # not known whose, but this one gets nothing
        (looped(61.0, 51), ["ok matched"]),
        (looped(818.0, 51), ["ok matched"]),
    ],
)
def test_a_loop_that_is_over_or_of_another_rule_is_no_fault_of_this_one(after: Stats, expected: list[str]) -> None:
    look = Look(0.1, {FLOW: 1}, {}, 188)
    assert verdicts(judge_taking(RULE, look, looped(1.0, 50), after, ())) == expected


async def test_a_loop_ends_the_way_in_where_nothing_else_arrives() -> None:
    actor: Any = None
    walk = Walk(RULE, (), (), actor, actor)
    nothing = Look(2.0, {}, {}, None)
    found = await walk._judge_flow(nothing, LINK, Queriers(UNHEARD), looped(1.0, 50), looped(0.5, 50, 41))
    assert verdicts(found) == ["fault loop"]


def test_match() -> None:
    look = Look(0.1, {FLOW: 1}, {}, 188)
    assert judge_match(RULE, look, stats(50), stats(51)).verdict is Verdict.OK


DAMAGED = attrs.evolve(stats(50), ingress=IngressStats(parse_err=7, parse_errors=ParseErrors(checksum=7)))


@pytest.mark.parametrize(
    ("after", "evidence", "remedy"),
    [
        (stats(50, drops=7), "kernel_drops +7, parse_err +0, buf_exhaust +0", "rings too small"),
        (DAMAGED, "kernel_drops +0, parse_err +7, buf_exhaust +0", "7 had a wrong IP or UDP checksum"),
        (stats(50, buf_exhaust=7), "kernel_drops +0, parse_err +0, buf_exhaust +7", "ethtool -K in0 gro off"),
        (
            stats(50),
            "kernel_drops +0, parse_err +0, buf_exhaust +0",
            "replaces a worker that takes nothing within seconds",
        ),
    ],
)
def test_no_match_although_it_arrives(after: Stats, evidence: str, remedy: str) -> None:
    finding = judge_match(RULE, Look(0.1, {FLOW: 1}, {}, 188), stats(50), after)
    assert verdicts([finding]) == ["fault matched"]
    assert finding.evidence == f"mcrctl stats: matched stays 50 with 1 frame on the wire; {evidence}"
    assert remedy in finding.remedy
