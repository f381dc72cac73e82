"""Runs tests in several processes that have collected them together: `pytest --processes N`.

What tests import takes seconds of a processor, which pytest-xdist would spend in each process. Each one takes the next
file when it has finished one. What the forked ones have to say is printed when the first one has finished.
"""

import os
import sys
from collections.abc import Iterator
from itertools import chain, groupby, pairwise
from tempfile import TemporaryFile
from typing import IO

import pytest
from hypothesis import given, settings, strategies

_BYTES = 2  # of a file's number


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processes", type=int, default=1, metavar="N", help="run tests in N processes")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Fork, and run a share of the tests; None: run them as pytest does."""
    options = session.config.option
    if options.processes == 1 or options.collectonly or session.testsfailed:
        return None
    files = [[*items] for _, items in groupby(session.items, key=lambda item: item.path)]
    _read_constants()
    queue, end = os.pipe()
    os.write(end, b"".join(number.to_bytes(_BYTES) for number in range(len(files))))
    os.close(end)
    first = os.getpid()
    forked: dict[int, IO[str]] = {}
    sys.stdout.flush()
    for _ in range(1, options.processes):
        output = TemporaryFile("w+")  # noqa: SIM115 - closed when it has been read
        pid = os.fork()
        if not pid:
            for each in forked.values():
                each.close()
            forked.clear()
            with output:
                _write_to(output, session.config)
            break
        forked[pid] = output
    for item, following in pairwise(chain(_share(files, queue, first), [None])):
        assert item
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail or session.shouldstop:  # by --exitfirst, for example
            break
    session.testsfailed += sum(_has_failed(pid, output) for pid, output in forked.items())
    return True


@settings(max_examples=1, database=None)
@given(strategies.text())
def _read_constants(_: str) -> None:
    """Have hypothesis gather what it tries: it looks for constants in every module, once a process."""


def _share(files: list[list[pytest.Item]], queue: int, first: int) -> Iterator[pytest.Item]:
    """Tests of the files that no other process has taken, until the first process has gone."""
    while (number := os.read(queue, _BYTES)) and first in {os.getpid(), os.getppid()}:
        yield from files[int.from_bytes(number)]


def _write_to(output: IO[str], config: pytest.Config) -> None:
    """Be a process with an output of its own, also for what tests print."""
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    os.dup2(output.fileno(), sys.stdout.fileno())
    os.dup2(output.fileno(), sys.stderr.fileno())
    capture.start_global_capturing()
    capture.suspend_global_capture()


def _has_failed(pid: int, output: IO[str]) -> bool:
    """Print what a process has said."""
    _, status = os.waitpid(pid, 0)
    with output:
        output.seek(0)
        print("\n" + output.read().rstrip(), flush=True)
    return os.waitstatus_to_exitcode(status) not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
