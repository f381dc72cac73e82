"""Standard output and standard error that lead nowhere: tried in a process of their own each."""

import os
import subprocess
import sys
from typing import Any

import pytest

SPARED = "import sys; from mcr.process.streams import ignore_write_errors; ignore_write_errors()\n"
SAY = "print('x' * 200_000, file=sys.stderr); print('y'); sys.stderr.flush(); print('end', flush=True)"


def run(code: str, **options: Any) -> int:
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=60, **options).returncode


@pytest.mark.parametrize("traceback", ["", "; 1 / 0"])
def test_a_dead_terminal_fails_nothing(traceback: str) -> None:
    terminal, slave = os.openpty()
    os.close(terminal)  # from here on: EIO
    assert run(SPARED + SAY + traceback, stdout=slave, stderr=slave) == (1 if traceback else 0)
    os.close(slave)


def test_a_full_disk_and_a_pipe_without_a_reader_fail_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full:  # noqa: PTH123
        assert run(SPARED + SAY, stdout=writer, stderr=full) == 0
    os.close(writer)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_does_not_read_stops_nobody(blocking: bool) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    impatient = "from mcr.process import streams; streams._Lossy._patience = 100\n"
    often = "\nfor _ in range(600): print('z', file=sys.stderr)"  # it is waited for once, not each time
    assert run(impatient + SPARED + SAY + often, stdout=writer, stderr=writer) == 0
    os.close(writer)
    os.close(reader)


def test_what_can_be_written_is_written() -> None:
    done = subprocess.run([sys.executable, "-c", SPARED + SAY], check=True, text=True, capture_output=True)
    assert done.stdout == "y\nend\n"
    assert done.stderr == "x" * 200_000 + "\n"


def test_the_reader_of_a_command_may_take_its_time() -> None:
    """Even where whoever shares the pipe has made it non-blocking."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = "from mcr.process import streams; streams.report_errors(); print('x' * 200_000)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=writer) as process:
        os.close(writer)
        received = b""
        while part := os.read(reader, 4096):
            received += part
    os.close(reader)
    assert (process.returncode, received) == (0, b"x" * 200_000 + b"\n")


@pytest.mark.parametrize(("encoding", "written"), [("ascii", "Küche 日".encode()), ("latin-1", b"K\xfcche \\u65e5")])
def test_every_name_can_be_written_whatever_the_locale(encoding: str, written: bytes) -> None:
    code = "from mcr.process import streams; streams.report_errors(); print('K\\xfcche \\u65e5')"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    assert done.stdout == written + b"\n"
