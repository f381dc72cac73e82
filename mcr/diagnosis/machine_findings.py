"""Judges the machine: the kernel, its limits, its firewall. Pure: from observations to findings."""

import errno
import re

from mcr.errors import describe_errno
from mcr.model.finding import Finding, Verdict
from mcr.model.worker import WorkerView
from mcr.net.firewall import Chain, Firewall
from mcr.net.machine import Machine, Self
from mcr.text.plurals import counted

_OLDEST_KERNEL = (5, 10)
_UNLOCKED_KERNEL = (5, 12)  # from here on neither io_uring nor eBPF counts as locked memory
_ENOUGH_LOCKED = 8 << 20
_SYSCTLS = "sudo sysctl -w {}; to keep it, put it into /etc/sysctl.d/"


def judge_kernel(machine: Machine) -> Finding:
    """Whether the kernel is recent enough."""
    version = _version(machine.kernel)
    if version and version < _OLDEST_KERNEL:
        return Finding(
            "kernel",
            Verdict.FAULT,
            f"Linux {machine.kernel} is too old: MCR needs 5.10 or newer",
            "uname -r",
            "install a newer kernel",
        )
    return Finding("kernel", Verdict.OK, f"Linux {machine.kernel}", "uname -r; 5.10 or newer is needed")


def judge_io_uring(machine: Machine, workers: tuple[WorkerView, ...]) -> Finding:
    """Whether workers run on io_uring, and if not, why.

    Args:
        machine: asked in the process that the workers come from, or in another if there are none.
        workers: those of the daemon.
    """
    on_poll = [str(worker.worker_id) for worker in workers if worker.io == "poll"]
    if machine.uring_errno:
        culprit, remedy = _who_forbids_io_uring(machine)
        so = "workers run on poll instead, which takes a tenth more CPU"
        return Finding(
            "io_uring",
            Verdict.ADVICE,
            f"io_uring is not available ({describe_errno(machine.uring_errno)}): {so}",
            culprit,
            remedy,
        )
    if on_poll:
        return Finding(
            "io_uring",
            Verdict.ADVICE,
            f"io_uring is available now, but was not when worker {', '.join(on_poll)} started, which runs on poll",
            "mcrctl list-workers: IO",
            "restart mcrd",
        )
    what = "io_uring is available" if not workers else "Workers run on io_uring"
    return Finding("io_uring", Verdict.OK, what, "io_uring_setup(2) succeeds; mcrctl list-workers: IO")


def _who_forbids_io_uring(machine: Machine) -> tuple[str, str]:
    if machine.uring_disabled:
        whom = "everybody" if machine.uring_disabled > 1 else "all but administrators and kernel.io_uring_group"
        return (
            f"kernel.io_uring_disabled={machine.uring_disabled} forbids it to {whom}",
            _SYSCTLS.format("kernel.io_uring_disabled=0") + ", then restart mcrd",
        )
    if machine.seccomp and machine.uring_errno in {errno.EPERM, errno.EACCES, errno.ENOSYS}:
        return (
            "/proc/self/status: Seccomp: 2, a system call filter is in force, as in most containers",
            (
                "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile "
                "or the unit's SystemCallFilter="
            ),
        )
    if machine.uring_errno == errno.ENOSYS:
        return "the kernel was built without it", "use a kernel with CONFIG_IO_URING"
    if machine.uring_errno == errno.EBADFD:
        return "a ring with restrictions stays disabled, an error of some 5.10 kernels", "use a newer kernel"
    if machine.uring_errno == errno.ENOMEM:
        return f"locked memory is limited to {_bytes(machine.memlock)}", "raise it: LimitMEMLOCK=infinity in the unit"
    return "io_uring_setup(2) fails", "a security module may forbid it: see its log"


