"""Computes statistics from two readings of the workers' counters. Pure."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial, reduce
from itertools import chain, islice, repeat
from operator import add
from time import monotonic

import attrs

from mcr.model.stats import (
    EgressStats,
    IngressStats,
    KernelPathStats,
    OutputStats,
    ParseErrors,
    RuleStats,
    SendError,
    WorkerStats,
)
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.shm.kernel_counters import Taken
from mcr.shm.segment import Cells, Counters, OutputCounters, Totals, WorkerCounters

_ERRNO, _TIME = 0xFFFF, 16  # of a last error: the mask of its number, and the bits below its time in µs


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


_NO_FORMER = Former()


def rule_stats(
    now: Reading,
    past: Reading,
    rules: Collection[PlacedRule],
    former: Mapping[int, Former],
    last: Mapping[int, float],
) -> tuple[RuleStats, ...]:
    """Each rule, in the order given.

    Args:
        now: the counters.
        past: those that rates are taken from.
        rules: the rules.
        former: outputs that rules have no more, by the rules' tags.
        last: times at which they were seen to have matched packets, by their tags.
    """
    cells = Cells.of_rules((each.slot, each.tag) for each in rules)
    outputs = _all_output_stats(now, past, rules)
    return tuple(
        _rule_stats(
            (now, past),
            placed,
            (former.get(placed.tag, _NO_FORMER), last.get(placed.tag)),
            matched,
            [*islice(outputs, len(placed.outputs))],
        )
        for placed, *matched in zip(rules, now.rules_matched(cells), past.rules_matched(cells), strict=True)
    )


def _all_output_stats(now: Reading, past: Reading, rules: Collection[PlacedRule]) -> Iterator[tuple[OutputStats, int]]:
    """Each output of the rules, and its bytes in the past reading. Column by column: there may be thousands."""
    cells = Cells.of_whole_outputs(chain.from_iterable(each.outputs for each in rules))
    seconds = now.time - past.time
    submitted, sent, errors, in_doubt, size, failed = now.whole_outputs(cells)
    _, past_sent, past_errors, _, past_size, _ = past.whole_outputs(cells)
    outputs = [*chain.from_iterable(each.rule.outputs for each in rules)]
    stats = map(
        OutputStats,  # in the order of its fields
        [each.group for each in outputs],
        [each.port for each in outputs],
        [each.interface for each in outputs],
        submitted,
        sent,
        errors,
        in_doubt,
        size,
        [_send_error(each, now.clock) if each else None for each in failed],
        map(_rate, sent, past_sent, repeat(seconds)),
        map(_rate, size, past_size, repeat(seconds / 8)),
        map(_rate, errors, past_errors, repeat(seconds)),
        [each.vlan for each in outputs],
        [each.prefix for each in outputs],
        [each.last_port for each in outputs],
    )
    return zip(stats, past_size, strict=True)


def _rule_stats(
    readings: tuple[Reading, Reading],
    placed: PlacedRule,
    history: tuple[Former, float | None],
    matched: Sequence[int],
    outputs: Sequence[tuple[OutputStats, int]],
) -> RuleStats:
    """One rule. Of readings, and of what it matched, there is a new one and a past one; so of each output's bytes."""
    (now, past), (former, last) = readings, history
    seconds = now.time - past.time
    counted: list[OutputStats | OutputCounters] = [each for each, _ in outputs]
    counted += map(now.output, former.leaving)
    sent_bytes = sum([each.bytes for each in counted])
    past_bytes = sum([each for _, each in outputs]) + sum(past.output(each).bytes for each in former.leaving)
    return RuleStats(
        rule_id=placed.rule.rule_id,
        name=placed.rule.name,
        matched=matched[0],
        sent=former.sent + sum([each.sent for each in counted]),
        errors=former.errors + sum([each.errors for each in counted]),
        bytes=former.bytes + sent_bytes,
        pps=_rate(matched[0], matched[1], seconds),
        bps=_rate(8 * sent_bytes, 8 * past_bytes, seconds),
        outputs=tuple([each for each, _ in outputs]),
        last_packet_ago=None if last is None else round(max(now.time - last, 0.0), 1),
    )


def _send_error(noted: int, clock: float) -> SendError:
    return SendError(noted & _ERRNO, round(max(clock - (noted >> _TIME) / 1e6, 0.0), 1))


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
