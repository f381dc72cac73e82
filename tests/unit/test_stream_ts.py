"""Transport streams: each fault that is put in is counted once, as another reader counts it."""

from mcr._native import lib
from streams import MS, PMT, VIDEO, Television, Watched, judged_ts, pat, pmt, rtp, ts

TS, RTP = lib.MCR_STREAM_TS, lib.MCR_STREAM_RTP


def datagrams(count: int = 1_000) -> list[bytes]:
    television = Television()
    return [television.datagram(number) for number in range(count)]


def test_a_sound_stream_has_no_fault() -> None:
    watched = Watched(TS).take_all(datagrams())
    assert watched.ts_faults() == (0,) * 6
    assert watched.ts_packets == 7_000
    assert 0 < watched.pat_time <= watched.time
    assert 0 < watched.pmt_time <= watched.time


def test_each_loss_counts_once_as_another_reader_counts_it() -> None:
    """Of a datagram, and of ten: those that a counter of 16 can tell."""
    those = datagrams()
    del those[901:911], those[501]
    watched = Watched(TS).take_all(those)
    assert watched.continuity == judged_ts(those)
    assert watched.ts_faults() == (judged_ts(those), 0, 0, 0, 0, 0)


def test_a_continuity_counter_that_is_wrong_counts_once() -> None:
    those = datagrams()
    spoilt = bytearray(those[333])
    del spoilt[188:376]
    those[333] = bytes(spoilt)
    watched = Watched(TS).take_all(those)
    assert (watched.continuity, watched.lost) == (1, 1) == (judged_ts(those), 1)


def test_a_packet_may_come_twice_and_not_thrice() -> None:
    """ISO/IEC 13818-1, 2.4.3.3; with a discontinuity that is announced anything may come."""
    video = [ts(VIDEO, 0), ts(VIDEO, 1), ts(VIDEO, 1), ts(VIDEO, 2)]
    assert Watched(TS).take_all(video).continuity == 0
    video = [ts(VIDEO, 0), ts(VIDEO, 1), ts(VIDEO, 1), ts(VIDEO, 1), ts(VIDEO, 2)]
    assert Watched(TS).take_all(video).continuity == 1
    video = [ts(VIDEO, 0), ts(VIDEO, 9, field=b"\x80"), ts(VIDEO, 10)]
    assert Watched(TS).take_all(video).continuity == 0


def test_tables_that_stay_away_count_once() -> None:
    """For two seconds; then they are there, and stay away again for another."""
    television = Television()
    those = [television.datagram(number, tables=not 200 <= number < 600) for number in range(1_000)]
    watched = Watched(TS).take_all(those)
    assert watched.ts_faults() == (0, 0, 0, 1, 1, 0)
    watched.take_all(television.datagram(number, tables=number > 1_200) for number in range(1_000, 1_400))
    assert watched.ts_faults() == (0, 0, 0, 2, 2, 0)


def test_a_program_without_its_table_counts_and_the_others_don_t() -> None:
    video = [pat(number, PMT, PMT + 16) + pmt(number) for number in range(200)]
    watched = Watched(TS).take_all(video, after=10 * MS)
    assert watched.ts_faults() == (0, 0, 0, 0, 1, 0)
    assert watched.pmt_time == 0


def test_a_stall_is_no_table_s_fault() -> None:
    those = datagrams()
    watched = Watched(TS).take_all(those[:405])
    watched.take(those[405], after=700 * MS)
    watched.take_all(those[406:])
    assert watched.ts_faults() == (0,) * 6
    assert watched.stalls == 1
    assert watched.gap_longest == 700 * MS


def test_synchronization_is_lost_once_and_found_again() -> None:
    those = datagrams()
    for at in (300, 301):
        those[at] = bytes(each ^ 0xFF if not place % 188 else each for place, each in enumerate(those[at]))
    watched = Watched(TS).take_all(those)
    assert watched.ts_faults() == (0, 1, 14, 0, 0, 0)


def test_one_wrong_sync_byte_is_no_loss_of_synchronization() -> None:
    those = datagrams()
    those[300] = b"\0" + those[300][1:]
    watched = Watched(TS).take_all(those)
    assert (watched.sync_losses, watched.sync_bytes) == (0, 1)


def test_a_packet_that_was_damaged_before_is_told() -> None:
    those = datagrams()
    those[300] = those[300][:1] + bytes([those[300][1] | 0x80]) + those[300][2:]
    assert Watched(TS).take_all(those).transport == 1


def test_a_transport_stream_in_rtp_has_both_told() -> None:
    """It is found out what it is. A packet that came twice is no fault of the transport stream."""
    those = [rtp(number, kind=33, payload=each) for number, each in enumerate(datagrams())]
    those.insert(400, those[398])
    watched = Watched().take_all(those)
    assert watched.kind == RTP | TS
    assert watched.rtp_faults() == (0, 0, 0, 1, 0)
    assert watched.ts_faults() == (0,) * 6


def test_what_is_not_kept_whole_is_not_judged() -> None:
    watched = Watched(TS)
    for each in datagrams(100):
        watched.take(each, kept=64)
    assert watched.ts_faults() == (0,) * 6
    assert watched.ts_packets == 0
