"""The two options that every command of `mcrctl` has."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mcr.cli import completion
from mcr.cli.session import Session
from mcr.config.paths import CONTROL_SOCKET_VARIABLE, DEFAULT_CONTROL_SOCKET

_F = TypeVar("_F", bound=Callable[..., Any])


def common_options(command: _F) -> _F:
    """Give a command the options that stand before or after it."""

    def set_socket(context: click.Context, _option: click.Parameter, path: str | None) -> None:
        if path is not None:
            context.ensure_object(Session).choose(path)

    def set_json(context: click.Context, _option: click.Parameter, chosen: bool) -> None:  # noqa: FBT001
        session = context.ensure_object(Session)
        session.json = session.json or chosen

    path = click.option(
        "--control-socket",
        metavar="PATH",
        expose_value=False,
        callback=set_socket,
        shell_complete=completion.files,
        help=f"Socket of the daemon.  [default: {CONTROL_SOCKET_VARIABLE}, or {DEFAULT_CONTROL_SOCKET}]",
    )
    as_json = click.option(
        "--json", is_flag=True, expose_value=False, callback=set_json, help="Print JSON, for machines."
    )
    return path(as_json(command))
