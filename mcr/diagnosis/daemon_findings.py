"""Judges the daemon: its privileges, its workers, what its counters say. Pure: from observations to findings."""

import errno
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from mcr.diagnosis.send_errors import is_lately, last_errno, newest_error
from mcr.model.finding import Finding, Verdict
from mcr.model.rule import RuleView
from mcr.model.stats import OutputStats, Stats
from mcr.model.worker import WorkerState, WorkerView
from mcr.net.capture import BufferPools, slot_size
from mcr.net.ip_bypass import Blocker
from mcr.net.links import Link
from mcr.net.machine import CAPABILITIES, Process, Self
from mcr.text.plurals import counted

_FEW = 0.01
"""Dropped packets in a hundredth of all are what an overload looks like that is over."""

_HALF = 0.5
"""Beyond that it no longer relays."""

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
        "" if known else "for why there is no eBPF filter, restart mcrd and read its log",
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
    yield Finding("kernel_path", Verdict.OK, what, f"mcrctl list --json: path, path_reason{most}")


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


def judge_captures(
    stats: Stats, workers: tuple[WorkerView, ...], links: Mapping[str, Link], pools: BufferPools
) -> tuple[Finding, ...]:
    """Whether packets were lost since their capture ring was full, or another program took them."""
    findings = [_contested(stats.kernel_path.kernel_drops)] if stats.kernel_path.kernel_drops else []
    in_rings = stats.ingress.kernel_drops - stats.kernel_path.kernel_drops
    for interface in stats.interfaces:
        if interface.kernel_drops and in_rings:
            mtu = links[interface.interface].mtu if interface.interface in links else 1500
            findings.append(
                _full_ring(
                    interface.interface,
                    interface.kernel_drops,
                    interface.recv,
                    _why_full(stats, workers),
                    _larger_ring(mtu, pools),
                )
            )
    former = stats.ingress.kernel_drops - sum(each.kernel_drops for each in stats.interfaces)
    if former > 0:
        findings.append(
            Finding(
                "kernel_drops",
                Verdict.ADVICE,
                f"{former:,} packets were lost on interfaces that rules no longer use",
                f"mcrctl stats: kernel_drops, {former} of them",
            )
        )
    if findings:
        return tuple(findings)
    return (Finding("kernel_drops", Verdict.OK, "No capture ring has been full", "mcrctl stats: kernel_drops=0"),)


def _contested(lost: int) -> Finding:
    return Finding(
        "kernel_drops",
        Verdict.ADVICE,
        f"{lost:,} packets were lost where another eBPF program at an input interface takes them first",
        f"mcrctl stats --json: kernel_path.kernel_drops={lost}",
        "workers forward what comes in there (mcrctl list --json: path_reason). bpftool net show names the program",
    )


def _full_ring(name: str, dropped: int, received: int, why: str, remedy: str) -> Finding:
    share = dropped / (dropped + received)
    return Finding(
        "kernel_drops",
        Verdict.FAULT if share > _HALF else Verdict.ADVICE,
        f"{dropped:,} packets on {name} were lost, {share:.2%} of what arrived: the capture ring was full, {why}",
        f"mcrctl stats --json: kernel_drops={dropped} of {name}",
        remedy,
    )


def _why_full(stats: Stats, workers: tuple[WorkerView, ...]) -> str:
    restarts = sum(worker.restarts for worker in workers)
    if restarts:
        return "perhaps while a worker hung or was replaced (see the restarts in mcrctl list-workers)"
    dropping = [worker for worker in stats.workers if worker.kernel_drops]
    if len(dropping) == 1 and len(stats.workers) > 1:
        worker_id = dropping[0].worker_id
        return (
            f"all of it in the ring of worker {worker_id}, which had too much, or stood still while mcrd was replaced"
        )
    return "because workers got more than they can handle, or did not get the CPU"


def _larger_ring(mtu: int, pools: BufferPools) -> str:
    size = slot_size(mtu)
    name = f"MCR_BUFFER_POOL_{pools.name(size).upper()}"
    return f"a ring of twice the size: {name}={2 * pools.slots(size)} in the environment of mcrd"


def judge_super_frames(stats: Stats, *, described: bool) -> Finding:
    """Whether they could be taken apart.

    Args:
        stats: the counters.
        described: the kernel says how they are to be cut; then only room can be short, for those longer than a slot.
    """
    ingress = stats.ingress
    evidence = f"mcrctl stats: buf_exhaust={ingress.buf_exhaust} recv={ingress.recv}"
    if not described:
        return _judge_undescribed(ingress.buf_exhaust, evidence)
    if not ingress.buf_exhaust:
        return Finding(
            "buf_exhaust", Verdict.OK, "There was always a buffer for super-frames longer than a ring slot", evidence
        )
    share = ingress.buf_exhaust / ingress.recv
    what = f"{ingress.buf_exhaust:,} packets, {share:.2%}, were in super-frames for which no buffer was free"
    if share <= _FEW:
        return Finding("buf_exhaust", Verdict.OK, f"{what}: normal while there is more traffic than capacity", evidence)
    return Finding(
        "buf_exhaust",
        Verdict.FAULT if share > _HALF else Verdict.ADVICE,
        what,
        evidence,
        "stop merging frames at the interface: sudo ethtool -K IF rx-udp-gro-forwarding off rx-gro-list off",
    )


