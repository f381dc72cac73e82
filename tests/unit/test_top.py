"""What `mcrctl top` shows, at 80 columns, and what keys do."""

import functools
import math
import re
import time
from typing import Any

import attrs
import click
import pytest

from mcr.cli.grid import columns
from mcr.cli.keys import keys_of
from mcr.cli.top_view import ORDERS, Top

MANY = 5_000


@attrs.frozen
class Reading:
    stats: Any = None
    rules: Any = None
    started: str = "2026-01-01T12:00:00Z"
    away: str = ""


def reading(
    *rates: float, errors: int = 0, drops: int = 0, states: tuple[str, ...] = (), name: str = "camera {}"
) -> Reading:
    """One of a relay with as many rules as rates; of states the first ones may differ from active."""
    counters, views = [], []
    for number, pps in enumerate(rates):
        output = {"group": f"239.2.{number // 250}.{number % 250}", "port": 6000, "interface": "eth1"}
        source = {"group": f"239.1.{number // 250}.{number % 250}", "port": 5000, "interface": "eth0"}
        known = {"rule_id": f"id{number}", "name": name.format(number)}
        numbers = {"matched": 9, "sent": 9, "errors": errors, "bytes": 99, "pps": pps, "bps": pps * 10_528}
        last = (
            {"last_error": "Network is down (os error 100)", "last_error_ago": 2.0} if errors else {"last_error": None}
        )
        sent = output | numbers | last | {"submitted": 9}
        counters.append(known | numbers | {"outputs": [sent], "last_packet_ago": 0.2})
        state = states[number] if number < len(states) else "active"
        reason = "" if state == "active" else "eth1 is down"
        view = {"input": source, "outputs": [output], "state": state, "reason": reason, "path": "kernel"}
        views.append(known | view)
    total = math.fsum(rates)
    ingress: dict[str, float] = dict.fromkeys(["recv", "matched", "no_match", "parse_err", "buf_exhaust"], 0)
    ingress["pps"] = total
    ingress["kernel_drops"] = drops
    egress = {"pps": total, "errors": errors * len(rates)}
    return Reading({"ingress": ingress, "egress": egress, "rules": counters, "workers": [{}, {}]}, views)


@functools.cache
def many() -> tuple[Reading, ...]:
    return tuple(reading(*range(MANY), errors=each, states=("waiting", "degraded")) for each in (1, 2))


def top(*readings: Reading, order: str = "rate", text: str = "") -> Top:
    made = Top(order, text, blocks=True)
    for each in readings:
        made.take(each)
    return made


def lines(shown: Top, width: int = 80, height: int = 24) -> list[str]:
    return [click.unstyle(line).rstrip() for line in shown.frame(width, height)]


def rows(shown: Top, height: int = 24) -> list[str]:
    """The names of the rules in view; the marked one with its mark."""
    found = (re.match(r"(> |  )(camera \d+) ", line) for line in lines(shown, height=height))
    return [(each[1] + each[2]).strip() for each in found if each]


def press(shown: Top, *keys: str) -> None:
    for key in keys:
        assert shown.press(key)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 10), (20, 4)])
def test_it_fills_the_terminal_and_no_more_with_many_rules(width: int, height: int) -> None:
    """The busiest of 5,000 rules is the first; a frame takes no time that an operator would notice."""
    shown = top(*many())
    begun = time.process_time()
    frame = shown.frame(width, height)
    assert time.process_time() - begun < 1
    assert len(frame) == height
    assert all(columns(click.unstyle(line)) <= width for line in frame)
    if width >= 80:
        assert rows(shown, height)[:2] == ["> camera 4999", "camera 4998"]
        assert lines(shown)[0].endswith("5,000 rules, 2 not active, 2 workers")
        assert "1 waiting: eth1 is down (camera 0)" in lines(shown)


def test_what_is_lost_now_is_red_and_what_was_is_yellow() -> None:
    shown = top(reading(5, errors=3, drops=7), reading(5, errors=5, drops=7))
    (line,) = [line for line in shown.frame(80, 24) if line.startswith("lost")]
    assert click.unstyle(line) == "lost kernel_drops 7  errors 5 (+2)"
    assert "\x1b[33m" in line.split("errors")[0]
    assert "\x1b[31m" in line.split("drops")[1]
    shown.take(reading(5, errors=5, drops=7))
    assert not any("\x1b[31m" in line for line in shown.frame(80, 24))
    assert "lost nothing" in lines(top(reading(5)))