def judge_buffers(machine: Machine, daemon: Self | None, send_buffer: int, copy_buffer: int) -> tuple[Finding, ...]:
    """Whether sockets get the buffers that mcrd wants.

    Args:
        machine: for the limits.
        daemon: for the buffers it was granted; None if there is no daemon to ask.
        send_buffer: bytes that it wants for an output interface.
        copy_buffer: bytes that it wants for super-frames.
    """
    return (
        _judge_buffer(
            "send_buffer",
            "the send buffer of an output interface",
            send_buffer,
            daemon.send_buffer if daemon else None,
            ("net.core.wmem_max", machine.wmem_max),
        ),
        _judge_buffer(
            "copy_buffer",
            "the buffer for super-frames",
            copy_buffer,
            daemon.receive_buffer if daemon else None,
            ("net.core.rmem_max", machine.rmem_max),
        ),
    )


def _judge_buffer(check: str, purpose: str, wanted: int, granted: int | None, limit: tuple[str, int | None]) -> Finding:
    name, most = limit
    evidence = f"{name}={most}" if most is not None else f"{name} cannot be seen here"
    if granted is None:
        granted = wanted if most is None else min(wanted, most)
        evidence += ", no limit for mcrd with CAP_NET_ADMIN"
    if granted >= wanted:
        return Finding(check, Verdict.OK, f"{_bytes(wanted)} for {purpose}", evidence)
    return Finding(
        check,
        Verdict.ADVICE,
        f"Only {_bytes(granted)} of the {_bytes(wanted)} that mcrd wants for {purpose}: bursts are lost",
        evidence,
        _SYSCTLS.format(f"{name}={wanted}") + ", then restart mcrd; or give mcrd CAP_NET_ADMIN",
    )


def judge_locked_memory(machine: Machine) -> Finding:
    """Whether rings and maps fit into what may be locked."""
    version = _version(machine.kernel)
    if version is None or version >= _UNLOCKED_KERNEL:
        return Finding(
            "memlock", Verdict.OK, "Locked memory is not a limit", "since Linux 5.12 it does not count rings"
        )
    if machine.memlock is None or machine.memlock >= _ENOUGH_LOCKED:
        return Finding("memlock", Verdict.OK, f"{_bytes(machine.memlock)} of memory may be locked", "ulimit -l")
    return Finding(
        "memlock",
        Verdict.ADVICE,
        f"Only {_bytes(machine.memlock)} of memory may be locked: io_uring and eBPF may not fit",
        f"ulimit -l; before Linux 5.12 they count, and this is {machine.kernel}",
        "raise it: LimitMEMLOCK=infinity in mcrd's unit, or ulimit -l unlimited before it starts",
    )


def judge_open_files(machine: Machine, daemon: Self | None) -> Finding:
    """Whether there are descriptors for what is still to come."""
    limit = machine.open_files
    if daemon is None:
        return Finding("open_files", Verdict.OK, f"{limit:,} descriptors for a program started here", "ulimit -Hn")
    left, groups = limit - daemon.descriptors, machine.memberships or 20
    evidence = f"{daemon.descriptors:,} of {limit:,} in use: /proc/{daemon.process.pid}/limits"
    if left * 4 < limit:
        return Finding(
            "open_files",
            Verdict.ADVICE,
            f"Descriptors are left for {max(left, 0) * groups:,} more groups; each new interface takes several, too",
            evidence,
            "raise the limit: LimitNOFILE=65536 in mcrd's unit, or ulimit -n before it starts",
        )
    return Finding("open_files", Verdict.OK, f"Descriptors are left for {left * groups:,} more groups", evidence)


def judge_memberships(machine: Machine) -> Finding:
    """The limit of memberships is none for mcrd; the finding says so, since operators look there first."""
    return Finding(
        "memberships",
        Verdict.OK,
        "The number of groups is not limited: mcrd opens as many sockets as it takes",
        f"net.ipv4.igmp_max_memberships={machine.memberships or 'unknown'}, which is for each socket",
    )