def _judge_undescribed(lost: int, evidence: str) -> Finding:
    why = "this kernel does not tell a capture how to cut frames of several datagrams"
    evidence += "; a trial on the loopback interface"
    if not lost:
        return Finding("buf_exhaust", Verdict.OK, f"No super-frames came, but {why}", evidence)
    return Finding(
        "buf_exhaust",
        Verdict.FAULT,
        f"{lost:,} packets are lost, as {why}",
        evidence,
        "have their sender cut them: sudo ethtool -K IF tx-udp-segmentation off at its end of the link, or :gso=off "
        "behind the output, if it is an mcrd; or use a newer kernel; if the loopback is down: sudo ip link set lo up",
    )


def judge_outputs(stats: Stats, links: Mapping[str, Link]) -> tuple[Finding, ...]:
    """Whether the outputs took what they were owed; those of one interface and error together."""
    failing: defaultdict[tuple[str, int | None, bool], list[OutputStats]] = defaultdict(list)
    for rule in stats.rules:
        for output in rule.outputs:
            if output.errors:
                failing[output.interface, last_errno(output), is_lately(output)].append(output)
    if failing:
        return tuple(_failing(name, number, outputs, links.get(name)) for (name, number, _), outputs in failing.items())
    if stats.egress.errors:
        return (
            Finding(
                "egress_errors",
                Verdict.OK,
                f"{stats.egress.errors:,} packets were not sent to outputs that have been removed since",
                f"mcrctl stats: errors={stats.egress.errors}",
            ),
        )
    return (Finding("egress_errors", Verdict.OK, "No output has had errors", "mcrctl stats: errors=0"),)


def refused_outputs(stats: Stats) -> tuple[str, ...]:
    """Outputs whose last error, lately, was that sending is not permitted."""
    return tuple(
        f"{output.group}:{output.port}:{output.interface}"
        for rule in stats.rules
        for output in rule.outputs
        if last_errno(output) == errno.EPERM and is_lately(output)
    )


def _failing(name: str, number: int | None, outputs: list[OutputStats], link: Link | None) -> Finding:
    counts: Counter[str] = Counter()
    for output in outputs:
        counts.update(submitted=output.submitted, errors=output.errors, in_doubt=output.in_doubt)
    sent_now, errors_now = sum(each.pps for each in outputs), sum(each.error_pps for each in outputs)
    linked = link is not None and link.up and link.running
    broken = not linked or errors_now > _HALF * (errors_now + sent_now)
    mended = linked and sent_now > 0 and not errors_now
    first = f"{outputs[0].group}:{outputs[0].port}:{name}"
    which = first if len(outputs) == 1 else f"{len(outputs):,} outputs on {name}, among them {first}"
    doubt, failed = counts["in_doubt"], counts["errors"] - counts["in_doubt"]
    what = f"{failed:,} packets ({failed / counts['submitted']:.2%}) were not sent to {which}"
    in_hand = "may or may not have left: a worker had them in hand when it died"
    if doubt and not failed:
        what = f"{doubt:,} packets ({doubt / counts['submitted']:.2%}) to {which} {in_hand}"
    elif doubt:
        what += f"; {doubt:,} more {in_hand}"
    cause, remedy = _CAUSES.get(number or 0, ("", ""))
    what += newest_error(outputs) + (f", {cause}" if cause else "")
    if errors_now:
        what += f"; now {errors_now / (errors_now + sent_now):.2%} of what is due"
    elif mended:
        what += "; now all is sent"
    evidence = f"mcrctl stats: errors={counts['errors']}"
    over = mended and number in _OF_INTERFACES
    if over or not is_lately(outputs[0]):  # of a worker that died the finding `workers` tells
        return Finding("egress_errors", Verdict.OK, what, evidence)
    return Finding(
        "egress_errors",
        Verdict.FAULT if broken else Verdict.ADVICE,
        what,
        evidence,
        remedy.format(name=name),
    )


_OF_INTERFACES: Final = {errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV, errno.ENXIO, errno.EHOSTUNREACH}
"""Errors that are over once something is sent: it was the way out that was missing."""

_CAUSES: Final = {
    errno.ENETDOWN: ("the interface was down", "ip link show dev {name}"),
    errno.ENETUNREACH: ("the interface was down, or no route led there", "ip link show dev {name}; ip route"),
    errno.ENODEV: ("the interface was gone", "ip link show dev {name}"),
    errno.ENXIO: ("the interface was gone", "ip link show dev {name}"),
    errno.EHOSTUNREACH: ("no route, or nobody answered ARP", "ip route; ip neigh show dev {name}"),
    errno.EMSGSIZE: (
        "larger than the interface's MTU",
        "ip link show dev {name}; raise its MTU, or send smaller datagrams",
    ),
    errno.EACCES: ("that is a broadcast address, to which MCR does not send", "name a host or a group instead"),
    errno.EPERM: ("a firewall rule dropped them", "sudo nft list ruleset; sudo iptables-save"),
    errno.ENOBUFS: (
        "more than the interface could take at once",
        "its network is the bottleneck; for bursts: tc -s qdisc show dev {name}, and raise MCR_SOCKET_SNDBUF",
    ),
    errno.EAGAIN: (
        "more waited than fits the send buffer",
        "its network is the bottleneck; for bursts raise MCR_SOCKET_SNDBUF in the environment of mcrd",
    ),
}
"""What an output's newest error means, and where to look. Older ones are counted, and not kept."""


def judge_log(stats: Stats) -> Finding:
    """Whether log records of workers were lost."""
    dropped = sum(worker.log_dropped for worker in stats.workers)
    evidence = f"mcrctl stats --json: log_dropped={dropped}"
    if not dropped:
        return Finding("log_dropped", Verdict.OK, "No log record of a worker was lost", evidence)
    return Finding(
        "log_dropped",
        Verdict.ADVICE,
        f"{dropped:,} log records of workers were lost: they came faster than mcrd reads them",
        evidence,
        "log less: mcrctl log-level set --global info",
    )
