"""Computes statistics from two readings of the workers' counters. Pure."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial, reduce
from operator import add
from time import monotonic

import attrs

from mcr.model.stats import (
    EgressStats,
    IngressStats,
    KernelPathStats,
    ParseErrors,
    WorkerStats,
)
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.shm.kernel_counters import Taken
from mcr.shm.segment import Cells, Counters, OutputCounters, Totals, WorkerCounters


@attrs.frozen
class Reading:
    """All counters at one time.

    Attributes:
        time: in seconds.
        workers: in the order of their ids.
        rejected: datagrams that the kernel's filters kept from them.
        taken: what the kernel path has done.
        kernel: its counters of rules and outputs; None: there is no kernel path.
        clock: the same moment by CLOCK_MONOTONIC, which workers take the times of errors from.
    """

    time: float
    workers: tuple[WorkerCounters, ...]
    rejected: int
    clock: float = attrs.field(factory=monotonic)
    taken: Taken = attrs.field(factory=Taken)
    kernel: Counters | None = None

    @cached_property
    def totals(self) -> Totals:
        """Over both paths; `rejected` is apart."""
        return Totals.sum([*(each.totals for each in self.workers), self.taken.totals])

    @property
    def parts(self) -> tuple[Counters, ...]:
        """All that count for rules and outputs."""
        return (*self.workers, self.kernel) if self.kernel else self.workers

    def rule_matched(self, placed: PlacedRule) -> int:
        """Packets a rule matched, over both paths."""
        return sum(each.rule_matched(placed.slot, placed.tag) for each in self.parts)

    def rules_grown(self, before: "Reading", least: float) -> set[int]:
        """Slots of all rules that have matched so many packets since a reading that has them, and perhaps of others."""
        share = least / len(self.parts)  # one part has it, at least
        grown = (now.rules_grown(then, share) for now, then in zip(self.parts, before.parts, strict=True))
        return set[int]().union(*grown)

    def output(self, place: OutputSlot) -> OutputCounters:
        """An output's counters, over both paths; the last error is the newest of theirs."""
        parts = [each.output(place.slot, place.tag) for each in self.parts]
        return OutputCounters(
            submitted=sum(part.submitted for part in parts),
            sent=sum(part.sent for part in parts),
            errors=sum(part.errors for part in parts),
            in_doubt=sum(part.in_doubt for part in parts),
            bytes=sum(part.bytes for part in parts),
            last_error=max(part.last_error for part in parts),
        )

    def rules_matched(self, cells: Cells) -> tuple[int, ...]:
        """Packets that many rules matched, over both paths."""
        (matched,) = _sum_columns(each.of_rules(cells) for each in self.parts)
        return matched

    def outputs_sent(self, cells: Cells) -> Sequence[tuple[int, ...]]:
        """The fields `SENDING` of many outputs, over both paths."""
        return _sum_columns(each.of_outputs(cells) for each in self.parts)

    def whole_outputs(self, cells: Cells) -> Sequence[tuple[int, ...]]:
        """The fields of `OutputCounters` of many outputs, each as `output` gives it of one."""
        *counters, errors = zip(*(each.of_outputs(cells) for each in self.parts), strict=True)
        return [*(_combined(add, column) for column in counters), _combined(max, errors)]


def _sum_columns(parts: Iterable[Iterable[tuple[int, ...]]]) -> Sequence[tuple[int, ...]]:
    return [_combined(add, column) for column in zip(*parts, strict=True)]


def _combined(two: Callable[[int, int], int], column: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Of tuples of one length, item by item; without a tuple for each of thousands of items.

    Raises:
        ValueError: they are of several lengths.
    """
    first, *others = column
    if any(len(each) != len(first) for each in others):
        raise ValueError("columns of several lengths")
    return tuple(reduce(partial(map, two), others, iter(first)))


def _rate(now: float, before: float, seconds: float) -> float:
    # A rule placed in between starts below what its slot counted before: that is no negative rate.
    return round((now - before) / seconds, 1) if now > before and seconds > 0 else 0.0


def ingress_stats(now: Reading, past: Reading, kernel_drops: int) -> IngressStats:
    """Datagrams in: to all workers, to the kernel path, and those that a filter rejected."""
    totals = now.totals
    return IngressStats(
        recv=totals.recv + now.rejected,
        matched=totals.matched,
        parse_err=totals.parse_err,
        no_match=totals.no_match + now.rejected,
        screened=now.rejected,
        buf_exhaust=totals.buf_exhaust,
        kernel_drops=kernel_drops + now.taken.lost,
        pps=_rate(totals.recv + now.rejected, past.totals.recv + past.rejected, now.time - past.time),
        no_match_pps=_rate(totals.no_match + now.rejected, past.totals.no_match + past.rejected, now.time - past.time),
        parse_errors=ParseErrors.sum([*(each.parse_errors for each in now.workers), now.taken.parse_errors]),
    )


def egress_stats(now: Reading, past: Reading) -> EgressStats:
    """Datagrams out, over both paths."""
    totals = now.totals
    return EgressStats(
        submitted=totals.submitted,
        sent=totals.sent,
        errors=totals.errors,
        bytes=totals.bytes,
        in_doubt=totals.in_doubt,
        pps=_rate(totals.sent, past.totals.sent, now.time - past.time),
    )


def worker_stats(now: Reading, kernel_drops: Sequence[int]) -> tuple[WorkerStats, ...]:
    """Each worker's share; `kernel_drops` by worker id."""
    return tuple(
        WorkerStats(
            worker_id=worker_id,
            recv=each.totals.recv,
            matched=each.totals.matched,
            parse_err=each.totals.parse_err,
            no_match=each.totals.no_match,
            buf_exhaust=each.totals.buf_exhaust,
            kernel_drops=kernel_drops[worker_id],
            submitted=each.totals.submitted,
            sent=each.totals.sent,
            errors=each.totals.errors,
            bytes=each.totals.bytes,
            log_dropped=each.totals.log_dropped,
        )
        for worker_id, each in enumerate(now.workers)
    )


def kernel_path_stats(taken: Taken) -> KernelPathStats:
    """The share of the kernel path."""
    return KernelPathStats(
        recv=taken.received,
        matched=taken.matched,
        parse_err=taken.checksum,
        kernel_drops=taken.lost,
        submitted=taken.sent + taken.errors,
        sent=taken.sent,
        errors=taken.errors,
        bytes=taken.bytes,
    )


@attrs.frozen
class Former:
    """Outputs that a rule has no more.

    Attributes:
        leaving: those that workers may still count for.
        sent, errors, bytes: of the others.
    """

    leaving: tuple[OutputSlot, ...] = ()
    sent: int = 0
    errors: int = 0
    bytes: int = 0


def stats_lines(ingress: IngressStats, egress: EgressStats) -> tuple[str, str]:
    """The two log lines that scripts read."""
    ingress_line = (
        f"[STATS:Ingress] recv={ingress.recv} matched={ingress.matched} parse_err={ingress.parse_err} "
        f"no_match={ingress.no_match} buf_exhaust={ingress.buf_exhaust} kernel_drops={ingress.kernel_drops} "
        f"({ingress.pps:.0f} pps)"
    )
    egress_line = (
        f"[STATS:Egress] sent={egress.sent} submitted={egress.submitted} errors={egress.errors} "
        f"bytes={egress.bytes} ({egress.pps:.0f} pps)"
    )
    return ingress_line, egress_line
