"""From counters to statistics."""

import errno
from typing import cast

import attrs

from mcr.readings import Reading
from mcr.shm.segment import Counters, OutputCounters


@attrs.frozen
class _Worker:
    counters: OutputCounters

    def output(self, _slot: int, _tag: int) -> OutputCounters:
        return self.counters


def failed(microseconds: int, error: int) -> Counters:
    return cast("Counters", _Worker(OutputCounters(10, 9, 1, 0, 900, microseconds << 16 | error)))


def test_last_error_of_an_output_is_the_newest_of_its_workers() -> None:
    """Whatever their numbers: after ENETUNREACH on one worker, EPERM on another is what there is to mend."""
    older, newer = failed(1_000, errno.ENETUNREACH), failed(2_000, errno.EPERM)
    assert errno.EPERM < errno.ENETUNREACH
    for workers in ((older, newer), (newer, older)):
        counters = Reading(0.0, workers, 0).output(0, 0)
        assert counters.last_error & 0xFFFF == errno.EPERM
        assert counters.errors == 2
