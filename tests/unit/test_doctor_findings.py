"""What doctor makes of what it sees: each judgement with values, no machine."""

import errno
import inspect
from ipaddress import IPv4Address

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doctor_world import (
    ADVICE,
    FAULT,
    FULL_SIZE,
    IDLE,
    IN0,
    OK,
    OUT0,
    WORKER,
    expect,
    output,
    stats_of,
)
from mcr.diagnosis import capture_findings, daemon_findings, doctor, output_findings, parse_errors
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import Input
from mcr.model.rule import Output, OutputView, RuleState, RuleView
from mcr.model.stats import (
    EgressStats,
    IngressStats,
    InterfaceStats,
    KernelPathStats,
    ParseErrors,
    Stats,
)
from mcr.net.capture import BufferPools
from mcr.net.firewall import Firewall

FLOW, ANOTHER = IPv4Address("239.1.1.1"), IPv4Address("239.2.2.2")


def rule_of(interface: str, group: IPv4Address, output: IPv4Address) -> RuleView:
    outputs = (OutputView.of(Output(output, 5000, "out0")),)
    return RuleView(interface, None, Input(interface, group, 5000), outputs, RuleState.ACTIVE)


RING = rule_of("in0", FLOW, FLOW)
TAKER = rule_of("in0", FLOW, ANOTHER)
SENDER = rule_of("in1", ANOTHER, FLOW)

# The machine


# The firewall


# The daemon's privileges


# The workers


