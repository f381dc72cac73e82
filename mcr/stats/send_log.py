"""What the kernel path cannot send, for the log.

Its programs count, and write nothing. Once a second it is seen which outputs have failed since. It is written as
workers write theirs: at once what is new, then more and more seldom (docs/decisions/0004-bounded-log.md).
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

import attrs

from mcr.errors import describe_errno
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.model.rule import Output
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.shm.segment import Cells, Counters
from mcr.stats.readings import Reading

log = get_logger(Facility.EGRESS)

_NAMED: Final = 3  # outputs that have a line each
_SHORTEST, _LONGEST = 1.0, 60.0  # seconds between two times that something is written
_QUIET: Final = 60.0  # and for which an output has not failed with an error that is news when it does
_LOOKED_AT: Final = 10_000  # outputs a second, while some fail without end: some two percent of a processor
_ERRNO: Final = 0xFFFF  # of a last error


@attrs.define
class _Failing:
    """An output that has failed with an error."""

    output: Output
    place: OutputSlot
    error: int
    since: float  # then nothing was held back
    failed: float = 0.0  # when it did last
    held: int = 0  # errors that the log does not know of
    is_new: bool = True


class SendErrors:
    """Knows which outputs fail. One thread at a time may use it."""

    def __init__(self) -> None:
        self._rules: tuple[PlacedRule, ...] = ()
        self._outputs: Sequence[tuple[Output, OutputSlot]] = ()  # theirs
        self._cells = Cells.of_failures(())
        self._errors = 0  # of all outputs, when these were last looked through
        self._counters: Counters | None = None  # of that reading
        self._due = 0.0  # that they may be looked through again
        self._noted = 0.0  # nothing had failed by then that is not known
        self._failing: dict[tuple[OutputSlot, int], _Failing] = {}
        self._held: list[_Failing] = []  # those that hold something back
        self._has_news = False  # one of these is new
        self._interval = _SHORTEST
        self._written = 0.0

    def begin(self, now: Reading) -> None:
        """What has failed so far is no news."""
        self._errors, self._counters, self._noted = now.taken.errors, now.kernel, now.time

    def note(self, now: Reading, rules: tuple[PlacedRule, ...]) -> tuple[str, ...]:
        """What is due to be written now. Outputs are looked through only if something has failed since they last were.

        Their counters are newer than the sum in a reading. So they are compared with those of the last look, not of
        the last reading: that may have had an error of which its sum did not know.
        """
        if now.taken.errors == self._errors:
            self._noted = now.time
        elif now.time >= self._due:
            self._look_through(now, rules)
            self.begin(now)
            self._due = now.time + len(self._outputs) / _LOOKED_AT
        if not self._held or (now.time - self._written < self._interval and not self._has_news):
            return ()
        self._interval = _SHORTEST if self._has_news else min(2 * self._interval, _LONGEST)
        self._written = now.time
        lines = tuple(_lines(sorted(self._held, key=lambda each: not each.is_new), now.time))
        for each in self._held:
            each.held, each.is_new = 0, False
        self._held, self._has_news = [], False
        return lines

    def _look_through(self, now: Reading, rules: tuple[PlacedRule, ...]) -> None:
        if not now.kernel or not self._counters:
            return
        if rules is not self._rules:
            self._rules = rules
            self._outputs = [*chain.from_iterable(zip(each.rule.outputs, each.outputs, strict=True) for each in rules)]
            self._cells = Cells.of_failures(place for _, place in self._outputs)
        errors, last = now.kernel.of_outputs(self._cells)
        before, _ = self._counters.of_outputs(self._cells)
        limit = now.time - _QUIET
        self._failing = {key: each for key, each in self._failing.items() if each.held or each.failed > limit}
        for (output, place), count, former, noted in zip(self._outputs, errors, before, last, strict=True):
            if count > former:
                self._count(output, place, noted & _ERRNO, count - former, now.time)

    def _count(self, output: Output, place: OutputSlot, error: int, count: int, now: float) -> None:
        """By output and error, as workers do: of two errors by turns each is known."""
        key = place, error
        if not (known := self._failing.get(key)):
            known = self._failing[key] = _Failing(output, place, error, self._noted)
            self._has_news = True
        if not known.held:
            known.since = self._noted
            self._held.append(known)
        known.held += count
        known.failed = now


def _lines(held: Sequence[_Failing], now: float) -> Iterator[str]:
    for each in held[:_NAMED]:
        yield _failed(each) + _times(each.held, each.since, now)
    if others := held[_NAMED:]:
        count, since = sum(each.held for each in others), min(each.since for each in others)
        outputs = len({each.place for each in others})
        errors = "" if len({each.error for each in others}) == 1 else ", and other errors"
        together = f", and so for {outputs:,} outputs together" if outputs > 1 else ""
        yield f"{_failed(others[0])}{errors}{_times(count, since, now)}{together}"


def _failed(each: _Failing) -> str:
    return f"send to {each.output} failed: {describe_errno(each.error)}"


def _times(count: int, since: float, now: float) -> str:
    return "" if count == 1 else f" ({count:,} times in {now - since:.1f} s)"


def log_send_errors(lines: Sequence[str]) -> None:
    """Beside those of workers."""
    for each in lines:
        log.warning("kernel path: %s", each)
