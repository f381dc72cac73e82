"""The traffic generator, in processes forked from one that has imported it already: that alone takes half a second."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from lab import Namespace

_TOOLS = Path(__file__).parents[2] / "tools"
_FORKER = Path(__file__).with_name("forker.py")
_ANSWER_BYTES = 16


class Generator:
    """``traffic_gen.py`` in a namespace; the lab ends it. Used like a `subprocess.Popen`.

    Attributes:
        pid: of the process.
        stdout: what it has reported; see `report`.
        stderr: what it says meanwhile; None if that is shown with what the test says.
    """

    stdin: IO[str] | None = None
    stderr: IO[str] | None = None

    def __init__(self, namespace: Namespace, *words: str, read_errors: bool = False) -> None:
        self.stdout: IO[str] | None = TemporaryFile("w+")  # noqa: SIM115 - `lab.end` closes it
        errors = 2
        if read_errors:
            reader, errors = os.pipe()
            self.stderr = open(reader)  # noqa: PTH123, SIM115 - a descriptor, not a path
        self.pid = _forker().fork(words, namespace.fd, self.stdout.fileno(), errors)
        if read_errors:
            os.close(errors)
        self._handle: int | None = None  # until it has been seen that it has ended
        with suppress(ProcessLookupError):
            self._handle = os.pidfd_open(self.pid)
        namespace.adopt(self)

    def poll(self) -> int | None:
        """Whether it has ended: 0, or None. Its exit status is not known; what it reports says more."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended."""
        if self._handle is not None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("traffic_gen.py", timeout or 0)
            os.close(self._handle)
            self._handle = None
        return 0

    def report(self, timeout: float) -> str:
        """What it has printed, once it has ended."""
        self.wait(timeout)
        assert self.stdout is not None
        self.stdout.seek(0)
        return self.stdout.read()

    def send_signal(self, number: signal.Signals) -> None:
        """If it has not ended."""
        if self.poll() is None and self._handle is not None:
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """It ends, and reports."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """It ends at once."""
        self.send_signal(signal.SIGKILL)


class _Forker:
    """The process that they are forked from. It ends with this one, and they with it."""

    def __init__(self) -> None:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._one_at_a_time = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, _FORKER], stdin=theirs.fileno(), env=os.environ | {"PYTHONPATH": str(_TOOLS)}
            )

    def fork(self, words: tuple[str, ...], *descriptors: int) -> int:
        """Run the generator with these arguments; descriptors of its network, its report, its errors. Its pid."""
        with self._one_at_a_time:
            socket.send_fds(self._door, [json.dumps(words).encode()], descriptors)
            answer = self._door.recv(_ANSWER_BYTES)
        assert answer, "the process that generators are forked from has ended"
        return int(answer)


_forker = cache(_Forker)
