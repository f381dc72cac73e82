"""`mcrctl`: an operator's commands to a running mcrd.

Rules of the module:

1. It reads a command line and draws an answer. Values are judged by the daemon, which any client may ask.
2. Every import here is paid by every command line that click reads (others: `mcr.cli.requests`): rich and the modules
   of other commands come only when they are needed, attrs and trio never.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

import mcr
from mcr.cli import completion, requests, tables, terminal
from mcr.cli.command import Group
from mcr.cli.options import common_options
from mcr.cli.session import Session, told_of_waiting
from mcr.errors import McrError, RuleNotFound, UsageError
from mcr.text.visible import all_visible

_WATCH_INTERVAL = 1
_COST_OF_INGRESS = (
    "Note: while ingress logs at debug or trace, the capture filters admit all UDP on the input interfaces: what no "
    "rule takes costs the workers processor time, and places in the capture rings. "
    "Set it back: mcrctl log-level set --facility ingress --level info"
)
_LEVELS = "emergency, alert, critical, error, warning, notice, info, debug, trace"


@click.group(cls=Group, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mcr.__version__, prog_name="mcrctl")
@common_options
def cli() -> None:
    """Control a running mcrd, the daemon of the MCR multicast relay."""


_RULE_CHANGES = "mcr.cli.rule_changes"
cli.add_later(add=f"{_RULE_CHANGES}:add", change=f"{_RULE_CHANGES}:change", remove=f"{_RULE_CHANGES}:remove")


@cli.command("list")
@click.argument("rule", required=False, shell_complete=completion.rules)
@common_options
@click.pass_obj
def list_rules(session: Session, rule: str | None) -> None:
    """Show the rules, or one by its id or name."""
    requests.list_rules(session, rule)


@cli.command()
@click.argument("rule", required=False, shell_complete=completion.rules)
@click.option("--watch", is_flag=True, help="Show them again every second, until Ctrl-C. It takes no interval.")
@common_options
@click.pass_obj
def stats(session: Session, rule: str | None, *, watch: bool) -> None:
    """Show what was received, sent and lost, and why.

    With RULE, an id or a name: what that rule matched, and what each of its outputs sent. A rule's own counters have
    what outputs sent that it has no more, too.
    """
    if not watch:
        requests.stats(session, rule)
        return
    which = requests.about(rule)
    view = tables.rule_stats_view if which else tables.stats_view
    if session.json or not sys.stdout.isatty():
        _watch(session, which, lambda result: session.show(result, lambda *given: f"{view(*given)}\n"))
    else:
        from rich.live import Live  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        with Live(auto_refresh=False) as live:
            _watch(
                session,
                which,
                lambda result: live.update(Text.from_ansi(_statistics(session, which, result)), refresh=True),
            )


@cli.command("list-workers")
@common_options
@click.pass_obj
def list_workers(session: Session) -> None:
    """Show the worker processes."""
    requests.list_workers(session)


@cli.command()
@common_options
@click.pass_obj
def ping(session: Session) -> None:
    """Ask whether mcrd answers."""
    requests.ping(session)


@cli.command()
@common_options
@click.pass_obj
def version(session: Session) -> None:
    """Show the version of mcrctl and of mcrd."""
    requests.version(session)


@cli.command()
@common_options
@click.pass_obj
def settings(session: Session) -> None:
    """Show mcrd's settings and where each comes from."""
    requests.settings(session)


@cli.group("log-level", no_args_is_help=False)
@common_options
def log_level() -> None:
    """Show or set how much mcrd logs."""


@log_level.command("get")
@common_options
@click.pass_obj
def get_log_level(session: Session) -> None:
    """Show the level of every facility."""
    session.show(session.call("log_level.get"), tables.levels_view)


@log_level.command("set")
@click.option(
    "--global",
    "global_level",
    metavar="LEVEL",
    shell_complete=completion.levels,
    help=f"Level of every facility: {_LEVELS}.",
)
@click.option(
    "--facility",
    metavar="NAME",
    shell_complete=completion.facilities,
    help="Facility to set alone; see: mcrctl log-level get.",
)
@click.option("--level", metavar="LEVEL", shell_complete=completion.levels, help="Level of this facility.")
@common_options
@click.pass_obj
def set_log_level(session: Session, global_level: str | None, facility: str | None, level: str | None) -> None:
    """Set the level of every facility, or of one.

    While ingress logs at debug or trace, the capture filters admit all UDP, so that workers can name what no rule
    takes. That costs them processor time, and places in the capture rings.
    """
    match global_level, facility, level:
        case str(), None, None:
            params = {"level": global_level}
        case None, str(), str():
            params = {"level": level, "facility": facility}
        case _:
            raise UsageError("Give either --global LEVEL, or --facility NAME --level LEVEL", f"levels: {_LEVELS}")
    levels = session.call("log_level.set", params)
    session.show(levels, tables.levels_view)
    _note_cost(session, levels)


cli.add_later(
    capture="mcr.cli.capture:capture",
    config="mcr.cli.config:config",
    confirm="mcr.cli.config:confirm_apply",
    doctor="mcr.cli.findings:doctor",
    events="mcr.cli.events:events",
    why="mcr.cli.findings:why",
    report="mcr.cli.report:write_report",
    top="mcr.cli.top:top",
    trace="mcr.cli.trace:trace",
)


def _watch(session: Session, which: dict[str, str] | None, show: Callable[[Any], None]) -> None:
    """Show the statistics once per second until Ctrl-C, which ends it and is no failure.

    If mcrd goes after the first time, or does not answer, it or the next one is waited for.
    """
    seen, waiting = False, ""  # what has been said of mcrd since it answered last
    with suppress(KeyboardInterrupt):
        while True:
            try:
                with session.connect() as daemon:
                    while True:
                        show(requests.read_stats(session, daemon.call, which))
                        seen, waiting = True, ""
                        time.sleep(_WATCH_INTERVAL)
            except McrError as error:
                if not (seen and error.passing):
                    raise _without_interval(error, which) from None
                waiting = told_of_waiting(error, waiting)
            time.sleep(_WATCH_INTERVAL)


def _without_interval(error: McrError, which: dict[str, str] | None) -> McrError:
    """Other programs take a number of seconds; here it is read as the name of a rule."""
    if error.code == RuleNotFound.code and which and which["rule"].replace(".", "", 1).isdecimal():
        error.hints = ("--watch takes no interval: it shows them every second", *error.hints)
    return error


def _statistics(session: Session, which: dict[str, str] | None, result: Any) -> str:
    with session.understand():
        if which:
            return tables.cut(tables.rule_stats_view(all_visible(result), terminal.width()), terminal.height())
        return tables.watched_view(all_visible(result), terminal.width(), terminal.height())


def _note_cost(session: Session, levels: dict[str, str]) -> None:
    """Say what these levels cost beside lines."""
    with session.understand():
        if not session.json and levels.get("ingress") in {"debug", "trace"}:
            terminal.show(_COST_OF_INGRESS, err=True)
