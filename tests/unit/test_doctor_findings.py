"""What doctor makes of what it sees: each judgement with values, no machine."""

import errno
import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.config.settings import Settings
from mcr.diagnosis import daemon_findings, link_findings, machine_findings, parse_errors
from mcr.diagnosis.doctor import Relay, examine
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import Input
from mcr.model.log import LogLevels
from mcr.model.rule import OutputView, RuleState, RuleView
from mcr.model.stats import (
    EgressStats,
    IngressStats,
    InterfaceStats,
    OutputStats,
    ParseErrors,
    RuleStats,
    SendError,
    Stats,
    WorkerStats,
)
from mcr.model.worker import WorkerState, WorkerView
from mcr.net.capture import BufferPools
from mcr.net.firewall import Chain, Firewall
from mcr.net.ip_bypass import Blocker
from mcr.net.links import Link
from mcr.net.machine import (
    CAPABILITIES,
    Machine,
    Process,
    Self,
    look_at_process,
    look_at_self,
    parse_netstat,
    parse_softnet,
    parse_status,
)
from mcr.rules.conditions import Attachment, Standing

OK, ADVICE, FAULT = Verdict.OK, Verdict.ADVICE, Verdict.FAULT

MACHINE = Machine(
    kernel="6.1.0-18-amd64",
    uring_errno=0,
    uring_disabled=None,
    seccomp=False,
    memlock=8 << 20,
    open_files=524_288,
    wmem_max=212_992,
    rmem_max=212_992,
    memberships=20,
    unroutable=0,
)
ALL = frozenset(CAPABILITIES.values())
DAEMON = Self(
    process=Process(42, ALL, no_new_privs=False, seccomp=False),
    cores=(0, 1),
    descriptors=50,
    ebpf=True,
    suppressors=0,
    send_buffer=4 << 20,
    receive_buffer=4 << 20,
)
WORKER = WorkerView(0, 100, 0, ("in0",), WorkerState.RUNNING, 0, 2, io="io_uring")
CONFINED = Process(100, frozenset(), no_new_privs=True, seccomp=True)
IDLE = Stats(IngressStats(), EgressStats())
IN0 = Link("in0", 2, addresses=(IPv4Interface("198.18.0.2/24"),))
OUT0 = Link("out0", 3, addresses=(IPv4Interface("198.18.1.1/24"),))
FULL_SIZE = WorkerStats(0, *[0] * 11)


def daemon(*missing: str, **changes: Any) -> Self:
    kept = frozenset(number for name, number in CAPABILITIES.items() if name not in missing)
    return attrs.evolve(DAEMON, process=attrs.evolve(DAEMON.process, capabilities=kept), **changes)


def output(
    errors: int, submitted: int, number: int = 0, group: str = "239.2.2.2", *, in_doubt: int = 0, ago: float = 12.0
) -> OutputStats:
    last = SendError(number, ago) if number else None
    return OutputStats(IPv4Address(group), 6000, "out0", submitted, submitted - errors, errors, in_doubt, 0, last)


def stats_of(*outputs: OutputStats) -> Stats:
    rule = RuleStats("id", "news", 1, 1, sum(each.errors for each in outputs), 1, 0.0, 0.0, outputs)
    return Stats(IngressStats(), EgressStats(errors=rule.errors), (rule,))


def expect(finding: Finding | tuple[Finding, ...], verdict: Verdict, *words: str) -> Finding:
    """One finding, this bad, with these words; and with a remedy if it is bad."""
    if isinstance(finding, tuple):
        (finding,) = finding
    text = f"{finding.what} ({finding.evidence}); {finding.remedy}"
    assert finding.verdict is verdict, text
    for word in words:
        assert word in text
    assert finding.evidence
    assert finding.remedy or finding.verdict is OK
    assert "\n" not in text
    assert not finding.what.endswith(".")
    return finding


# The machine


