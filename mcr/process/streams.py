"""Standard output and standard error of this process, whatever they lead to.

A terminal goes away, a pipe's reader ends or stops reading, a disk is full. Python's own streams raise then, keep what
they could not write, and raise again whenever somebody flushes them: at the end, or when a process is started.

Import-light: workers need it, too.
"""

import codecs
import contextlib
import io
import os
import select
import sys
from typing import TYPE_CHECKING

from mcr.errors import SystemFault, errno_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDIN, _STDOUT, _STDERR = range(3)
_NAMES = {_STDOUT: "stdout", _STDERR: "stderr"}

_PATIENCE_MS = 1_000
"""How long a reader that does not read may delay the process, each time until it has done so once."""


def open_standard_descriptors() -> None:
    """Open /dev/null in place of closed ones: the next socket would become standard error, and get what is logged."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(_STDIN, closefd=False)  # noqa: SIM115 - a descriptor, and for as long as there is one


def ignore_write_errors() -> None:
    """Let writing to standard output and standard error neither fail nor wait for long. Text may be lost."""
    for descriptor in _NAMES:
        _replace(descriptor, _Lossy(descriptor))


def report_errors() -> None:
    """Let writing to standard output raise a `SystemFault`, once, and writing to standard error nothing."""
    if sys.stdout is not None:
        _replace(_STDOUT, _Reporting(_STDOUT))
    _replace(_STDERR, _Lossy(_STDERR))


def _replace(descriptor: int, raw: io.RawIOBase) -> None:
    old = getattr(sys, _NAMES[descriptor])
    # Names of rules may hold anything, and configurations are UTF-8 (`config export`).
    unfit = old is None or codecs.lookup(old.encoding).name == "ascii"
    encoding = "utf-8" if unfit else old.encoding
    errors = old.errors if old and old.errors != "strict" else "backslashreplace"
    # It needs no buffer of bytes: each text is written as a whole.
    stream = io.TextIOWrapper(raw, encoding, errors, write_through=True)  # type: ignore[type-var]
    setattr(sys, _NAMES[descriptor], stream)


class _Stream(io.RawIOBase):
    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def _write(self, data: memoryview, patience: int | None = None) -> bool:
        """Write all of it; False if it was not taken within so many milliseconds.

        Raises:
            OSError: it can't be written.
        """
        while data:
            if not self._poll.poll(patience):
                return False
            with contextlib.suppress(BlockingIOError):  # somebody who shares it has made it non-blocking
                # A pipe that takes anything takes so much.
                data = data[os.write(self._descriptor, data[: select.PIPE_BUF]) :]
        return True


class _Lossy(_Stream):
    _patience = _PATIENCE_MS

    def write(self, data: "ReadableBuffer") -> int:
        view = memoryview(data).cast("B")
        with contextlib.suppress(OSError):
            if not self._write(view, self._patience):
                self._patience = 0
        return view.nbytes


class _Reporting(_Stream):
    _failed = False

    def write(self, data: "ReadableBuffer") -> int:
        view = memoryview(data).cast("B")
        if not self._failed:
            try:
                self._write(view)
            except OSError as error:
                self._failed = True
                raise SystemFault("Cannot write to standard output", errno_of(error)) from None
        return view.nbytes
