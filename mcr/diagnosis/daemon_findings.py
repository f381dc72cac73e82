"""Judges the daemon: its privileges, its workers, what its counters say. Pure: from observations to findings."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping

from mcr.model.finding import Finding, Verdict
from mcr.model.rule import RuleView
from mcr.model.stats import Stats
from mcr.model.worker import WorkerState, WorkerView
from mcr.net.filter.refusal import JIT_OFF, JIT_REMEDY
from mcr.net.ip_bypass import Blocker
from mcr.net.machine import CAPABILITIES, Process, Self
from mcr.text.plurals import counted, were

_LOG = "journalctl -u mcrd -n 100; sudo dmesg | tail -50"
_GRANT = "sudo systemctl edit mcrd: add {} to AmbientCapabilities= and CapabilityBoundingSet=; or start it with sudo"


def judge_capabilities(daemon: Self, *, suppression_missed: bool, short_of_buffers: bool) -> tuple[Finding, ...]:
    """Whether the daemon may do what it is for, and what would make it better.

    Args:
        daemon: this process.
        suppression_missed: see `judge_suppression`.
        short_of_buffers: sockets were granted smaller buffers than they were to have.
    """
    process = daemon.process
    evidence = f"CapEff in /proc/{process.pid}/status"
    losses = {}
    if not process.has("CAP_NET_RAW"):
        losses["CAP_NET_RAW"] = "it cannot capture"
    if not process.has("CAP_BPF"):
        losses["CAP_BPF"] = "it filters with classic socket filters, which get slower with every rule"
        losses["CAP_BPF"] += "; MCR_ABSORB has no effect" if suppression_missed else ""
    if not process.has("CAP_NET_ADMIN") and (suppression_missed or short_of_buffers):
        lost = ["MCR_ABSORB has no effect"] if suppression_missed else []
        lost += ["socket buffers are limited by net.core.wmem_max and net.core.rmem_max"] if short_of_buffers else []
        losses["CAP_NET_ADMIN"] = ", ".join(lost)
    if losses:
        return tuple(
            Finding(
                name.lower(),
                Verdict.FAULT if name == "CAP_NET_RAW" else Verdict.ADVICE,
                f"mcrd has no {name}: {loss}",
                evidence,
                _GRANT.format(name),
            )
            for name, loss in losses.items()
        )
    has = ", ".join(name for name in CAPABILITIES if process.has(name))
    return (Finding("capabilities", Verdict.OK, f"mcrd has what it needs: {has}", evidence),)


def judge_filter(daemon: Self) -> Finding:
    """Which filter keeps from the workers what no rule wants."""
    holds = f"/proc/{daemon.process.pid}/fd holds"
    if daemon.ebpf:
        return Finding("filter", Verdict.OK, "An eBPF filter rejects what no rule takes", f"{holds} bpf-map")
    # Where the capability is missing, that is its own finding; the lack of it is told once.
    known = not daemon.process.has("CAP_BPF")
    return Finding(
        "filter",
        Verdict.OK if known else Verdict.ADVICE,
        "Classic socket filters reject what no rule takes, for up to about 800 rules; beyond, the workers do",
        f"{holds} no bpf-map",
        "" if known else "mcrd's log says why, at its start; before Linux 6.12 CAP_PERFMON may help (installation.md)",
    )


def judge_suppression(daemon: Self, inputs: int, *, missed: bool) -> Finding:
    """Whether local delivery of what rules take is suppressed (MCR_ABSORB).

    Args:
        daemon: this process.
        inputs: how many input interfaces there are.
        missed: it was asked for, or there is so much traffic that it would be felt.
    """
    what = f"Matched packets skip the local IP stack on {daemon.suppressors} of {inputs} input interfaces"
    evidence = f"/proc/{daemon.process.pid}/fd holds {daemon.suppressors} bpf_link"
    if daemon.suppressors >= inputs:
        return Finding("absorb", Verdict.OK, what, evidence)
    # A missing capability is its own finding.
    allowed = daemon.process.has("CAP_BPF") and daemon.process.has("CAP_NET_ADMIN")
    if not missed or not allowed:
        return Finding("absorb", Verdict.OK, what, evidence)
    return Finding(
        "absorb",
        Verdict.ADVICE,
        what,
        evidence,
        "it needs CAP_BPF, CAP_NET_ADMIN, Linux 6.6, and an interface without a bridge and multicast routing; "
        "mcrd's log has the reason",
    )


def no_suppression() -> Finding:
    """It is not to be done."""
    what = "Matched packets also go through the local IP stack, as configured"
    return Finding("absorb", Verdict.OK, what, "MCR_ABSORB is 0")


def judge_raw(blocker: Blocker | None, *, missed: bool) -> Finding:
    """Whether raw frames leave to groups (MCR_RAW_SEND).

    Args:
        blocker: why they do not.
        missed: there is so much traffic that it would be felt.
    """
    if blocker is None:
        what = "Packets to groups on Ethernet leave as raw frames, which costs less than the IP stack"
        return Finding(
            "raw_send", Verdict.OK, what, "no firewall rule, IPsec policy or cgroup program acts on what is sent"
        )
    return Finding(
        "raw_send",
        Verdict.ADVICE if missed else Verdict.OK,
        f"Everything leaves through the IP stack, which costs more: {blocker.reason}",
        "nftables, legacy iptables, IPsec policies, eBPF programs of the control group",
        "remove it if it is not needed; to look for it, mcrd needs CAP_NET_ADMIN" if missed else "",
    )


def judge_paths(rules: Collection[RuleView]) -> Iterator[Finding]:
    """Who forwards by the rules: the kernel, or workers (MCR_KERNEL_PATH)."""
    if not rules:
        return
    reasons = Counter(rule.path_reason for rule in rules if rule.path_reason)
    what = f"The kernel forwards by {len(rules) - reasons.total()} of {counted(len(rules), 'rule')}, without a worker"
    most = "".join(f"; {counted(count, 'rule')}: {reason}" for reason, count in reasons.most_common(1))
    verdict, remedy = (Verdict.ADVICE, JIT_REMEDY) if JIT_OFF in most else (Verdict.OK, "")
    yield Finding("kernel_path", verdict, what, f"mcrctl list --json: path, path_reason{most}", remedy)


def judge_worker_privileges(workers: Mapping[int, Process | None]) -> tuple[Finding, ...]:
    """Whether workers have given up every privilege.

    Args:
        workers: by id; None for one that can't be seen, or has gone meanwhile.
    """
    seen = {worker_id: process for worker_id, process in workers.items() if process}
    privileged = tuple(
        Finding(
            "worker_privileges",
            Verdict.FAULT,
            f"Worker {worker_id} has kept privileges: a fault in it could do more than it should",
            f"/proc/{process.pid}/status: {len(process.capabilities)} in CapEff, NoNewPrivs {process.no_new_privs:d}",
            "report this as a bug of MCR, with the output of: mcrctl report",
        )
        for worker_id, process in seen.items()
        if process.capabilities or not process.no_new_privs
    )
    if privileged or not seen:
        return privileged
    evidence = f"CapEff 0, NoNewPrivs 1, Seccomp {{}} in the status of {len(seen)} of {len(workers)} workers"
    if all(process.seccomp for process in seen.values()):
        what = "Workers have no privileges, and only the system calls that they need"
        return (Finding("worker_privileges", Verdict.OK, what, evidence.format(2)),)
    return (
        Finding(
            "worker_privileges",
            Verdict.ADVICE,
            "Workers have no privileges, but may make any system call",
            evidence.format(0),
            "mcrd's log says why: look for 'not confined'",
        ),
    )


def judge_workers(workers: tuple[WorkerView, ...]) -> tuple[Finding, ...]:
    """Whether they run, and have run all the time. A first death is no fault: another process takes over at once."""
    findings = tuple(_death(worker) for worker in workers if worker.restarts)
    if findings:
        return findings
    running = sum(worker.state is WorkerState.RUNNING for worker in workers)
    if running < len(workers):
        what = f"{running} of {len(workers)} workers run"
    elif running == 1:
        what = "The worker runs, and has never been restarted"
    else:
        what = f"All {running} workers run, and none has been restarted"
    return (Finding("workers", Verdict.OK, what, "mcrctl list-workers"),)


def _death(worker: WorkerView) -> Finding:
    times = "once" if worker.restarts == 1 else f"{worker.restarts:,} times"
    evidence = f"mcrctl list-workers: STATE {worker.state}, LAST EXIT {worker.last_exit}"
    if worker.state is WorkerState.WAITING and worker.restarts > 1:
        return Finding(
            "workers",
            Verdict.FAULT,
            f"Worker {worker.worker_id} does not run: it has exited unexpectedly {times}, and waits for its next start",
            evidence,
            _LOG,
        )
    return Finding(
        "workers",
        Verdict.ADVICE,
        f"Worker {worker.worker_id} has exited unexpectedly {times} and was replaced",
        evidence,
        f"see why: {_LOG}",
    )


def judge_cores(workers: tuple[WorkerView, ...], cores: tuple[int, ...]) -> tuple[Finding, ...]:
    """Whether every worker has a processor of its own.

    Args:
        workers: those of the daemon.
        cores: processors that the daemon may use.
    """
    tenants: defaultdict[int, list[int]] = defaultdict(list)
    for worker in workers:
        tenants[worker.core].append(worker.worker_id)
    evidence = f"mcrd may use cores {', '.join(map(str, cores))}; mcrctl list-workers: CORE"
    shared = {core: ids for core, ids in tenants.items() if len(ids) > 1}
    if not shared:
        return (Finding("cores", Verdict.OK, "Every worker has its own core", evidence),)
    core, ids = next(iter(shared.items()))
    more = f", and {len(shared) - 1} more cores are shared" if len(shared) > 1 else ""
    return (
        Finding(
            "cores",
            Verdict.ADVICE,
            f"Workers {' and '.join(map(str, ids))} share core {core}{more}: they take turns",
            evidence,
            f"start mcrd with --num-workers {len(cores)}, or give it more cores: CPUAffinity= in its unit, or taskset",
        ),
    )


def judge_log(stats: Stats) -> Finding:
    """Whether log records of workers were lost."""
    dropped = sum(worker.log_dropped for worker in stats.workers)
    evidence = f"mcrctl stats --json: log_dropped={dropped}"
    if not dropped:
        return Finding("log_dropped", Verdict.OK, "No log record of a worker was lost", evidence)
    return Finding(
        "log_dropped",
        Verdict.ADVICE,
        f"{counted(dropped, 'log record')} of workers {were(dropped)} lost: they came faster than mcrd reads them",
        evidence,
        "log less: mcrctl log-level set --global info",
    )
