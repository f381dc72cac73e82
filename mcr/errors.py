"""Every error an operator can meet, by whose fault it is.

Rules of the module:

1. An error names the input and, in its hints, the remedy. It is printed as one ``Error: …`` line followed by
   ``hint: …`` lines.
2. An `McrError` may travel: over an actor's reply, over the control socket (`code`, message, hints), to an exit
   status. A bug is any other exception; it is never turned into one of these.
"""

import os
from copy import copy
from typing import Any, Self


class McrError(Exception):
    """An error for an operator or a client.

    Attributes:
        message: one line, without a trailing period.
        hints: what to do next, one line each.
    """

    code = -32000
    """Error code in a JSON-RPC reply. Codes from -32099 to -32000 are the server's own (JSON-RPC 2.0, 5.1)."""

    exit_status = 1
    """Exit status of the command that met it."""

    def __init__(self, message: str, *hints: str) -> None:
        super().__init__(message)
        self.message = message
        self.hints = hints

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is copied, and how it leaves another process: whatever its class is made of."""
        return _made_again, (type(self), self.args), self.__dict__

    def at(self, place: str) -> Self:
        """The same error, its message naming the part of the request that it is about."""
        copied = copy(self)
        copied.message = f"{self.message} ({place})"
        copied.args = (copied.message,)
        return copied


def _made_again(kind: type[McrError], args: tuple[object, ...]) -> McrError:
    return kind.__new__(kind, *args)


class UsageError(McrError):
    """The command line or an environment variable is wrong."""

    exit_status = 2


class ParseError(McrError):
    """A line on the control socket is not JSON."""

    code = -32700


class InvalidRequest(McrError):
    """A line on the control socket is JSON, but not a JSON-RPC 2.0 request."""

    code = -32600


class MethodNotFound(McrError):
    """The control protocol has no method of this name."""

    code = -32601


class InvalidParams(McrError):
    """A value in a request is malformed or out of range."""

    code = -32602


class RuleExists(McrError):
    """A second rule with the same input tuple, id or name."""

    code = -32001


class RuleNotFound(McrError):
    """No rule has the id or name asked for."""

    code = -32002


class InterfaceNotFound(McrError):
    """No network interface has this name."""

    code = -32003


class LimitReached(McrError):
    """The request is sound, but a documented limit of the product is in the way."""

    code = -32004


class SystemFault(McrError):
    """The operating system refused something: `step` says what, `errno` says why.

    A `step` of ``""`` renders the system's message alone.
    """

    code = -32005

    def __init__(self, step: str, errno: int, *hints: str) -> None:
        text = describe_errno(errno)
        super().__init__(f"{step}: {text}" if step else text, *hints)
        self.errno = errno


class ShuttingDown(McrError):
    """The daemon is stopping and takes no more requests."""

    code = -32006


class NotPermitted(McrError):
    """The user of the client may read, but not change anything."""

    code = -32007


class RuleInFile(McrError):
    """The rule stands in a configuration file: it is changed and removed there."""

    code = -32008


def check_result(result: int) -> int:
    """The result of a native function, unless it is an -errno.

    Raises:
        OSError: it is one.
    """
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def describe_errno(errno: int) -> str:
    """Render an errno the one way scripts may rely on: ``Permission denied (os error 13)``."""
    return f"{os.strerror(errno)} (os error {errno})"
