"""A worker's log records are few, whatever fails, and none is missing from their sum."""

import errno
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr._native import ffi, lib
from mcr.shm.records import LogRecord, decode_event

SECOND = 1_000_000_000
MINUTE = 60
CAPACITY = 1 << 20
NAMED = lib.MCR_LOG_NAMED
EVERYTHING = (1 << 64) - 1  # a time that all is due at


class Worker:
    """Its log, and a clock."""

    def __init__(self) -> None:
        self._memory = ffi.new("struct mcr_ring *"), ffi.new("uint64_t[]", CAPACITY // 8), ffi.new("uint64_t *")
        shared, data, dropped = self._memory
        self._ends = ffi.new("struct mcr_ring_end *"), ffi.new("struct mcr_ring_end *")
        lib.mcr_ring_open_producer(self._ends[0], shared, data, CAPACITY)
        lib.mcr_ring_open_consumer(self._ends[1], shared, data, CAPACITY)
        self.log = ffi.new("struct mcr_log *")
        lib.mcr_log_init(self.log, self._ends[0], dropped)
        self.now = 1_795_000_000 * SECOND
        self._record = ffi.new("struct mcr_rec_log *", {"repeats": 1, "subjects": 1})

    def fail(self, output: int, number: int = errno.ENETDOWN, code: int = lib.MCR_LOG_SEND_FAILED) -> None:
        self._fold(code, 4, 7, (output, number, 0))

    def flow(self, group: int, port: int) -> None:
        self._fold(lib.MCR_LOG_NO_MATCH, 7, 6, (0, group, port))

    def _fold(self, code: int, level: int, facility: int, args: tuple[int, int, int]) -> None:
        record = self._record
        record.time_ns = record.first_ns = self.now
        record.code, record.level, record.facility = code, level, facility
        record.args = args
        lib.mcr_log_fold(self.log, record)

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)
        lib.mcr_log_flush_at(self.log, self.now)

    def fail_all(self, outputs: int, seconds: float, period: float) -> None:
        """Packets of a rule, one per period, each of which no output takes: hundreds of thousands of failures."""
        fold, log, record = lib.mcr_log_fold, self.log, self._record
        record.code, record.level, record.facility = lib.MCR_LOG_SEND_FAILED, 4, 7
        record.args = 0, errno.ENETDOWN, 0
        args = record.args
        for _ in range(round(seconds / period)):
            record.time_ns = record.first_ns = self.now
            for output in range(outputs):
                args[0] = output
                fold(log, record)
            self.wait(period)

    def end(self) -> None:
        lib.mcr_log_flush_at(self.log, EVERYTHING)

    def records(self) -> list[LogRecord]:
        return list(self._records())

    def _records(self) -> Iterator[LogRecord]:
        kind, body = ffi.new("uint32_t *"), ffi.new("uint8_t[]", 256)
        while (size := lib.mcr_ring_pop(self._ends[1], kind, body, 256)) >= 0:
            event = decode_event(kind[0], bytes(ffi.buffer(body, size)))
            assert isinstance(event, LogRecord)
            yield event


def test_the_first_failure_of_an_output_is_told_at_once() -> None:
    worker = Worker()
    worker.fail(1)
    worker.fail(2)
    assert [(record.args[0], record.repeats) for record in worker.records()] == [(1, 1), (2, 1)]


def test_a_clock_that_has_just_begun_holds_nobody_up() -> None:
    """A machine without a clock of its own is at 1970 until somebody tells it the time."""
    worker = Worker()
    worker.now = SECOND
    for output in range(1, 5):
        worker.fail(output)
    worker.wait(1)
    assert [(record.args[0], record.repeats) for record in worker.records()] == [(each, 1) for each in range(1, 5)]


def test_repeats_are_told_after_times_that_double() -> None:
    worker = Worker()
    began = worker.now
    for _ in range(2_500):
        worker.fail(1)
        worker.wait(0.1)
    worker.end()
    first, *folded = worker.records()
    assert first.repeats == 1
    assert [round((record.time_ns - began) / SECOND) for record in folded] == [1, 3, 7, 15, 31, 63, 123, 183, 243, 250]
    assert {record.subjects for record in folded} == {1}
    assert sum(record.repeats for record in folded) == 2_499


@pytest.mark.parametrize("period", [0.5, 2, 7, 50])
def test_a_trouble_that_lasts_is_a_few_records_a_minute(period: float) -> None:
    """Of 101 outputs, whatever the rate of packets; once it is over a minute's are left to tell."""
    worker = Worker()
    worker.fail_all(101, 8 * MINUTE, period)
    told = worker.records()
    assert len(told) <= NAMED + 14 * (NAMED + 1)
    worker.fail_all(101, 10 * MINUTE, period)
    lasting = worker.records()
    assert 4 * (NAMED + 1) <= len(lasting) <= 11 * (NAMED + 1)
    worker.wait(MINUTE)
    left = worker.records()
    assert len(left) <= NAMED + 1
    assert max(record.subjects for record in lasting) == 101 - NAMED
    failed = 101 * (round(8 * MINUTE / period) + round(10 * MINUTE / period))
    assert sum(record.repeats for record in told + lasting + left) == failed


