"""What people see: aligned, whole, and with words for what needs attention."""

import re
from typing import Any

import click
import pytest

from mcr.cli.tables import (
    levels_view,
    rule_stats_view,
    rules_view,
    settings_view,
    stats_view,
    watched_view,
    with_hosts,
    with_states,
    workers_view,
)

RULE: dict[str, Any] = {
    "rule_id": "dcfca9531161",
    "name": None,
    "input": {"interface": "eth0", "group": "239.1.1.1", "port": 5000},
    "outputs": [{"group": "239.2.2.2", "port": 5001, "interface": "eth1"}],
    "state": "active",
}
WORKER = {
    "worker_id": 0,
    "pid": 4242,
    "core": 1,
    "interfaces": ["eth0", "eth1"],
    "state": "running",
    "restarts": 0,
    "generation": 1_234,
    "last_exit": None,
    "io": "io_uring",
}
OUTPUT_STATS = {
    "group": "239.2.2.2",
    "port": 5001,
    "interface": "eth1",
    "submitted": 10,
    "sent": 10,
    "errors": 0,
    "in_doubt": 0,
    "bytes": 13_160,
    "last_error": None,
    "last_error_ago": None,
    "pps": 9.6,
    "bps": 101_068.8,
}
RULE_STATS = {
    "rule_id": "dcfca9531161",
    "name": None,
    "matched": 1_234_567,
    "sent": 1_234_567,
    "errors": 0,
    "bytes": 1_624_690_172,
    "pps": 12_345.6,
    "bps": 129_974_976.0,
    "outputs": [OUTPUT_STATS],
    "last_packet_ago": 0.4,
}


def stats(**members: Any) -> dict[str, Any]:
    """Quiet statistics, but for the given members of ingress and egress, or of the whole."""
    ingress = dict.fromkeys(["recv", "matched", "parse_err", "no_match", "buf_exhaust", "kernel_drops", "pps"], 0)
    egress = dict.fromkeys(["submitted", "sent", "errors", "bytes", "in_doubt", "pps"], 0)
    whole = {"ingress": ingress, "egress": egress, "rules": [], "workers": [], "interfaces": []}
    for name, value in members.items():
        target = next(part for part in (ingress, egress, whole) if name in part)
        target[name] = value
    return whole


