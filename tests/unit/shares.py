"""Runs tests in several processes that have collected them together: `pytest --processes N`.

What tests import takes seconds of a processor, which pytest-xdist would spend in each process. Each one takes the next
file when it has finished one, of all folders by turns: those of one wait most of the time, those of another never. With
``--by-test`` it takes the next test: those of a file that share what is set up once for them stay together, and begin
first. What the forked ones have to say is printed when the first one has finished. Then the tests that were run are
counted: a process that leaves in the middle of them, however it does, fails the run. Tests that are marked as alone
come last, when no other process is left.
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, groupby, pairwise
from mmap import mmap
from tempfile import TemporaryFile
from typing import IO

import pytest
from hypothesis import given, settings, strategies

_BYTES = 2  # of a portion's number
_COUNT_BYTES = 4
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
    tally, process = Tally(session.items, options.processes), 0
    sys.stdout.flush()
    for number in range(1, options.processes):
        output = TemporaryFile("w+")  # noqa: SIM115 - closed when it has been read
        pid = os.fork()
        if not pid:
            for each in forked.values():
                each.close()
            forked.clear()
            process = number
            with output:
                _write_to(output, session.config)
            break
        forked[pid] = output
    _run(session, _share(portions, queue, first), tally, process)
    if session.shouldfail or session.shouldstop:
        tally.stop()
        os.read(queue, len(portions) * _BYTES)  # no process begins another
    if process:
        session.config._tmp_path_factory._basetemp = None  # type: ignore[attr-defined]  # the first one tidies it up
        return True
    for number, (pid, said) in enumerate(forked.items(), 1):
        session.testsfailed += _has_failed(pid, said, tally, number)
    session.testsfailed += _has_lost(tally, len(beside))
    if not (options.maxfail and session.testsfailed >= options.maxfail):
        _run(session, [[item for item in session.items if item.get_closest_marker("alone")]], tally, process)
    return True


class Tally:
    """What processes have run, in memory that they share."""

    def __init__(self, items: Sequence[pytest.Item], processes: int) -> None:
        """Before they are forked."""
        self._names = [item.nodeid for item in items]
        self._numbers = {item: number for number, item in enumerate(items)}
        memory = memoryview(mmap(-1, (2 * processes + 1) * _COUNT_BYTES)).cast("I")
        self._last, self._ended, self._stopped = memory[:processes], memory[processes:-1], memory[-1:]

    @contextmanager
    def running(self, process: int, item: pytest.Item) -> Iterator[None]:
        """While a process runs a test."""
        self._last[process] = self._numbers[item] + 1
        yield
        self._last[process] = 0
        self._ended[process] += 1

    def stop(self) -> None:
        """Some are not to be run any more."""
        self._stopped[0] = 1

    def is_stopped(self) -> bool:
        """Whether some were not to be run."""
        return bool(self._stopped[0])

    def ran(self) -> int:
        """How many tests ended."""
        return sum(self._ended)

    def cut_off(self, process: int) -> str:
        """The test that a process began and did not end; empty: none."""
        number = self._last[process]
        return self._names[number - 1] if number else ""


@settings(max_examples=1, database=None)
@given(strategies.text())
def _read_constants(_: str) -> None:
    """Have hypothesis gather what it tries: it looks for constants in every module, once a process."""


def share_out(items: Sequence[pytest.Item], *, by_test: bool) -> list[list[pytest.Item]]:
    """Tests in portions, each of which one process runs."""
    files = [[*items] for _, items in groupby(items, key=lambda item: item.path)]
    if not by_test:
        return _mix(files)
    together = [[item for item in file if _is_set_up_with_others(item)] for file in files]
    return [*filter(None, together), *([item] for item in items if not _is_set_up_with_others(item))]


def _mix(files: Iterable[list[pytest.Item]]) -> list[list[pytest.Item]]:
    """Spread those of each folder evenly. The longest come first, as nothing is left to do beside the last one."""
    places = []
    for _, folder in groupby(files, key=lambda file: file[0].path.parent):
        longest_first = sorted(folder, key=lambda file: file[0].path.stat().st_size, reverse=True)
        places += [((number + 0.5) / len(longest_first), file) for number, file in enumerate(longest_first)]
    return [file for _, file in sorted(places, key=lambda place: place[0])]


def _is_set_up_with_others(item: pytest.Item) -> bool:
    """Whether a test has a fixture that is set up once for several."""
    assert isinstance(item, pytest.Function)
    return any(each.scope in _FOR_SEVERAL for named in item._fixtureinfo.name2fixturedefs.values() for each in named)


def _share(portions: list[list[pytest.Item]], queue: int, first: int) -> Iterator[list[pytest.Item]]:
    """Those that no other process has taken, until the first process has gone."""
    while (number := os.read(queue, _BYTES)) and first in {os.getpid(), os.getppid()}:
        yield portions[int.from_bytes(number)]


def _run(session: pytest.Session, portions: Iterable[list[pytest.Item]], tally: Tally, process: int) -> None:
    """Run tests, until one has failed that is to be the last: by --exitfirst, for example."""
    for portion in portions:
        for item, following in pairwise(chain(portion, [None])):
            if session.shouldfail or session.shouldstop:
                return
            assert item
            with tally.running(process, item):
                item.ihook.pytest_runtest_protocol(item=item, nextitem=following)


def _write_to(output: IO[str], config: pytest.Config) -> None:
    """Be a process with an output of its own, also for what tests print."""
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    os.dup2(output.fileno(), sys.stdout.fileno())
    os.dup2(output.fileno(), sys.stderr.fileno())
    capture.start_global_capturing()
    capture.suspend_global_capture()


def _has_failed(pid: int, output: IO[str], tally: Tally, process: int) -> bool:
    """Print what a process has said, and which test it left in the middle."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    cut_off = tally.cut_off(process)
    with output:
        output.seek(0)
        print("\n" + output.read().rstrip(), flush=True)
    if status < 0 or cut_off:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"left with status {status}"
        print(f"A process of tests {how}, {f'in {cut_off}' if cut_off else 'between tests'}", flush=True)
    return bool(cut_off) or status not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}


def _has_lost(tally: Tally, collected: int) -> bool:
    """Say so, if tests were not run that should have been."""
    if tally.is_stopped() or tally.ran() == collected:
        return False
    print(f"Of {collected} tests {tally.ran()} were run to their end", flush=True)
    return True
