"""The commands of `mcrd`."""

import difflib
import os

import click
import trio
from click.core import ParameterSource

from mcr import __version__
from mcr.cli import completion
from mcr.config.settings import CONTROL_SOCKET, VARIABLES, Settings, from_environment
from mcr.daemon import run_daemon
from mcr.errors import InvalidParams, UsageError
from mcr.logs.logger import setup_logging
from mcr.model.log import Level, LogLevels
from mcr.model.setting import SettingView
from mcr.process.streams import spare_errors
from mcr.worker.policy import usable_cores

MAX_WORKERS = 256


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mcrd")
def mcrd() -> None:
    """The multicast relay daemon."""


class _WithVariables(click.Command):
    """A command whose help lists the environment variables that are no option's."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Environment variables"):
            formatter.write_dl([(each.name, f"{each.meaning}  [default: {each.default}]") for each in VARIABLES])
        super().format_epilog(ctx, formatter)


@mcrd.command(cls=_WithVariables)
@click.option(
    "--control-socket",
    metavar="PATH",
    shell_complete=completion.files,
    envvar=CONTROL_SOCKET,
    default="/run/mcr/control.sock",
    show_default=True,
    show_envvar=True,
    help="Unix socket that mcrctl connects to.",
)
@click.option(
    "--num-workers",
    metavar="N",
    type=click.IntRange(1, MAX_WORKERS),
    help="Worker processes, which share every input interface.  [default: one a core]",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of log lines on standard error.",
)
@click.option(
    "--log-level",
    metavar="LEVEL",
    shell_complete=completion.levels,
    default=Level.INFO.label,
    show_default=True,
    help=f"Lowest level that is logged: {', '.join(level.label for level in Level)}.",
)
@click.pass_context
def supervisor(
    context: click.Context, /, *, control_socket: str, num_workers: int | None, log_format: str, log_level: str
) -> None:
    """Run the relay in the foreground until SIGTERM or SIGINT.

    Rules are added and removed with mcrctl. On SIGTERM what has arrived is still sent. SIGHUP sets the log levels back
    to --log-level and ends nothing: mcrd goes on when its terminal is closed.
    """
    if not control_socket:
        raise UsageError("The control socket's path is empty", "give one: --control-socket PATH, or leave it out")
    levels = LogLevels().with_global(_level(log_level))
    chosen = Settings(control_socket, num_workers or len(usable_cores()), levels, views=_option_views(context))
    settings = from_environment(chosen, os.environ)
    spare_errors()
    setup_logging("json" if log_format == "json" else "text", levels)
    trio.run(run_daemon, settings)


def _level(text: str) -> Level:
    try:
        return Level.parse(text)
    except InvalidParams as error:
        nearest = difflib.get_close_matches(text, [level.label for level in Level], n=1)
        hints = [f"did you mean {nearest[0]}?"] if nearest else []
        raise UsageError(f"Invalid --log-level: {text!r}", *hints, *error.hints) from None


def _option_views(context: click.Context) -> tuple[SettingView, ...]:
    """The options, as given or not."""
    views = []
    for option in context.command.params:
        assert isinstance(option, click.Option)
        assert option.name
        default = "one a core" if option.name == "num_workers" else str(option.default)
        source = context.get_parameter_source(option.name)
        given = source is not ParameterSource.DEFAULT
        views.append(
            SettingView(
                name=option.opts[0],
                value=str(context.params[option.name]) if given else default,
                default=default,
                source=str(source and source.name.lower().replace("commandline", "command line")),
                meaning=option.help or "",
            )
        )
    return tuple(views)
