"""What is said of a rule's way out, given what was found there."""

import errno
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface

import attrs
import pytest

from arrivals import RULE
from mcr.diagnosis.matching import judge_path
from mcr.diagnosis.outgoing import judge_output
from mcr.errors import describe_errno
from mcr.model.finding import Finding, Verdict
from mcr.model.full_table import MAKE_ROOM
from mcr.model.rule import Output, OutputView, RuleState
from mcr.model.stats import OutputStats, SendError
from mcr.net.links import Link
from mcr.net.routes import Neighbour, Path, is_broadcast
from mcr.tap.sighting import Look

LINK = Link("out0", 12, addresses=(IPv4Interface("198.18.1.1/24"),))
GROUP = OutputView.of(Output(IPv4Address("239.2.2.2"), 6000, "out0"))
HOST = OutputView.of(Output(IPv4Address("198.18.1.2"), 6000, "out0"))
PATH = Path(None, None, Neighbour.REACHABLE)
BEFORE = OutputStats(GROUP.group, 6000, "out0", 100, 95, 5, 0, 0)
SENT = attrs.evolve(BEFORE, submitted=110, sent=105)


def judged(
    output: OutputView = GROUP,
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


def failed(number: int | None, sent: int = 95, errors: int = 15) -> OutputStats:
    error = SendError(number, 0.2) if number else None
    return attrs.evolve(BEFORE, submitted=110, sent=sent, errors=errors, last_error=error)


def test_all_is_well() -> None:
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
def test_interface(link: Link | None, trouble: str) -> None:
    assert troubles(judged(link=link)) == [trouble]


def test_what_a_renamed_interface_is_called_now() -> None:
    renamed = attrs.evolve(
        GROUP, reason="there is no interface out0 in this network namespace: it is called studio now"
    )
    (finding,) = judged(renamed, link=None)
    assert finding.what == renamed.reason
    assert finding.remedy.startswith("give it its name back")


def test_a_host_needs_no_address_on_the_interface() -> None:
    assert not troubles(judged(HOST, attrs.evolve(LINK, addresses=()), PATH))


@pytest.mark.parametrize("neighbour", Neighbour)
def test_neighbour_that_was_not_asked(neighbour: Neighbour) -> None:
    silent = neighbour in {Neighbour.INCOMPLETE, Neighbour.FAILED}
    known = neighbour in {Neighbour.REACHABLE, Neighbour.NOARP, Neighbour.PERMANENT}
    findings = judged(HOST, path=attrs.evolve(PATH, neighbour=neighbour))
    assert troubles(findings) == (["fault neighbour"] if silent else [])
    finding = the("neighbour", findings)
    assert finding.evidence == f"ip neigh show 198.18.1.2 dev out0: {neighbour.name}"
    assert silent or ("is not known" in finding.what) is not known


@pytest.mark.parametrize("neighbour", Neighbour)
def test_neighbour_that_was_asked(neighbour: Neighbour) -> None:
    """What it says counts for more than the kernel's table, which may be half a minute behind."""
    path = attrs.evolve(PATH, neighbour=neighbour)
    assert "the host 198.18.1.2 answers" in the("neighbour", judged(HOST, path=attrs.evolve(path, answered=True))).what
    findings = judged(HOST, path=attrs.evolve(path, answered=False))
    verdict = "advice" if neighbour is Neighbour.REACHABLE else "fault"
    assert troubles(findings) == [f"{verdict} neighbour"]
    finding = the("neighbour", findings)
    assert "does not answer ARP on out0" in finding.what
    assert finding.evidence.endswith(f": {neighbour.name}, and no answer to 3 ARP requests")


def test_a_point_to_point_link_needs_no_route_and_has_no_neighbours() -> None:
    tun = attrs.evolve(LINK, arp=False)
    findings = judged(HOST, tun, Path(101, None, Neighbour.NOARP))
    assert [each.check for each in findings] == ["output_up", "route", "mtu", "sent"]
    assert not troubles(findings)
    assert not troubles(judged(HOST, tun, Path(None, IPv4Address("198.18.1.254"), Neighbour.NOARP)))


def test_a_route_with_a_gateway_takes_a_group_to_that_gateway() -> None:
    assert troubles(judged(GROUP, path=Path(None, None, Neighbour.NOARP))) == []
    gateway = Path(None, IPv4Address("198.18.1.77"), Neighbour.FAILED)
    findings = judged(GROUP, path=gateway)
    assert troubles(findings) == ["advice route", "fault neighbour"]
    assert "leads via 198.18.1.77" in the("route", findings).what
    assert the("route", findings).remedy.endswith("sudo ip route replace 239.2.2.2 dev out0")
    assert "the gateway 198.18.1.77 does not answer ARP" in the("neighbour", findings).what


def test_a_receiver_on_this_machine() -> None:
    (finding,) = (
        each
        for each in judge_output(GROUP, LINK, None, None, before=BEFORE, after=SENT, local_receiver=True)
        if each.verdict is not Verdict.OK
    )
    assert (finding.check, finding.verdict) == ("local_receiver", Verdict.ADVICE)
    assert "has joined 239.2.2.2 on out0 and listens on port 6000" in finding.what
    assert finding.remedy.endswith("mcrctl change RULE --add-outputs 239.2.2.2:6000:lo")


def test_a_receiver_on_this_machine_gets_what_leaves_by_the_loopback() -> None:
    loopback, output = attrs.evolve(LINK, name="lo", loopback=True), attrs.evolve(GROUP, interface="lo")
    findings = [*judge_output(output, loopback, None, None, before=BEFORE, after=SENT, local_receiver=True)]
    assert not troubles(findings)
    assert the("local_receiver", findings).what.endswith("it gets what MCR sends there")


def test_the_next_hop_of_a_host_behind_a_gateway() -> None:
    findings = judged(HOST, path=Path(None, IPv4Address("198.18.1.254"), Neighbour.FAILED))
    assert "via 198.18.1.254" in the("route", findings).evidence
    assert "the gateway 198.18.1.254 does not answer ARP" in the("neighbour", findings).what
    assert "sudo arping -I out0 198.18.1.254" in the("neighbour", findings).remedy


@pytest.mark.parametrize(
    ("neighbour", "verdict"),
    [
        (Neighbour.UNKNOWN, Verdict.FAULT),
        (Neighbour.INCOMPLETE, Verdict.FAULT),
        (Neighbour.STALE, Verdict.FAULT),
        (Neighbour.REACHABLE, Verdict.ADVICE),  # somebody answers for it
    ],
)
def test_no_route(neighbour: Neighbour, verdict: Verdict) -> None:
    finding = the("route", judged(HOST, path=Path(101, None, neighbour)))
    assert finding.verdict is verdict
    assert finding.evidence.endswith("Network is unreachable (os error 101)")
    assert finding.remedy == "sudo ip route add 198.18.1.2 via GATEWAY dev out0"
    answering = Path(101, None, Neighbour.STALE, answered=True)
    assert the("route", judged(HOST, path=answering)).verdict is Verdict.ADVICE


def test_without_an_address_the_kernel_refuses_a_route() -> None:
    finding = the("route", judged(HOST, attrs.evolve(LINK, addresses=()), Path(101, None, Neighbour.STALE)))
    assert finding.remedy.startswith("sudo ip address add ADDRESS/LENGTH dev out0; then, if 198.18.1.2 is not in its")
    assert "sudo ip route add 198.18.1.2 via GATEWAY dev out0" in finding.remedy
    assert "ip -4 address show dev out0: none" in finding.evidence


def test_a_route_by_another_interface() -> None:
    finding = the("route", judged(HOST, path=Path(113, None, Neighbour.UNKNOWN, "eth0")))
    assert finding.evidence.endswith("its route leads through eth0")
    assert finding.remedy.endswith("or name eth0 in the output")


def test_an_address_of_this_machine() -> None:
    findings = judged(HOST, path=Path(None, None, Neighbour.NOARP, local=True))
    assert troubles(findings) == ["advice route"]
    assert "198.18.1.2 is an address of this machine" in the("route", findings).what


def test_a_broadcast_address_is_no_host() -> None:
    findings = judged(HOST, path=Path(None, None, Neighbour.NOARP, broadcast=True))
    assert troubles(findings) == []
    assert "198.18.1.2 is a broadcast address" in the("route", findings).what
    assert not any("ARP" in each.what for each in findings)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("198.18.1.255", True), ("255.255.255.255", True), ("198.18.1.2", False), ("198.18.2.255", False)],
)
def test_broadcast_addresses_are_known_by_the_networks_of_the_interface(host: str, expected: bool) -> None:
    assert is_broadcast(IPv4Address(host), LINK) is expected


