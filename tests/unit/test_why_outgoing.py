"""What is said of a rule's way out, given what was found there."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface

import attrs
import pytest

from mcr.diagnosis.links import Link
from mcr.diagnosis.outgoing import judge_output
from mcr.diagnosis.routes import Neighbour, Path
from mcr.findings import Finding, Verdict
from mcr.model import Output, OutputStats

LINK = Link("out0", 12, addresses=(IPv4Interface("198.18.1.1/24"),))
GROUP = Output(IPv4Address("239.2.2.2"), 6000, "out0")
HOST = Output(IPv4Address("198.18.1.2"), 6000, "out0")
PATH = Path(None, None, Neighbour.REACHABLE)
BEFORE = OutputStats(GROUP.group, 6000, "out0", 100, 95, 5, 0, 0, None)
SENT = attrs.evolve(BEFORE, submitted=110, sent=105)


def judged(
    output: Output = GROUP,
    link: Link | None = LINK,
    path: Path | None = None,
    payload: int | None = 1316,
    after: OutputStats = SENT,
) -> list[Finding]:
    return list(judge_output(output, link, path, payload, before=BEFORE, after=after))


def troubles(findings: Iterable[Finding]) -> list[str]:
    return [f"{each.verdict} {each.check}" for each in findings if each.verdict is not Verdict.OK]


def the(check: str, findings: Iterable[Finding]) -> Finding:
    (finding,) = (each for each in findings if each.check == check)
    return finding


def failed(error: str | None, sent: int = 95, errors: int = 15) -> OutputStats:
    return attrs.evolve(BEFORE, submitted=110, sent=sent, errors=errors, last_error=error)


def test_all_is_well():
    assert [each.check for each in judged()] == ["output_up", "source_address", "mtu", "sent"]
    assert [each.check for each in judged(HOST, path=PATH)] == ["output_up", "route", "neighbour", "mtu", "sent"]
    assert not troubles([*judged(), *judged(HOST, path=PATH)])


@pytest.mark.parametrize(
    ("link", "trouble"),
    [
        (None, "fault output_interface"),
        (attrs.evolve(LINK, up=False), "fault output_up"),
        (attrs.evolve(LINK, carrier=False), "fault output_carrier"),
        (attrs.evolve(LINK, addresses=()), "advice source_address"),
    ],
)
def test_interface(link, trouble):
    assert troubles(judged(link=link)) == [trouble]


def test_a_host_needs_no_address_on_the_interface():
    assert not troubles(judged(HOST, attrs.evolve(LINK, addresses=()), PATH))


@pytest.mark.parametrize("neighbour", Neighbour)
def test_neighbour(neighbour):
    silent = neighbour in {Neighbour.INCOMPLETE, Neighbour.FAILED}
    findings = judged(HOST, path=attrs.evolve(PATH, neighbour=neighbour))
    assert troubles(findings) == (["fault neighbour"] if silent else [])
    assert the("neighbour", findings).evidence == f"ip neigh show 198.18.1.2 dev out0: {neighbour.name}"


def test_the_next_hop_of_a_host_behind_a_gateway():
    findings = judged(HOST, path=Path(None, IPv4Address("198.18.1.254"), Neighbour.FAILED))
    assert "via 198.18.1.254" in the("route", findings).evidence
    assert "the gateway 198.18.1.254 does not answer ARP" in the("neighbour", findings).what
    assert "arping -I out0 198.18.1.254" in the("neighbour", findings).remedy


@pytest.mark.parametrize(
    ("neighbour", "verdict"),
    [
        (Neighbour.UNKNOWN, Verdict.FAULT),
        (Neighbour.INCOMPLETE, Verdict.FAULT),
        (Neighbour.STALE, Verdict.ADVICE),  # somebody answers for it
    ],
)
def test_no_route(neighbour, verdict):
    finding = the("route", judged(HOST, path=Path(101, None, neighbour)))
    assert finding.verdict is verdict
    assert finding.evidence.endswith("Network is unreachable (os error 101)")
    assert finding.remedy == "ip route add 198.18.1.2 via GATEWAY dev out0"


def test_a_route_by_another_interface():
    finding = the("route", judged(HOST, path=Path(113, None, Neighbour.UNKNOWN, "eth0")))
    assert finding.evidence.endswith("its route leads through eth0")
    assert finding.remedy.endswith("or name eth0 in the output")


def test_an_address_of_this_machine():
    findings = judged(HOST, path=Path(None, None, Neighbour.NOARP, local=True))
    assert troubles(findings) == ["advice route"]
    assert "198.18.1.2 is an address of this machine" in the("route", findings).what


@pytest.mark.parametrize(
    ("payload", "after", "trouble"),
    [
        (1472, SENT, []),
        (None, SENT, []),
        (1473, SENT, ["advice mtu"]),
        (1473, failed("Message too long (os error 90)"), ["fault mtu", "fault sent"]),
    ],
)
def test_mtu(payload, after, trouble):
    assert troubles(judged(payload=payload, after=after)) == trouble


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("Network is down (os error 100)", "did it go down?"),
        ("No such device (os error 19)", "was deleted and made again"),
        ("Network is unreachable (os error 101)", "did it go down?"),
        ("No route to host (os error 113)", "ip route get 239.2.2.2 oif out0"),
        ("No buffer space available (os error 105)", "MCR_SOCKET_SNDBUF"),
        ("Resource temporarily unavailable (os error 11)", "MCR_SOCKET_SNDBUF"),
        ("Operation not permitted (os error 1)", "nft list ruleset"),
        ("Permission denied (os error 13)", "broadcast address"),
        ("Message too long (os error 90)", "smaller datagrams"),
        ("Input/output error (os error 5)", "the log"),
        (None, "the log"),
    ],
)
def test_errors_that_grow(error, remedy):
    finding = the("sent", judged(after=failed(error)))
    assert finding.verdict is Verdict.FAULT
    assert finding.what == "sending to 239.2.2.2:6000:out0 fails"
    assert finding.evidence.startswith("mcrctl stats: sent 95 (+0), errors 15 (+10)")
    assert remedy in finding.remedy
    assert (error or "sent 95") in finding.evidence


def test_a_part_that_fails():
    assert (
        "fails in part" in the("sent", judged(after=failed("No buffer space available (os error 105)", 100, 10))).what
    )


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ("No buffer space available (os error 105)", Verdict.ADVICE),  # comes and goes with the load
        ("Network is down (os error 100)", Verdict.OK),  # a thing of the past, still shown
    ],
)
def test_errors_that_no_longer_grow(error, verdict):
    finding = the("sent", judged(after=attrs.evolve(SENT, last_error=error)))
    assert finding.verdict is verdict
    assert error in finding.evidence


def test_nothing_was_due():
    assert the("sent", judged(after=BEFORE)).what == "nothing was due to 239.2.2.2:6000:out0 meanwhile"
