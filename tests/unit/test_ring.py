"""The rings as Python uses them; the C side is stressed in tests/native."""

import errno
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from mcr._native import ffi, lib
from mcr.shm.records import Command
from mcr.shm.ring import EventRing, RuleRing
from mcr.shm.segment import Segment

CAPACITY = 1024
RECORDS = st.tuples(st.integers(1, 9), st.binary(max_size=300))


class Ring:
    """Both ends of a small ring in ordinary memory."""

    def __init__(self) -> None:
        self.shared = ffi.new("struct mcr_ring *")
        self.data = ffi.new("uint64_t[]", CAPACITY // 8)
        self.producer = ffi.new("struct mcr_ring_end *")
        self.consumer = ffi.new("struct mcr_ring_end *")
        lib.mcr_ring_open_producer(self.producer, self.shared, self.data, CAPACITY)
        lib.mcr_ring_open_consumer(self.consumer, self.shared, self.data, CAPACITY)
        self._type = ffi.new("uint32_t *")
        self._body = ffi.new("uint8_t[]", CAPACITY)

    def push(self, kind: int, body: bytes) -> int:
        return int(lib.mcr_ring_push(self.producer, kind, body, len(body)))

    def pop(self, room: int = CAPACITY) -> tuple[int, bytes] | int:
        size = lib.mcr_ring_pop(self.consumer, self._type, self._body, room)
        return size if size < 0 else (self._type[0], bytes(ffi.buffer(self._body, size)))


@examples(3)
@given(st.lists(st.one_of(RECORDS, st.none()), max_size=60))
def test_ring_is_a_bounded_queue(steps: list[tuple[int, bytes] | None]) -> None:
    """Whatever is pushed (a tuple) and popped (None) in whatever order: what went in comes out, in order."""
    ring, model = Ring(), deque[tuple[int, bytes]]()
    for step in steps:
        if step is None:
            popped = ring.pop()
            if not model:
                assert popped == -errno.ENOENT
                continue
            kind, body = model.popleft()
            assert isinstance(popped, tuple)
            assert popped[0] == kind
            assert popped[1][: len(body)] == body
            assert len(popped[1]) == (len(body) + 7) // 8 * 8
        else:
            kind, body = step
            result = ring.push(kind, body)
            if result == 0:
                model.append((kind, body))
            else:
                assert result == -errno.ENOSPC
                assert len(body) > lib.mcr_ring_max_body(ring.producer) or model, "an empty ring refused a record"


@given(st.binary(min_size=CAPACITY, max_size=CAPACITY), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_consumer_survives_a_hostile_producer(data: bytes, tail: int, head: int) -> None:
    """Whatever stands in the shared part, the consumer ends with a record, nothing, or EBADMSG; never beyond it."""
    ring = Ring()
    ffi.memmove(ring.data, data, CAPACITY)
    ring.shared.tail = tail
    ring.shared.head = head
    for _ in range(CAPACITY):
        popped = ring.pop()
        if isinstance(popped, int):
            assert popped in {-errno.ENOENT, -errno.EBADMSG, -errno.EMSGSIZE}
            if popped != -errno.EMSGSIZE:
                return
        else:
            assert len(popped[1]) < CAPACITY


@given(st.lists(RECORDS, max_size=30))
def test_records_written_together_arrive_as_one_by_one(written: list[tuple[int, bytes]]) -> None:
    """As many as have room, none in part; the rest goes on where they end."""
    ring = Ring()
    waiting = b"".join(Command(*each).record for each in written if len(each[1]) <= CAPACITY // 4 - 8)
    popped = []
    while waiting:
        taken = lib.mcr_ring_reserve_all(ring.producer, waiting, len(waiting))
        assert taken, "an empty ring refused a record"
        lib.mcr_ring_publish(ring.producer)
        waiting = waiting[taken:]
        while isinstance(record := ring.pop(), tuple):
            popped.append(record)
    padded = [(kind, body + bytes(-len(body) % 8)) for kind, body in written if len(body) <= CAPACITY // 4 - 8]
    assert popped == padded


def test_full_ring_refuses_and_loses_nothing() -> None:
    ring = Ring()
    count = 0
    while ring.push(1, bytes([count])) == 0:
        count += 1
    assert count == CAPACITY // 16
    assert ring.push(1, b"x") == -errno.ENOSPC
    popped: list[Any] = [ring.pop() for _ in range(count)]
    assert [body[0] for _, body in popped] == list(range(count))


def test_body_larger_than_a_quarter_is_refused() -> None:
    ring = Ring()
    largest = lib.mcr_ring_max_body(ring.producer)
    assert ring.push(1, bytes(largest)) == 0
    assert ring.push(1, bytes(largest + 1)) == -errno.ENOSPC


def test_record_larger_than_the_readers_room_is_skipped() -> None:
    ring = Ring()
    assert ring.push(1, bytes(100)) == 0
    assert ring.push(2, b"12345678") == 0
    assert ring.pop(room=8) == -errno.EMSGSIZE
    assert ring.pop(room=8) == (2, b"12345678")


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment(0) as made:
        yield made


def test_reserved_records_are_seen_together(segment: Segment) -> None:
    """A worker never sees half a change of the rules: nothing before `publish`, then everything."""
    rules = RuleRing(segment)
    both = Command(1, b"a" * 8).record + Command(2, b"b" * 8).record
    assert rules.reserve(both) == len(both)
    assert segment.shared.rule_ring.tail == 0
    rules.publish()
    assert segment.shared.rule_ring.tail == 32


def test_event_ring_reports_a_broken_format(segment: Segment) -> None:
    events = EventRing(segment)
    segment.shared.event_ring.tail = 64
    with pytest.raises(OSError, match="Bad message"):
        list(events.drain())


def test_event_ring_starts_over_for_a_successor(segment: Segment) -> None:
    EventRing(segment)
    segment.shared.event_ring.tail = 64
    assert list(EventRing(segment).drain()) == []