@pytest.mark.parametrize(
    ("payload", "after", "trouble"),
    [
        (1472, SENT, []),
        (None, SENT, []),
        (1473, SENT, ["advice mtu"]),
        (1473, failed(errno.EMSGSIZE), ["fault mtu", "fault sent"]),
    ],
)
def test_mtu(payload: int | None, after: OutputStats, trouble: list[str]) -> None:
    assert troubles(judged(payload=payload, after=after)) == trouble


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (errno.ENETDOWN, "the interface was down: ip link show dev out0"),
        (errno.ENODEV, "the interface was gone"),
        (errno.ENETUNREACH, "the interface was down, or no route led there"),
        (errno.EHOSTUNREACH, "ip route get 239.2.2.2 oif out0"),
        (errno.ENOBUFS, "txqueuelen"),
        (errno.EAGAIN, "MCR_SOCKET_SNDBUF"),
        (errno.EPERM, "nft list ruleset"),
        (errno.EACCES, "a route forbids it"),
        (errno.EMSGSIZE, "smaller datagrams"),
        (errno.ETIME, "ttl=N"),
        (errno.EIO, "the log"),
        (None, "the log"),
    ],
)
def test_errors_that_grow(error: int | None, remedy: str) -> None:
    finding = the("sent", judged(after=failed(error)))
    assert finding.verdict is Verdict.FAULT
    assert finding.what == "sending to 239.2.2.2:6000:out0 fails"
    assert finding.evidence.startswith("mcrctl stats: sent 95 (+0), errors 15 (+10)")
    assert remedy in finding.remedy
    assert not error or finding.evidence.endswith(f"; the newest error, 0 s ago: {describe_errno(error)}")


