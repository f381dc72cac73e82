"""The thread that reads what the filter tells of streams: rings are written here as the filter does."""

import mmap
import os
import struct
import time
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

from mcr._native import ffi, lib
from mcr_process import wait_until
from streams import MS, rtp

PROCESSORS, SLOTS, STREAM = 2, 4_096, 7
STREAM_BYTES = 16  # of what the filter has of one
LINE = 64
COUNTS, FIRST = 2 * LINE, 2 * LINE + 8 * lib.MCR_MAX_RULES  # where they are in a ring


class Filter:
    """What a filter on two processors would write. `tap` reads it."""

    def __init__(self) -> None:
        self._maps = ffi.new("struct mcr_bpf_tap *", {"processors": PROCESSORS, "slots": SLOTS})
        self._step = lib.mcr_bpf_tap_step(self._maps)
        self._maps.rings, self._rings = self._map(PROCESSORS * self._step)
        self._maps.streams, self._streams = self._map(STREAM_BYTES * lib.MCR_MAX_RULES)
        self.tap: Any = lib.mcr_tap_open(self._maps)
        self._thread = Thread(target=lib.mcr_tap_run, args=(self.tap,))

    @staticmethod
    def _map(size: int) -> tuple[int, mmap.mmap]:
        memory = os.memfd_create("map")
        os.ftruncate(memory, size)
        return memory, mmap.mmap(memory, size)

    def run(self) -> None:
        self._thread.start()

    def close(self) -> None:
        lib.mcr_tap_stop(self.tap)
        if self._thread.ident:
            self._thread.join()
        lib.mcr_tap_close(self.tap)
        for memory in (self._maps.rings, self._maps.streams):
            os.close(memory)

    def come(self, processor: int, count: int = 1) -> int:
        """So many datagrams. How many there are by now on this processor."""
        return self._add(processor * self._step + COUNTS + 8 * STREAM, count)

    def come_astray(self, count: int) -> None:
        at = STREAM_BYTES * STREAM
        (before,) = struct.unpack_from("=Q", self._streams, at)
        struct.pack_into("=Q", self._streams, at, before + count)

    def tell(self, processor: int, moment: int, payload: bytes) -> None:
        """Of a datagram that has come."""
        ring = processor * self._step
        count = self.come(processor)
        at = ring + FIRST + LINE * self._add(ring, 0)
        struct.pack_into("=QQHHHH", self._rings, at, moment, count, STREAM, 2, len(payload), len(payload))
        self._rings[at + 24 : at + 24 + len(payload)] = payload
        self._add(ring, 2)

    def _add(self, at: int, more: int) -> int:
        (before,) = struct.unpack_from("=Q", self._rings, at)
        struct.pack_into("=Q", self._rings, at, before + more)
        return int(before + more)

    def figures(self) -> Any:
        found = ffi.new("struct mcr_figures *")
        assert lib.mcr_tap_read(self.tap, STREAM, found)
        return found


@pytest.fixture
def filter_() -> Iterator[Filter]:
    made = Filter()
    yield made
    made.close()


def test_what_nothing_follows_is_unseen_all_the_same(filter_: Filter) -> None:
    """All rings are full, or the stream has ended: no record shows what was not told. It is counted once."""
    filter_.come(0, 5)  # before the stream begins
    assert lib.mcr_tap_begin(filter_.tap, STREAM, lib.MCR_STREAM_RTP) == 0
    now = time.monotonic_ns() - 10 * MS
    filter_.tell(0, now, rtp(0))
    filter_.come(0, 3)
    filter_.come(1, 40)
    filter_.come_astray(100)
    filter_.run()
    wait_until(lambda: filter_.figures().unseen == 143, "all are unseen")
    filter_.come(1, 2)
    filter_.tell(1, time.monotonic_ns() - 2 * MS, rtp(44))
    wait_until(lambda: filter_.figures().packets == 2, "the next one is told")
    assert (filter_.figures().unseen, filter_.figures().lost) == (145, 0)


def test_what_is_told_late_takes_no_time_back(filter_: Filter) -> None:
    """A processor was held up: its record is older than what the stream has had."""
    assert lib.mcr_tap_begin(filter_.tap, STREAM, lib.MCR_STREAM_RTP) == 0
    begin = time.monotonic_ns() - 200 * MS
    filter_.run()
    filter_.tell(0, begin, rtp(0))
    filter_.tell(0, begin + 50 * MS, rtp(10))
    wait_until(lambda: filter_.figures().packets == 2, "the first are read")
    filter_.tell(1, begin - 5 * MS, rtp(1))
    wait_until(lambda: filter_.figures().packets == 3, "the late one is read")
    assert filter_.figures().gap_longest == 50 * MS
    assert filter_.figures().newest == begin + 50 * MS


@pytest.mark.parametrize(
    ("present", "count"), [(b"0-3,8-11\n", 12), (b"0\n", 1), (b"0-1", 2), (b"0,2,5\n", 6), (b"\n", 0), (b"", 0)]
)
def test_processors_are_counted_up_to_the_last(present: bytes, count: int) -> None:
    """Each has a ring by its number, and numbers may have gaps."""
    assert lib.mcr_bpf_processors_in(present) == count
