"""What is told of the health of streams: by events, findings, tables, metrics and the status page."""

from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest

from exposition import needs_promtool, promtool, samples, value
from mcr.cli.health import health_view
from mcr.cli.tables import stats_view
from mcr.control.structure import unstructure
from mcr.diagnosis.health_findings import judge_stopped_stream, judge_stream, judge_streams
from mcr.errors import InvalidParams
from mcr.metrics.exposition import Format, page
from mcr.metrics.health import health_sections
from mcr.metrics.status import content
from mcr.model.finding import Verdict
from mcr.model.flow import Input
from mcr.model.health import LOSS_SECONDS, Gaps, Health, Mdi, RtpHealth, StreamHealth, TsHealth
from mcr.model.rule import Output, Rule
from mcr.model.stats import EgressStats, IngressStats, RuleStats, Stats
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.stats.loss_log import Losses
from test_status import rule, status

SOURCE = Input("eth0", IPv4Address("239.1.1.1"), 5000)
RULE = Rule("r1", SOURCE, (Output(IPv4Address("239.2.2.2"), 6000, "eth1"),), "news", Health.AUTO)
PLACED = PlacedRule(RULE, 7, 0, (OutputSlot(0, 7),), (None,), (None,))
RTP = RtpHealth(0, 0, 1, 2, 0, 0.000041)
MDI = Mdi(0.0018, 0, 0.1012, 0)
WHOLE = StreamHealth(
    Health.AUTO,
    kind="rtp+ts",
    packets=1_000,
    gaps=Gaps(0.001, 0.0015, 0.102),
    rtp=RTP,
    ts=TsHealth(0, 0, 0, 3, 0, 0, 0, 0.1, None),
    mdi=MDI,
)
BROKEN = attrs.evolve(WHOLE, lost=12, lost_age=3.2, rtp=RtpHealth(12, 0, 0, 0, 0, None))
HEALED = attrs.evolve(BROKEN, lost_age=42.0)
AWAY = attrs.evolve(WHOLE, ts=TsHealth(0, 0, 0, 1, 0, 1, 0, None, None, (0, 257)))
TS_ALONE = attrs.evolve(WHOLE, kind="ts", rtp=None, lost=7, lost_age=9_000.0)
UNKNOWN = StreamHealth(Health.AUTO, reason="it takes eBPF")


def of(health: StreamHealth | None) -> RuleStats:
    return RuleStats("r1", "news", 1_000, 1_000, 0, 1, 10.0, 1.0, health=health)


def stats_with(*healths: StreamHealth | None) -> Stats:
    return Stats(IngressStats(), EgressStats(), tuple(map(of, healths)))


def test_a_loss_begins_once_and_ends_once() -> None:
    losses = Losses()

    def note(lost: int, now: float) -> Any:
        health = attrs.evolve(WHOLE, lost=lost)
        return losses.note([(PLACED, health)], now)

    assert (note(0, 1).begun, note(3, 2).ended) == ((), ())
    assert note(3, 3) == note(9, 4) == note(9, 5) == note(9, 4 + LOSS_SECONDS - 1)
    (ended,) = note(9, 4 + LOSS_SECONDS).ended
    assert (ended.lost, ended.seconds) == (9, 2.0)
    (begun,) = note(10, 30).begun
    assert begun.lost == 1
    assert note(0, 31) == note(0, 60), "it is counted anew"


def test_pids_that_stay_away_are_told_once_and_when_all_are_back() -> None:
    losses = Losses()

    def note(now: float, *away: int, packets: int | None = None) -> Any:
        assert WHOLE.ts
        packets = int(now) if packets is None else packets
        health = attrs.evolve(WHOLE, ts=attrs.evolve(WHOLE.ts, away=away), packets=packets)
        return losses.note([(PLACED, health)], now).away

    assert [each.pids for each in note(1, 257).gone] == [(257,)]
    assert [each.pids for each in note(2, 257, 258).gone] == [(258,)]
    assert note(3, 257) == note(4) == note(5, 258) == note(5 + LOSS_SECONDS - 1)
    (back,) = note(5 + LOSS_SECONDS).back
    assert (back.pids, back.seconds) == ((257, 258), 4.0)
    assert [each.pids for each in note(30, 257).gone] == [(257,)]
    assert note(60, packets=30) == note(61, packets=30) == note(62, 257), "nothing came for half a minute"
    assert note(62 + LOSS_SECONDS).back


def test_why_says_that_it_came_broken() -> None:
    assert [*judge_stream(of(None))] == []
    (whole,) = judge_stream(of(WHOLE))
    assert (whole.verdict, whole.what) == (Verdict.OK, "Its stream comes in whole")
    (broken,) = judge_stream(of(BROKEN))
    assert broken.verdict is Verdict.ADVICE
    assert broken.what == "Its stream comes in broken: 12 RTP packets lost, the last 3 s ago"
    (away,) = judge_stream(of(AWAY))
    assert away.what == "Its stream comes in broken: PIDs 0 (PAT), 257 of its transport stream stay away"
    (unknown,) = judge_stream(of(UNKNOWN))
    assert unknown.what == "The health of its stream is not watched: it takes eBPF"
    assert [*judge_stopped_stream(of(UNKNOWN))] == [unknown], "also while nothing comes"


