"""What rules and their outputs have counted, column by column: there may be thousands.

To look at a rule or an output by itself takes ten times as long.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice, pairwise
from typing import Self

import attrs

from mcr.model.rule import Output
from mcr.model.stats import OutputStats, RuleStats, SendError
from mcr.relay.placement import PlacedRule
from mcr.shm.segment import Cells
from mcr.stats.readings import Former, Reading

_ERRNO, _TIME = 0xFFFF, 16  # of a last error: the mask of its number, and the bits below its time in µs


@attrs.frozen
class OutputColumns:
    """Outputs, and the fields of `OutputStats` that are counted."""

    outputs: Sequence[Output]
    submitted: Sequence[int]
    sent: Sequence[int]
    errors: Sequence[int]
    in_doubt: Sequence[int]
    bytes: Sequence[int]
    last_error: Sequence[SendError | None]
    pps: Sequence[float]
    bps: Sequence[float]
    error_pps: Sequence[float]

    def stats(self) -> Iterator[OutputStats]:
        """One by one."""
        return map(
            OutputStats,  # in the order of its fields
            [each.group for each in self.outputs],
            [each.port for each in self.outputs],
            [each.interface for each in self.outputs],
            self.submitted,
            self.sent,
            self.errors,
            self.in_doubt,
            self.bytes,
            self.last_error,
            self.pps,
            self.bps,
            self.error_pps,
            [each.vlan for each in self.outputs],
            [each.prefix for each in self.outputs],
            [each.last_port for each in self.outputs],
        )


@attrs.frozen
class RuleColumns:
    """Rules, and the fields of `RuleStats` that are counted.

    Attributes:
        outputs: of the rules, those of one after those of the other.
    """

    rules: Sequence[PlacedRule]
    matched: Sequence[int]
    sent: Sequence[int]
    errors: Sequence[int]
    bytes: Sequence[int]
    pps: Sequence[float]
    bps: Sequence[float]
    last_packet_ago: Sequence[float | None]
    outputs: OutputColumns

    @classmethod
    def of(
        cls,
        now: Reading,
        past: Reading,
        rules: Sequence[PlacedRule],
        former: Mapping[int, Former],
        last: Mapping[int, float],
    ) -> Self:
        """Each rule, in the order given.

        Args:
            now: the counters.
            past: those that rates are taken from.
            rules: the rules.
            former: outputs that rules have no more, by the rules' tags.
            last: times at which they were seen to have matched packets, by their tags.
        """
        cells, seconds = Cells.of_rules((each.slot, each.tag) for each in rules), now.time - past.time
        matched, matched_before = now.rules_matched(cells), past.rules_matched(cells)
        outputs, bytes_before = _outputs(now, past, rules)
        ends = [0, *accumulate(len(each.outputs) for each in rules)]
        sent, errors, size, size_before = (
            _sums(column, ends) for column in (outputs.sent, outputs.errors, outputs.bytes, bytes_before)
        )
        kept = [0] * len(rules)  # bytes of outputs that nobody counts for any more: no rate comes of them
        for index in (index for index, each in enumerate(rules) if each.tag in former) if former else ():
            gone = former[rules[index].tag]
            leaving = [now.output(each) for each in gone.leaving]
            sent[index] += gone.sent + sum(each.sent for each in leaving)
            errors[index] += gone.errors + sum(each.errors for each in leaving)
            size[index] += sum(each.bytes for each in leaving)
            size_before[index] += sum(past.output(each).bytes for each in gone.leaving)
            kept[index] = gone.bytes
        seen = [last.get(each.tag) for each in rules]
        return cls(
            rules,
            matched,
            sent,
            errors,
            [one + other for one, other in zip(size, kept, strict=True)],
            _rates(matched, matched_before, seconds),
            _rates(size, size_before, seconds / 8),
            [None if at is None else round(max(now.time - at, 0.0), 1) for at in seen],
            outputs,
        )

    def stats(self) -> tuple[RuleStats, ...]:
        """One by one."""
        outputs = self.outputs.stats()
        counted = self.matched, self.sent, self.errors, self.bytes, self.pps, self.bps
        return tuple(
            RuleStats(
                placed.rule.rule_id,
                placed.rule.name,
                matched,
                sent,
                errors,
                size,
                pps,
                bps,
                tuple(islice(outputs, len(placed.outputs))),
                ago,
            )
            for placed, matched, sent, errors, size, pps, bps, ago in zip(
                self.rules, *counted, self.last_packet_ago, strict=True
            )
        )


def _outputs(now: Reading, past: Reading, rules: Iterable[PlacedRule]) -> tuple[OutputColumns, Sequence[int]]:
    """Each output of the rules; and its bytes in the past reading."""
    cells = Cells.of_whole_outputs(chain.from_iterable(each.outputs for each in rules))
    seconds = now.time - past.time
    submitted, sent, errors, in_doubt, size, failed = now.whole_outputs(cells)
    past_sent, past_errors, _, past_size = past.outputs_sent(cells.sending)
    columns = OutputColumns(
        [*chain.from_iterable(each.rule.outputs for each in rules)],
        submitted,
        sent,
        errors,
        in_doubt,
        size,
        [_send_error(each, now.clock) if each else None for each in failed],
        _rates(sent, past_sent, seconds),
        _rates(size, past_size, seconds / 8),
        _rates(errors, past_errors, seconds),
    )
    return columns, past_size


def _sums(column: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Of what stands between one end and the next."""
    sums = [0, *accumulate(column)]
    return [sums[end] - sums[start] for start, end in pairwise(ends)]


def _rates(now: Sequence[int], before: Sequence[int], seconds: float) -> Sequence[float]:
    if now == before or seconds <= 0:
        return (0.0,) * len(now)
    # A rule placed in between starts below what its slot counted before: that is no negative rate.
    return [round((new - old) / seconds, 1) if new > old else 0.0 for new, old in zip(now, before, strict=True)]


def _send_error(noted: int, clock: float) -> SendError:
    return SendError(noted & _ERRNO, round(max(clock - (noted >> _TIME) / 1e6, 0.0), 1))
