"""What doctor makes of the daemon's privileges and workers: each judgement with values, no machine."""

import os
from ipaddress import IPv4Address

import attrs
import pytest

from doctor_world import (
    ADVICE,
    CONFINED,
    FAULT,
    OK,
    WORKER,
    daemon,
    expect,
)
from mcr.diagnosis import daemon_findings
from mcr.diagnosis.doctor import look_at_workers
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import Input
from mcr.model.rule import RuleState, RuleView
from mcr.model.worker import WorkerState
from mcr.net.filter.refusal import JIT_OFF
from mcr.net.ip_bypass import Blocker
from mcr.net.machine import (
    CAPABILITIES,
)

GROUP = IPv4Address("239.1.1.1")


def capabilities(*missing: str, suppression: bool = False, short: bool = False) -> tuple[Finding, ...]:
    return daemon_findings.judge_capabilities(daemon(*missing), suppression_missed=suppression, short_of_buffers=short)


def test_all_capabilities_are_one_line() -> None:
    expect(capabilities(suppression=True), OK, "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF")


def test_each_missing_capability_is_named_with_what_it_costs() -> None:
    raw, bpf, admin = capabilities(*CAPABILITIES, suppression=True)
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
    expect(daemon_findings.judge_filter(daemon(ebpf=False)), ADVICE, "Classic", "no bpf-map", "CAP_PERFMON")
    told = daemon_findings.judge_filter(daemon("CAP_BPF", ebpf=False))
    expect(told, OK, "Classic")  # the missing capability has a line of its own


def test_suppression_is_judged_by_the_programs_that_are_there() -> None:
    expect(daemon_findings.judge_suppression(daemon(suppressors=2), 2, missed=True), OK, "on 2 of 2")
    expect(daemon_findings.judge_suppression(daemon(suppressors=1), 2, missed=True), ADVICE, "1 of 2", "bridge")
    expect(daemon_findings.judge_suppression(daemon(suppressors=0), 2, missed=True), ADVICE, "0 of 2", "Linux 6.6")


def test_suppression_is_missed_only_where_it_would_be_felt() -> None:
    without = daemon("CAP_NET_ADMIN", suppressors=0)
    expect(daemon_findings.judge_suppression(daemon(suppressors=0), 1, missed=False), OK, "0 of 1")
    expect(daemon_findings.judge_suppression(without, 1, missed=True), OK, "0 of 1")  # told once: the capability


def test_workers_have_nothing() -> None:
    seen = daemon_findings.judge_worker_privileges({0: CONFINED, 1: None})
    expect(seen, OK, "Seccomp 2", "1 of 2 workers")
    assert daemon_findings.judge_worker_privileges({0: None}) == ()
    open_to_all = attrs.evolve(CONFINED, seccomp=False)
    expect(daemon_findings.judge_worker_privileges({0: CONFINED, 1: open_to_all}), ADVICE, "any system call")


def test_a_worker_that_is_starting_is_not_judged() -> None:
    """It has its privileges until it is about to forward."""
    running = attrs.evolve(WORKER, pid=os.getpid())
    starting = attrs.evolve(running, worker_id=1, state=WorkerState.STARTING)
    assert [*look_at_workers((running, starting))] == [0]


@pytest.mark.parametrize("changes", [{"capabilities": frozenset({13})}, {"no_new_privs": False}])
def test_a_worker_with_privileges_is_a_fault(changes: dict[str, bool] | dict[str, frozenset[int]]) -> None:
    seen = {0: CONFINED, 1: attrs.evolve(CONFINED, **changes)}
    expect(daemon_findings.judge_worker_privileges(seen), FAULT, "Worker 1 has kept privileges")


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


def test_raw_frames_that_do_not_leave_are_advice_where_it_is_felt() -> None:
    blocker = Blocker("nftables has a chain output at output, in table inet filter")
    assert daemon_findings.judge_raw(None, missed=True).verdict is OK
    assert daemon_findings.judge_raw(blocker, missed=False).verdict is OK
    finding = daemon_findings.judge_raw(blocker, missed=True)
    assert finding.verdict is ADVICE
    assert blocker.reason in finding.what
    assert "CAP_NET_ADMIN" in finding.remedy


def test_who_forwards_is_said_with_the_commonest_reason() -> None:
    rules = tuple(
        RuleView(f"r{number}", None, Input("in0", GROUP, 5000 + number), (), RuleState.ACTIVE, path_reason=reason)
        for number, reason in enumerate(("", "odd", "common", "common"))
    )
    (finding,) = daemon_findings.judge_paths(rules)
    assert finding.what == "The kernel forwards by 1 of 4 rules, without a worker"
    assert finding.evidence == "mcrctl list --json: path, path_reason; 2 rules: common"
    assert finding.verdict is OK
    assert [*daemon_findings.judge_paths(())] == []
    unjitted = (attrs.evolve(rules[0], path_reason=f"this kernel does not load the eBPF programs: {JIT_OFF}"),)
    (finding,) = daemon_findings.judge_paths(unjitted)
    expect(finding, ADVICE, "The kernel forwards by 0 of 1 rule", "sysctl -w net.core.bpf_jit_enable=1")
