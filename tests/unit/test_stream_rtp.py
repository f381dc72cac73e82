"""RTP: each fault that is put in is counted once, as another reader counts it."""

import random
from collections.abc import Callable

import pytest

from mcr._native import lib
from streams import MS, Watched, judged_rtp, rtp

PACKETS = 2_200
FIRST = 0xFF00  # numbers wrap


def packets(count: int = PACKETS) -> list[bytes]:
    return [rtp(FIRST + number) for number in range(count)]


def drop(count: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda those: those[:1000] + those[1000 + count :]


def swap(those: list[bytes]) -> list[bytes]:
    those[500], those[501] = those[501], those[500]
    those[900:905] = those[904:899:-1]
    return those


def twice(those: list[bytes]) -> list[bytes]:
    return [*those[:700], those[690], *those[700:]]


@pytest.mark.parametrize(
    ("spoil", "faults"),
    [
        (list, (0, 0, 0)),
        (drop(1), (1, 0, 0)),
        (drop(10), (10, 0, 0)),
        (drop(1_000), (1_000, 0, 0)),
        (swap, (0, 5, 0)),
        (twice, (0, 0, 1)),
        (lambda those: twice(swap(drop(10)(those))), (10, 5, 1)),
    ],
    ids=["none", "one", "ten", "thousand", "order", "twice", "all"],
)
def test_each_fault_counts_once(spoil: Callable[[list[bytes]], list[bytes]], faults: tuple[int, int, int]) -> None:
    those = spoil(packets())
    assert judged_rtp(those) == faults
    lost, late, reordered, duplicates, restarts = Watched(lib.MCR_STREAM_RTP).take_all(those).rtp_faults()
    assert (lost, reordered, duplicates) == faults
    assert (late, restarts) == (0, 0)


def test_any_mixture_of_faults_is_counted_as_another_reader_does() -> None:
    choose = random.Random(20_260_101)
    for _ in range(30):
        those = packets(600)
        for _ in range(choose.randrange(8)):
            at, kind = choose.randrange(1, 560), choose.randrange(3)
            if kind == 0:
                del those[at : at + choose.randrange(1, 30)]
            elif kind == 1:
                those.insert(at + choose.randrange(10), those.pop(at))
            else:
                those.insert(at + choose.randrange(10), those[at])
        lost, late, reordered, duplicates, _ = Watched(lib.MCR_STREAM_RTP).take_all(those, after=MS).rtp_faults()
        assert (lost, reordered, duplicates, late) == (*judged_rtp(those), 0)


def test_what_comes_too_late_was_lost_and_is_said_to_be_late() -> None:
    those = packets(200)
    missing = those.pop(50)
    watched = Watched(lib.MCR_STREAM_RTP).take_all([*those, missing])
    assert watched.rtp_faults() == (1, 1, 0, 0, 0)
    watched.take(missing)
    assert watched.rtp_faults() == (1, 1, 0, 1, 0)


def test_a_loss_counts_within_a_moment_also_where_nothing_follows() -> None:
    those = packets(100)
    del those[98]
    watched = Watched(lib.MCR_STREAM_RTP).take_all(those)
    assert watched.lost == 0
    assert watched.wait(600 * MS).lost == 1


def test_another_sender_or_other_numbers_are_a_restart_and_no_loss() -> None:
    watched = Watched(lib.MCR_STREAM_RTP).take_all(rtp(number) for number in range(100))
    watched.take_all(rtp(number, source=2) for number in range(5_000, 5_100))
    assert watched.rtp_faults() == (0, 0, 0, 0, 1)
    watched.take_all(rtp(number, source=2) for number in range(30_000, 30_100))
    assert watched.rtp_faults() == (0, 0, 0, 0, 2)


def test_senders_that_take_turns_are_told_apart() -> None:
    both = [rtp(number, source=source) for number in range(500) for source in (1, 2)]
    del both[400:404]
    lost, late, reordered, duplicates, restarts = Watched(lib.MCR_STREAM_RTP).take_all(both).rtp_faults()
    assert (lost, late, reordered, duplicates) == (4, 0, 0, 0)
    assert restarts == 1  # the second one


def test_a_long_outage_of_a_fast_stream_is_a_loss() -> None:
    """Of more packets than RFC 3550 would take for one, if its clock has gone on as long."""

    def fast(*numbers: int) -> list[bytes]:
        return [rtp(number, kind=33, stamp=9 * number) for number in range(*numbers)]

    watched = Watched(lib.MCR_STREAM_RTP).take_all(fast(500), after=MS // 10)
    watched.take_all(fast(8_499, 8_500), after=800 * MS)
    watched.take_all(fast(8_500, 8_600), after=MS // 10)
    assert watched.rtp_faults() == (7_999, 0, 0, 0, 0)
    watched.take_all(fast(20_000, 20_100), after=MS // 10)
    assert watched.rtp_faults() == (7_999, 0, 0, 0, 1)


def test_datagrams_that_were_not_seen_are_no_loss() -> None:
    watched = Watched(lib.MCR_STREAM_RTP).take_all(rtp(number) for number in range(100))
    lib.mcr_stream_miss(watched.stream, 50)
    watched.take_all(rtp(number) for number in range(150, 250))
    assert watched.rtp_faults() == (0, 0, 0, 0, 0)
    assert (watched.unseen, watched.packets) == (50, 200)


def test_jitter_is_that_of_rfc_3550() -> None:
    """By the algorithm of its appendix A.8, in floating point."""
    choose = random.Random(20_260_101)
    watched, jitter, before = Watched(lib.MCR_STREAM_RTP), 0.0, 0.0
    for number in range(2_000):
        gap = choose.randrange(2 * MS, 8 * MS)
        watched.take(rtp(number, kind=33), after=gap)
        transit = watched.time * 90_000 / 1e9 - number * 450
        if number:
            jitter += (abs(transit - before) - jitter) / 16
        before = transit
    assert watched.jitter == pytest.approx(jitter / 90_000 * 1e9, rel=0.001)


def test_the_clock_of_a_dynamic_payload_type_is_found_out() -> None:
    """48 kHz, a packet of 1 ms; until that is known there is no jitter."""
    watched = Watched(lib.MCR_STREAM_RTP)
    for number in range(3_000):
        watched.take(rtp(number, stamp=48 * number), after=MS)
        assert number > 1_900 or not watched.has_clock
    assert watched.has_clock
    assert watched.jitter < MS / 1_000


def test_rtcp_is_not_taken_for_rtp() -> None:
    watched = Watched(lib.MCR_STREAM_RTP).take_all(rtp(number) for number in range(50))
    watched.take(b"\x80\xc8" + bytes(26))
    watched.take_all(rtp(number) for number in range(50, 100))
    assert watched.rtp_faults() == (0, 0, 0, 0, 0)
    assert watched.other == 1
