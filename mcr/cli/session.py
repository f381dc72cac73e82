"""The parts that every command of `mcrctl` has: a daemon to ask, two options, a way to show the answer."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from mcr.cli import completion
from mcr.cli.client import CHANGING, Client
from mcr.config.paths import CONTROL_SOCKET_VARIABLE, DEFAULT_CONTROL_SOCKET
from mcr.errors import McrError, SystemFault
from mcr.text.visible import all_visible

DEFAULT = "the default"
"""Where the path of the control socket comes from if nobody has chosen one."""

_F = TypeVar("_F", bound=Callable[..., Any])


class Session:
    """The values so far of the options that every command has."""

    def __init__(self) -> None:
        self.json = False
        self._changed = False
        if path := os.environ.get(CONTROL_SOCKET_VARIABLE):
            self.path, self.origin = path, f"from {CONTROL_SOCKET_VARIABLE}"
        else:
            self.path, self.origin = DEFAULT_CONTROL_SOCKET, DEFAULT

    def connect(self) -> Client:
        """Connect to the daemon."""
        return Client(self.path, self.origin)

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Let the daemon carry out one method, on a connection of its own."""
        with self.connect() as daemon:
            result = daemon.call(method, params)
        self._changed |= method in CHANGING
        return result

    def show(self, result: Any, view: Callable[[Any, int | None], str]) -> None:
        """Print a result: as it is for machines, as a view for people, with nothing in it that a terminal obeys."""
        with self.understand():
            text = json.dumps(result, allow_nan=False) if self.json else view(all_visible(result), terminal_width())
        try:
            click.echo(text, color=False if os.environ.get("NO_COLOR") else None)
        except SystemFault as error:
            if self._changed:
                error.hints = (*error.hints, "the change was carried out all the same")
            raise

    @contextmanager
    def understand(self) -> Iterator[None]:
        """Use a result. One of another make than this mcrctl expects is no reason for a traceback.

        Raises:
            McrError: it is not as it should be.
        """
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise McrError(
                f"The program that answers on {self.path} does not answer as this mcrctl expects",
                f"it is not mcrd, or one of another version: mcrctl version ({type(error).__name__}: {error})",
            ) from error


def common_options(command: _F) -> _F:
    """Give a command the options that stand before or after it."""

    def set_socket(context: click.Context, _option: click.Parameter, path: str | None) -> None:
        if path is not None:
            session = context.ensure_object(Session)
            session.path, session.origin = path, "from --control-socket"

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


def terminal_width() -> int | None:
    """Columns of the terminal, None if standard output is not one."""
    return _terminal_size()[0] or None


def terminal_height() -> int | None:
    """Lines of the terminal, None if standard output is not one."""
    return _terminal_size()[1] or None


def _terminal_size() -> tuple[int, int]:
    try:
        return os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 0, 0