def judge_backlog(before: int | None, after: int | None) -> Finding:
    """Whether frames are lost before a capture sees them, from two readings of the kernel's counter."""
    if before is None or after is None:
        what = "Whether frames are dropped between network card and capture cannot be seen"
        return Finding("backlog", Verdict.OK, what, "/proc/net/softnet_stat can't be read")
    evidence = f"/proc/net/softnet_stat, second column: {after:,} since the boot"
    if after > before:
        return Finding(
            "backlog",
            Verdict.ADVICE,
            f"The kernel drops frames before any program sees them: {after - before:,} while doctor looked",
            evidence,
            "sudo sysctl -w net.core.netdev_max_backlog=10000; spread the interrupts of the network cards",
        )
    return Finding("backlog", Verdict.OK, "No frames are dropped between network card and capture now", evidence)


def judge_firewall(firewall: Firewall, refused: tuple[str, ...] | None) -> tuple[Finding, ...]:
    """Whether the firewall drops packets that leave, or the queries that keep memberships alive.

    Args:
        firewall: as far as it could be seen.
        refused: outputs whose last error was that sending is not permitted; None if there is no daemon to ask.
    """
    return _judge_sends(firewall, refused), _judge_queries(firewall)


def _judge_sends(firewall: Firewall, refused: tuple[str, ...] | None) -> Finding:
    output = firewall.at("output", "postrouting")
    seen = _describe(firewall, output, "at output")
    if refused and not output and _all_seen(firewall):
        what = f"No firewall rule affects what mcrd sends now; before, packets to {refused[0]} were refused"
        return Finding("firewall_output", Verdict.OK, what, seen)
    if refused:
        more = f" and {len(refused) - 1:,} more" if len(refused) > 1 else ""
        return Finding(
            "firewall_output",
            Verdict.FAULT,
            f"A firewall rule drops what is sent to {refused[0]}{more}",
            f"mcrctl stats: Operation not permitted; {seen}",
            "accept it; see the rules: sudo nft list ruleset; sudo iptables-save",
        )
    if not output and _all_seen(firewall):
        what = "No firewall rule affects what mcrd sends"
    elif refused is None:
        what = "Firewall rules at output, if there are any, apply to what mcrd sends"
    else:
        what = "No firewall rule has refused what mcrd sent so far"
    return Finding("firewall_output", Verdict.OK, what, seen)


def _judge_queries(firewall: Firewall) -> Finding:
    seen = _describe(firewall, firewall.at("prerouting", "input"), "at input")
    if firewall.closed_to_queries:
        chain = firewall.closed_to_queries[0]
        return Finding(
            "firewall_input",
            Verdict.ADVICE,
            "A firewall that drops by default has no rule for IGMP: the queries of routers and switches, which "
            "keep memberships alive, may not get in (captures are not affected)",
            seen,
            f"unless a rule accepts them: sudo nft insert rule {chain.table} {chain.name} ip protocol igmp accept",
        )
    what = "The firewall does not affect captures"
    if _all_seen(firewall):
        what += ", and does not drop IGMP queries by default"
    return Finding("firewall_input", Verdict.OK, what, seen)


def _all_seen(firewall: Firewall) -> bool:
    return not firewall.hidden and not firewall.legacy


def _describe(firewall: Firewall, chains: tuple[Chain, ...], where: str) -> str:
    parts = [
        f"table {chain.table}, chain {chain.name}: {counted(chain.rules, 'rule')}, "
        f"policy {'drop' if chain.drops else 'accept'}"
        for chain in chains
    ]
    if firewall.hidden:
        parts.append(f"nftables rules cannot be seen: {firewall.hidden}")
    elif not parts:
        parts.append(f"no nftables rules {where}")
    if firewall.legacy:
        parts.append(f"rules of legacy iptables are not looked at: table {', '.join(firewall.legacy)} is loaded")
    return "; ".join(parts)


def _version(release: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else None


def _bytes(size: int | None) -> str:
    if size is None:
        return "any amount"
    for unit, width in (("MiB", 20), ("KiB", 10)):
        if size >= 1 << width:
            return f"{size / (1 << width):.4g} {unit}"
    return f"{size} bytes"
