"""A command's connection to the daemon: one request at a time, every failure in words.

Import-light: this module and what it imports are most of the time that a command takes.
"""

import contextlib
import errno
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from typing import Any, Final, NoReturn, Self

from mcr.config.paths import CONTROL_SOCKET_VARIABLE, DEFAULT_CONTROL_SOCKET, describe_length
from mcr.errors import McrError, ShuttingDown, SystemFault
from mcr.process.accounts import describe_owner, own_user

REPLY_TIMEOUT: Final = 5
"""Seconds to wait for the daemon to take a request, and again for it to say something."""

LONGEST_REPLY: Final = 32 << 20
"""Bytes. The state of 16,384 rules with 65,536 outputs takes half of that."""

WHOLE_REPLY_TIMEOUT: Final = 30
"""Seconds for a reply to come as a whole."""

_UNKNOWN = "the change may still be carried out, or may have been; before you repeat it, see: mcrctl list"
_WRONG_PATH: Final = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EPROTOTYPE})
"""No mcrd can be started there, either."""
_OTHER_PATH: Final = (
    f"no mcrd can serve that path; name the one it has: --control-socket PATH, or {CONTROL_SOCKET_VARIABLE}"
)
_PART = 1 << 18
_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred
_REPLY_TIMEVAL: Final = (REPLY_TIMEOUT, 0)  # struct timeval
CHANGING: Final = frozenset({"add", "change", "remove", "log_level.set", "config.apply", "confirm"})
"""Methods that do more than read."""


class Client:
    """A connection to the daemon.

    Args:
        path: the control socket.
        origin: the source of the path, for the error if nothing answers there.

    Attributes:
        is_visible: whether all text of the last reply is printable ASCII, as `mcr.text.visible` makes it.
    """

    def __init__(self, path: str, origin: str) -> None:
        self._path = path
        self._requests = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # With Python's own timeout it would not wait for a place in a full queue.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", *_REPLY_TIMEVAL))
        try:
            self._socket.connect(path)
            self._socket.settimeout(REPLY_TIMEOUT)
        except OSError as error:
            self._socket.close()
            # Python itself refuses a path of more than 107 bytes, without an errno.
            fault = _passing(_connect_fault(path, origin, error.errno or errno.ENAMETOOLONG))
            fault.silent = error.errno == errno.EAGAIN  # somebody listens, and accepts nobody
            raise fault from None
        self._received = bytearray()
        self.is_visible = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def process(self) -> int:
        """The daemon's id, as this process sees it; 0 if it does not."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(credentials)[0])

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Carry out one method, and wait for as long as the daemon says that it does.

        Returns:
            Its result.

        Raises:
            McrError: the daemon's error, or what became of the daemon.
        """
        self._requests += 1
        request = {"jsonrpc": "2.0", "id": self._requests, "method": method, "params": params or {}, "progress": True}
        reply = self._exchange(json.dumps(request).encode() + b"\n", changes=method in CHANGING)
        match reply:
            case {"result": result, "id": int(number)} if number == self._requests:
                return result
            # The error may have no id: the daemon refuses a connection, or a request that it could not read.
            case {"error": {"code": int(code), "message": str(message), "data": {"hints": [*hints]} as data}} if (
                _are_text(hints)
            ):
                raise _fault(code, message, hints, data)
        raise McrError(f"The program that answers on {self._path} is not mcrd")

    def _exchange(self, request: bytes, *, changes: bool) -> Any:
        try:
            with contextlib.suppress(ConnectionError):  # it did not read all of the request, and may have said why
                # Without the flag, a daemon that is gone would end this process by SIGPIPE.
                self._socket.sendall(request, socket.MSG_NOSIGNAL)
        except TimeoutError:
            raise _no_reply("it did not read the whole request, so it does not carry it out") from None
        try:
            line = self._read_line()
            while isinstance(reply := _decode(line), dict) and reply.get("method") == "progress":
                line = self._read_line()
        except TimeoutError:
            raise _no_reply(*([_UNKNOWN] if changes else [])) from None
        except ConnectionError:
            raise _closed(*([_UNKNOWN] if changes else [])) from None
        # JSON escapes whatever else a string has, but for DEL and what is not ASCII.
        self.is_visible = line.isascii() and b"\\" not in line and b"\x7f" not in line
        return reply

    def _read_line(self) -> bytes:
        deadline = time.monotonic() + WHOLE_REPLY_TIMEOUT
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > LONGEST_REPLY:
                raise McrError(f"The program that answers on {self._path} is not mcrd: its answer does not end")
            if time.monotonic() > deadline:
                raise TimeoutError
            part = self._socket.recv(_PART)
            if not part:
                raise ConnectionResetError
            self._received += part
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line


