"""The commands of `mcrd`."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import trio
from click.core import ParameterSource

from mcr import __version__
from mcr.cli import completion, terminal
from mcr.cli.command import Command, Group
from mcr.cli.config import fault_lines, refuse_faults
from mcr.config.file import ConfigurationPaths
from mcr.config.kinds import FilePath, Kind, Listening, LogLevel, Switch, Whole, Word
from mcr.config.paths import CONFIGURATION, DEFAULT_CONTROL_SOCKET, METRICS_SOCKET
from mcr.config.settings import settings_from
from mcr.config.table import CONTROL_SOCKET, METRICS, STATE_DIR, TABLE, VARIABLES, Given, Setting, Source, choose
from mcr.daemon import run_daemon
from mcr.errors import UsageError
from mcr.logs.control import setup_logging
from mcr.logs.logger import get_logger
from mcr.model.endpoint import UnixEndpoint
from mcr.model.log import Facility
from mcr.process.streams import ignore_write_errors

log = get_logger(Facility.SUPERVISOR)

_F = TypeVar("_F", bound=Callable[..., Any])


@click.group(cls=Group, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mcrd")
def mcrd() -> None:
    """The multicast relay daemon."""


class _WithVariables(Command):
    """A command whose help lists the environment variables that are no option's."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Environment variables"):
            formatter.write_dl(
                [(each.variable, f"{each.meaning}  [default: {each.default_text}]") for each in VARIABLES]
            )
        super().format_epilog(ctx, formatter)


def _options(command: _F) -> _F:
    """Give a command the options of the settings."""
    for setting in reversed(TABLE):
        if setting.option:
            command = _option(setting)(command)
    return command


def _option(setting: Setting[Any]) -> Callable[[_F], _F]:
    computed = f"  [default: {setting.default_words}]" if setting.default_words else ""
    common = {
        "default": None if computed else setting.default_text,
        "show_default": not computed,
        "envvar": setting.variable or None,
        "show_envvar": bool(setting.variable),
        "help": setting.sentence + computed,
    }
    return click.option(setting.option, setting.name, **common | _of_kind(setting.kind))


def _of_kind(kind: Kind[Any]) -> dict[str, Any]:
    """How click takes values of a kind."""
    match kind:
        case FilePath():
            return {"metavar": "PATH", "shell_complete": completion.files}
        case Whole() | Listening():
            return {"metavar": kind.form}
        case Word(words):
            return {
                "metavar": "|".join(words),
                "shell_complete": lambda _context, _option, start: [word for word in words if word.startswith(start)],
            }
        case LogLevel():
            return {"metavar": "LEVEL", "shell_complete": completion.levels}
        case Switch():
            return {"is_flag": True, "default": False, "show_default": False}
    return {}


@mcrd.command(cls=_WithVariables)
@click.option(
    "--config",
    "config_paths",
    metavar="PATH",
    multiple=True,
    shell_complete=completion.files,
    help="Configuration file, or directory of *.toml files; may be given several times.  "
    f"[default: {' and '.join(CONFIGURATION)}, if they are there and the control socket is the default]",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Go on where the mcrd that serves the control socket is: it hands everything on, and ends. Forwarding and "
    "counters go on, and no group is left. A service does so by itself: systemctl restart mcrd",
)
@_options
@click.pass_context
def supervisor(context: click.Context, /, config_paths: tuple[str, ...], *, take_over: bool, **values: Any) -> None:
    """Run the relay in the foreground until SIGTERM or SIGINT.

    Rules stand in configuration files, or are added and removed with mcrctl. On SIGTERM mcrd sends the packets that
    have arrived, and ends; where a service manager keeps its workers for the next mcrd, they go on. On SIGHUP it reads
    the configuration files again, and sets the log levels back to those of the start; it goes on when its terminal is
    closed.
    """
    options = {
        setting.option: _text(values[setting.name])
        for setting in TABLE
        if context.get_parameter_source(setting.name) is ParameterSource.COMMANDLINE
    }
    given: Given = {Source.COMMAND_LINE: options, Source.ENVIRONMENT: os.environ}
    paths = configuration_paths(config_paths, given)
    configuration = paths.read()
    for line in fault_lines(configuration.faults):
        terminal.show(line, err=True)
    refuse_faults(configuration.faults)
    given = {**given, Source.FILE: configuration.settings, Source.ENVIRONMENT: environment(configuration.settings)}
    settings = settings_from(given)
    ignore_write_errors()
    setup_logging("json" if settings.log_format == "json" else "text", settings.levels)
    for warning in configuration.warnings:
        log.warning("%s", warning)
    if not (config_paths or configuration.files) and ConfigurationPaths(CONFIGURATION, must_exist=False).are_there():
        log.notice(
            "%s are not read: they are for the mcrd whose control socket is %s; to have this one read them: --config",
            *(" and ".join(CONFIGURATION), DEFAULT_CONTROL_SOCKET),
        )
    try:
        trio.run(partial(run_daemon, settings, paths, configuration, take_over=take_over))
    finally:
        logging.shutdown()  # what led to an error stands above it


def configuration_paths(chosen: tuple[str, ...], given: Given) -> ConfigurationPaths:
    """Where to look for configuration. The service's is not for another mcrd, which has a control socket of its own."""
    if chosen:
        return ConfigurationPaths(tuple(map(_absolute, chosen)))
    is_service = choose(CONTROL_SOCKET, given).value == DEFAULT_CONTROL_SOCKET
    return ConfigurationPaths(CONFIGURATION if is_service else (), must_exist=False)


def _absolute(path: str) -> str:
    """The path as whoever reads a message of mcrd can use it, who is in another directory. `..` behind links stays.

    Raises:
        UsageError: it begins in the working directory, and that was deleted.
    """
    if not path or Path(path).is_absolute():
        return path
    try:
        return os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118 - a path such as ./x stays
    except FileNotFoundError:
        raise UsageError(
            f"Cannot read {path}: the working directory is gone", "give a path that begins with /"
        ) from None


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def environment(in_files: Mapping[str, str]) -> Mapping[str, str]:
    """With what the directories that systemd has made for a service are for, if it has (systemd.exec(5)).

    Rules are saved in the state directory; metrics are served in the runtime directory.

    Args:
        in_files: settings of configuration files, which count before that.
    """
    state, runtime = (os.environ.get(name, "").split(":")[0] for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"))
    made: dict[Setting[Any], str] = {
        STATE_DIR: state,
        METRICS: str(UnixEndpoint(f"{runtime}/{METRICS_SOCKET}")) if runtime else "",
    }
    return os.environ | {
        setting.variable: value
        for setting, value in made.items()
        if setting.name not in in_files and not os.environ.get(setting.variable)
    }