def test_the_kernel_is_asked_in_threads_whose_frames_have_nothing_of_doctors(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyroute2 leaves circles of frames: what their callers have would stay until garbage is looked for."""
    callers: list[str] = []

    def look() -> Firewall:
        callers.extend(each.frame.f_globals["__name__"] for each in inspect.stack(0))
        return Firewall()

    monkeypatch.setattr(doctor, "look_at_firewall", look)
    doctor.examine_machine()
    assert callers
    assert doctor.__name__ not in callers


# The counters


def captured(recv: int, drops: int, *by_worker: int) -> Stats:
    workers = tuple(attrs.evolve(FULL_SIZE, worker_id=i, kernel_drops=n) for i, n in enumerate(by_worker))
    ingress = IngressStats(recv=recv, kernel_drops=drops)
    return Stats(ingress, EgressStats(), workers=workers, interfaces=(InterfaceStats("in0", recv, drops),))


def judge_captures(stats: Stats, mtu: int = 1500, restarts: int = 0) -> tuple[Finding, ...]:
    workers = (attrs.evolve(WORKER, restarts=restarts),)
    return capture_findings.judge_captures(stats, workers, {"in0": attrs.evolve(IN0, mtu=mtu)}, BufferPools())


def test_no_drops_are_fine() -> None:
    expect(judge_captures(captured(10, 0, 0)), OK)


def test_drops_are_told_with_their_share_and_a_larger_ring() -> None:
    finding = expect(
        judge_captures(captured(900, 100, 100)), ADVICE, "100 packets on in0", "10.00%", "kernel_drops=100"
    )
    assert "MCR_BUFFER_POOL_SMALL=4096" in finding.remedy
    assert "MCR_BUFFER_POOL_STANDARD=1024" in expect(judge_captures(captured(9, 1, 1), mtu=9000), ADVICE).remedy
    assert "MCR_BUFFER_POOL_JUMBO=512" in expect(judge_captures(captured(9, 1, 1), mtu=65_536), ADVICE).remedy


def test_what_another_program_took_has_found_no_full_ring() -> None:
    stats = attrs.evolve(captured(900, 2, 0), kernel_path=KernelPathStats(kernel_drops=2))
    expect(judge_captures(stats), ADVICE, "2 packets were lost where another eBPF program", "kernel_drops=2")
    stats = attrs.evolve(captured(900, 1, 0), kernel_path=KernelPathStats(kernel_drops=1))
    expect(judge_captures(stats), ADVICE, "1 packet was lost where another eBPF program")


def test_a_single_lost_packet_is_told_as_one() -> None:
    expect(judge_captures(captured(99, 1, 1)), ADVICE, "1 packet on in0 was lost, 1.00%")
    former = Stats(IngressStats(kernel_drops=1), EgressStats())
    (finding,) = capture_findings.judge_captures(former, (WORKER,), {}, BufferPools())
    assert finding.what.startswith("1 packet was lost on interfaces")
    exhausted = Stats(IngressStats(recv=10, buf_exhaust=1), EgressStats())
    expect(capture_findings.judge_super_frames(exhausted, described=True), ADVICE, "1 packet, 10.00%, was in super")
    expect(capture_findings.judge_super_frames(exhausted, described=False), FAULT, "1 packet is lost, as this kernel")
    for failed, words in (
        (output(1, 100, errno.ENOBUFS), "1 packet (1.00%) was not sent to"),
        (output(1, 100, in_doubt=1), "may or may not have left: a worker had it in hand"),
    ):
        (finding,) = output_findings.judge_outputs(stats_of(failed), {"out0": OUT0})
        assert words in finding.what
    removed = Stats(IngressStats(), EgressStats(errors=1))
    expect(output_findings.judge_outputs(removed, {}), OK, "1 packet was not sent to outputs that have been removed")
    lossy = Stats(IngressStats(), EgressStats(), workers=(attrs.evolve(FULL_SIZE, log_dropped=1),))
    expect(daemon_findings.judge_log(lossy), ADVICE, "1 log record of workers was lost")


def test_most_lost_is_a_fault() -> None:
    expect(judge_captures(captured(400, 600, 600)), FAULT)


def test_the_cause_of_drops_is_told_as_far_as_it_is_known() -> None:
    expect(judge_captures(captured(900, 100, 100), restarts=2), ADVICE, "hung or was replaced")
    expect(
        judge_captures(captured(900, 100, 0, 100)),
        ADVICE,
        "worker 1, which had too much, or stood still while mcrd was",
    )
    expect(judge_captures(captured(900, 100, 50, 50)), ADVICE, "more than they can handle")


def test_drops_on_interfaces_of_the_past_are_not_forgotten() -> None:
    stats = Stats(IngressStats(kernel_drops=7), EgressStats())
    (finding,) = capture_findings.judge_captures(stats, (WORKER,), {}, BufferPools())
    assert finding.verdict is ADVICE
    assert finding.what.startswith("7 packets were lost on interfaces that rules no longer use")


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_any_counters_have_a_judgement(recv: int, drops: int) -> None:
    (finding,) = judge_captures(captured(recv, drops, drops))
    assert (finding.verdict is OK) == (drops == 0)
    assert (finding.verdict is FAULT) == (drops > recv)


@pytest.mark.parametrize(
    ("exhausted", "verdict"), [(0, OK), (10, OK), (11, ADVICE), (500, ADVICE), (501, FAULT), (1000, FAULT)]
)
def test_exhaustion_is_judged_by_its_share(exhausted: int, verdict: Verdict) -> None:
    stats = Stats(IngressStats(recv=1000, buf_exhaust=exhausted), EgressStats())
    expect(capture_findings.judge_super_frames(stats, described=True), verdict, f"buf_exhaust={exhausted}")


def test_any_frame_that_the_kernel_does_not_tell_how_to_cut_is_a_fault() -> None:
    stats = Stats(IngressStats(recv=1000, buf_exhaust=2), EgressStats())
    expect(capture_findings.judge_super_frames(stats, described=False), FAULT, "2 packets", "tx-udp-segmentation off")
    expect(capture_findings.judge_super_frames(IDLE, described=False), OK, "No super-frames came", "does not tell")


def test_malformed_packets_are_told() -> None:
    ingress = IngressStats(recv=1000, parse_err=4, parse_errors=ParseErrors(malformed=3, loop=1))
    findings = parse_errors.judge_parse_errors(Stats(ingress, EgressStats()))
    expect(findings, ADVICE, "3 of 1,000", "malformed", "--facility ingress")
    expect(parse_errors.judge_parse_errors(IDLE), OK)


def test_that_an_interface_is_promiscuous_is_not_claimed_without_a_look() -> None:
    ingress = IngressStats(recv=9, parse_err=4, parse_errors=ParseErrors(other_host=4))
    (finding,) = parse_errors.judge_parse_errors(Stats(ingress, EgressStats()))
    assert "the interface is promiscuous" not in finding.remedy
    expect(finding, ADVICE, "addressed to another host's MAC", "ip -details link show: promiscuity", "virtual")


@pytest.mark.parametrize(("ago", "verdict"), [(1.5, FAULT), (59.0, FAULT), (61.0, OK), (None, OK)])
def test_a_loop_is_a_fault_for_a_minute(ago: float | None, verdict: Verdict) -> None:
    interface = InterfaceStats("in0", 1000, 0, ParseErrors(loop=7), ago)
    findings = parse_errors.judge_loops(attrs.evolve(IDLE, interfaces=(interface,)), [RING], {"in0"})
    expect(findings, verdict, *(["in0", "loop=7"] if verdict is FAULT else []))


@pytest.mark.parametrize(
    ("rules", "there", "ago", "verdict"),
    [
        ([RING], set(), 1.5, OK),  # the interface is gone
        ([TAKER], {"in0"}, 44.0, OK),  # the rule that sent it is gone
        ([TAKER], {"in0"}, 1.5, FAULT),  # it comes all the same
        ([TAKER, SENDER], {"in0"}, 44.0, FAULT),
        ([SENDER], {"in0"}, 44.0, OK),  # the rule that took it is gone
    ],
)
def test_a_loop_is_over_once_it_is_open(rules: list[RuleView], there: set[str], ago: float, verdict: Verdict) -> None:
    interface = InterfaceStats("in0", 1000, 0, ParseErrors(loop=7), ago)
    expect(parse_errors.judge_loops(attrs.evolve(IDLE, interfaces=(interface,)), rules, there), verdict)


def test_outputs_that_took_everything_are_fine() -> None:
    expect(output_findings.judge_outputs(stats_of(output(0, 100)), {"out0": OUT0}), OK)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENETUNREACH, ["Network is unreachable (os error 101)", "the interface was down, or no route"]),
        (errno.EMSGSIZE, ["MTU"]),
        (errno.EPERM, ["firewall"]),
        (errno.ENOBUFS, ["queue", "bottleneck", "tc -s qdisc show dev out0", "txqueuelen"]),
        (errno.EAGAIN, ["send buffer", "MCR_SOCKET_SNDBUF"]),
        (errno.EHOSTUNREACH, ["ip neigh show dev out0"]),
        (errno.ETIME, ["Timer expired (os error 62)", "the TTL of what comes ends here", "ttl=N"]),
        (errno.EADDRNOTAVAIL, ["source=keep", "tentative"]),
        (errno.EOPNOTSUPP, ["VLAN tag", "mcrctl list", "nft list ruleset", "ip link show dev out0"]),
    ],
)
def test_an_error_of_an_output_is_told_with_its_cause(number: int, words: list[str]) -> None:
    (finding,) = output_findings.judge_outputs(stats_of(output(10, 100, number)), {"out0": OUT0})
    expect(
        finding, ADVICE, "10 packets (10.00%)", "239.2.2.2:6000:out0; the newest error, 12 s ago: ", "errors=10", *words
    )


def test_an_output_that_fails_mostly_or_cannot_work_is_a_fault() -> None:
    down = attrs.evolve(OUT0, up=False)
    for outputs, links in (
        (attrs.evolve(output(1, 100, errno.EAGAIN), error_pps=51.0, pps=49.0), {"out0": OUT0}),
        (output(1, 100, errno.ENETDOWN), {"out0": down}),
        (output(1, 100, errno.ENODEV), {}),
    ):
        expect(output_findings.judge_outputs(stats_of(outputs), links), FAULT)
    finding = output_findings.judge_outputs(stats_of(output(1, 100, errno.ENETDOWN)), {"out0": down})
    expect(finding, FAULT, "the interface was down", "ip link show dev out0")


def test_what_failed_before_the_repair_is_no_fault_after_it() -> None:
    """However much that was. A missing way out is mended once something is sent, other causes may come again."""
    for number, verdict in ((errno.ENETDOWN, OK), (errno.ENOBUFS, ADVICE)):
        mended = attrs.evolve(output(90, 100, number), pps=50.0)
        expect(output_findings.judge_outputs(stats_of(mended), {"out0": OUT0}), verdict, "; now all is sent")
        failing = attrs.evolve(mended, error_pps=150.0)
        expect(output_findings.judge_outputs(stats_of(failing), {"out0": OUT0}), FAULT, "; now 75.00% of what is due")
    expect(output_findings.judge_outputs(stats_of(output(90, 100, errno.ENETUNREACH)), {"out0": OUT0}), ADVICE)


@pytest.mark.parametrize(
    ("number", "fed_ago", "verdict", "words"),
    [
        (errno.ENETUNREACH, 20.0, OK, "; what has come since was sent"),  # while the feed has paused since
        (errno.ENETUNREACH, 28.0, ADVICE, "no route led there"),  # that may have been the packet that failed
        (errno.ENETUNREACH, 40.0, ADVICE, "no route led there"),
        (errno.ENETUNREACH, None, ADVICE, "no route led there"),
        (errno.ENODEV, 40.0, OK, "; the interface is up again"),  # which is seen without a packet
        (errno.ENETDOWN, None, OK, "; the interface is up again"),
        (errno.ENOBUFS, 1.0, ADVICE, "; what has come since was sent"),  # it may come again
    ],
)
def test_errors_that_are_over_stay_so_when_the_feed_pauses(
    number: int, fed_ago: float | None, verdict: Verdict, words: str
) -> None:
    stats = stats_of(output(90, 100, number, ago=30.0))
    (rule,) = stats.rules
    stats = attrs.evolve(stats, rules=(attrs.evolve(rule, last_packet_ago=fed_ago),))
    expect(output_findings.judge_outputs(stats, {"out0": OUT0}), verdict, words)
    if number == errno.ENETDOWN:
        for link in (attrs.evolve(OUT0, running=False), attrs.evolve(OUT0, up=False)):
            expect(output_findings.judge_outputs(stats, {"out0": link}), FAULT)


def test_errors_of_long_ago_are_shown_and_are_no_advice() -> None:
    (recent, old) = output_findings.judge_outputs(
        stats_of(output(10, 100, errno.EPERM, ago=599.0), output(60, 100, errno.EPERM, "239.2.2.3", ago=601.0)),
        {"out0": OUT0},
    )
    expect(recent, ADVICE, "239.2.2.2:6000:out0; the newest error, 599 s ago")
    expect(old, OK, "60 packets (60.00%) were not sent to 239.2.2.3:6000:out0; the newest error, 601 s ago")
    assert output_findings.refused_outputs(stats_of(output(1, 9, errno.EPERM, ago=601.0))) == ()
    removed = Stats(IngressStats(), EgressStats(errors=7))
    expect(output_findings.judge_outputs(removed, {}), OK, "7 packets were not sent to outputs that have been removed")


def test_outputs_of_one_interface_and_error_are_told_together() -> None:
    outputs = [output(5, 100, errno.ENETUNREACH, f"239.2.2.{i}") for i in range(1, 9)]
    (finding,) = output_findings.judge_outputs(stats_of(*outputs, output(0, 100)), {"out0": OUT0})
    expect(finding, ADVICE, "40 packets (5.00%)", "8 outputs on out0, among them 239.2.2.1:6000:out0")


def test_packets_in_doubt_are_told_apart() -> None:
    (finding,) = output_findings.judge_outputs(stats_of(output(3, 100, in_doubt=3)), {"out0": OUT0})
    assert finding.verdict is OK  # that the worker died is told as such
    assert finding.what.startswith("3 packets (3.00%) to 239.2.2.2:6000:out0 may or may not have left")
    assert "not sent" not in finding.what
    (finding,) = output_findings.judge_outputs(stats_of(output(5, 100, errno.ENOBUFS, in_doubt=3)), {"out0": OUT0})
    assert "2 packets (2.00%) were not sent to 239.2.2.2:6000:out0; 3 more may or may not have left" in finding.what


def test_refused_outputs_are_those_whose_last_error_says_so() -> None:
    stats = stats_of(output(1, 9, errno.EPERM), output(1, 9, errno.ENETDOWN, "239.2.2.3"))
    assert output_findings.refused_outputs(stats) == ("239.2.2.2:6000:out0",)


def test_lost_log_records_are_told() -> None:
    lossy = Stats(IngressStats(), EgressStats(), workers=(attrs.evolve(FULL_SIZE, log_dropped=5),))
    expect(daemon_findings.judge_log(lossy), ADVICE, "5 log records")
    expect(daemon_findings.judge_log(IDLE), OK)
