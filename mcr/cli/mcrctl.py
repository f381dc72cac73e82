"""`mcrctl`: an operator's commands to a running mcrd.

Rules of the module:

1. It reads a command line and draws an answer. Values are judged by the daemon, which any client may ask.
2. Every import here is paid by every command: rich comes only when it is needed, attrs and trio never.
"""

import errno
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import click

import mcr
from mcr.cli import completion, tables
from mcr.cli.config import config
from mcr.cli.failure import report, run
from mcr.cli.findings import doctor, why
from mcr.cli.report import write_report
from mcr.cli.rule_words import name_lines, read_batch, rule_options, rule_params
from mcr.cli.session import Session, common_options, terminal_height, terminal_width
from mcr.errors import McrError, SystemFault, UsageError
from mcr.process import streams
from mcr.text.plurals import counted
from mcr.text.visible import all_visible, visible

_WATCH_INTERVAL = 1
_COST_OF_INGRESS = (
    "Note: while ingress logs at debug or trace, the capture filters admit all UDP on the input interfaces: what no "
    "rule takes costs the workers processor time, and places in the capture rings. "
    "Set it back: mcrctl log-level set --facility ingress --level info"
)
_LEVELS = "emergency, alert, critical, error, warning, notice, info, debug, trace"


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mcr.__version__, prog_name="mcrctl")
@common_options
def cli() -> None:
    """Control a running mcrd, the daemon of the MCR multicast relay."""


@cli.command()
@rule_options
@click.option(
    "--batch",
    metavar="FILE|-",
    shell_complete=completion.files,
    help="Add the rules of a file, one rule per line, written as the options above.",
)
@click.option("--wait", is_flag=True, help="Wait for interfaces that are not there, instead of refusing the rule.")
@common_options
@click.pass_obj
def add(session: Session, /, batch: str | None, wait: bool, **options: Any) -> None:  # noqa: FBT001 - by name
    """Add a rule, or with --batch all rules of a file or none."""
    waiting = {"wait": True} if wait else {}
    if batch is None:
        added = session.call("add", {"rules": [rule_params(options)], **waiting})
        session.show(added, lambda rules, _width: f"Added rule {rules[0]['rule_id']}")
        _warn(session, added)
        _check_active(session, added)
        return
    if any(options.values()):
        raise UsageError("--batch takes no other options of a rule", "write the rule's options on a line of the file")
    rules, places = read_batch(batch)
    try:
        added = session.call("add", {"rules": rules, **waiting})
    except McrError as error:
        raise name_lines(error, places) from None
    session.show(added, lambda rules, _width: f"Added {counted(len(rules), 'rule')}")
    _warn(session, added)
    _check_active(session, added)


@cli.command()
@click.option("--rule-id", metavar="ID", shell_complete=completion.rule_ids, help="Id of the rule.")
@click.option("--name", shell_complete=completion.rule_names, help="Name of the rule.")
@common_options
@click.pass_obj
def remove(session: Session, rule_id: str | None, name: str | None) -> None:
    """Remove a rule."""
    if (rule_id is None) == (name is None):
        raise UsageError("Give either --rule-id or --name", "ids and names are shown by: mcrctl list")
    removed = session.call("remove", {"name": name} if rule_id is None else {"rule_id": rule_id})
    session.show(removed, lambda rule, _width: f"Removed rule {rule['rule_id']}")


@cli.command("list")
@common_options
@click.pass_obj
def list_rules(session: Session) -> None:
    """Show the rules."""
    session.show(session.call("list"), tables.rules_view)


@cli.command()
@click.option("--watch", is_flag=True, help="Show them again every second, until Ctrl-C.")
@common_options
@click.pass_obj
def stats(session: Session, *, watch: bool) -> None:
    """Show what was received, sent and lost, and why."""
    if not watch:
        session.show(session.call("stats"), tables.stats_view)
    elif session.json or not sys.stdout.isatty():
        _watch(session, lambda result: session.show(result, lambda *view: f"{tables.stats_view(*view)}\n"))
    else:
        from rich.live import Live  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        with Live(auto_refresh=False) as live:
            _watch(
                session,
                lambda result: live.update(Text.from_ansi(_statistics(session, result)), refresh=True),
            )


