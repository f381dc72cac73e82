"""The status page: what is shown, in which order, and that nobody's text becomes a part of it."""

import base64
import hashlib
import re
import time
from html.parser import HTMLParser
from ipaddress import ip_address

import attrs
import pytest

from mcr.metrics.status import MOST_OUTPUTS, MOST_RULES, POLICY, Status, content, event, page
from mcr.model.flow import Input
from mcr.model.rule import Output, OutputView, Path, RuleState, RuleView
from mcr.model.stats import EgressStats, IngressStats, InterfaceStats, ParseErrors, RuleStats, Stats
from mcr.model.worker import WorkerState, WorkerView

WORKER = WorkerView(0, 42, 1, ("eth0",), WorkerState.RUNNING, 0, 1)


def rule(number: int, state: RuleState = RuleState.ACTIVE, **more: str) -> RuleView:
    source = Input("eth0", ip_address("239.1.0.0") + number, 5000)
    output = Output(ip_address("239.9.9.1"), 6000, "eth1")
    return RuleView(f"r{number}", more.get("name"), source, (OutputView.of(output),), state, more.get("reason", ""))


def counters(number: int, pps: float, errors: int = 0) -> RuleStats:
    return RuleStats(f"r{number}", None, 1000, 1000 - errors, errors, 1_316_000, pps, pps * 10_528)


def status(*rules: RuleView, stats: Stats | None = None, workers: tuple[WorkerView, ...] = (WORKER,)) -> Status:
    return Status("relay7", time.time() - 3 * 3600, stats or Stats(IngressStats(), EgressStats()), rules, workers)


class Reader(HTMLParser):
    """Cells of the tables, row by row, and every element that there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.elements: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, _attributes: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        if tag == "br":
            self.handle_data(" | ")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def test_a_table_wider_than_the_window_does_not_widen_the_page() -> None:
    text = content(status(rule(1)))
    assert text.count("<table>") == text.count("<div class=wide><table>") > 0
    assert ".wide { overflow-x: auto }" in page("relay7", text).decode()


def test_a_rule_is_a_row_with_its_state_rates_and_counters() -> None:
    stats = Stats(IngressStats(), EgressStats(), (counters(1, 200.4, errors=3),))
    rows = Reader(content(status(rule(1, name="news"), stats=stats))).rows
    expected = [
        "news",
        "active",
        "239.1.0.1:5000 on eth0",
        "239.9.9.1:6000:eth1",
        "kernel",
        "200",
        "2.11",
        "1,000",
        "997",
        "3",
    ]
    assert rows[1] == expected
    assert len(rows[0]) == len(expected)


def test_what_is_not_active_stands_first_with_its_reason_then_who_has_most_packets() -> None:
    stats = Stats(IngressStats(), EgressStats(), tuple(counters(each, pps=each) for each in range(4)))
    rules = (rule(0), rule(1, RuleState.WAITING, reason="eth0 is down"), rule(2), rule(3))
    shown = Reader(content(status(*rules, stats=stats))).rows[1:5]
    assert [row[0] for row in shown] == ["r1", "r3", "r2", "r0"]
    assert shown[0][1] == "waiting | eth0 is down"


def test_outputs_that_are_not_active_say_so() -> None:
    late = attrs.evolve(rule(1).outputs[0], state=RuleState.WAITING)
    degraded = attrs.evolve(rule(1, RuleState.DEGRADED), outputs=(*rule(1).outputs, late))
    (row,) = Reader(content(status(degraded))).rows[1:2]
    assert row[3] == "239.9.9.1:6000:eth1 (waiting) | 239.9.9.1:6000:eth1"


@pytest.mark.parametrize(
    ("rules", "workers", "says", "good"),
    [
        ((), (WORKER,), "No rules.", True),
        ((rule(1), rule(2)), (WORKER,), "2 rules, all active.", True),
        ((rule(1), rule(2, RuleState.PENDING)), (WORKER,), "1 of 2 rules is not active.", False),
        ((rule(1),), (WORKER, attrs.evolve(WORKER, state=WorkerState.WAITING)), "1 of 2 workers not running.", False),
    ],
)
def test_first_sentence_says_whether_all_is_well(
    rules: tuple[RuleView, ...], workers: tuple[WorkerView, ...], says: str, good: bool
) -> None:
    assert f"<p class={'good' if good else 'bad'}>{says}</p>" in content(status(*rules, workers=workers))


def test_drops_have_their_causes() -> None:
    ingress = IngressStats(recv=10, parse_err=5, kernel_drops=7, parse_errors=ParseErrors(fragment=2, checksum=3))
    interface = InterfaceStats("eth0", 10, 7, ParseErrors(fragment=2, checksum=3), None, 4, 1, 0)
    text = content(status(stats=Stats(ingress, EgressStats(), interfaces=(interface,))))
    assert "<dd class=bad>5<small>fragment 2, checksum 3</small></dd>" in text
    assert ["eth0", "10", "4", "1", "5", "0", "7"] in Reader(text).rows


def test_text_of_others_is_text() -> None:
    evil = "<script>alert(1)</script>\"'&\u202e"
    worker = attrs.evolve(WORKER, last_exit=evil, interfaces=(evil,))
    text = content(
        attrs.evolve(status(rule(1, RuleState.WAITING, name=evil, reason=evil), workers=(worker,)), host=evil)
    )
    assert "script" not in Reader(text).elements
    assert "\u202e" not in text
    assert text.count("&lt;script&gt;") == 5


@pytest.mark.slow
def test_ten_thousand_rules_are_a_short_page_that_says_what_it_leaves_out() -> None:
    text = content(status(*map(rule, range(10_000))))
    assert len(Reader(text).rows) == 1 + MOST_RULES + 2
    assert f"and {10_000 - MOST_RULES:,} more" in text


def test_of_many_outputs_those_that_are_not_active_are_shown_first() -> None:
    late = attrs.evolve(rule(1).outputs[0], state=RuleState.WAITING)
    degraded = attrs.evolve(rule(1, RuleState.DEGRADED), outputs=(*rule(1).outputs * 511, late))
    shown = Reader(content(status(degraded))).rows[1][3].split(" | ")
    assert shown[0] == "239.9.9.1:6000:eth1 (waiting)"
    assert shown[-1] == f"and {512 - MOST_OUTPUTS} more"
    assert len(shown) == MOST_OUTPUTS + 1


def test_an_event_is_one_line() -> None:
    data = event(content(status(rule(1, reason="a\nb"))))
    assert data.startswith(b"data: <h1>")
    assert data.endswith(b"\n\n")
    assert data.count(b"\n") == 2


def test_policy_names_the_script_and_the_style_that_are_there() -> None:
    document = page("relay7", content(status())).decode()
    for element in ("script", "style"):
        (inside,) = re.findall(f"<{element}>(.*?)</{element}>", document, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in POLICY


def test_path_is_shown() -> None:
    text = content(status(attrs.evolve(rule(1), path=Path.WORKER)))
    assert Reader(text).rows[1][4] == "worker"
