"""`mcrctl top`: the relay as it is, in the whole terminal, until somebody presses q; as text where there is none."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import click

from mcr.cli import terminal
from mcr.cli.client import Client
from mcr.cli.command import Command
from mcr.cli.keys import CLOSED, draw, keys_as_pressed, read_keys, whole_screen
from mcr.cli.options import common_options
from mcr.cli.session import Session
from mcr.cli.top_view import ORDERS, Top
from mcr.errors import McrError
from mcr.text.visible import visible

_INTERVAL = 1.0
"""Seconds between two readings, at least."""

_SHARE = 10
"""A reading is a tenth of the time, at most: with 5,000 rules mcrd has better things to do."""

_RULES_EVERY = 5
"""Readings of counters to one of the rules' states."""


@click.command(cls=Command)
@click.option("--sort", type=click.Choice(ORDERS), default=ORDERS[0], show_default=True, help="What comes first.")
@click.option("--filter", "text", metavar="TEXT", default="", help="Only rules with TEXT in name, address or state.")
@click.option("--count", metavar="N", type=click.IntRange(1), help="End after N readings.")
@common_options
@click.pass_obj
def top(session: Session, sort: str, text: str, count: int | None) -> None:
    """Show live what the relay forwards, loses, and cannot serve.

    Keys: up, down, page up, page down; enter shows one rule, escape goes back; s sorts by the next column; / filters
    by name, id, address or state; q ends. If mcrd ends, top waits for the next one.

    In a pipe, or with --json, it prints one reading as text, or --count of them.
    """
    shown = Top(sort, text, blocks=_has_blocks())
    readings = _readings(session)
    if session.json or not (sys.stdout.isatty() and terminal.height()):
        _print(session, shown, readings, count or 1)
        return
    with suppress(KeyboardInterrupt):
        first = next(readings)  # if mcrd does not answer now, that is an error
        with session.understand(), keys_as_pressed(), whole_screen():
            _show(shown, first, readings, count)


def _has_blocks() -> bool:
    try:
        "▁█…".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeError):
        return False
    return True


class Reading:
    """What mcrd answered, and how long that took; or why it does not."""

    def __init__(self, seconds: float, stats: Any = None, rules: Any = None, started: str = "", away: str = "") -> None:
        self.seconds = seconds
        self.stats = stats
        self.rules = rules
        self.started = started
        self.away = away


def _readings(session: Session) -> Iterator[Reading]:
    """One for each time that somebody asks for it.

    Raises:
        McrError: mcrd cannot be asked the first time, or says that something else is wrong.
    """
    seen = False
    while True:
        try:
            with session.connect() as daemon:
                started = str(daemon.call("version").get("started", ""))
                for each in _of_one(daemon, started):
                    seen = True
                    yield each
        except McrError as error:
            if not (seen and error.passing):
                raise
            yield Reading(0.0, away=error.message)


def _of_one(daemon: Client, started: str) -> Iterator[Reading]:
    number, rules = 0, None
    while True:
        begun = time.monotonic()
        stats = daemon.call("stats")
        known = rules and len(rules) == len(stats["rules"])
        if not known or number % _RULES_EVERY == 0:
            rules = daemon.call("list")
        yield Reading(time.monotonic() - begun, stats, rules, started)
        number += 1


def _pause(reading: Reading) -> float:
    return max(_INTERVAL, reading.seconds * _SHARE) - reading.seconds


def _show(shown: Top, first: Reading, readings: Iterator[Reading], count: int | None) -> None:
    reading, number = first, 1
    while True:
        shown.take(reading)
        due = time.monotonic() + _pause(reading)
        while True:
            draw(shown.frame(terminal.width() or 80, terminal.height() or 24))
            for key in read_keys(due - time.monotonic()):
                if key == CLOSED or not shown.press(key):
                    return
            if time.monotonic() >= due:
                break
        if number == count:
            return
        reading, number = next(readings), number + 1


def _print(session: Session, shown: Top, readings: Iterator[Reading], count: int) -> None:
    with suppress(KeyboardInterrupt):
        left = count
        for reading in readings:
            if reading.away:
                terminal.show(f"mcrd is away, top waits for it: {visible(reading.away)}", err=True)
                time.sleep(_INTERVAL)
                continue
            with session.understand():
                shown.take(reading)
                whole = {"stats": reading.stats, "rules": reading.rules}
                text = json.dumps(whole) if session.json else "\n".join([*shown.text(), ""])
            terminal.show(text)
            left -= 1
            if not left:
                return
            time.sleep(_pause(reading))
