"""The formats of metrics, and the page of totals."""

import attrs
import pytest

from exposition import needs_promtool, promtool, samples, total, value
from mcr.metrics.exposition import Format, kept_labels, label_text
from mcr.metrics.totals import totals_page
from mcr.model.rule import RuleState
from mcr.model.stats import EgressStats, IngressStats, InterfaceStats, ParseErrors, Stats, WorkerStats
from mcr.model.worker import WorkerState, WorkerView

STATS = Stats(
    IngressStats(recv=100, matched=70, parse_err=10, no_match=15, buf_exhaust=5),
    EgressStats(submitted=140, sent=130, errors=10, bytes=1300, in_doubt=3),
    workers=(WorkerStats(0, 90, 70, 10, 5, 5, 2, 140, 130, 10, 1300, 1),),
    interfaces=(
        InterfaceStats("eth0", 95, 2, ParseErrors(fragment=4, checksum=6), matched=70, no_match=10, buf_exhaust=5),
        InterfaceStats('e"\\0', 5, 0, no_match=5),
    ),
)
WORKERS = (WorkerView(0, 42, 0, ("eth0",), WorkerState.RUNNING, 3, 1),)


def text(chosen: Format) -> str:
    return b"".join(totals_page(STATS, WORKERS, {RuleState.ACTIVE: 2}, 1.5, chosen)).decode()


PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (PROMETHEUS_2, Format.OPEN_METRICS),
        (PROMETHEUS_3, Format.OPEN_METRICS),
        ("Application/OpenMetrics-Text", Format.OPEN_METRICS),
        ('application/openmetrics-text; version="1.0.0"', Format.OPEN_METRICS),
        ("", Format.PROMETHEUS),
        ("*/*", Format.PROMETHEUS),
        ("text/html, */*;q=0.8", Format.PROMETHEUS),
        ("text/plain, application/openmetrics-text;q=0.9", Format.PROMETHEUS),
        ("application/openmetrics-text;q=0", Format.PROMETHEUS),
        ("application/openmetrics-text;q=x", Format.PROMETHEUS),
        ("application/openmetrics-text;version=2.0.0, text/plain", Format.PROMETHEUS),
        (";;=,,q=1;", Format.PROMETHEUS),
    ],
)
def test_a_client_gets_the_format_that_it_likes_better(accept: str, chosen: Format) -> None:
    assert Format.chosen(accept) is chosen


@pytest.mark.parametrize("chosen", Format)
def test_totals_are_read_by_the_official_parser_and_add_up(chosen: Format) -> None:
    found = samples(text(chosen), chosen)
    arrived = total(found, "mcr_ingress_packets_total")
    assert arrived == STATS.ingress.recv
    for result in ("matched", "parse_err", "no_match", "buf_exhaust"):
        assert total(found, "mcr_ingress_packets_total", result=result) == getattr(STATS.ingress, result)
    assert total(found, "mcr_ingress_parse_errors_total") == STATS.ingress.parse_err
    assert value(found, "mcr_ingress_packets_total", interface='e"\\0', result="no_match") == 5
    owed = value(found, "mcr_egress_submitted_total")
    assert owed == total(found, "mcr_egress_packets_total") == STATS.egress.submitted
    errors = value(found, "mcr_egress_packets_total", result="error")
    assert errors == total(found, "mcr_egress_errors_total") == STATS.egress.errors
    assert value(found, "mcr_egress_errors_total", error="in_doubt") == STATS.egress.in_doubt
    assert value(found, "mcr_worker_restarts_total", worker=0) == 3
    assert value(found, "mcr_worker_state", worker=0, state="running") == total(found, "mcr_worker_state") == 1
    assert value(found, "mcr_rules", state=RuleState.ACTIVE) == 2
    assert value(found, "mcr_rules", state=RuleState.WAITING) == 0


def test_both_formats_have_the_same_samples() -> None:
    both = [samples(text(chosen), chosen) for chosen in Format]
    assert both[0] == both[1]


@needs_promtool
def test_promtool_has_nothing_to_say() -> None:
    assert promtool("check", "metrics", given=text(Format.PROMETHEUS)) == ""


def test_a_page_after_another_says_what_is_new() -> None:
    """Text that scrapes have in common is made once."""
    before = text(Format.PROMETHEUS)
    other = attrs.evolve(STATS.interfaces[0], interface="eth9", matched=71)
    new = attrs.evolve(STATS, interfaces=(other, STATS.interfaces[1]))
    after = b"".join(totals_page(new, WORKERS, {RuleState.WAITING: 3}, 1.5, Format.PROMETHEUS)).decode()
    kept_labels.cache_clear()
    assert after == b"".join(totals_page(new, WORKERS, {RuleState.WAITING: 3}, 1.5, Format.PROMETHEUS)).decode()
    changed = {*after.splitlines()} - {*before.splitlines()}
    assert 'mcr_rules{state="waiting"} 3' in changed
    assert all("mcr_rules" in line or "eth9" in line for line in changed)


def test_labels_are_escaped() -> None:
    assert label_text(a='x"y', b="back\\slash", c="new\nline", d="ümläut %d") == (
        'a="x\\"y",b="back\\\\slash",c="new\\nline",d="ümläut %d"'
    )