@pytest.mark.parametrize(
    ("release", "verdict"),
    [("5.10.0", OK), ("6.18.44-fc", OK), ("10.0-rc1", OK), ("5.9.16-arch", FAULT), ("4.18.0-553.el8", FAULT)],
)
def test_a_kernel_older_than_5_10_is_a_fault(release: str, verdict: Verdict) -> None:
    expect(machine_findings.judge_kernel(attrs.evolve(MACHINE, kernel=release)), verdict, release)


def test_io_uring_in_use_is_fine() -> None:
    expect(machine_findings.judge_io_uring(MACHINE, (WORKER,)), OK, "Workers run on io_uring")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"uring_errno": errno.EPERM, "uring_disabled": 2}, ["kernel.io_uring_disabled=2", "sysctl -w", "everybody"]),
        ({"uring_errno": errno.EPERM, "uring_disabled": 1}, ["=1 forbids it to all but administrators"]),
        ({"uring_errno": errno.EPERM, "seccomp": True}, ["Seccomp: 2", "seccomp profile", "(os error 1)"]),
        ({"uring_errno": errno.ENOSYS, "seccomp": True}, ["Seccomp: 2"]),
        ({"uring_errno": errno.ENOSYS}, ["built without it", "CONFIG_IO_URING"]),
        ({"uring_errno": errno.ENOMEM, "memlock": 65_536}, ["64 KiB", "LimitMEMLOCK"]),
        ({"uring_errno": errno.EBADFD}, ["stays disabled", "newer kernel"]),
        ({"uring_errno": errno.EACCES}, ["security module"]),
    ],
)
def test_what_forbids_io_uring_is_named(changes: dict[str, bool | int] | dict[str, int], words: list[str]) -> None:
    worker = attrs.evolve(WORKER, io="poll")
    expect(machine_findings.judge_io_uring(attrs.evolve(MACHINE, **changes), (worker,)), ADVICE, "run on poll", *words)


def test_workers_on_poll_from_before_it_was_allowed_are_named() -> None:
    workers = (WORKER, attrs.evolve(WORKER, worker_id=1, io="poll"))
    expect(
        machine_findings.judge_io_uring(MACHINE, workers),
        ADVICE,
        "worker 1 started, which runs on poll",
        "restart mcrd",
    )


def test_buffers_are_judged_by_what_was_granted() -> None:
    granted = machine_findings.judge_buffers(MACHINE, DAEMON, 4 << 20, 4 << 20)
    assert [finding.verdict for finding in granted] == [OK, OK]
    limited = attrs.evolve(DAEMON, send_buffer=212_992, receive_buffer=212_992)
    send, copy = machine_findings.judge_buffers(MACHINE, limited, 4 << 20, 4 << 20)
    expect(send, ADVICE, "208 KiB of the 4 MiB", "sudo sysctl -w net.core.wmem_max=4194304", "CAP_NET_ADMIN")
    expect(copy, ADVICE, "sudo sysctl -w net.core.rmem_max=4194304")


def test_buffers_without_a_daemon_are_judged_by_the_limit() -> None:
    send, _ = machine_findings.judge_buffers(MACHINE, None, 4 << 20, 4 << 20)
    expect(send, ADVICE, "208 KiB", "no limit for mcrd with CAP_NET_ADMIN")
    unknown = attrs.evolve(MACHINE, wmem_max=None)
    send, _ = machine_findings.judge_buffers(unknown, None, 4 << 20, 4 << 20)
    expect(send, OK, "cannot be seen")


@pytest.mark.parametrize(
    ("release", "memlock", "verdict"),
    [
        ("6.1.0", 65_536, OK),
        ("5.12.0", 65_536, OK),
        ("5.10.0", None, OK),
        ("5.10.0", 8 << 20, OK),
        ("5.10.0", 65_536, ADVICE),
    ],
)
def test_locked_memory_matters_on_old_kernels_only(release: str, memlock: int | None, verdict: Verdict) -> None:
    expect(machine_findings.judge_locked_memory(attrs.evolve(MACHINE, kernel=release, memlock=memlock)), verdict)