def test_another_trouble_is_told_at_once_and_then_goes_its_own_way() -> None:
    """It is named, although all records of their own are taken; so it is when it comes again after a minute."""
    worker = Worker()
    worker.fail_all(101, 5 * MINUTE, 1)
    worker.records()
    for _ in range(2):
        worker.fail(999)
        assert worker.records()[-1].args[0] == 999
        worker.fail(999)
        assert worker.records() == []
        worker.wait(2)
        (record,) = worker.records()
        assert (record.args[0], record.repeats, record.subjects) == (999, 1, 1)
        worker.fail_all(101, 100, 1)
        worker.records()


def test_what_comes_again_after_a_quiet_minute_is_told_at_once() -> None:
    worker = Worker()
    worker.fail_all(2, 5 * MINUTE, 1)
    worker.wait(MINUTE)
    worker.records()
    worker.fail(1)
    worker.fail(1)
    (record,) = worker.records()
    assert (record.args[0], record.repeats) == (1, 1)
    worker.wait(1)
    (record,) = worker.records()
    assert (record.args[0], record.repeats) == (1, 1)


def test_what_is_held_back_is_told_within_a_second_of_a_change() -> None:
    """Of the rules, whose numbers may be others' then, or of the levels."""
    worker = Worker()
    worker.fail_all(1, 5 * MINUTE, 1)
    worker.records()
    worker.fail(0)
    worker.wait(1)
    assert worker.records() == []
    lib.mcr_log_hurry(worker.log)
    worker.wait(0)
    (record,) = worker.records()
    assert record.args[0] == 0


@pytest.mark.parametrize("outputs", [4, 17, 40, 500])
def test_outputs_that_fail_by_turns_are_a_few_records(outputs: int) -> None:
    """10 s at 2,000 packets per second: each failure is in one record, which says for how many outputs it stands."""
    worker = Worker()
    for packet in range(20_000):
        worker.fail(packet % outputs)
        worker.wait(0.0005)
    worker.end()
    records = worker.records()
    assert len(records) <= NAMED + 4 * (NAMED + 1)  # after 1, 3, and 7 s, and at the end
    assert sum(record.repeats for record in records) == 20_000
    assert max(record.subjects for record in records) == outputs - NAMED


def test_more_outputs_than_are_told_apart_are_said_to_be_many() -> None:
    worker = Worker()
    for output in range(10_000):
        worker.fail(output)
    worker.wait(1)
    assert worker.records()[-1].subjects == lib.MCR_LOG_SUBJECTS


@pytest.mark.slow
def test_more_outputs_than_are_told_apart_are_no_news_for_ever() -> None:
    """Those of many rules, each of which has a packet now and then."""
    worker = Worker()
    for second in range(10 * MINUTE):
        for output in range(second % 5, 1_000, 5):
            worker.fail(output)
        worker.wait(1)
        if second == 5 * MINUTE:
            worker.records()
    records = worker.records()
    assert len(records) <= 5 * (NAMED + 1)
    assert max(record.subjects for record in records) == lib.MCR_LOG_SUBJECTS


def test_flows_that_no_rule_wants_are_a_few_records_a_second() -> None:
    """Two of one group, which differ by their port; then a thousand."""
    worker = Worker()
    for packet in range(2_000):
        worker.flow(0x010101EF, packet % 2)
        worker.wait(0.001)
    records = worker.records()
    assert len(records) <= 3 * 2
    assert {record.args[2] for record in records} == {0, 1}
    for packet in range(2_000):
        worker.flow(packet % 1_000, 0)
        worker.wait(0.001)
    worker.end()
    told = worker.records()
    assert len(told) <= 3 * (NAMED + 1) + NAMED
    assert sum(record.repeats for record in records + told) == 4_000


def test_an_output_that_fails_after_the_flood_is_told_at_once() -> None:
    worker = Worker()
    for packet in range(4_000):
        worker.fail(packet % 40)
        worker.wait(0.001)
    worker.wait(MINUTE)
    worker.records()
    worker.fail(99)
    (record,) = worker.records()
    assert (record.args[0], record.repeats) == (99, 1)
    worker.wait(1)
    assert worker.records() == []


def test_nothing_held_back_wakes_nobody() -> None:
    worker = Worker()
    for output in range(5):
        worker.fail(output)
    assert worker.log.pending == 1
    worker.fail(0, code=lib.MCR_LOG_CAPTURE_ERROR)
    assert worker.log.pending == 1
    worker.wait(1)
    assert worker.log.pending == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from([errno.ENETDOWN, errno.EPERM]), st.floats(-2, 2), st.booleans()),
        max_size=80,
    )
)
def test_every_failure_is_in_one_record_whatever_the_clock_does(events: list[tuple[int, int, float, bool]]) -> None:
    worker = Worker()
    told, failed = Counter[int](), Counter[int]()
    for output, number, seconds, flushed in events:
        worker.fail(output, number)
        failed[number] += 1
        if flushed:
            worker.wait(seconds)
        else:
            worker.now += int(seconds * SECOND)
    worker.wait(5 * MINUTE)
    assert worker.log.pending == 0
    records = worker.records()
    for record in records:
        told[record.args[1]] += record.repeats
    assert sum(told.values()) == sum(failed.values())
    assert all(1 <= record.subjects <= min(13, record.repeats) for record in records)
