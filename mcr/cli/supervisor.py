"""The commands of `mcrd`."""

import os

import click
import trio

from mcr import __version__
from mcr.daemon import run_daemon
from mcr.errors import UsageError
from mcr.logs import setup_logging
from mcr.model import Level, LogLevels
from mcr.settings import Settings, from_environment

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
    r"""Run the relay in the foreground until SIGTERM or SIGINT.

    Rules are added and removed with mcrctl. On SIGTERM what has arrived is still sent.

    \b
    Environment variables:
      MCR_BUFFER_POOL_SMALL     packets a capture ring holds, of up to 2 KB  [2000]
      MCR_BUFFER_POOL_STANDARD  the same on interfaces with an MTU above 1920  [500]
      MCR_BUFFER_POOL_JUMBO     the same on interfaces with an MTU above 16256  [200]
      MCR_NUM_RECV_BUFFERS      packets a worker takes from a ring at a time  [32]
      MCR_SOCKET_SNDBUF         bytes that may wait in the socket of an output interface  [4194304]
      MCR_MAX_HOLD_US           how long a packet may wait for others at high rates; 0: never  [50]
      MCR_STATS_INTERVAL_MS     time between [STATS:...] lines; 0: every 100,000 packets  [0]
      MCR_ABSORB                1: packets that a rule takes end after their capture  [0]
    """
    if not control_socket:
        raise UsageError("The control socket's path is empty", "give one: --control-socket PATH, or leave it out")
    levels = LogLevels().with_global(Level.parse(log_level))
    chosen = Settings(control_socket, num_workers or len(os.sched_getaffinity(0)), levels)
    settings = from_environment(chosen, os.environ)
    setup_logging("json" if log_format == "json" else "text", levels)
    trio.run(run_daemon, settings)