def test_descriptors_are_told_in_groups() -> None:
    few = attrs.evolve(MACHINE, open_files=1024)
    expect(machine_findings.judge_open_files(few, attrs.evolve(DAEMON, descriptors=24)), OK, "20,000 more groups")
    nearly = attrs.evolve(DAEMON, descriptors=1000)
    expect(machine_findings.judge_open_files(few, nearly), ADVICE, "480 more groups", "1,000 of 1,024", "LimitNOFILE")
    expect(machine_findings.judge_open_files(few, None), OK, "1,024 descriptors")


@given(st.integers(1, 1 << 20), st.integers(0, 1 << 20))
def test_any_count_of_descriptors_has_a_judgement(limit: int, used: int) -> None:
    machine = attrs.evolve(MACHINE, open_files=limit)
    finding = machine_findings.judge_open_files(machine, attrs.evolve(DAEMON, descriptors=used))
    assert (finding.verdict is OK) == (limit - used >= limit / 4)
    assert "-" not in finding.what


def test_memberships_are_no_limit() -> None:
    expect(machine_findings.judge_memberships(MACHINE), OK, "not limited", "igmp_max_memberships=20")


def test_only_a_backlog_that_drops_now_is_worth_advice() -> None:
    expect(machine_findings.judge_backlog(1000, 1000), OK, "1,000 since the boot")
    expect(machine_findings.judge_backlog(1000, 1007), ADVICE, "7 while doctor looked", "netdev_max_backlog")


# The firewall

OUTPUT = Chain("inet filter", "output", "output", drops=False, rules=3, igmp=False)
INPUT = Chain("inet filter", "input", "input", drops=True, rules=5, igmp=False)


def firewall(*chains: Chain, **changes: Any) -> tuple[Finding, Finding]:
    refused = changes.pop("refused", ())
    sends, queries = machine_findings.judge_firewall(Firewall(chains, **changes), refused)
    return sends, queries


def test_no_rules_are_in_nobodys_way() -> None:
    sends, queries = firewall()
    expect(sends, OK, "No firewall rule affects")
    expect(queries, OK, "does not drop IGMP")


def test_a_refused_send_is_a_fault_whose_rules_are_shown() -> None:
    sends, _ = firewall(OUTPUT, refused=("239.2.2.2:6000:out0", "239.2.2.3:6000:out0"))
    expect(sends, FAULT, "239.2.2.2:6000:out0 and 1 more", "inet filter, chain output: 3 rules", "nft list ruleset")


def test_a_refused_send_is_past_where_there_are_no_rules_any_more() -> None:
    sends, _ = firewall(refused=("239.2.2.2:6000:out0",))
    expect(sends, OK, "now; before, packets to 239.2.2.2:6000:out0 were refused")


def test_rules_at_output_that_refused_nothing_are_fine() -> None:
    sends, _ = firewall(OUTPUT)
    expect(sends, OK, "has refused what mcrd sent so far", "3 rules, policy accept")


def test_a_default_of_drop_without_a_rule_for_igmp_is_worth_advice() -> None:
    _, queries = firewall(INPUT)
    expect(queries, ADVICE, "IGMP", "nft insert rule inet filter input ip protocol igmp accept")
    expect(firewall(attrs.evolve(INPUT, igmp=True))[1], OK)
    expect(firewall(attrs.evolve(INPUT, drops=False))[1], OK)


@pytest.mark.parametrize("changes", [{"hidden": "Operation not permitted (os error 1)"}, {"legacy": ("filter",)}])
def test_what_cannot_be_seen_is_not_claimed(changes: dict[str, str] | dict[str, tuple[str, ...]]) -> None:
    sends, queries = firewall(**changes)
    for finding in (sends, queries):
        expect(finding, OK, "cannot be seen" if "hidden" in changes else "not looked at")
    assert "in the way" not in sends.what
    assert "IGMP" not in queries.what


# The daemon's privileges


