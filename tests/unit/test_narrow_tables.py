"""Statistics in a terminal of 80 columns and few lines."""

from typing import Any

import click

from fake_daemon import STATS
from mcr.cli.tables import stats_view, watched_view

WIDTH = 80
HOST = "2001:db8:1111:2222:3333:4444:5555:6666"
CAUSES = ("malformed", "fragment", "fragment_overlap", "fragment_incomplete", "fragment_evicted", "checksum", "source")
MORE = ("loop", "returned", "other_host", "vlan")
COUNTED = ("recv", "matched", "no_match", "screened", "parse_err", "buf_exhaust", "kernel_drops", "pps")
RULE: dict[str, Any] = {
    "rule_id": "dcfca9531161",
    "name": None,
    **dict.fromkeys(("matched", "sent", "errors", "bytes", "pps", "bps"), 10),
    "outputs": [],
}
OUTPUT: dict[str, Any] = {
    "port": 60_000,
    "interface": "enp1s0f0np0",
    "last_error": None,
    "last_error_ago": None,
    **dict.fromkeys(("submitted", "sent", "errors", "bytes", "pps", "bps"), 0),
}
SILENT = OUTPUT | {
    "group": HOST,
    "sent": 1_234_567,
    "state": "waiting",
    "reason": f"{HOST} does not answer neighbour solicitations on {OUTPUT['interface']}",
}
FAILING = OUTPUT | {
    "group": "ff15:1111:2222:3333:4444:5555:6666:7777",
    "errors": 1_234_567,
    "last_error": "Network is down (os error 100)",
    "last_error_ago": 75.2,
}


def told(*rules: dict[str, Any]) -> dict[str, Any]:
    ingress = dict.fromkeys(COUNTED, 1_234_567) | {"parse_errors": dict.fromkeys((*CAUSES, *MORE), 7)}
    return STATS | {"ingress": ingress, "egress": dict.fromkeys(STATS["egress"], 9), "rules": list(rules)}


def lines(view: str) -> list[str]:
    return click.unstyle(view).splitlines()


def test_no_line_is_wider_than_the_terminal() -> None:
    shown = lines(stats_view(told(RULE | {"outputs": [*[SILENT] * 7, FAILING]}), WIDTH))
    assert [each for each in shown if len(each) > WIDTH] == []
    joined = " ".join(" ".join(shown).split())
    for whole in (HOST, FAILING["group"], FAILING["last_error"], "rejected in the kernel, so in no worker's recv"):
        assert whole in joined


def test_in_a_pipe_each_counter_is_a_line() -> None:
    assert "of no_match: rejected in the kernel, so in no worker's recv" in stats_view(told(), None)


def test_what_fails_stands_before_the_rules_where_lines_are_few() -> None:
    """The end of a view that has no room is cut: a long list of rules may be, and top shows the rest."""
    rules = [RULE | {"outputs": [FAILING] * 8}, RULE | {"outputs": [SILENT]}, *[RULE] * 40]
    watched = told(*rules) | {"ingress": dict.fromkeys(COUNTED, 0)}
    shown = lines(watched_view(watched, 120, 40))
    assert len(shown) == 40
    assert sum("Network is down" in each for each in shown) == 5
    assert "3 more outputs with errors: mcrctl stats" in shown
    assert any("does not answer" in each for each in shown)
    assert sum(RULE["rule_id"] in each for each in shown) > 6
    assert not any("more outputs" in each for each in lines(stats_view(watched, 120)))