def test_a_part_that_fails() -> None:
    assert "fails in part" in the("sent", judged(after=failed(errno.ENOBUFS, 100, 10))).what


@pytest.mark.parametrize(
    ("error", "ago", "verdict"),
    [
        (errno.ENOBUFS, 599.0, Verdict.ADVICE),  # comes and goes with the load
        (errno.ENOBUFS, 601.0, Verdict.OK),
        (errno.ENETDOWN, 20.0, Verdict.OK),  # a thing of the past, still shown
    ],
)
def test_errors_that_no_longer_grow(error: int, ago: float, verdict: Verdict) -> None:
    finding = the("sent", judged(after=attrs.evolve(SENT, last_error=SendError(error, ago))))
    assert finding.verdict is verdict
    assert f"the newest error, {ago:.0f} s ago: {describe_errno(error)}" in finding.evidence


def test_nothing_was_due() -> None:
    assert the("sent", judged(after=BEFORE)).what == "nothing was due to 239.2.2.2:6000:out0 meanwhile"


@pytest.mark.parametrize("output", [GROUP, HOST])
def test_what_else_an_output_waits_for_is_said(output: OutputView) -> None:
    reason = "its source 198.18.9.9 is not an address of this machine"
    waiting = attrs.evolve(output, state=RuleState.WAITING, reason=reason)
    assert (the("output_waits", judged(waiting, path=PATH))).what == reason
    silent = attrs.evolve(waiting, reason="198.18.1.2 does not answer ARP on out0")
    assert not troubles(judged(silent, path=attrs.evolve(PATH, answered=True)))  # it has been asked since


def test_a_full_table_of_neighbours_is_advice_as_nothing_may_be_sent_now() -> None:
    """And whether the host answers is said, too."""
    verdicts = {True: Verdict.OK, False: Verdict.FAULT}
    for answered, verdict in verdicts.items():
        findings = judged(HOST, path=Path(None, None, Neighbour.UNKNOWN, answered=answered, full=1024))
        finding, other = (each for each in findings if each.check == "neighbour")
        assert (finding.verdict, finding.remedy) == (Verdict.ADVICE, MAKE_ROOM)
        assert other.verdict is verdict
    assert "the kernel's table of neighbours is full (net.ipv4.neigh.default.gc_thresh3=1024)" in finding.what


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (Look(0.1, payload=972), "the kernel forwards it, without a worker"),
        (Look(0.1, payload=973), "but what is longer than the MTU of out0 goes through a worker"),
        (
            Look(0.1, payload=20_000),
            "but what is longer than 12,288 bytes or is longer than the MTU of out0 goes through",
        ),
        (Look(2.0, cut=8000), "but what comes in fragments goes through a worker"),
        (Look(2.0, payload=973, cut=8000), "but what comes in fragments or is longer than the MTU of out0 goes"),
    ],
)
def test_what_goes_through_a_worker_on_the_kernel_path_is_said(look: Look, said: str) -> None:
    links = {"out0": attrs.evolve(LINK, mtu=1000)}
    assert said in judge_path(RULE, look, links).what
    by_worker = attrs.evolve(RULE, path_reason="MCR_KERNEL_PATH=off")
    assert judge_path(by_worker, look, links).what == "a worker forwards it"