def capabilities(*missing: str, absorb: bool = False, short: bool = False) -> tuple[Finding, ...]:
    return daemon_findings.judge_capabilities(daemon(*missing), suppression_missed=absorb, short_of_buffers=short)


def test_all_capabilities_are_one_line() -> None:
    expect(capabilities(absorb=True), OK, "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF")


def test_each_missing_capability_is_named_with_what_it_costs() -> None:
    raw, bpf, admin = capabilities(*CAPABILITIES, absorb=True)
    expect(raw, FAULT, "CAP_NET_RAW", "cannot capture")
    expect(bpf, ADVICE, "CAP_BPF", "slower with every rule; MCR_ABSORB has no effect", "add CAP_BPF to Ambient")
    expect(admin, ADVICE, "CAP_NET_ADMIN", "MCR_ABSORB has no effect")


def test_cap_net_admin_is_missed_only_where_it_would_help() -> None:
    expect(
        capabilities("CAP_NET_ADMIN", short=True),
        ADVICE,
        "socket buffers are limited by net.core.wmem_max and net.core.rmem_max",
    )
    expect(capabilities("CAP_NET_ADMIN"), OK, "CAP_NET_RAW, CAP_BPF")


def test_the_filter_in_force_is_named() -> None:
    expect(daemon_findings.judge_filter(daemon()), OK, "eBPF")
    expect(daemon_findings.judge_filter(daemon(ebpf=False)), ADVICE, "Classic", "no bpf-map")
    told = daemon_findings.judge_filter(daemon("CAP_BPF", ebpf=False))
    expect(told, OK, "Classic")  # the missing capability has a line of its own


def test_absorbing_is_judged_by_the_programs_that_are_there() -> None:
    expect(daemon_findings.judge_suppression(daemon(suppressors=2), 2, missed=True), OK, "on 2 of 2")
    expect(daemon_findings.judge_suppression(daemon(suppressors=1), 2, missed=True), ADVICE, "1 of 2", "bridge")
    expect(daemon_findings.judge_suppression(daemon(suppressors=0), 2, missed=True), ADVICE, "0 of 2", "Linux 6.6")


def test_absorbing_is_missed_only_where_it_would_be_felt() -> None:
    without = daemon("CAP_NET_ADMIN", suppressors=0)
    expect(daemon_findings.judge_suppression(daemon(suppressors=0), 1, missed=False), OK, "0 of 1")
    expect(daemon_findings.judge_suppression(without, 1, missed=True), OK, "0 of 1")  # told once: the capability


def test_workers_have_nothing() -> None:
    seen = daemon_findings.judge_worker_privileges({0: CONFINED, 1: None})
    expect(seen, OK, "Seccomp 2", "1 of 2 workers")
    assert daemon_findings.judge_worker_privileges({0: None}) == ()
    open_to_all = attrs.evolve(CONFINED, seccomp=False)
    expect(daemon_findings.judge_worker_privileges({0: CONFINED, 1: open_to_all}), ADVICE, "any system call")


@pytest.mark.parametrize("changes", [{"capabilities": frozenset({13})}, {"no_new_privs": False}])
def test_a_worker_with_privileges_is_a_fault(changes: dict[str, bool] | dict[str, frozenset[int]]) -> None:
    seen = {0: CONFINED, 1: attrs.evolve(CONFINED, **changes)}
    expect(daemon_findings.judge_worker_privileges(seen), FAULT, "Worker 1 has kept privileges")


# The workers


def test_workers_that_run_are_counted() -> None:
    expect(daemon_findings.judge_workers((WORKER, WORKER)), OK, "All 2 workers run, and none has been restarted")
    expect(daemon_findings.judge_workers((WORKER,)), OK, "The worker runs, and has never been restarted")
    starting = attrs.evolve(WORKER, state=WorkerState.STARTING)
    expect(daemon_findings.judge_workers((WORKER, starting)), OK, "1 of 2 workers run")