def test_a_loss_that_is_over_is_told_as_such_until_it_is_old() -> None:
    (healed,) = judge_stream(of(HEALED))
    assert (healed.verdict, healed.what) == (
        Verdict.ADVICE,
        "Its stream came in broken: 12 RTP packets lost, the last 42 s ago",
    )
    assert [*judge_stopped_stream(of(HEALED))] == [healed]
    assert [*judge_stopped_stream(of(TS_ALONE)), *judge_stopped_stream(of(AWAY)), *judge_stopped_stream(of(None))] == []
    (summed,) = judge_streams(stats_with(HEALED, TS_ALONE))
    assert summed.what == (
        "The health of the stream of rule r1 was bad: it came in broken: 12 RTP packets lost, the last 42 s ago"
    )
    (old,) = judge_stream(of(TS_ALONE))
    assert (old.verdict, old.what) == (Verdict.OK, "Its stream comes in whole")
    assert old.evidence.endswith("looked at since it is watched, 7 TS packets lost, the last 2 h ago")


def test_doctor_sums_streams_up() -> None:
    assert [*judge_streams(stats_with(None))] == []
    (whole,) = judge_streams(stats_with(WHOLE, None, WHOLE))
    assert whole.what == "2 streams watched, nothing lost within the last five minutes"
    unknown, broken = judge_streams(stats_with(WHOLE, BROKEN, UNKNOWN, BROKEN))
    assert unknown.what == "The health of the stream of rule r1 is not watched: it takes eBPF"
    assert broken.what.startswith(
        "The health of the stream of rule r1 and of 1 more is bad: it comes in broken: 12 RTP packets lost"
    )
    assert {unknown.verdict, broken.verdict} == {Verdict.ADVICE}


def test_tables_have_the_streams_that_are_watched() -> None:
    shown = unstructure(stats_with(BROKEN, None))
    lines = stats_view(shown, None).splitlines()
    (row,) = [line.split() for line in lines if "rtp+ts" in line]
    assert row == ["news", "rtp+ts", "12", "RTP", "0", "3", "0", "102", "ms", "1.8:0"]
    assert "STREAM IN" not in stats_view(unstructure(stats_with(None)), None)


def test_one_stream_is_told_in_words() -> None:
    lines = [" ".join(line.split()) for line in health_view(unstructure(BROKEN)).splitlines()]
    assert any("lost 12 RTP packets that did not come, the last 3 s ago" in line for line in lines)
    assert "gaps 1 ms usual; 1 in 100 above 1.5 ms, longest 102 ms (last half minute)" in lines
    assert "MDI 1.8:0 ms to buffer : TS packets lost per second; highest 101.2:0 (last half minute)" in lines
    assert "jitter -" in lines
    rtp_alone = attrs.evolve(BROKEN, ts=None)
    neither = attrs.evolve(rtp_alone, rtp=None)
    assert "ms to buffer : RTP packets lost per second; " in health_view(unstructure(rtp_alone))
    assert "ms to buffer : losses are unknown; " in health_view(unstructure(neither))
    assert "not watched: it takes eBPF" in health_view(unstructure(UNKNOWN))


@needs_promtool
def test_metrics_are_those_of_the_streams_that_are_watched() -> None:
    sections = health_sections({"r1": BROKEN, "r2": UNKNOWN})
    assert promtool("check", "metrics", given=b"".join(page(sections, Format.PROMETHEUS)).decode()) == ""
    found = samples(b"".join(page(sections, Format.OPEN_METRICS)).decode(), Format.OPEN_METRICS)
    assert value(found, "mcr_rule_stream_lost_packets_total", rule="r1") == 12
    assert value(found, "mcr_rule_stream_interarrival_seconds", rule="r1", gap="longest") == 0.102
    assert value(found, "mcr_rule_ts_errors_total", rule="r1", error="pat") == 3
    assert value(found, "mcr_rule_ts_errors_total", rule="r1", error="pid") == 0
    assert value(found, "mcr_rule_mdi_loss_rate", rule="r1") == 0
    assert {name for name, labels in found if "jitter" in name or ("rule", "r2") in labels} == set()


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (BROKEN, "<span class=bad>rtp+ts: 12 RTP packets lost, 0 stalls</span>"),
        (AWAY, "<span class=bad>rtp+ts: 0 RTP packets lost, 0 stalls, PIDs 0 (PAT), 257 away</span>"),
        (HEALED, "<span class=dim>rtp+ts: 12 RTP packets lost, 0 stalls</span>"),
        (WHOLE, "<span class=dim>rtp+ts: 0 RTP packets lost, 0 stalls</span>"),
        (UNKNOWN, "not watched: it takes eBPF"),
    ],
)
def test_the_status_page_says_how_a_stream_comes_in(health: StreamHealth, words: str) -> None:
    assert words in content(status(rule(1), stats=stats_with(health)))


def test_what_is_no_health_is_refused() -> None:
    with pytest.raises(InvalidParams, match="Invalid health: 'mpeg'"):
        Health.parse("mpeg")
    with pytest.raises(InvalidParams):
        Health.parse(1)
