"""`mcrctl`: what an operator asks of a running mcrd.

Rules of the module:

1. It reads a command line and draws an answer. Values are judged by the daemon, which any client may ask.
2. Every import here is paid by every command: rich comes only when it is needed, attrs and trio never.
"""

import errno
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, TypeVar

import click

import mcr
from mcr.cli import tables
from mcr.cli.client import CONTROL_SOCKET_VARIABLE, DEFAULT_CONTROL_SOCKET, Client
from mcr.cli.failure import report, run, usage_error
from mcr.errors import McrError, SystemFault, UsageError

_WATCH_INTERVAL = 1
_LEVELS = "emergency, alert, critical, error, warning, notice, info, debug, trace"
_OUTPUT_OPTIONS = ("gso",)
_EXAMPLE = "for example: --outputs 239.2.2.2:5000:eth1,239.2.2.3:5000:eth2"

_F = TypeVar("_F", bound=Callable[..., Any])


class _Session:
    """What the options that every command has have said so far."""

    def __init__(self) -> None:
        self.json = False
        if path := os.environ.get(CONTROL_SOCKET_VARIABLE):
            self.path, self.origin = path, f"from {CONTROL_SOCKET_VARIABLE}"
        else:
            self.path, self.origin = DEFAULT_CONTROL_SOCKET, "the default"

    def connect(self) -> Client:
        return Client(self.path, self.origin)

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        with self.connect() as daemon:
            return daemon.call(method, params)

    def show(self, result: Any, view: Callable[[Any, int | None], str]) -> None:
        """Print a result: as it is for machines, as a view for people."""
        _print(json.dumps(result) if self.json else view(result, _terminal_width()))


def _common_options(command: _F) -> _F:
    """Give a command the options that stand before or after it."""

    def set_socket(context: click.Context, _option: click.Parameter, path: str | None) -> None:
        if path is not None:
            session = context.ensure_object(_Session)
            session.path, session.origin = path, "from --control-socket"

    def set_json(context: click.Context, _option: click.Parameter, chosen: bool) -> None:  # noqa: FBT001
        session = context.ensure_object(_Session)
        session.json = session.json or chosen

    path = click.option(
        "--control-socket",
        metavar="PATH",
        expose_value=False,
        callback=set_socket,
        help=f"Socket of the daemon.  [default: {CONTROL_SOCKET_VARIABLE}, or {DEFAULT_CONTROL_SOCKET}]",
    )
    as_json = click.option(
        "--json", is_flag=True, expose_value=False, callback=set_json, help="Print JSON, for machines."
    )
    return path(as_json(command))


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mcr.__version__, prog_name="mcrctl")
@_common_options
def cli() -> None:
    """Control a running mcrd, the daemon of the MCR multicast relay."""


