"""A machine and a daemon as doctor sees them, and what is expected of its findings."""

from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import attrs

from mcr.model.finding import Finding, Verdict
from mcr.model.stats import (
    EgressStats,
    IngressStats,
    OutputStats,
    RuleStats,
    SendError,
    Stats,
    WorkerStats,
)
from mcr.model.worker import WorkerState, WorkerView
from mcr.net.links import Link
from mcr.net.machine import (
    CAPABILITIES,
    Machine,
    Process,
    Self,
)

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