def _decode(line: bytes) -> Any:
    """The message; None if it is none."""
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _fault(code: int, message: str, hints: list[Any], data: dict[str, Any]) -> McrError:
    fault = McrError(message, *hints)
    fault.code = code
    if isinstance(kind := data.get("kind"), str):
        fault.kind = kind
    fault.passing = code == ShuttingDown.code
    fault.faults = [*_single_faults(data.get("faults"))]
    return fault


def _single_faults(values: Any) -> Iterator[McrError]:
    for value in values if isinstance(values, list) else ():
        match value:
            case {"message": str(message), "hints": [*hints]} if _are_text(hints):
                yield McrError(message, *hints)


def _are_text(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _closed(*hints: str) -> McrError:
    return _passing(McrError("mcrd closed the connection without a reply", *hints, "see what it logged last"))


def _no_reply(*hints: str) -> McrError:
    what = f"No reply from mcrd within {REPLY_TIMEOUT} s"
    error = _passing(McrError(what, *hints, "is it stopped or overloaded? pgrep -a mcrd; and see its log"))
    error.silent = True
    return error


def _passing(error: McrError) -> McrError:
    error.passing = True
    return error


def _connect_fault(path: str, origin: str, number: int) -> SystemFault:
    if number in {errno.EACCES, errno.EPERM}:
        return SystemFault("", number, *_access_hints(path, origin))
    states = {
        errno.ENOENT: "does not exist",
        errno.ECONNREFUSED: "has no mcrd behind it",
        errno.EAGAIN: "has a full queue: mcrd accepts no connections",
        errno.EPROTOTYPE: "is not mcrd's",
    }
    state = states.get(number, "is unusable")
    is_wrong = number in _WRONG_PATH
    if number == errno.ECONNREFUSED and not _is_socket(path):
        state, is_wrong = "is not a socket", True
    elsewhere = path != DEFAULT_CONTROL_SOCKET and _is_socket(DEFAULT_CONTROL_SOCKET)
    return SystemFault(
        "",
        number,
        f"the control socket {path} ({origin}) {state}",
        *([describe_length(path)] if number == errno.ENAMETOOLONG else []),
        *([f"there is one at {DEFAULT_CONTROL_SOCKET}, the default"] if elsewhere else []),
        *([_OTHER_PATH] if is_wrong else ["is mcrd running? pgrep -a mcrd", _start(path)]),
    )


def _start(path: str) -> str:
    import shlex  # noqa: PLC0415 - for this alone

    if path == DEFAULT_CONTROL_SOCKET:
        return "start it: sudo systemctl start mcrd; without systemd: sudo mcrd supervisor"
    return f"start it: sudo mcrd supervisor --control-socket {shlex.quote(path)}"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116  # pathlib would cost several milliseconds
    except OSError:
        return False


def _access_hints(path: str, origin: str) -> tuple[str, ...]:
    # The socket itself, or the nearest directory above it that may be looked at: that is where the way ends.
    file = path
    while True:
        try:
            owner = describe_owner(file)
            break
        except OSError:
            file = os.path.dirname(file) or "."  # noqa: PTH120  # pathlib would cost several milliseconds
    group = owner.split(":")[1].split(",")[0]
    join = f"join the group and log in again: sudo usermod -aG {group} {own_user()}; or " if group != "root" else ""
    return (
        f"you are {own_user()}; {file} belongs to {owner}",
        f"{join}use sudo",
        f"the control socket is {path} ({origin})",
    )
