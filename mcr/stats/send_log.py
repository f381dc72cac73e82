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
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.shm.segment import Cells
from mcr.stats.readings import Reading

log = get_logger(Facility.EGRESS)

_NAMED: Final = 3  # outputs that have a line each
_SHORTEST, _LONGEST = 1.0, 60.0  # seconds between two times that something is written
_QUIET: Final = 60.0  # and for which an output has not failed that is news when it does
_ERRNO: Final = 0xFFFF  # of a last error


@attrs.define
class _Failing:
    """An output that has failed."""

    name: str
    error: int
    failed: float  # when it did last
    since: float  # then nothing was held back
    held: int = 0  # errors that the log does not know of
    is_new: bool = True


class SendErrors:
    """Knows which outputs fail. One thread at a time may use it."""

    def __init__(self) -> None:
        self._failing: dict[OutputSlot, _Failing] = {}
        self._interval = _SHORTEST
        self._written = 0.0

    def note(self, before: Reading, now: Reading, rules: tuple[PlacedRule, ...]) -> tuple[str, ...]:
        """What is due to be written now. Nothing is looked through unless something has failed since `before`."""
        if now.taken.errors != before.taken.errors:
            self._look_through(before, now, rules)
        held = [each for each in self._failing.values() if each.held]
        is_news = any(each.is_new for each in held)
        if not held or (now.time - self._written < self._interval and not is_news):
            return ()
        self._interval = _SHORTEST if is_news else min(2 * self._interval, _LONGEST)
        self._written = now.time
        lines = tuple(_lines(sorted(held, key=lambda each: not each.is_new), now.time))
        for each in held:
            each.held, each.is_new = 0, False
        return lines

    def _look_through(self, before: Reading, now: Reading, rules: Sequence[PlacedRule]) -> None:
        if not now.kernel or not before.kernel:
            return
        outputs = [*chain.from_iterable(zip(each.rule.outputs, each.outputs, strict=True) for each in rules)]
        cells = Cells.of_whole_outputs(place for _, place in outputs)
        (_, _, errors, *_, last), (_, _, errors_before, *_) = (
            tuple(each.of_outputs(cells)) for each in (now.kernel, before.kernel)
        )
        limit = now.time - _QUIET
        self._failing = {place: each for place, each in self._failing.items() if each.held or each.failed > limit}
        for (output, place), count, former, noted in zip(outputs, errors, errors_before, last, strict=True):
            if count > former:
                self._count(place, str(output), noted & _ERRNO, count - former, (before.time, now.time))

    def _count(self, place: OutputSlot, name: str, error: int, count: int, within: tuple[float, float]) -> None:
        since, now = within
        known = self._failing.get(place)
        if known is None or known.error != error:
            known = self._failing[place] = _Failing(name, error, now, since, known.held if known else 0)
        if not known.held:
            known.since = since
        known.held += count
        known.failed = now


def _lines(held: Sequence[_Failing], now: float) -> Iterator[str]:
    for each in held[:_NAMED]:
        yield _failed(each) + _times(each.held, each.since, now)
    if others := held[_NAMED:]:
        count, since = sum(each.held for each in others), min(each.since for each in others)
        yield f"{_failed(others[0])}{_times(count, since, now)}, and so for {len(others):,} outputs together"


def _failed(each: _Failing) -> str:
    return f"send to {each.name} failed: {describe_errno(each.error)}"


def _times(count: int, since: float, now: float) -> str:
    return "" if count == 1 else f" ({count:,} times in {now - since:.1f} s)"


def log_send_errors(lines: Sequence[str]) -> None:
    """Beside those of workers."""
    for each in lines:
        log.warning("kernel path: %s", each)