@pytest.mark.parametrize(
    ("state", "restarts", "verdict", "words"),
    [
        (WorkerState.RUNNING, 1, ADVICE, "once and was replaced"),
        (WorkerState.RUNNING, 3, ADVICE, "3 times and was replaced"),
        (WorkerState.WAITING, 1, ADVICE, "once"),  # for no time at all
        (WorkerState.WAITING, 4, FAULT, "4 times, and waits for its next start"),
    ],
)
def test_deaths_are_told(state: WorkerState, restarts: int, verdict: Verdict, words: str) -> None:
    dead = attrs.evolve(WORKER, worker_id=1, state=state, restarts=restarts, last_exit="2026-01-01T12:00:00Z killed")
    finding = expect(daemon_findings.judge_workers((WORKER, dead)), verdict, "Worker 1", words, "journalctl -u mcrd")
    assert "LAST EXIT 2026-01-01T12:00:00Z killed" in finding.evidence


def test_workers_that_share_a_core_are_named() -> None:
    workers = tuple(attrs.evolve(WORKER, worker_id=i, core=core) for i, core in enumerate((0, 1, 0)))
    expect(daemon_findings.judge_cores(workers[:2], (0, 1)), OK)
    expect(daemon_findings.judge_cores(workers, (0, 1)), ADVICE, "Workers 0 and 2 share core 0", "--num-workers 2")


# The counters


def captured(recv: int, drops: int, *by_worker: int) -> Stats:
    workers = tuple(attrs.evolve(FULL_SIZE, worker_id=i, kernel_drops=n) for i, n in enumerate(by_worker))
    ingress = IngressStats(recv=recv, kernel_drops=drops)
    return Stats(ingress, EgressStats(), workers=workers, interfaces=(InterfaceStats("in0", recv, drops),))


def judge_captures(stats: Stats, mtu: int = 1500, restarts: int = 0) -> tuple[Finding, ...]:
    workers = (attrs.evolve(WORKER, restarts=restarts),)
    return daemon_findings.judge_captures(stats, workers, {"in0": attrs.evolve(IN0, mtu=mtu)}, BufferPools())


def test_no_drops_are_fine() -> None:
    expect(judge_captures(captured(10, 0, 0)), OK)


def test_drops_are_told_with_their_share_and_a_larger_ring() -> None:
    finding = expect(
        judge_captures(captured(900, 100, 100)), ADVICE, "100 packets on in0", "10.00%", "kernel_drops=100"
    )
    assert "MCR_BUFFER_POOL_SMALL=4096" in finding.remedy
    assert "MCR_BUFFER_POOL_STANDARD=1024" in expect(judge_captures(captured(9, 1, 1), mtu=9000), ADVICE).remedy
    assert "MCR_BUFFER_POOL_JUMBO=512" in expect(judge_captures(captured(9, 1, 1), mtu=65_536), ADVICE).remedy


def test_most_lost_is_a_fault() -> None:
    expect(judge_captures(captured(400, 600, 600)), FAULT)


def test_the_cause_of_drops_is_told_as_far_as_it_is_known() -> None:
    expect(judge_captures(captured(900, 100, 100), restarts=2), ADVICE, "hung or was replaced")
    expect(judge_captures(captured(900, 100, 0, 100)), ADVICE, "worker 1: a flow stays", "a flow stays with one worker")
    expect(judge_captures(captured(900, 100, 50, 50)), ADVICE, "more than they can handle")


def test_drops_on_interfaces_of_the_past_are_not_forgotten() -> None:
    stats = Stats(IngressStats(kernel_drops=7), EgressStats())
    (finding,) = daemon_findings.judge_captures(stats, (WORKER,), {}, BufferPools())
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
    expect(daemon_findings.judge_super_frames(stats, described=True), verdict, f"buf_exhaust={exhausted}")


