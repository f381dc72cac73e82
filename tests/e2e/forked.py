"""Processes of a program, forked from one that has imported it already: that alone takes half a second.

They are what the program would be if it was started, and end with the test's process. What the start itself does is for
tests that do start it.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import attrs

from lab import Namespace

_TOOLS = Path(__file__).parents[2] / "tools"
_FORKER = Path(__file__).with_name("forker.py")
_ANSWER_BYTES = 16
_COMMAND_SECONDS = 60.0


@attrs.frozen
class User:
    """Whom a process belongs to, and what it sees.

    Attributes:
        uid: its number, and that of its group.
        mounts: descriptor of the mount namespace.
        groups: more of them.
        ambient: capabilities that it has, by their names without ``CAP_``, and programs that it executes.
    """

    uid: int
    mounts: int
    groups: tuple[int, ...] = ()
    ambient: tuple[str, ...] = ()


@attrs.frozen
class Limits:
    """What is withheld from a process.

    Attributes:
        bounding: what ``setpriv --bounding-set`` would be given; empty: nothing.
        descriptors: how many it may have, as ``prlimit --nofile`` would be told; None: as many as this process.
        denied: a filter of its system calls, by `seccomp.denial`; empty: none.
    """

    bounding: str = ""
    descriptors: int | None = None
    denied: bytes = b""


_NO_LIMITS = Limits()


class Forked:
    """A process in a namespace; the lab ends it. Used like a `subprocess.Popen`.

    Attributes:
        pid: of the process.
        returncode: its exit status, once it has been seen that it has ended; negative: the signal that ended it.
    """

    stdin: IO[str] | None = None
    stdout: IO[str] | None = None
    stderr: IO[str] | None = None

    def __init__(
        self,
        program: str,
        words: Sequence[str | os.PathLike[str]],
        namespace: Namespace,
        standard: Sequence[int],
        *,
        environment: Mapping[str, str] | None = None,
        kept: Mapping[str, int] | None = None,
        forks_workers: bool = False,
        directory: Path | None = None,
        limits: Limits = _NO_LIMITS,
        user: User | None = None,
    ) -> None:
        """Start it.

        Args:
            program: of those that `forker.py` has.
            words: its arguments, the first of which is its name.
            namespace: where.
            standard: its descriptors 0, 1 and 2.
            environment: None: this process's.
            kept: more descriptors, by their names: as a service manager passes them (sd_listen_fds(3)).
            forks_workers: it forks its worker processes instead of executing Python for each.
            directory: where it is; None: where this process is.
            limits: what is withheld from it.
            user: None: this process's.
        """
        self._words = [os.fspath(word) for word in words]
        request = {
            "words": self._words,
            "environment": {**(os.environ if environment is None else environment)},
            "directory": str(directory or Path.cwd()),
            "kept": ":".join(kept or {}),
            "forks_workers": forks_workers,
            "limits": attrs.asdict(limits) | {"denied": limits.denied.hex()},
            "user": user and {"uid": user.uid, "groups": user.groups, "ambient": user.ambient},
        }
        mounts = [user.mounts] if user else []
        self._report, reports = os.pipe()
        descriptors = (reports, namespace.fd, *mounts, *standard, *(kept or {}).values())
        try:
            self.pid = _forker(program).fork(json.dumps(request).encode(), *descriptors)
        finally:
            os.close(reports)
        self.returncode: int | None = None
        self._handle: int | None = None
        with suppress(ProcessLookupError):
            self._handle = os.pidfd_open(self.pid)
        namespace.adopt(self)

    def poll(self) -> int | None:
        """Its exit status; None: it has not ended."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, so many seconds later.
        """
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self._words, timeout or 0)
            told = os.read(self._report, _ANSWER_BYTES)
            assert told, "the process that it was forked from has ended"
            self.returncode = int(told)
            os.close(self._report)
            if self._handle is not None:
                os.close(self._handle)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """If it has not ended."""
        if self.poll() is None and self._handle is not None:
            with suppress(ProcessLookupError):  # it has, a moment ago
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def run_mcrctl(
    words: Sequence[str | os.PathLike[str]],
    namespace: Namespace,
    environment: Mapping[str, str],
    input: str = "",  # noqa: A002 - as subprocess.run calls it
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run mcrctl and return what it printed.

    Args:
        words: its name and its arguments.
        namespace: where.
        environment: of it.
        input: what it can read.
        options: more for `Forked`.

    Raises:
        subprocess.TimeoutExpired: it has not ended within a minute.
    """
    with TemporaryFile("w+") as read, TemporaryFile("w+") as out, TemporaryFile("w+") as errors:
        read.write(input)
        read.seek(0)
        standard = read.fileno(), out.fileno(), errors.fileno()
        process = Forked("mcrctl", words, namespace, standard, environment=environment, **options)
        status = process.wait(_COMMAND_SECONDS)
        for each in (out, errors):
            each.seek(0)
        return subprocess.CompletedProcess([os.fspath(each) for each in words], status, out.read(), errors.read())


class _Forker:
    """The process that those of one program are forked from. It ends with this one, and they with it.

    Processes of tests that are forked from this one ask it, too.
    """

    def __init__(self, program: str) -> None:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asker = os.getpid()
        self._program = program
        self._one_at_a_time = threading.Lock()
        number = theirs.fileno()
        alone = ["-I"] if program in ("mcrd", "mcrctl") else []  # from the test's modules, as they are when started
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *alone, _FORKER, program, str(number)],
                stdin=subprocess.DEVNULL,
                pass_fds=[number],
                env=os.environ | {"PYTHONPATH": str(_TOOLS)},
            )

    def fork(self, request: bytes, *descriptors: int) -> int:
        """The pid of a new process; descriptors of the report of its end, its network, and its standard ones."""
        with self._one_at_a_time:
            if self._asker != os.getpid():
                self._make_door()
            socket.send_fds(self._door, [request], descriptors)
            answer = self._door.recv(_ANSWER_BYTES)
        assert answer, "the process that others are forked from has ended"
        if (pid := int(answer)) < 0:
            raise OSError(-pid, f"Cannot fork {self._program}: {os.strerror(-pid)}")
        return pid

    def _make_door(self) -> None:
        """Of this process, which was forked from the one that the door is of: it would read others' answers there."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._door as door:
            socket.send_fds(door, [b"door"], [theirs.fileno()])
        self._door, self._asker = mine, os.getpid()


_forker = cache(_Forker)


def prepare() -> None:
    """Start what processes are forked from, before this process itself is forked: all have one of each program."""
    for program in ("mcrd", "mcrctl", "traffic_gen"):
        _forker(program)