def _rule_options(command: _F) -> _F:
    """Give a command the options that make a rule."""
    options = (
        click.option("--input-interface", metavar="IF", help="Interface that datagrams arrive on."),
        click.option("--input-group", metavar="G", help="Multicast group they are sent to."),
        click.option("--input-port", metavar="P", type=int, help="UDP port they are sent to."),
        click.option(
            "--outputs",
            metavar="G:P:IF[,G:P:IF...]",
            multiple=True,
            help="Where to send them: group or host, port, interface to leave by. With :gso=N or :gso=off behind it, "
            "at most N datagrams, or one, leave in one system call (2 to 64; not given: 16).",
        ),
        click.option("--rule-id", metavar="ID", help="Id of the rule.  [default: a hash of the input]"),
        click.option("--name", help="Name of the rule, for people."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@_rule_options
@click.option("--batch", metavar="FILE|-", help="Add the rules of a file: the options above, a rule a line.")
@_common_options
@click.pass_obj
def add(session: _Session, /, batch: str | None, **options: Any) -> None:
    """Add a rule, or with --batch all rules of a file or none."""
    if batch is None:
        (rule,) = session.call("add", {"rules": [_rule(options)]})
        session.show([rule], lambda _rules, _width: f"Added rule {rule['rule_id']}")
        _check_active([rule])
        return
    if any(options.values()):
        raise UsageError("--batch stands alone", "write the rule's options on a line of the file")
    rules, places = _read_batch(batch)
    try:
        added = session.call("add", {"rules": rules})
    except McrError as error:
        raise McrError(_name_lines(error.message, places), *error.hints) from None
    session.show(added, lambda _rules, _width: f"Added {len(added):,} rule{'' if len(added) == 1 else 's'}")
    _check_active(added)


@cli.command()
@click.option("--rule-id", metavar="ID", help="Id of the rule.")
@click.option("--name", help="Name of the rule.")
@_common_options
@click.pass_obj
def remove(session: _Session, rule_id: str | None, name: str | None) -> None:
    """Remove a rule."""
    if (rule_id is None) == (name is None):
        raise UsageError("Give either --rule-id or --name", "ids and names are shown by: mcrctl list")
    removed = session.call("remove", {"name": name} if rule_id is None else {"rule_id": rule_id})
    session.show(removed, lambda rule, _width: f"Removed rule {rule['rule_id']}")


@cli.command("list")
@_common_options
@click.pass_obj
def list_rules(session: _Session) -> None:
    """Show the rules."""
    session.show(session.call("list"), tables.rules_view)


@cli.command()
@click.option("--watch", is_flag=True, help="Show them again every second, until Ctrl-C.")
@_common_options
@click.pass_obj
def stats(session: _Session, *, watch: bool) -> None:
    """Show what came in, what went out, what was lost and why."""
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
                lambda result: live.update(Text.from_ansi(tables.stats_view(result, _terminal_width())), refresh=True),
            )


@cli.command("list-workers")
@_common_options
@click.pass_obj
def list_workers(session: _Session) -> None:
    """Show the worker processes."""
    session.show(session.call("list_workers"), tables.workers_view)


@cli.command()
@_common_options
@click.pass_obj
def ping(session: _Session) -> None:
    """Ask whether mcrd answers."""
    with session.connect() as daemon:
        started = time.perf_counter()
        pong = daemon.call("ping")
        milliseconds = (time.perf_counter() - started) * 1_000
    session.show(pong, lambda *_: f"mcrd answered on {session.path} in {milliseconds:.1f} ms")


@cli.command()
@_common_options
@click.pass_obj
def version(session: _Session) -> None:
    """Show the version of mcrctl and, if it can be asked, of mcrd."""
    try:
        daemon, state = session.call("version"), ""
    except McrError as error:
        daemon, state = None, f"mcrd cannot be asked: {error.message}"
    session.show(
        {"mcrctl": mcr.__version__, "mcrd": daemon},
        lambda *_: (
            f"mcrctl {mcr.__version__}\n"
            + (f"mcrd {daemon['version']}, process {daemon['pid']}, protocol {daemon['protocol']}" if daemon else state)
        ),
    )


@cli.group("log-level", no_args_is_help=False)
@_common_options
def log_level() -> None:
    """Show or set how much mcrd logs."""


@log_level.command("get")
@_common_options
@click.pass_obj
def get_log_level(session: _Session) -> None:
    """Show the level of every facility."""
    session.show(session.call("log_level.get"), tables.levels_view)


@log_level.command("set")
@click.option("--global", "global_level", metavar="LEVEL", help=f"Level of every facility: {_LEVELS}.")
@click.option("--facility", metavar="NAME", help="Facility to set alone; see: mcrctl log-level get.")
@click.option("--level", metavar="LEVEL", help="Level of this facility.")
@_common_options
@click.pass_obj
def set_log_level(session: _Session, global_level: str | None, facility: str | None, level: str | None) -> None:
    """Set the level of every facility, or of one."""
    match global_level, facility, level:
        case str(), None, None:
            params = {"level": global_level}
        case None, str(), str():
            params = {"level": level, "facility": facility}
        case _:
            raise UsageError("Give either --global LEVEL, or --facility NAME --level LEVEL", f"levels: {_LEVELS}")
    session.show(session.call("log_level.set", params), tables.levels_view)


def main() -> None:
    """Entry point of `mcrctl`."""
    if sys.stdout is None:
        sys.exit(report(SystemFault("Cannot write to standard output", errno.EBADF)))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `mcrctl list | head` ends quietly, as other tools do
    sys.exit(run(cli, "mcrctl"))


def _watch(session: _Session, show: Callable[[Any], None]) -> None:
    """Show the statistics once a second until Ctrl-C, which is the way to end it and no failure."""
    try:
        with session.connect() as daemon:
            while True:
                show(daemon.call("stats"))
                time.sleep(_WATCH_INTERVAL)
    except KeyboardInterrupt:
        pass


def _print(text: str) -> None:
    try:
        click.echo(text, color=False if os.environ.get("NO_COLOR") else None)
    except OSError as error:
        # What is still buffered would fail again, with a traceback, when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemFault("Cannot write to standard output", error.errno or 0) from None


def _terminal_width() -> int | None:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return None


# Rules on the command line and in files.


def _rule(options: dict[str, Any]) -> dict[str, Any]:
    """The rule, as the protocol spells it."""
    needed = ("input_interface", "input_group", "input_port", "outputs")
    if missing := [f"--{name.replace('_', '-')}" for name in needed if options[name] in (None, ())]:
        raise UsageError(f"Missing: {', '.join(missing)}", "see: mcrctl add --help")
    return {
        "input": {name: options[f"input_{name}"] for name in ("interface", "group", "port")},
        "outputs": [_output(text.strip()) for texts in options["outputs"] for text in texts.split(",")],
        "rule_id": options["rule_id"],
        "name": options["name"],
    }


def _output(text: str) -> dict[str, Any]:
    parts = text.split(":")
    names = ("group", "port", "interface")
    missing = [name for name, part in zip_longest(names, parts) if name and not part]
    if missing:
        raise UsageError(f"Invalid output {text!r}: {' and '.join(missing)} missing in G:P:IF", _EXAMPLE)
    group, port, interface, *options = parts
    if not (port.isascii() and port.isdecimal()):
        raise UsageError(f"Invalid output {text!r}: the port {port!r} is not a number", _EXAMPLE)
    return {"group": group, "port": int(port), "interface": interface, **_output_options(text, options)}


def _output_options(text: str, options: list[str]) -> dict[str, str]:
    """What may follow an output's interface: `:gso=off`."""
    chosen: dict[str, str] = {}
    for option in options:
        name, given, value = option.partition("=")
        if name not in _OUTPUT_OPTIONS or not given or name in chosen:
            raise UsageError(
                f"Invalid output {text!r}: {option!r} is not an option of an output",
                f"after G:P:IF, each once: {', '.join(f':{known}=…' for known in _OUTPUT_OPTIONS)}",
                _EXAMPLE,
            )
        chosen[name] = value
    return chosen


@click.command(add_help_option=False)
@_rule_options
def _batch_line(**_: Any) -> None:
    """Parses a line of a batch; never run."""


_PLAIN = {option.opts[0]: option.name for option in _batch_line.params if option.name}


def _plain_options(words: list[str]) -> dict[str, Any] | None:
    """What click would make of a line of plain options and values, twenty times as fast; None for any other line."""
    options: dict[str, Any] = dict.fromkeys(_PLAIN.values())
    options["outputs"] = ()
    for option, value in zip_longest(words[::2], words[1::2], fillvalue=""):
        name = _PLAIN.get(option)
        if not name or not value or value.startswith("-"):
            return None
        if name == "input_port":
            if not (value.isascii() and value.isdecimal()):
                return None
            options[name] = int(value)
        else:
            options[name] = (*options[name], value) if name == "outputs" else value
    return options


def _read_batch(file: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rules of a file, and the place where each stands."""
    name = "<stdin>" if file == "-" else file
    try:
        with click.open_file(file, "rb") as stream:
            lines = stream.read().split(b"\n")
    except OSError as error:
        raise SystemFault(f"Cannot read {name}", error.errno or 0) from None
    rules, places = [], []
    for number, line in enumerate(lines, 1):
        place = f"{name}:{number}"
        try:
            if words := _words(line.decode()):
                rules.append(_rule(_plain_options(words) or _batch_line.make_context("mcrctl add", words).params))
                places.append(place)
        except click.UsageError as error:
            fault = usage_error(error)
            raise UsageError(f"{place}: {fault.message}", *fault.hints) from None
        except UsageError as error:
            raise UsageError(f"{place}: {error.message}", *error.hints) from None
        except ValueError as error:  # not UTF-8, or a quotation that does not end
            raise UsageError(f"{place}: {error}") from None
    if not rules:
        raise UsageError(f"No rules in {name}", "a line is such as: --input-interface eth0 --input-group 239.1.1.1 ...")
    return rules, places


_SPECIAL = re.compile(r"""['"\\#]|[^\x00-\x7f]""")
_QUOTED_OR_COMMENT = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*"|\\.)|(?<!\S)#.*""")


def _words(line: str) -> list[str]:
    """Split a line as a shell would; shlex alone would take a # in the middle of a word for a comment."""
    if not _SPECIAL.search(line):
        return line.split()  # the same, and 50 times as fast
    return shlex.split(_QUOTED_OR_COMMENT.sub(lambda match: match[1] or "", line))


def _check_active(added: list[dict[str, Any]]) -> None:
    """Fail for rules that were added and that no worker forwards by yet."""
    pending = [rule["rule_id"] for rule in added if rule["state"] != "active"]
    if pending:
        which = f"rule {pending[0]} is" if len(pending) == 1 else f"{len(pending):,} rules are"
        raise McrError(
            f"The {which} in place, but not active yet: no worker has acknowledged it in time",
            "see how the workers are: mcrctl list-workers",
            "see when it becomes active: mcrctl list",
        )


def _name_lines(message: str, places: list[str]) -> str:
    """Put lines of the batch in place of the rules that the daemon counts."""
    return re.sub(r"\brules\[(\d+)\](\.?)", lambda match: places[int(match[1])] + (", " if match[2] else ""), message)
