"""PIDs that PMTs refer to (TR 101 290, 1.6): each that stays away is counted once, as another reader counts it."""

from collections.abc import Iterable, Iterator

import pytest

from mcr._native import ffi, lib
from mcr.model.health import SILENT_SECONDS, Health
from mcr.net.filter import tap
from streams import MS, PAT, PMT, VIDEO, Watched, judged_pids, pat, pmt, ts

TS = lib.MCR_STREAM_TS
SOUND, OTHER_SOUND, TEXT, CLOCK, OTHER_PMT = 0x110, 0x111, 0x120, 0x130, 0x400
AVC, MPEG_SOUND, PRIVATE = 0x1B, 0x03, 0x06
STEP_MS = 50
SECOND = 1_000 * MS
ISO_639, AC_3, TELETEXT = b"\x0a\x04eng", b"\x6a\x01\0", b"\x56\x05eng\x10\x01"
STREAMS = ((AVC, VIDEO, b""), (MPEG_SOUND, SOUND, ISO_639 + b"\0"))


def datagrams(
    count: int, away: Iterable[tuple[int, int, int]] = (), streams: tuple[tuple[int, int, bytes], ...] = STREAMS
) -> Iterator[bytes]:
    """Tables and a packet of each stream. `away`: a PID, and the numbers of the first and last datagram without it."""
    without = [*away]
    for number in range(count):
        pids = [pid for _, pid, _ in streams if not any(pid == at and a <= number <= z for at, a, z in without)]
        yield pat(number, PMT) + pmt(number, PMT, *streams) + b"".join(ts(pid, number) for pid in pids)


def watched(payloads: Iterable[bytes]) -> Watched:
    return Watched(TS).take_all(payloads, after=STEP_MS * MS)


@pytest.mark.parametrize(
    "away",
    [
        [],
        [(SOUND, 20, 100)],
        [(SOUND, 20, 130)],
        [(SOUND, 20, 130), (VIDEO, 200, 400), (SOUND, 150, 290)],
        [(SOUND, 0, 390)],
    ],
    ids=["none", "four seconds", "once", "three times", "from the start"],
)
def test_a_pid_that_stays_away_counts_once(away: list[tuple[int, int, int]]) -> None:
    """Not for four seconds; once for six, and for twenty; again when it was there meanwhile."""
    those = [*datagrams(400, away)]
    found = watched(those)
    assert found.pid_errors == judged_pids(those, (VIDEO, SOUND), step_ms=STEP_MS)
    assert (found.pat_errors, found.pmt_errors) == (0, 0)


def test_what_stays_away_is_told_until_it_is_back() -> None:
    those = [*datagrams(300, [(VIDEO, 50, 220), (SOUND, 60, 160)])]
    found = watched(those[:100])
    assert found.away == []
    assert found.take_all(those[100:161], after=STEP_MS * MS).away == [VIDEO] or found.away == [VIDEO, SOUND]
    assert found.take_all(those[161:170], after=STEP_MS * MS).away == [VIDEO]
    assert found.take_all(those[170:225], after=STEP_MS * MS).away == []


def test_a_table_that_comes_late_counts_and_is_not_away() -> None:
    """PAT and PMT come every 0.8 s, then not for six seconds."""
    late = [
        (pat(number, PMT) + pmt(number) if number % 16 == 0 else b"") + ts(VIDEO, number % 16) for number in range(96)
    ]
    found = Watched(TS)
    for number, each in enumerate(late):
        found.take(each, after=STEP_MS * MS)
        assert found.away == [], number
    assert (found.pat_errors, found.pmt_errors) == (6, 6)
    found.take_all((ts(VIDEO, number) for number in range(96, 216)), after=STEP_MS * MS)
    assert found.away == [PAT, PMT]
    assert found.take_all([pat(6, PMT) + ts(VIDEO, 216)]).away == [PMT]
    assert found.take_all([pmt(6) + ts(VIDEO, 217)]).away == []


def test_nothing_is_away_from_a_feed_that_is_silent() -> None:
    figures = ffi.new("struct mcr_figures *", {"kind": TS, "newest": 7 * SECOND, "away_count": 1, "away": [VIDEO]})
    for now, away in ((7, (VIDEO,)), (7 + SILENT_SECONDS, (VIDEO,)), (8 + SILENT_SECONDS, ())):
        assert tap._health(Health.TS, figures, now * SECOND).away == away


def test_what_may_be_silent_is_not_asked_for() -> None:
    """Teletext, sound for some listeners, private data that says nothing; sound in private data is."""
    streams = (
        (AVC, VIDEO, b""),
        (PRIVATE, TEXT, TELETEXT),
        (MPEG_SOUND, SOUND, ISO_639 + b"\x03"),
        (PRIVATE, OTHER_SOUND, AC_3),
        (0x86, 0x140, b""),
    )
    away = [(pid, 1, 400) for _, pid, _ in streams[1:]]
    found = watched(datagrams(200, away, streams))
    assert (found.pid_errors, found.away) == (1, [OTHER_SOUND])


def test_the_clock_s_pid_has_to_come() -> None:
    those = [pat(number, PMT) + pmt(number, PMT, clock=CLOCK) + ts(VIDEO, number) for number in range(200)]
    assert watched(those).away == [CLOCK]


def test_a_pid_that_no_table_names_any_more_is_not_asked_for() -> None:
    """Also when another program has it, it is asked for once."""
    both = [
        pat(number, PMT, OTHER_PMT) + pmt(number, PMT, *STREAMS) + pmt(number, OTHER_PMT, *STREAMS, program=2)
        for number in range(150)
    ]
    assert watched(both).pid_errors == 2
    found = watched([*datagrams(50), *datagrams(200, [(SOUND, 0, 200)], STREAMS[:1])])
    assert (found.pid_errors, found.away) == (0, [])
    other = [pat(number, OTHER_PMT) + pmt(number, OTHER_PMT, STREAMS[0]) + ts(VIDEO, number) for number in range(200)]
    assert watched([*datagrams(50), *other]).pid_errors == 0


def test_time_in_which_nothing_is_seen_is_no_pid_s_fault() -> None:
    """A stall, a lost synchronization, and datagrams that could not be looked at."""
    those = [*datagrams(200)]
    found = watched(those[:100])
    found.take(those[100], after=9_000 * MS)
    lib.mcr_stream_miss(found.stream, 1)
    found.take_all(those[101:], after=STEP_MS * MS)
    noise = [bytes(188)] * 150
    found.take_all([*noise, *datagrams(50)], after=STEP_MS * MS)
    assert (found.pid_errors, found.sync_losses) == (0, 1)


def test_a_table_cannot_name_more_than_there_is_room_for() -> None:
    """What it names beyond is not watched; what is cut short or makes no sense is not read."""
    programs = [PMT + number for number in range(5)]
    tables = [
        pmt(0, pid, *((AVC, 0x200 + 33 * at + each, b"") for each in range(33)), program=at + 1)
        for at, pid in enumerate(programs)
    ]
    found = watched(pat(number, *programs) + b"".join(tables) for number in range(150))
    assert found.pid_errors == 128
    spoilt = bytearray(pmt(0, PMT, *STREAMS))
    for at in range(5, 40):
        for value in (0, 0x0F, 0xFF):
            table = bytes(spoilt[:at]) + bytes([value]) + bytes(spoilt[at + 1 :])
            watched(pat(number, PMT) + table for number in range(3))