def line(view: str, start: str) -> str:
    """The line of the view that begins with a word, without colour."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", view)
    (found,) = [line for line in plain.splitlines() if line.split()[:1] == [start]]
    return found


# Rules


def test_no_rules_says_how_to_add_one() -> None:
    assert rules_view([], None).startswith("No rules. Add one:\n  mcrctl add --input-interface ")


def test_a_rule_is_a_row() -> None:
    assert rules_view([RULE], None).splitlines() == [
        "RULE ID       STATE   INPUT                OUTPUTS",
        "dcfca9531161  active  239.1.1.1:5000:eth0  239.2.2.2:5001:eth1",
    ]


def test_further_outputs_stand_below_the_first() -> None:
    outputs = [RULE["outputs"][0] | {"port": port} for port in (1, 22)]
    assert rules_view([RULE | {"outputs": outputs}], None).splitlines() == [
        "RULE ID       STATE   INPUT                OUTPUTS",
        "dcfca9531161  active  239.1.1.1:5000:eth0  239.2.2.2:1:eth1",
        "                                           239.2.2.2:22:eth1",
    ]


def test_state_of_outputs_is_beside_them_and_reasons_are_below() -> None:
    waiting = {"state": "waiting", "reason": "eth1 is down"}
    outputs = [RULE["outputs"][0] | waiting, RULE["outputs"][0] | {"port": 22, "state": "active", "reason": ""}]
    why = {"state": "degraded", "reason": "1 of 2 outputs: eth1 is down", "warnings": ["eth0 is called eth9 now"]}
    rules = [RULE | {"rule_id": f"rule-{number}", "outputs": outputs} | why for number in range(5)]
    assert rules_view(rules[:1], 80).splitlines() == [
        "RULE ID  STATE     INPUT                OUTPUTS",
        "rule-0   degraded  239.1.1.1:5000:eth0  239.2.2.2:5001:eth1 (waiting)",
        "                                        239.2.2.2:22:eth1",
        "",
        "\x1b[33mrule-0: 1 of 2 outputs: eth1 is down\x1b[0m",
        "\x1b[33mrule-0: eth0 is called eth9 now\x1b[0m",
    ]
    rules[1]["name"] = "cam"
    assert "rule-0, rule-1 (cam), rule-2 and 2 more: 1 of 2 outputs: eth1 is down" in rules_view(rules, 80)


def test_names_have_a_column_if_there_are_any() -> None:
    view = rules_view([RULE | {"name": "cam"}, RULE], None)
    assert [row.split()[1] for row in view.splitlines()] == ["ID", "cam", "active"]


def test_columns_are_aligned_whatever_the_names_are_made_of() -> None:
    names = ["camera", "カメラ", "e\u0301"]  # 6, 6 and 1 columns of a terminal
    header, *rows = rules_view([RULE | {"name": name} for name in names], None).splitlines()
    assert header.index("STATE") == rows[0].index("active") == 22
    assert [row.index("active") for row in rows] == [22, 22 - 3, 22 + 1]


# Widths


@pytest.mark.parametrize("width", [80, 200, None])
def test_a_table_that_fits_is_the_same_at_any_width(width: int | None) -> None:
    assert rules_view([RULE], width) == rules_view([RULE], None)


@pytest.mark.parametrize("width", [50, 61])
def test_a_table_too_wide_is_folded_and_nothing_is_lost(width: int) -> None:
    rules = [RULE | {"name": "a name of several words"}]
    whole, folded = rules_view(rules, None), rules_view(rules, width)
    assert max(map(len, folded.splitlines())) <= width < max(map(len, whole.splitlines()))
    assert sorted("".join(folded.split())) == sorted("".join(whole.split()))


def test_addresses_are_not_broken_where_something_else_can_be() -> None:
    rules = [RULE | {"name": "a name of several words"}]
    view = rules_view(rules, 80)
    assert max(map(len, view.splitlines())) <= 80
    source, *outputs = (
        f"{each['group']}:{each['port']}:{each['interface']}" for each in (RULE["input"], *RULE["outputs"])
    )
    assert all(each in view for each in (source, *outputs))


def test_outputs_stand_below_their_rule_where_there_is_no_room_beside_it() -> None:
    """Then no address is broken, and each line tells one thing."""
    source = {"interface": "bond0.1204", "group": "239.255.102.103", "port": 50_000}
    outputs = [{"group": f"239.255.202.{number}", "port": 50_000, "interface": "bond1.1204"} for number in (1, 2)]
    outputs[1]["state"] = "waiting"
    rule = RULE | {"name": "studio 1, camera 2", "state": "degraded", "input": source, "outputs": outputs}
    assert rules_view([rule], 80).splitlines() == [
        "RULE ID       NAME                STATE     INPUT",
        "    OUTPUTS",
        "dcfca9531161  studio 1, camera 2  degraded  239.255.102.103:50000:bond0.1204",
        "    239.255.202.1:50000:bond1.1204",
        "    239.255.202.2:50000:bond1.1204 (waiting)",
    ]


def test_rules_have_their_names_alone_where_there_is_no_room_for_ids() -> None:
    told = stats(rules=[RULE_STATS | {"name": "studio 1, camera 2"}, RULE_STATS])
    assert "dcfca9531161  studio 1, camera 2" in stats_view(told, 120)
    narrow = stats_view(told, 80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert line(narrow, "RULE").split()[:2] == ["RULE", "MATCHED"]
    assert line(narrow, "dcfca9531161").split()[1] == "1,234,567"


@pytest.mark.parametrize("width", [80, 120, None])
def test_settings_can_be_read_at_any_width(width: int | None) -> None:
    """And their names copied; in 80 columns a setting takes no more than three lines."""
    meaning = "slots of a capture ring, for frames of up to 2 KB, and what else there is to be said of it here"
    given = {"value": "2000", "source": "default", "effective": "2048 (a power of two)", "meaning": meaning}
    view = settings_view([{"name": "MCR_BUFFER_POOL_STANDARD"} | given] * 3, width)
    assert view.count("MCR_BUFFER_POOL_STANDARD") == 3
    assert max(map(len, view.splitlines())) <= (width or 1000)
    assert " ".join(view.split()).count(meaning) == 3
    assert len(view.splitlines()) <= (11 if width == 80 else 13)


def test_numbers_are_never_folded() -> None:
    view = stats_view(stats(rules=[RULE_STATS | {"name": "a name of several words"}]), 80)
    assert max(map(len, view.splitlines())) <= 80
    assert "1,234,567" in view
    assert "129.97" in view


def test_a_terminal_too_narrow_to_fold_for_gets_whole_lines() -> None:
    whole = stats(rules=[RULE_STATS])
    assert stats_view(whole, 40) == stats_view(whole, None)


# Workers, levels


def test_a_worker_is_a_row() -> None:
    assert workers_view([WORKER], None).splitlines() == [
        "WORKER   PID  CORE  STATE    RESTARTS  GENERATION  IO        INTERFACES",
        "     0  4242     1  running         0       1,234  io_uring  eth0, eth1",
    ]


def test_what_a_filter_rejected_is_a_row_of_its_own_where_there_is_some() -> None:
    """Else the workers' recv would not add up to the total."""
    ingress = dict.fromkeys(["recv", "matched", "parse_err", "buf_exhaust", "kernel_drops", "pps"], 0)
    stats = {
        "egress": dict.fromkeys(["submitted", "sent", "errors", "bytes", "in_doubt", "pps"], 0),
        **{name: [] for name in ("rules", "workers", "interfaces")},
    }
    shown = stats_view(stats | {"ingress": ingress | {"no_match": 7, "screened": 5}}, None)
    assert re.search(r"screened +5  of no_match: rejected in the kernel, so in no worker's recv", shown)
    assert "screened" not in stats_view(stats | {"ingress": ingress | {"no_match": 2, "screened": 0}}, None)


