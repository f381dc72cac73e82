"""Runs tests in several processes that have collected them together: `pytest --processes N`.

What tests import takes seconds of a processor, which pytest-xdist would spend in each process. Each one takes the next
file when it has finished one, or with ``--by-test`` the next test: those of a file that share what is set up once for
them stay together, and begin first. What the forked ones have to say is printed when the first one has finished. Tests
that are marked as alone come last, when no other process is left.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, pairwise
from tempfile import TemporaryFile
from typing import IO

import pytest
from hypothesis import given, settings, strategies

_BYTES = 2  # of a portion's number
_FOR_SEVERAL = {"class", "module", "package"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processes", type=int, default=1, metavar="N", help="run tests in N processes")
    parser.addoption("--by-test", action="store_true", help="of --processes: each takes a test, not a file, at a time")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Fork, and run a share of the tests; None: run them as pytest does."""
    options = session.config.option
    if options.processes == 1 or options.collectonly or session.testsfailed:
        return None
    beside = [item for item in session.items if not item.get_closest_marker("alone")]
    portions = share_out(beside, by_test=options.by_test)
    if not options.by_test:  # those are no properties
        _read_constants()
    queue, end = os.pipe()
    os.write(end, b"".join(number.to_bytes(_BYTES) for number in range(len(portions))))
    os.close(end)
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # which all of them have
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
    _run(session, _share(portions, queue, first))
    if session.shouldfail or session.shouldstop:
        os.read(queue, len(portions) * _BYTES)  # no process begins another
    session.testsfailed += sum(_has_failed(pid, output) for pid, output in forked.items())
    if os.getpid() == first and not (options.maxfail and session.testsfailed >= options.maxfail):
        _run(session, [[item for item in session.items if item.get_closest_marker("alone")]])
    return True


@settings(max_examples=1, database=None)
@given(strategies.text())
def _read_constants(_: str) -> None:
    """Have hypothesis gather what it tries: it looks for constants in every module, once a process."""


def share_out(items: Sequence[pytest.Item], *, by_test: bool) -> list[list[pytest.Item]]:
    """Tests in portions, each of which one process runs."""
    files = [[*items] for _, items in groupby(items, key=lambda item: item.path)]
    if not by_test:
        return files
    together = [[item for item in file if _is_set_up_with_others(item)] for file in files]
    return [*filter(None, together), *([item] for item in items if not _is_set_up_with_others(item))]


def _is_set_up_with_others(item: pytest.Item) -> bool:
    """Whether a test has a fixture that is set up once for several."""
    assert isinstance(item, pytest.Function)
    return any(each.scope in _FOR_SEVERAL for named in item._fixtureinfo.name2fixturedefs.values() for each in named)


def _share(portions: list[list[pytest.Item]], queue: int, first: int) -> Iterator[list[pytest.Item]]:
    """Those that no other process has taken, until the first process has gone."""
    while (number := os.read(queue, _BYTES)) and first in {os.getpid(), os.getppid()}:
        yield portions[int.from_bytes(number)]


def _run(session: pytest.Session, portions: Iterable[list[pytest.Item]]) -> None:
    """Run tests, until one has failed that is to be the last: by --exitfirst, for example."""
    for portion in portions:
        for item, following in pairwise(chain(portion, [None])):
            if session.shouldfail or session.shouldstop:
                return
            assert item
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)


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
