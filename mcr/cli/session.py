"""The parts that every command of `mcrctl` has: a daemon to ask, a way to show the answer.

Import-light: `mcr.cli.requests` needs it before click is there.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mcr.cli import terminal
from mcr.cli.client import CHANGING, Client
from mcr.config.paths import CONTROL_SOCKET_VARIABLE, DEFAULT_CONTROL_SOCKET
from mcr.errors import McrError, SystemFault
from mcr.text.visible import all_visible

DEFAULT = "the default"
"""Where the path of the control socket comes from if nobody has chosen one."""


class Session:
    """The values so far of the options that every command has."""

    def __init__(self) -> None:
        self.json = False
        self._changed = False
        self._visible: Any = None  # a result that has nothing to be spelled out
        if path := os.environ.get(CONTROL_SOCKET_VARIABLE):
            self.path, self.origin = path, f"from {CONTROL_SOCKET_VARIABLE}"
        else:
            self.path, self.origin = DEFAULT_CONTROL_SOCKET, DEFAULT

    def choose(self, path: str) -> None:
        """Ask at this control socket: an option says so."""
        self.path, self.origin = path, "from --control-socket"

    def connect(self) -> Client:
        """Connect to the daemon."""
        return Client(self.path, self.origin)

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Let the daemon carry out one method, on a connection of its own."""
        with self.connect() as daemon:
            result = daemon.call(method, params)
            self._visible = result if daemon.is_visible else None
        self._changed |= method in CHANGING
        return result

    def show(self, result: Any, view: Callable[[Any, int | None], str]) -> None:
        """Print a result: as it is for machines, as a view for people, with nothing in it that a terminal obeys."""
        with self.understand():
            if self.json:
                text = json.dumps(result, allow_nan=False)
            else:
                text = view(result if result is self._visible else all_visible(result), terminal.width())
        try:
            terminal.show(text)
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


def told_of_waiting(error: McrError, told: str) -> str:
    """Say that mcrd is waited for and why, unless that has been told; return what has been now."""
    what = f"mcrd {'does not answer: waiting until it does' if error.silent else 'has gone: waiting for the next one'}"
    if what != told:
        terminal.show(what, err=True)
    return what
