"""The commands of `mcrd`."""

import os

import click
import trio

from mcr import __version__
from mcr.daemon import Settings, run_daemon
from mcr.errors import UsageError
from mcr.logs import setup_logging
from mcr.model import Level, LogLevels

MAX_WORKERS = 256


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mcrd")
def mcrd() -> None:
    """The multicast relay daemon."""


@mcrd.command()
@click.option(
    "--control-socket",
    metavar="PATH",
    envvar="MCR_CONTROL_SOCKET",
    default="/run/mcr/control.sock",
    show_default=True,
    show_envvar=True,
    help="Unix socket on which mcrctl is answered.",
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
    help="How lines on standard error look.",
)
@click.option(
    "--log-level",
    metavar="LEVEL",
    default=Level.INFO.label,
    show_default=True,
    help=f"Least grave level that is logged: {', '.join(level.label for level in Level)}.",
)
def supervisor(*, control_socket: str, num_workers: int | None, log_format: str, log_level: str) -> None:
    """Run the relay in the foreground until SIGTERM or SIGINT.

    Rules are added and removed with mcrctl. On SIGTERM what has arrived is still sent.
    """
    if not control_socket:
        raise UsageError("The control socket's path is empty", "give one: --control-socket PATH, or leave it out")
    levels = LogLevels().with_global(Level.parse(log_level))
    settings = Settings(control_socket, num_workers or len(os.sched_getaffinity(0)), levels)
    setup_logging("json" if log_format == "json" else "text", levels)
    trio.run(run_daemon, settings)