def test_a_worker_that_died_shows_when_and_how() -> None:
    killed = "2026-01-01T12:00:00Z killed by signal 9 (SIGKILL)"
    header, first, second = workers_view([WORKER | {"last_exit": killed}, WORKER], None).splitlines()
    assert header.endswith("LAST EXIT")
    assert first.endswith(killed)
    assert second.endswith("-")


def test_a_worker_without_process_or_interface_shows_dashes() -> None:
    row = workers_view([WORKER | {"pid": None, "interfaces": [], "state": "waiting", "io": None}], None).splitlines()[1]
    assert row.split() == ["0", "-", "1", "waiting", "0", "1,234", "-", "-"]


def test_no_workers_says_where_to_look() -> None:
    assert "log of mcrd" in workers_view([], None)


def test_levels_are_rows() -> None:
    assert levels_view({"rules": "info", "control": "debug"}, None).splitlines() == [
        "FACILITY  LEVEL",
        "rules     info",
        "control   debug",
    ]


# Statistics


def test_totals_are_shown_under_their_own_names() -> None:
    view = stats_view(stats(recv=1_000_000, matched=1_000_000, pps=12_345.6, submitted=7, sent=7, bytes=9_212), None)
    assert line(view, "recv").split() == ["recv", "1,000,000", "12,346", "pps"]
    assert line(view, "matched").split() == ["matched", "1,000,000"]
    assert line(view, "submitted").split() == ["submitted", "7"]
    assert line(view, "sent").split()[:2] == ["sent", "7"]
    assert line(view, "bytes").split()[:2] == ["bytes", "9,212"]


@pytest.mark.parametrize(
    ("counter", "words"),
    [
        ("parse_err", "not a valid UDP datagram for this machine"),
        ("no_match", "no rule takes them"),
        ("buf_exhaust", "dropped: no buffer was free"),
        ("kernel_drops", "dropped: the capture ring was full, or another eBPF program took them"),
        ("errors", "not sent"),
    ],
)
def test_a_loss_says_its_cause_and_only_a_loss(counter: str, words: str) -> None:
    assert line(stats_view(stats(), None), counter).split() == [counter, "0"]
    lossy = stats_view(stats(**{counter: 1_080}), None)
    assert line(lossy, counter).split(maxsplit=2) == [counter, "1,080", words]
    assert "\x1b[3" in lossy