def test_any_frame_that_the_kernel_does_not_tell_how_to_cut_is_a_fault() -> None:
    stats = Stats(IngressStats(recv=1000, buf_exhaust=2), EgressStats())
    expect(daemon_findings.judge_super_frames(stats, described=False), FAULT, "2 packets", "tx-udp-segmentation off")
    expect(daemon_findings.judge_super_frames(IDLE, described=False), OK, "No super-frames came", "does not tell")


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
    findings = parse_errors.judge_loops(Stats(IngressStats(), EgressStats(), interfaces=(interface,)))
    expect(findings, verdict, *(["in0", "loop=7"] if verdict is FAULT else []))


def test_outputs_that_took_everything_are_fine() -> None:
    expect(daemon_findings.judge_outputs(stats_of(output(0, 100)), {"out0": OUT0}), OK)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENETDOWN, ["the interface was down", "ip link show dev out0"]),
        (errno.ENETUNREACH, ["Network is unreachable (os error 101)", "the interface was down, or no route"]),
        (errno.EMSGSIZE, ["MTU"]),
        (errno.EPERM, ["firewall"]),
        (errno.ENOBUFS, ["bottleneck", "MCR_SOCKET_SNDBUF"]),
        (errno.EAGAIN, ["send buffer", "MCR_SOCKET_SNDBUF"]),
        (errno.EHOSTUNREACH, ["ip neigh show dev out0"]),
    ],
)
def test_an_error_of_an_output_is_told_with_its_cause(number: int, words: list[str]) -> None:
    (finding,) = daemon_findings.judge_outputs(stats_of(output(10, 100, number)), {"out0": OUT0})
    expect(
        finding, ADVICE, "10 packets (10.00%)", "239.2.2.2:6000:out0; the newest error, 12 s ago: ", "errors=10", *words
    )


def test_an_output_that_fails_mostly_or_cannot_work_is_a_fault() -> None:
    down = attrs.evolve(OUT0, up=False)
    for outputs, links in (
        (output(51, 100, errno.EAGAIN), {"out0": OUT0}),
        (output(1, 100, errno.ENETDOWN), {"out0": down}),
        (output(1, 100, errno.ENODEV), {}),
    ):
        expect(daemon_findings.judge_outputs(stats_of(outputs), links), FAULT)


def test_errors_of_long_ago_are_shown_and_are_no_advice() -> None:
    (recent, old) = daemon_findings.judge_outputs(
        stats_of(output(10, 100, errno.EPERM, ago=599.0), output(60, 100, errno.EPERM, "239.2.2.3", ago=601.0)),
        {"out0": OUT0},
    )
    expect(recent, ADVICE, "239.2.2.2:6000:out0; the newest error, 599 s ago")
    expect(old, OK, "60 packets (60.00%) were not sent to 239.2.2.3:6000:out0; the newest error, 601 s ago")
    assert daemon_findings.refused_outputs(stats_of(output(1, 9, errno.EPERM, ago=601.0))) == ()
    removed = Stats(IngressStats(), EgressStats(errors=7))
    expect(daemon_findings.judge_outputs(removed, {}), OK, "7 packets were not sent to outputs that have been removed")


def test_outputs_of_one_interface_and_error_are_told_together() -> None:
    outputs = [output(5, 100, errno.ENETDOWN, f"239.2.2.{i}") for i in range(1, 9)]
    (finding,) = daemon_findings.judge_outputs(stats_of(*outputs, output(0, 100)), {"out0": OUT0})
    expect(finding, ADVICE, "40 packets (5.00%)", "8 outputs on out0, among them 239.2.2.1:6000:out0")


def test_packets_in_doubt_are_told_apart() -> None:
    (finding,) = daemon_findings.judge_outputs(stats_of(output(3, 100, in_doubt=3)), {"out0": OUT0})
    assert finding.verdict is OK  # that the worker died is told as such
    assert finding.what.startswith("3 packets (3.00%) to 239.2.2.2:6000:out0 may or may not have left")
    assert "not sent" not in finding.what
    (finding,) = daemon_findings.judge_outputs(stats_of(output(5, 100, errno.ENOBUFS, in_doubt=3)), {"out0": OUT0})
    assert "2 packets (2.00%) were not sent to 239.2.2.2:6000:out0; 3 more may or may not have left" in finding.what


