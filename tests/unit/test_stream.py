"""What is told of any stream: what it is, gaps between datagrams, and the media delivery index."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr._native import lib
from streams import MS, Television, Watched, rtp

TS, RTP = lib.MCR_STREAM_TS, lib.MCR_STREAM_RTP


@pytest.mark.parametrize(
    ("payloads", "kind"),
    [
        ([rtp(number) for number in range(10)], RTP),
        ([bytes(188)] * 10, 0),
        ([rtp(7)] * 10, 0),
        ([b"G" * 1_316] * 10, TS),
    ],
    ids=["rtp", "zeros", "one-number", "ts"],
)
def test_it_is_found_out_what_a_stream_is(payloads: list[bytes], kind: int) -> None:
    watched = Watched()
    for each in payloads:
        watched.take(each, kept=lib.MCR_BPF_KEPT_HEAD)
    assert watched.kind == kind
    assert lib.mcr_stream_needs(watched.stream) == (lib.MCR_BPF_KEPT if kind & TS else lib.MCR_BPF_KEPT_HEAD)


def test_a_stream_that_becomes_another_is_found_out_anew() -> None:
    watched = Watched().take_all(rtp(number) for number in range(10))
    watched.take_all(Television().datagram(number) for number in range(200))
    assert watched.kind == TS
    assert watched.other == 100


@pytest.mark.parametrize("later_rtp", [False, True], ids=["to-ts", "to-rtp"])
def test_what_was_lost_before_a_stream_became_another_is_not_lost_again(*, later_rtp: bool) -> None:
    """Of either kind something was lost long ago. The count never falls, and what comes whole now has no part in it."""
    television = Television()
    media = [television.datagram(number) for number in range(1_000)]
    del media[100]
    packets = [rtp(number, kind=33, payload=each) for number, each in enumerate(media)]
    del packets[50:55]
    first, second = (media, packets) if later_rtp else (packets, media)
    watched = Watched().take_all(first[:300])
    lost, when, kind = watched.lost, watched.lost_time, watched.kind
    assert lost == (7 if later_rtp else 5)
    watched.take_all(second[300:700]).wait(600 * MS)
    assert {kind, watched.kind} == {TS, RTP | TS}
    assert watched.duplicates == 0
    assert (watched.lost, watched.lost_time) == (lost, when)
    assert watched.loss_rate_highest <= 70
    watched.take_all(second[710:]).wait(600 * MS)
    assert watched.lost > lost
    assert watched.lost_time > when


def test_no_loss_rate_is_told_of_a_stream_that_is_nothing_known_any_more() -> None:
    those = [rtp(number) for number in range(1_000)]
    del those[100:110]
    watched = Watched().take_all(those)
    assert watched.take_all([b"x"] * 1_000).kind == 0
    assert watched.lost == 10
    assert 0 < watched.loss_rate_highest <= 10


def test_a_transport_stream_that_is_asked_for_may_come_in_rtp_and_without() -> None:
    television = Television()
    watched = Watched(TS)
    for number in range(600):
        media = television.datagram(number)
        watched.take(media if number // 200 == 1 else rtp(number, kind=33, payload=media))
    assert (watched.ts_packets, watched.other, watched.duplicates) == (4_200, 0, 0)
    assert watched.continuity == 0


def test_one_stall_counts_once_and_is_the_longest_gap() -> None:
    watched = Watched().take_all([b"x"] * 1_000)
    watched.take(b"x", after=100 * MS)
    watched.take_all([b"x"] * 1_000)
    assert watched.stalls == 1
    assert watched.gap_longest == 100 * MS
    assert 5 * MS <= watched.gap_median <= 5.7 * MS


def test_a_stall_within_the_first_second_counts() -> None:
    watched = Watched().take_all([b"x"] * 30)
    watched.take(b"x", after=100 * MS)
    assert watched.take_all([b"x"] * 30).stalls == 1


def test_a_slow_stream_does_not_stall_all_the_time() -> None:
    assert Watched().take_all([b"x"] * 100, after=500 * MS).stalls == 0


def test_percentiles_are_those_of_the_gaps() -> None:
    """An eighth too high at most."""
    choose = random.Random(20_260_101)
    gaps = [int(choose.lognormvariate(14, 1)) for _ in range(5_000)]
    watched = Watched()
    watched.take(b"x")
    for each in gaps:
        watched.take(b"x", after=each)
    ordered = sorted(gaps)
    for figure, true in ((watched.gap_median, ordered[2_499]), (watched.gap_99, ordered[4_949])):
        assert true <= figure <= true * 1.126
    assert watched.gap_longest == max(gaps)


def test_gaps_are_forgotten_after_a_minute() -> None:
    watched = Watched().take_all([b"x"] * 300)
    watched.take(b"x", after=300 * MS)
    watched.take_all([b"x"] * 2_000, after=10 * MS)
    assert watched.gap_longest == 300 * MS
    watched.take_all([b"x"] * 5_000, after=10 * MS)
    assert watched.gap_longest == 10 * MS


def test_the_delay_factor_is_what_a_receiver_has_to_buffer() -> None:
    """A packet; with a stall of 100 ms, after which it catches up, those. By its own clock, and without one."""
    for watched in (Watched(TS), Watched()):
        television = Television() if watched.stream.asked else None
        late = 0
        for number in range(2_000):
            after = 5 * MS
            if number == 1_500:
                after, late = 100 * MS, 95 * MS
            elif late:
                after, late = MS, late - 4 * MS if late >= 4 * MS else 0
            watched.take(television.datagram(number) if television else b"x" * 1_316, after=after)
            if number == 1_450:
                assert watched.delay_factor == pytest.approx(5 * MS, rel=0.05)
        assert watched.delay_factor_highest == pytest.approx(100 * MS, rel=0.06)
        assert watched.delay_factor == pytest.approx(5 * MS, rel=0.2)


def test_the_media_loss_rate_counts_media_packets() -> None:
    """Of a transport stream in RTP, seven in a datagram; of what is lost within a second."""
    television = Television()
    those = [rtp(number, kind=33, payload=television.datagram(number)) for number in range(1_500)]
    del those[700:710]
    watched = Watched().take_all(those)
    assert watched.loss_rate_highest == pytest.approx(70, abs=1)
    assert watched.loss_rate == 0


@given(st.lists(st.tuples(st.binary(max_size=600), st.integers(0, 1 << 33), st.integers(0, 600)), max_size=30))
def test_nothing_that_comes_breaks_it(datagrams: list[tuple[bytes, int, int]]) -> None:
    for asked in (0, RTP, TS):
        watched = Watched(asked)
        for payload, after, kept in datagrams:
            watched.take(payload, after=after, kept=kept)
        assert watched.packets == len(datagrams)