def test_the_kernel_path_s_share_stands_beside_the_workers() -> None:
    share = {"recv": 9, "matched": 8, "parse_err": 1, "kernel_drops": 2, "submitted": 8, "sent": 8, "errors": 0}
    view = stats_view({**stats(), "kernel_path": share}, None)
    assert line(view, "kernel").split() == ["kernel", "9", "8", "8", "0", "2"]
    assert "kernel " not in stats_view({**stats(), "kernel_path": dict.fromkeys(share, 0)}, None)


def test_nothing_is_coloured_when_all_is_well() -> None:
    assert "\x1b" not in stats_view(stats(recv=1, matched=1, submitted=1, sent=1, rules=[RULE_STATS]), None)


def test_causes_of_parse_errors_are_shown_where_there_are_any() -> None:
    causes = {"malformed": 0, "checksum": 1_080, "loop": 2}
    view = stats_view(stats(ingress=stats()["ingress"] | {"parse_err": 1_082, "parse_errors": causes}), None)
    assert line(view, "checksum").split()[:2] == ["checksum", "1,080"]
    assert "it came back" in line(view, "loop")
    assert "malformed" not in view


def test_doubt_is_shown_only_if_there_is_any() -> None:
    assert "in_doubt" not in stats_view(stats(errors=1), None)
    assert "perhaps sent" in line(stats_view(stats(errors=1, in_doubt=1), None), "in_doubt")


def test_a_rule_shows_its_rates() -> None:
    row = line(stats_view(stats(rules=[RULE_STATS]), None), "dcfca9531161")
    assert row.split() == ["dcfca9531161", "1,234,567", "1,234,567", "0", "1.625", "GB", "12,346", "129.97", "0", "s"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (7_199, "120 min"), (7_200, "2 h"), (172_800, "2 d")],
)
def test_a_rule_shows_when_its_last_packet_came(seconds: float | None, text: str) -> None:
    row = line(stats_view(stats(rules=[RULE_STATS | {"last_packet_ago": seconds}]), None), "dcfca9531161")
    assert row.endswith(f"129.97  {text:>4}")


def test_an_output_of_one_rule_shows_its_rates() -> None:
    row = line(rule_stats_view(stats(rules=[RULE_STATS]), 80), "239.2.2.2:5001:eth1")
    assert row.split()[1:] == ["10", "10", "0", "13.16", "kB", "10", "0.10"]


def test_a_host_that_waits_is_named_as_what_is_sent_there_counts_as_sent() -> None:
    host, group = OUTPUT_STATS | {"group": "192.0.2.7"}, OUTPUT_STATS
    told = stats(rules=[RULE_STATS | {"name": "cam", "outputs": [group, host]}])
    silent = {"state": "waiting", "reason": "192.0.2.7 does not answer ARP on eth1"}
    view = RULE | {"outputs": [RULE["outputs"][0] | silent, RULE["outputs"][0] | {"group": "192.0.2.7"} | silent]}
    assert "waits" not in stats_view(told, None)
    marked = with_states(told, [view])
    shown = stats_view(marked, None)
    assert "cam   192.0.2.7:5001:eth1    10  192.0.2.7 does not answer ARP on eth1" in shown.splitlines()
    assert "it counts as sent" in shown
    assert "239.2.2.2:5001:eth1 " not in shown  # what a group waits for counts as errors
    alone = rule_stats_view(marked, None)
    assert ("192.0.2.7:5001:eth1 (waiting)" in alone, "239.2.2.2:5001:eth1 (waiting)" in alone) == (True, True)
    many = stats(rules=[RULE_STATS | {"outputs": [marked["rules"][0]["outputs"][1]] * 7}])
    assert "2 more wait: mcrctl list. What is sent" in stats_view(many, None)
    assert with_states(told, []) == told  # the rule is gone since


@pytest.mark.parametrize("address", ["192.0.2.7", "192.0.2.255", "255.255.255.255"])
def test_what_waits_for_an_interface_is_not_said_to_count_as_sent(address: str) -> None:
    down = OUTPUT_STATS | {"group": address, "state": "waiting", "reason": "eth1 is down"}
    told = stats(rules=[RULE_STATS | {"outputs": [down]}])
    assert ("WAITS" in stats_view(told, None), "counts as sent" in rule_stats_view(told, None)) == (False, False)