def test_what_streams_have_lost_before_is_told_beside_what_is_lost() -> None:
    shown = top(*(reading(5) for _ in range(2)))
    later = reading(5)
    later.stats["rules"][0]["health"] = {"lost": 12, "kind": "rtp+ts"}
    shown.take(later)
    assert "lost rtp 12 (+12)" in lines(shown)


def test_a_rule_has_a_curve_of_its_rate() -> None:
    shown = top(*(reading(pps) for pps in (0, 100, 400, 800)))
    (row,) = [line for line in lines(shown) if line.startswith("> camera 0")]
    assert row.endswith(" ▂▅█")
    plain = Top("rate", "", blocks=False)
    plain.take(reading(7))
    assert all(line.isascii() for line in plain.frame(80, 24))


def test_keys_choose_sort_filter_and_show_a_rule() -> None:
    shown = top(reading(1, 9, 5, 7))
    assert rows(shown) == ["> camera 1", "camera 3", "camera 2", "camera 0"]
    press(shown, "down")
    shown.take(reading(1, 9, 50, 7))
    assert rows(shown) == ["camera 2", "camera 1", "> camera 3", "camera 0"]  # what is marked stays marked
    press(shown, "enter")
    alone = lines(shown)
    assert "camera 3 id3" in alone
    assert "239.1.0.3:5000:eth0  active" in alone
    assert any(line.startswith("239.2.0.3:6000:eth1 ") for line in alone)
    press(shown, "escape", "s", "s", "s", "s")
    assert rows(shown) == ["> camera 0", "camera 1", "camera 2", "camera 3"]
    assert lines(shown)[-1].endswith("sort: name")
    press(shown, "s", "/", "2", ".", "0", ".", "x", "backspace", "1", "enter", "end")
    assert rows(shown) == ["> camera 1"]
    press(shown, "escape", "home", "page down", "up")
    assert len(rows(shown)) == 4
    assert not shown.press("q")


@pytest.mark.parametrize("order", ORDERS)
def test_it_can_be_sorted_by_each_column(order: str) -> None:
    shown = top(reading(3, 2, 1, states=("active", "active", "waiting")), order=order)
    assert rows(shown)[0] == ("> camera 2" if order == "state" else "> camera 0")
    (title,) = [line for line in lines(shown) if line.startswith("  RULE")]
    assert title.count("*") == 1


def test_while_mcrd_is_away_its_last_words_stay() -> None:
    shown = top(reading(5), Reading(away="Connection refused (os error 111)"))
    assert lines(shown)[0] == "mcrd is away, top waits for it: Connection refused (os error 111)"
    assert rows(shown) == ["> camera 0"]
    shown.take(reading(5, 6))
    assert rows(shown) == ["> camera 1", "camera 0"]


def test_a_rule_that_is_removed_while_it_is_shown_is_no_fault() -> None:
    shown = top(reading(5, 6))
    press(shown, "enter")
    shown.take(reading(5))
    assert "This rule is no more." in lines(shown)
    shown.take(reading())
    press(shown, "escape", "enter", "down")
    assert rows(shown) == []


def test_names_do_not_reach_the_terminal_as_they_are() -> None:
    shown = top(reading(5, name="\x1b[2J\u202e"))
    press(shown, "/", *"\\x1b", "enter")
    for _ in range(2):
        assert all("\x1b[2J" not in line and "\u202e" not in line for line in shown.frame(80, 24))
        press(shown, "escape", "enter")


def test_in_a_pipe_it_is_text_with_every_rule() -> None:
    text = [*top(reading(*range(100), states=("waiting",))).text()]
    assert not any("\x1b" in line for line in text)
    assert len([line for line in text if line.startswith("camera ")]) == 100
    assert "1 waiting: eth1 is down (camera 0)" in text


def test_keys_are_told_apart() -> None:
    assert keys_of("a\x1b[A\x1b[6~\x1bOB\x1b[Hq\x7f\r") == [
        "a",
        "up",
        "page down",
        "down",
        "home",
        "q",
        "backspace",
        "enter",
    ]
    assert keys_of("\x1b") == ["escape"]
    assert keys_of("\x1b[15~\x1b[1;5C\x00é") == ["é"]
