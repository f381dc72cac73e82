"""`mcrctl events`: what has happened to rules, and happens."""

import json
import time
from contextlib import suppress
from functools import partial
from typing import Any

import click

from mcr.cli import terminal
from mcr.cli.command import Command
from mcr.cli.grid import table
from mcr.cli.options import common_options
from mcr.cli.quantities import duration
from mcr.cli.session import Session, told_of_waiting
from mcr.errors import McrError
from mcr.text.streams import lost_packets, pids_text
from mcr.text.visible import all_visible

_INTERVAL = 1


@click.command(cls=Command)
@click.option("--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@common_options
@click.pass_obj
def events(session: Session, *, follow: bool) -> None:
    """Show what happened to feeds.

    When those of rules went silent and came back. Of streams whose health is watched, when packets were lost before the
    relay, and when PIDs stayed away.

    Changes of rules, interfaces, hosts and workers are no events: mcrd's log has them.

    mcrd remembers the newest 1,000 events since it was started. With --follow these come first, then what happens. With
    --json and --follow each is a line, with the time when its mcrd was started (mcrd_started). If mcrd ends meanwhile,
    or does not answer, standard error says so, and it or the next one is waited for.
    """
    if not follow:
        found = session.call("events")["events"]
        since = "" if found or session.json else session.call("version").get("started", "")
        session.show(found, partial(events_view, since=since))
        return
    with suppress(KeyboardInterrupt):
        _follow(session)


def events_view(found: list[Any], width: int | None, *, since: str = "") -> str:
    """Events, one line each. `since`: when mcrd was started, which remembers none from before."""
    nothing = f"Nothing has happened since mcrd was started at {since}" if since else "Nothing has happened"
    rows = [[each["time"], *_words(each)] for each in found]
    return table(["=TIME", "=EVENT", "RULE", "WHAT"], rows, width) or nothing


def _words(event: dict[str, Any]) -> list[str]:
    kind = event["event"].replace("_", " ")
    what = _what(event)
    if event["event"] in {"loss_ends", "pids_back"}:
        what += f", within {duration(event['seconds'])}"
    return [kind, event["name"] or event["rule_id"], what]


def _what(event: dict[str, Any]) -> str:
    if event.get("pids"):
        return pids_text(event["pids"])
    if event.get("lost") is None:
        return f"{duration(event['seconds'])} without packets"
    return f"{lost_packets(event['lost'], event.get('unit') or '')} lost"


def _line(event: dict[str, Any]) -> str:
    kind, rule, what = _words(all_visible(event))
    return f"{event['time']}  {kind:<11}  {rule}, {what}"


def _follow(session: Session) -> None:
    told, of, seen = 0, None, False  # number of the newest, and when the mcrd that counts them was started
    waiting = ""  # what has been said of mcrd since it answered last
    while True:
        try:
            with session.connect() as daemon:
                started = daemon.call("version").get("started")
                told, of = told if started == of else 0, started
                while True:
                    found = daemon.call("events", {"after": told})["events"]
                    with session.understand():
                        for event in found:
                            terminal.show(json.dumps(event | {"mcrd_started": of}) if session.json else _line(event))
                            told = event["number"]
                    seen, waiting = True, ""
                    time.sleep(_INTERVAL)
        except McrError as error:
            if not (seen and error.passing):
                raise
            waiting = told_of_waiting(error, waiting)
        time.sleep(_INTERVAL)
