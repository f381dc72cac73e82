"""The samples of streams whose health is watched; they stand on the page of rules."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from mcr.metrics.exposition import Family, Kind, label_text
from mcr.model.health import StreamHealth

UNSEEN: Final = Family(
    "mcr_rule_stream_unseen_packets", Kind.COUNTER, "Datagrams of a watched stream that could not be looked at."
)
LOST: Final = Family(
    "mcr_rule_stream_lost_packets",
    Kind.COUNTER,
    "Packets that were lost before a stream came in: RTP packets, or TS packets where there is no RTP.",
)
STALLS: Final = Family(
    "mcr_rule_stream_stalls", Kind.COUNTER, "Gaps of 50 ms or more, ten times as long as usual, as a stream came in."
)
GAPS: Final = Family(
    "mcr_rule_stream_interarrival_seconds",
    Kind.GAUGE,
    "Time between datagrams as they came in, over the last half minute to minute; by gap.",
    "seconds",
)
RTP: Final = Family("mcr_rule_rtp_packets", Kind.COUNTER, "RTP packets that did not come as the next one, by result.")
RESTARTS: Final = Family("mcr_rule_rtp_restarts", Kind.COUNTER, "Times that an RTP sender or its numbers changed.")
JITTER: Final = Family("mcr_rule_rtp_jitter_seconds", Kind.GAUGE, "Interarrival jitter (RFC 3550).", "seconds")
TS: Final = Family("mcr_rule_ts_errors", Kind.COUNTER, "Errors of a transport stream (TR 101 290), by error.")
DELAY_FACTOR: Final = Family(
    "mcr_rule_mdi_delay_factor_seconds",
    Kind.GAUGE,
    "Delay factor (RFC 4445), the highest of the last half minute to minute.",
    "seconds",
)
LOSS_RATE: Final = Family(
    "mcr_rule_mdi_loss_rate",
    Kind.GAUGE,
    "Media packets lost per second (RFC 4445), the highest of the last half minute to minute.",
)

_RTP_RESULTS: Final = {"lost": "lost", "late": "late", "reordered": "reordered", "duplicates": "duplicate"}
_TS_ERRORS: Final = ("continuity", "sync_losses", "sync_bytes", "pat", "pmt", "pid", "transport")


def health_sections(healths: Mapping[str, StreamHealth]) -> list[tuple[Family, Sequence[bytes]]]:
    """Families with the text of their samples. `healths`: by the ids of rules."""
    lines: dict[Family, list[str]] = {
        family: [] for family in (LOST, UNSEEN, STALLS, GAPS, RTP, RESTARTS, JITTER, TS, DELAY_FACTOR, LOSS_RATE)
    }
    for rule_id, health in healths.items():
        if not health.reason:
            for family, labels, value in _samples(health):
                lines[family].append(family.line(label_text(rule=rule_id, **labels), value))
    return [(family, ["".join(those).encode()]) for family, those in lines.items()]


def _samples(health: StreamHealth) -> Iterator[tuple[Family, dict[str, str], object]]:
    """Each with its labels, but for the rule."""
    yield LOST, {}, health.lost
    yield UNSEEN, {}, health.unseen
    yield STALLS, {}, health.stalls
    if gaps := health.gaps:
        for gap, value in (("median", gaps.median), ("p99", gaps.p99), ("longest", gaps.longest)):
            yield GAPS, {"gap": gap}, value
    if rtp := health.rtp:
        for name, result in _RTP_RESULTS.items():
            yield RTP, {"result": result}, getattr(rtp, name)
        yield RESTARTS, {}, rtp.restarts
        yield from _if_known(JITTER, rtp.jitter)
    if ts := health.ts:
        for name in _TS_ERRORS:
            yield TS, {"error": name}, getattr(ts, name)
    if mdi := health.mdi:
        yield DELAY_FACTOR, {}, mdi.longest_delay_factor
        yield LOSS_RATE, {}, mdi.highest_loss_rate


def _if_known(family: Family, value: float | None) -> Iterable[tuple[Family, dict[str, str], object]]:
    return [] if value is None else [(family, {}, value)]
