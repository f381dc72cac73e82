"""Judges captures: what was lost on the way from an input interface to a worker. Pure."""

from collections.abc import Mapping

from mcr.model.finding import Finding, Verdict
from mcr.model.stats import Stats
from mcr.model.worker import WorkerView
from mcr.net.capture import BufferPools, slot_size
from mcr.net.links import Link
from mcr.text.plurals import counted, were

_FEW = 0.01
"""Dropped packets in a hundredth of all are what an overload looks like that is over."""

_HALF = 0.5
"""Beyond that it no longer relays."""


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
                f"{counted(former, 'packet')} {were(former)} lost on interfaces that rules no longer use",
                f"mcrctl stats: kernel_drops, {former} of them",
            )
        )
    if findings:
        return tuple(findings)
    return (Finding("kernel_drops", Verdict.OK, "No capture ring has been full", "mcrctl stats: kernel_drops=0"),)


def _contested(lost: int) -> Finding:
    what = f"{counted(lost, 'packet')} {were(lost)} lost"
    return Finding(
        "kernel_drops",
        Verdict.ADVICE,
        f"{what} where another eBPF program at an input interface takes packets first",
        f"mcrctl stats --json: kernel_path.kernel_drops={lost}",
        "workers forward what comes in there (mcrctl list --json: path_reason). bpftool net show names the program",
    )


def _full_ring(name: str, dropped: int, received: int, why: str, remedy: str) -> Finding:
    share = dropped / (dropped + received)
    return Finding(
        "kernel_drops",
        Verdict.FAULT if share > _HALF else Verdict.ADVICE,
        f"{counted(dropped, 'packet')} on {name} {were(dropped)} lost, {share:.2%} of what arrived: "
        f"the capture ring was full, {why}",
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
    lost = ingress.buf_exhaust
    what = f"{counted(lost, 'packet')}, {share:.2%}, {were(lost)} in super-frames for which no buffer was free"
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
        f"{counted(lost, 'packet')} {'is' if lost == 1 else 'are'} lost, as {why}",
        evidence,
        "have their sender cut them: sudo ethtool -K IF tx-udp-segmentation off at its end of the link, or :gso=off "
        "behind the output, if it is an mcrd; or use a newer kernel; if the loopback is down: sudo ip link set lo up",
    )