def test_refused_outputs_are_those_whose_last_error_says_so() -> None:
    stats = stats_of(output(1, 9, errno.EPERM), output(1, 9, errno.ENETDOWN, "239.2.2.3"))
    assert daemon_findings.refused_outputs(stats) == ("239.2.2.2:6000:out0",)


def test_lost_log_records_are_told() -> None:
    lossy = Stats(IngressStats(), EgressStats(), workers=(attrs.evolve(FULL_SIZE, log_dropped=5),))
    expect(daemon_findings.judge_log(lossy), ADVICE, "5 log records")
    expect(daemon_findings.judge_log(IDLE), OK)


# The interfaces


USED = {"in0": Attachment("in0", IN0.index), "out0": Attachment("out0", OUT0.index)}


def test_interfaces_that_are_up_are_one_line() -> None:
    links = {"in0": IN0, "out0": OUT0}
    expect(link_findings.judge_presence(frozenset(links), links, USED), OK, "Up: in0, out0")
    expect(link_findings.judge_presence(frozenset(), {}, {}), OK, "No rules yet")


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
    expect(link_findings.judge_presence(frozenset({"in0", "out0"}), links, USED), FAULT, "in0", *words)


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
    (fault,) = link_findings.judge_presence(frozenset(links), links, used)
    expect(fault, FAULT, "deleted and made again", "Too many open files", "index 99", "had 7")


def test_interface_that_is_called_otherwise_now_is_spoken_of_by_both_names() -> None:
    links = {"in0": attrs.evolve(IN0, name="in9"), "out0": OUT0}
    expect(link_findings.judge_presence(frozenset(links), links, USED), OK, "Up: in0 (is called in9 now), out0")
    links = {"in0": attrs.evolve(IN0, name="in9", up=False), "out0": OUT0}
    expect(link_findings.judge_presence(frozenset(links), links, USED), FAULT, "sudo ip link set dev in9 up")


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


# What is read


def test_a_status_file_is_read() -> None:
    text = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t0000008000003000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
    process = parse_status(7, text)
    assert process == Process(7, frozenset({12, 13, 39}), no_new_privs=True, seccomp=True)
    assert process.has("CAP_BPF")


def test_softnet_and_netstat_are_read() -> None:
    assert parse_softnet("2bbe36e4 0000000a 0000001a\n1e346ff5 00b1afef 0000076d\n") == 10 + 0xB1AFEF
    text = "TcpExt: A IPReversePathFilter\nTcpExt: 1 22\nIpExt: B\nIpExt: 3\n"
    assert parse_netstat(text) == {"A": 1, "IPReversePathFilter": 22, "B": 3}
    assert parse_netstat("") == {}


def test_this_process_can_be_looked_at() -> None:
    here = look_at_self(8192, 8192)
    assert here.process == look_at_process(os.getpid())
    assert (here.send_buffer, here.receive_buffer) == (8192, 8192)
    assert set(here.cores) == os.sched_getaffinity(0)
    assert here.descriptors >= 3
    assert look_at_process(2**22 + 1) is None  # beyond the largest pid


def test_a_start_of_the_daemon_does_not_pay_for_netlink() -> None:
    code = "import mcr.daemon, sys; print('pyroute2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


def test_raw_frames_that_do_not_leave_are_advice_where_it_is_felt() -> None:
    blocker = Blocker("nftables has a chain output at output, in table inet filter")
    assert daemon_findings.judge_raw(None, missed=True).verdict is OK
    assert daemon_findings.judge_raw(blocker, missed=False).verdict is OK
    finding = daemon_findings.judge_raw(blocker, missed=True)
    assert finding.verdict is ADVICE
    assert blocker.reason in finding.what
    assert "CAP_NET_ADMIN" in finding.remedy