@cli.command("list-workers")
@common_options
@click.pass_obj
def list_workers(session: Session) -> None:
    """Show the worker processes."""
    session.show(session.call("list_workers"), tables.workers_view)


@cli.command()
@common_options
@click.pass_obj
def ping(session: Session) -> None:
    """Ask whether mcrd answers."""
    with session.connect() as daemon:
        started = time.perf_counter()
        pong = daemon.call("ping")
        milliseconds = (time.perf_counter() - started) * 1_000
    session.show(pong, lambda *_: f"mcrd answered on {session.path} in {milliseconds:.1f} ms")


@cli.command()
@common_options
@click.pass_obj
def version(session: Session) -> None:
    """Show the version of mcrctl and of mcrd."""
    try:
        daemon, state = session.call("version"), ""
    except McrError as error:
        daemon, state = None, f"mcrd cannot be asked: {visible(error.message)}"
    session.show(
        {"mcrctl": mcr.__version__, "mcrd": daemon},
        lambda versions, _width: (
            f"mcrctl {mcr.__version__}\n{_daemon_version(versions['mcrd']) if versions['mcrd'] else state}"
        ),
    )


def _daemon_version(daemon: dict[str, Any]) -> str:
    return f"mcrd {daemon['version']}, process {daemon['pid']}, protocol {daemon['protocol']}"


@cli.command()
@common_options
@click.pass_obj
def settings(session: Session) -> None:
    """Show the settings of mcrd, what is in force, and where each comes from."""
    session.show(session.call("settings"), tables.settings_view)


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


cli.add_command(config)
cli.add_command(doctor)
cli.add_command(why)
cli.add_command(write_report)


def main() -> None:
    """The entry point, called by `mcr.cli.start`."""
    streams.open_standard_descriptors()
    streams.report_errors()
    if sys.stdout is None:
        sys.exit(report(SystemFault("Cannot write to standard output", errno.EBADF)))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `mcrctl list | head` ends quietly, as other tools do
    sys.exit(run(cli, "mcrctl"))


def _watch(session: Session, show: Callable[[Any], None]) -> None:
    """Show the statistics once per second until Ctrl-C, which ends it and is no failure."""
    try:
        with session.connect() as daemon:
            while True:
                show(daemon.call("stats"))
                time.sleep(_WATCH_INTERVAL)
    except KeyboardInterrupt:
        pass


def _statistics(session: Session, result: Any) -> str:
    with session.understand():
        return tables.watched_view(all_visible(result), terminal_width(), terminal_height())


def _note_cost(session: Session, levels: dict[str, str]) -> None:
    """Say what these levels cost beside lines."""
    with session.understand():
        if levels.get("ingress") in {"debug", "trace"}:
            click.echo(_COST_OF_INGRESS, err=True)


def _warn(session: Session, added: list[dict[str, Any]]) -> None:
    """Print warnings about rules that were added, and reasons why they are not served now."""
    said: dict[str, list[str]] = {}
    with session.understand():
        for rule in all_visible(added):
            for what in (*rule.get("warnings", ()), rule.get("reason") if rule["state"] != "pending" else ""):
                if what:
                    said.setdefault(what, []).append(rule["rule_id"])
    for what, rules in said.items():
        others = f" (and {len(rules) - 1:,} more rules)" if len(rules) > 1 else ""
        click.echo(f"Warning: rule {rules[0]}{others}: {what}", err=True)


def _check_active(session: Session, added: list[dict[str, Any]]) -> None:
    """Fail if rules were added that not every worker forwards by yet."""
    with session.understand():
        pending = [rule["rule_id"] for rule in added if rule["state"] == "pending"]
    if pending:
        which, them = (f"rule {pending[0]} is", "it") if len(pending) == 1 else (f"{len(pending):,} rules are", "them")
        raise McrError(
            f"The {which} in place, but not active yet: not every worker has acknowledged {them} yet",
            "see how the workers are: mcrctl list-workers",
            "see when it becomes active: mcrctl list",
        )