@pytest.mark.parametrize(
    ("address", "is_host"),
    [("239.1.1.1", False), ("224.0.0.1", False), ("ff15::1", False), ("223.1.1.1", True), ("2001:db8::ff", True)],
)
def test_hosts_are_told_from_groups(address: str, is_host: bool) -> None:
    rule = RULE_STATS | {"outputs": [OUTPUT_STATS, OUTPUT_STATS | {"group": address}]}
    assert with_hosts(stats(rules=[rule])) == [RULE_STATS["rule_id"]] * is_host


def test_why_outputs_do_not_add_up_to_their_rule_is_said_where_they_do_not() -> None:
    whole = RULE_STATS | {"sent": 12, "errors": 3}
    view = rule_stats_view(stats(rules=[whole]), 80)
    assert "2 of the rule's sent, and 3 of its errors, are of outputs that it has no more." in view
    assert "has no more" not in rule_stats_view(stats(rules=[RULE_STATS | {"sent": 10}]), 80)


def test_the_traffic_of_all_rules_is_summed() -> None:
    assert "259.95 Mbit/s" in line(stats_view(stats(rules=[RULE_STATS] * 2), None), "bytes")


def test_an_output_that_fails_shows_its_last_error_and_others_do_not() -> None:
    failing = OUTPUT_STATS | {"interface": "eth9", "errors": 3, "last_error_ago": 75.2}
    failing["last_error"] = "Network is down (os error 100)"
    view = stats_view(stats(rules=[RULE_STATS | {"outputs": [OUTPUT_STATS, failing]}]), None)
    assert "dcfca9531161  239.2.2.2:5001:eth9       3  Network is down (os error 100), 75 s ago" in view
    assert "239.2.2.2:5001:eth1" not in view
    named = stats_view(stats(rules=[RULE_STATS | {"name": "cam", "outputs": [failing]}]), None)
    assert "cam   239.2.2.2:5001:eth9" in named


def test_no_rules_is_said_in_the_statistics_too() -> None:
    assert "No rules. Add one:" in stats_view(stats(), None)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1 kB"),
        (1_624_690_172, "1.625 GB"),
        (999_999, "1000 kB"),
        (5 * 10**18, "5,000.0 PB"),
    ],
)
def test_sizes_are_short(size: int, text: str) -> None:
    row = line(stats_view(stats(rules=[RULE_STATS | {"bytes": size}]), None), "dcfca9531161")
    assert " ".join(row.split()[4:-4]) == text


def test_in_a_small_terminal_the_rules_stay() -> None:
    """What is zero and the workers go first, and only if there is no room; what was lost stays."""
    worker = dict.fromkeys(["worker_id", "recv", "matched", "sent", "errors", "buf_exhaust", "kernel_drops"], 0)
    watched = stats(recv=9, no_match=2, rules=[RULE_STATS] * 11, workers=[worker] * 2)
    whole = stats_view(watched, 80)
    assert watched_view(watched, 80, len(whole.splitlines())) == watched_view(watched, 80, None) == whole
    short = watched_view(watched, 80, 24)
    assert len(short.splitlines()) <= 24
    assert short.count("dcfca9531161") == 11
    totals = [each.split()[0] for each in click.unstyle(short).splitlines() if each.startswith("  ")]
    assert totals == ["recv", "matched", "no_match", "submitted", "sent", "bytes"]
    few = watched_view(watched, 80, 12).splitlines()
    assert len(few) == 12
    assert few[:11] == short.splitlines()[:11]
    assert few[11] == f"... {len(short.splitlines()) - 11} more lines: mcrctl top, or mcrctl stats RULE"


def test_rules_of_files_are_marked_where_there_are_any() -> None:
    assert "FROM" not in rules_view([RULE | {"origin": "runtime"}], None)
    both = rules_view([RULE | {"origin": "file"}, RULE | {"rule_id": "x", "origin": "runtime"}], None)
    assert [line.split()[:3] for line in both.splitlines()] == [
        ["RULE", "ID", "FROM"],
        ["dcfca9531161", "file", "active"],
        ["x", "active", "239.1.1.1:5000:eth0"],
    ]
