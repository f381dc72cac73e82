"""What doctor makes of the machine and its firewall: each judgement with values, no machine."""

import errno
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doctor_world import (
    ADVICE,
    DAEMON,
    FAULT,
    MACHINE,
    OK,
    WORKER,
    expect,
)
from mcr.diagnosis import machine_findings
from mcr.model.finding import Finding, Verdict
from mcr.net.firewall import Chain, Firewall


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
