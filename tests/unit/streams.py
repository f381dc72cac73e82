"""Streams for the analysers of health, and a reading of them by other means: scapy's for RTP, plain loops for TS."""

import struct
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from scapy.layers.rtp import RTP

from mcr._native import ffi, lib

MS = 1_000_000  # ns
START = 1_000 * MS
PAT, PMT, VIDEO = 0, 0x100, 0x101
WHOLE = 1_472


def rtp(number: int, *, source: int = 1, kind: int = 96, stamp: int | None = None, payload: bytes = b"media") -> bytes:
    """An RTP packet; its clock is of 90 kHz, and a packet is of 5 ms."""
    clock = number * 450 if stamp is None else stamp
    return struct.pack("!BBHII", 2 << 6, kind, number & 0xFFFF, clock & 0xFFFFFFFF, source) + payload


def ts(pid: int, counter: int, *, starts: bool = False, content: bytes = b"", field: bytes = b"") -> bytes:
    """A packet of a transport stream. `field`: flags of the adaptation field, and what follows them."""
    control = (0x30 if field else 0x10) | counter & 15
    head = struct.pack("!BHB", 0x47, pid | (0x4000 if starts else 0), control)
    body = (bytes([len(field)]) + field if field else b"") + content
    return (head + body).ljust(188, b"\xff")


def pat(counter: int, *programs: int) -> bytes:
    """A table of programs, by the PIDs of their PMTs."""
    entries = b"".join(struct.pack("!HH", number, 0xE000 | pid) for number, pid in enumerate(programs, 1))
    section = struct.pack("!BHHBBB", 0, 0xB000 | (9 + len(entries)), 1, 0xC1, 0, 0) + entries + bytes(4)
    return ts(PAT, counter, starts=True, content=b"\0" + section)


def pmt(counter: int, pid: int = PMT, *streams: tuple[int, int, bytes], clock: int = 0x1FFF, program: int = 1) -> bytes:
    """The table of one program. `streams`: type, PID, descriptors; `clock`: the PID that has it."""
    entries = b"".join(struct.pack("!BHH", kind, 0xE000 | at, 0xF000 | len(more)) + more for kind, at, more in streams)
    head = struct.pack("!BHHBBBHH", 2, 0xB000 | (13 + len(entries)), program, 0xC1, 0, 0, 0xE000 | clock, 0xF000)
    return ts(pid, counter, starts=True, content=b"\0" + head + entries + bytes(4))


class Television:
    """A transport stream: datagrams of seven packets; PAT and PMT with every tenth, a clock with every fifth."""

    def __init__(self, *, rate_ms: float = 5) -> None:
        self.step = int(rate_ms * MS)
        self._counters: dict[int, int] = {}

    def datagram(self, number: int, *, tables: bool = True) -> bytes:
        """The next one, which has to be asked for in order."""
        packets = []
        if number % 10 == 0 and tables:
            packets += [pat(self._next(PAT), PMT), pmt(self._next(PMT))]
        if number % 5 == 0:
            packets.append(ts(VIDEO, self._next(VIDEO), field=b"\x10" + clock(number * self.step)))
        packets += [ts(VIDEO, self._next(VIDEO)) for _ in range(7 - len(packets))]
        return b"".join(packets)

    def _next(self, pid: int) -> int:
        self._counters[pid] = self._counters.get(pid, -1) + 1
        return self._counters[pid] & 15


def clock(nanoseconds: int) -> bytes:
    """A program clock reference."""
    ticks = nanoseconds * 27 // 1_000
    base, extension = ticks // 300 % (1 << 33), ticks % 300
    return ((base << 15) | (0x3F << 9) | extension).to_bytes(6, "big")


class Watched:
    """A stream as mcrd watches it."""

    def __init__(self, asked: int = 0) -> None:
        self.stream: Any = ffi.new("struct mcr_stream *")
        self.stream.asked = self.stream.kind = asked
        self.time = START

    @property
    def away(self) -> list[int]:
        """PIDs that stay away now."""
        figures = ffi.new("struct mcr_figures *")
        lib.mcr_stream_tell(self.stream, figures)
        return [*figures.away[0 : figures.away_count]]

    def take(self, payload: bytes, *, after: int = 5 * MS, kept: int = WHOLE) -> None:
        """A datagram, so many nanoseconds after the one before."""
        self.time += after
        lib.mcr_stream_take(self.stream, self.time, payload, len(payload), min(kept, len(payload)))

    def take_all(self, payloads: Iterable[bytes], *, after: int = 5 * MS) -> "Watched":
        """Datagrams, evenly."""
        for each in payloads:
            self.take(each, after=after)
        return self

    def wait(self, nanoseconds: int) -> "Watched":
        """Nothing comes for so long."""
        for _ in range(3):
            self.time += nanoseconds // 3
            lib.mcr_stream_wait(self.stream, self.time)
        return self

    def __getattr__(self, name: str) -> int:
        figures = ffi.new("struct mcr_figures *")
        lib.mcr_stream_tell(self.stream, figures)
        return int(getattr(figures, name))

    def rtp_faults(self) -> tuple[int, int, int, int, int]:
        """Lost, late, reordered, duplicates, restarts."""
        self.wait(600 * MS)
        return self.lost, self.late, self.reordered, self.duplicates, self.restarts

    def ts_faults(self) -> tuple[int, int, int, int, int, int]:
        """Continuity, sync_losses, sync_bytes, pat, pmt, transport."""
        return (
            self.continuity,
            self.sync_losses,
            self.sync_bytes,
            self.pat_errors,
            self.pmt_errors,
            self.transport,
        )


@cache
def _number(payload: bytes) -> int:
    return int(RTP(payload).sequence)


def judged_rtp(payloads: Iterable[bytes]) -> tuple[int, int, int]:
    """By scapy's reading: numbers that never came, came behind a later one, and came again. One sender."""
    highest, seen, reordered, duplicates, first = None, set(), 0, 0, 0
    for sequence in map(_number, payloads):
        if highest is None:
            highest = first = sequence
        number = highest + ((sequence - highest + 0x8000) % 0x10000 - 0x8000)
        duplicates += number in seen
        reordered += number < highest and number not in seen
        seen.add(number)
        highest = max(highest, number)
    return (highest or 0) - first + 1 - len(seen), reordered, duplicates


def judged_ts(payloads: Iterable[bytes]) -> int:
    """Breaks of continuity, by a plain reading; no duplicates, no fields without payload."""
    last: dict[int, int] = {}
    breaks = 0
    for packet in _packets(payloads):
        pid, counter = int.from_bytes(packet[1:3], "big") & 0x1FFF, packet[3] & 15
        breaks += pid in last and counter != (last[pid] + 1) & 15
        last[pid] = counter
    return breaks


def judged_pids(payloads: Iterable[bytes], pids: Iterable[int], *, step_ms: float) -> int:
    """Times that one of these PIDs was away for more than five seconds, by a plain reading; evenly sent."""
    last, errors = dict.fromkeys(pids, 0.0), 0
    for number, payload in enumerate(payloads):
        for packet in _packets([payload]):
            pid = int.from_bytes(packet[1:3], "big") & 0x1FFF
            if pid in last:
                errors += number * step_ms - last[pid] > 5_000
                last[pid] = number * step_ms
    return errors + sum(number * step_ms - each > 5_000 for each in last.values())


def _packets(payloads: Iterable[bytes]) -> Iterator[bytes]:
    for each in payloads:
        yield from (each[at : at + 188] for at in range(0, len(each), 188))
