"""What doctor says of flows and of the hosts that get them."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address

import attrs
import pytest

from mcr.diagnosis.flow_findings import find_idle, judge_matches, judge_neighbours, judge_unmatched
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import Input
from mcr.model.stats import EgressStats, IngressStats, InterfaceStats, OutputStats, RuleStats, Stats
from mcr.net.routes import Neighbour, Path
from mcr.tap.sighting import Sighting

OK, ADVICE, FAULT = Verdict.OK, Verdict.ADVICE, Verdict.FAULT
GROUP, OTHER = IPv4Address("239.1.1.0"), IPv4Address("239.7.7.7")
HOST, HOST_2, GATEWAY = (IPv4Address(f"198.18.1.{i}") for i in (2, 3, 254))


def matching(
    recv: int, *matched: int, idle: Iterable[float] = (), strays: Mapping[Sighting, int] | None = None
) -> list[Finding]:
    """Rules r0, r1, …, on in0, 239.1.1.0:5000, 239.1.1.1:5000, …, idle for so many seconds."""
    rules = tuple(RuleStats(f"r{i}", None, n, 0, 0, 0, 0.0, 0.0) for i, n in enumerate(matched))
    total = sum(matched)
    stats = Stats(IngressStats(recv, total, no_match=recv - total), EgressStats(), rules)
    sources = {rule.rule_id: Input("in0", GROUP + i, 5000) for i, rule in enumerate(rules)}
    seconds = {rule.rule_id: each for rule, each in zip(rules, idle, strict=False)}
    return list(judge_matches(stats, find_idle(stats, sources, seconds), strays or {}))


def expect(findings: Iterable[Finding], verdict: Verdict, *words: str) -> None:
    (finding,) = findings
    assert finding.verdict is verdict
    text = f"{finding.what} {finding.evidence} {finding.remedy}"
    assert all(word in text for word in words), text


def test_rules_that_match_nothing_are_told_with_whom_to_ask() -> None:
    expect(matching(100, 0, 0), ADVICE, "no rule has matched one", "2 of 2", "mcrctl why r0")
    expect(matching(100, 50, 0), OK, "Rule r1 has", "mcrctl why r1")
    expect(matching(0, 0), OK, "Rule r0 has matched no packet")
    expect(matching(100, 50, 50), OK, "Every rule")
    expect(matching(100), OK, "No rules yet")


def test_a_rule_that_matches_nothing_for_long_is_worth_advice() -> None:
    expect(matching(100, 50, 0, idle=[0, 59]), OK, "if there should be some: mcrctl why r1")
    expect(matching(100, 50, 0, idle=[0, 75]), ADVICE, "Rule r1 has matched no packet so far, in 75 s", "mcrctl why r1")


def test_a_rule_that_has_fallen_silent_is_worth_advice() -> None:
    expect(matching(100, 50, 50, idle=[0, 59]), OK, "Every rule")
    expect(matching(100, 50, 41, idle=[0, 75]), ADVICE, "Rule r1 has matched nothing for 75 s", "matched 41 before")
    expect(
        matching(100, 50, 41, idle=[900, 75]), ADVICE, "2 of 2 rules", "minute or more: r1 has matched nothing for 75 s"
    )
    never, silent = matching(100, 0, 50, idle=[75, 75])
    assert ("no packet so far" in never.what, "nothing for 75 s" in silent.what) == (True, True)


def test_what_arrives_instead_is_named() -> None:
    """The group with another port; failing that, the port with other groups; on the same interface."""
    stray = {Sighting("in0", OTHER, 5000): 9, Sighting("in0", GROUP, 5001): 3, Sighting("in1", GROUP, 5002): 99}
    expect(
        matching(100, 0, strays=stray),
        ADVICE,
        "Rule r0 has matched nothing so far: 239.1.1.0:5000 does not arrive on in0, but 239.1.1.0:5001 does, which",
        "3 frames of it within half",
        "mcrctl why r0",
    )
    expect(
        matching(100, 90, idle=[80], strays=stray),
        ADVICE,
        "nothing for 80 s: 239.1.1.0:5000 does not",
        "239.1.1.0:5001",
    )
    expect(matching(100, 90, strays=stray), OK, "Every rule")
    many = {Sighting("in0", OTHER + i, 5000): i for i in range(1, 9)}
    expect(
        matching(100, 0, strays=many), ADVICE, "but 239.7.7.15:5000, 239.7.7.14:5000, 239.7.7.13:5000 and 5 more do,"
    )
    for other in (Sighting("in0", OTHER, 6000), Sighting("in0", IPv6Address("ff15::1"), 5000)):
        expect(matching(100, 0, strays={other: 9}), ADVICE, "no rule has matched one")


def test_many_rules_that_miss_their_flow_are_few_lines() -> None:
    strays = {Sighting("in0", GROUP + i, 5001): 1 for i in range(9)}
    *astray, others = matching(100, *[0] * 9, strays=strays)
    assert len(astray) == 3
    assert "6 of 9 rules, such as r3, have matched no packet" in others.what


def neighbours(paths: Mapping[IPv4Address, Path], left_out: int = 0, waiting: int = 0) -> list[Finding]:
    outputs = tuple(OutputStats(host, 6000, "out0", 41, 41, 0, 0, 0) for host in paths)
    stats = Stats(IngressStats(), EgressStats(), (RuleStats("tv", None, 1, 0, 0, 0, 0.0, 0.0, outputs),))
    return list(judge_neighbours({(host, "out0"): path for host, path in paths.items()}, stats, left_out, waiting))


ALIVE = Path(None, None, Neighbour.STALE, answered=True)
DEAD = Path(None, None, Neighbour.DELAY, answered=False)


def test_hosts_that_do_not_answer_are_named_with_what_was_sent_to_them() -> None:
    assert neighbours({}) == []
    expect(neighbours({HOST: ALIVE}), OK, "Every host that outputs send to answers")
    expect(neighbours({HOST: ALIVE}, left_out=7), OK, "Hosts that outputs send to answer", "7 were not asked")
    expect(neighbours({HOST: ALIVE}, left_out=1), OK, "1 was not asked")
    assert neighbours({HOST: Path(None, None, Neighbour.NOARP, broadcast=True)}) == []  # nobody answers for one
    expect(
        neighbours({HOST: ALIVE, HOST_2: DEAD}),
        FAULT,
        "On out0 the host 198.18.1.3 does not answer ARP: what is sent there is lost, though",
        "(41 packets",
        "arping -I out0 198.18.1.3",
    )
    expect(neighbours({HOST: DEAD, HOST_2: DEAD}), FAULT, "198.18.1.2 and 1 more do not answer", "82 packets")


def test_hosts_of_which_another_finding_tells_are_not_said_to_answer() -> None:
    (finding,) = neighbours({HOST: ALIVE}, waiting=1)
    assert (finding.verdict, finding.what) == (OK, "The other hosts that outputs send to answer")
    assert "not asked" not in finding.evidence
    expect(neighbours({HOST: ALIVE}, 7, 1), OK, "The other hosts", "as far as they were asked", "7 were not asked")
    assert neighbours({}, waiting=1) == []


def test_hosts_that_the_kernel_has_no_room_for_are_advice() -> None:
    roomless = Path(None, None, Neighbour.UNKNOWN, answered=True, full=1024)
    advice, answers = neighbours({HOST: roomless, HOST_2: attrs.evolve(roomless, gateway=GATEWAY)})
    expect(
        [advice],
        ADVICE,
        "table of neighbours is full (net.ipv4.neigh.default.gc_thresh3=1024) and has no entry for 198.18.1.2 on out0",
        "2 of the hosts",
    )
    dead = attrs.evolve(roomless, answered=False)
    fault, also = neighbours({HOST: dead})
    expect([fault], FAULT, "the host 198.18.1.2 does not answer ARP")
    assert (answers.verdict, also.verdict) == (OK, ADVICE)


@pytest.mark.parametrize(
    ("path", "verdict", "words"),
    [
        (Path(None, GATEWAY, Neighbour.FAILED, answered=False), FAULT, "the gateway 198.18.1.254 to 198.18.1.2 does"),
        (Path(None, None, Neighbour.REACHABLE, answered=False), ADVICE, "does not answer"),  # it did a moment ago
        (Path(None, None, Neighbour.FAILED), FAULT, "does not answer"),  # it could not be asked
        (Path(None, None, Neighbour.FAILED, answered=True), OK, "answers"),
        (Path(None, None, Neighbour.NOARP), OK, "answers"),
    ],
)
def test_whether_a_host_is_there_is_judged_by_its_answer(path: Path, verdict: Verdict, words: str) -> None:
    expect(neighbours({HOST: path}), verdict, words)


def test_what_no_rule_takes_is_advice_while_it_is_much() -> None:
    few = Stats(IngressStats(no_match=900, no_match_pps=10.0), EgressStats())
    assert judge_unmatched(few).verdict is Verdict.OK
    where = tuple(InterfaceStats(f"in{at}", 9, 0, no_match=at) for at in range(3))
    much = judge_unmatched(
        attrs.evolve(few, ingress=IngressStats(no_match=900, no_match_pps=1_200.0), interfaces=where)
    )
    assert (much.verdict, much.what) == (Verdict.ADVICE, "1,200 datagrams per second arrive that no rule takes")
    assert "mcrctl trace --unmatched in2; sudo mcrctl trace --unmatched in1 shows" in much.remedy
