"""Every error an operator can meet, by whose fault it is.

Rules of the module:

1. An error names the input and, in its hints, the remedy. It is printed as one ``Error: …`` line followed by
   ``hint: …`` lines.
2. An `McrError` may travel: over an actor's reply, over the control socket (`code`, message, hints), to an exit
   status. A bug is any other exception; it is never turned into one of these.
"""

import os
from collections.abc import Callable, Sequence
from errno import EIO, ETIMEDOUT
from typing import Any, Final, Self

MAX_FAULTS: Final = 20
"""That one error lists. Whoever looks for faults may stop when there are more."""

_IN_WORDS = 3  # faults that an error's message names


class McrError(Exception):
    """An error for an operator or a client.

    Attributes:
        message: one line, without a trailing period.
        hints: what to do next, one line each.
        kind: its class in a word, for programs.
        faults: those that it sums up, if there are several.
        passing: mcrd is not there, ends, or does not answer, and it or another may in a moment.
        silent: mcrd is there, and does not answer.
    """

    kind = "mcr_error"
    faults: Sequence["McrError"] = ()
    passing = False
    silent = False

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

    def __init_subclass__(cls) -> None:
        cls.kind = "".join(f"_{each.lower()}" if each.isupper() else each for each in cls.__name__).lstrip("_")

    def to_json(self) -> dict[str, Any]:
        """The members of the error in JSON, on the control socket and from ``mcrctl --json``."""
        data: dict[str, Any] = {"kind": self.kind, "hints": [*self.hints]}
        if self.faults:
            data["faults"] = [{"message": each.message, "hints": [*each.hints]} for each in self.faults]
        return {"code": self.code, "message": self.message, "data": data}

    def at(self, place: str) -> Self:
        """The same error, naming the part of the request that it is about."""
        return self.reworded(lambda message: f"{message} ({place})")

    def reworded(self, word: Callable[[str], str]) -> Self:
        """The same error, with its message, and those of its faults, in other words."""
        import copy  # noqa: PLC0415 - a plain request of mcrctl has no error, and this would be a tenth of its time

        copied = copy.copy(self)
        copied.message = word(self.message)
        copied.args = (copied.message,)
        copied.faults = tuple(each.reworded(word) for each in self.faults)
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


class UnconfirmedApply(McrError):
    """What the configuration files say waits for confirmation, or was taken back for want of it."""

    code = -32009


class NothingToConfirm(McrError):
    """No apply of the configuration files waits for confirmation."""

    code = -32010


def together(faults: Sequence[McrError]) -> McrError:
    """One error for one or several faults of a kind. It is of the first one's class, and names the first few."""
    if len(faults) == 1:
        return faults[0]
    named = faults[:_IN_WORDS]
    message = "; ".join([each.message for each in named] + ["and more faults"] * (len(faults) > len(named)))
    error = faults[0].reworded(lambda _: message)
    error.hints = tuple(dict.fromkeys(hint for each in named for hint in each.hints))
    error.faults = tuple(faults[:MAX_FAULTS])
    return error


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


def errno_of(error: OSError) -> int:
    """The number of an error, which is never 0: that would say Success. Some of Python's own have none."""
    return error.errno or (ETIMEDOUT if isinstance(error, TimeoutError) else EIO)
