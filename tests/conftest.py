import faulthandler
import gc
import os
import time
from collections.abc import Generator
from pathlib import Path

import attrs
import pytest
from hypothesis import settings

from control_clients import actors, api, connect, no_threads, path, server
from fake_daemon import daemon, run
from filters import one_processor, wire
from forked import prepare
from lab import enter_user_namespace
from loop_scene import kept, scene
from notified import listener
from shares import pytest_addoption, pytest_runtestloop
from stated_rules import rules
from store_world import file, store, workers
from successors import manager
from topology import daemons, lab, make_mcr, memory, plant, worker_path
from users import stage

__all__ = [
    "actors",
    "api",
    "connect",
    "daemon",
    "daemons",
    "file",
    "kept",
    "lab",
    "listener",
    "make_mcr",
    "manager",
    "memory",
    "no_threads",
    "one_processor",
    "path",
    "plant",
    "pytest_addoption",
    "pytest_runtestloop",
    "rules",
    "run",
    "scene",
    "server",
    "stage",
    "store",
    "wire",
    "worker_path",
    "workers",
]

# While this is the process's only thread: a process with several may not enter a user namespace. As root it does
# nothing; as anybody else the tests run all the same.
enter_user_namespace()

# A test is not wrong because the machine is slow.
settings.register_profile("mcr", deadline=None, max_examples=int(os.environ.get("MCR_EXAMPLES", "100")))
settings.load_profile("mcr")


def pytest_configure(config: pytest.Config) -> None:
    """What processes are forked from is imported while the tests are."""
    _watchdog.shown_on = os.dup(2)  # which is captured while tests run
    options = config.option
    if options.processes > 1 and not options.collectonly and any("e2e" in Path(each).parts for each in config.args):
        prepare()


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """What is imported now stays until the end, so no garbage is looked for in it."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Nor later; and seldom in what tests leave. To collect what is garbage already would take a third of a second."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@attrs.define
class _Watchdog:
    """Prints the stack of a test that takes two minutes.

    pytest's `faulthandler_timeout` starts a thread for each test, which costs more than most of them do. Here it is
    left running for ten seconds of tests.
    """

    shown_on: int = 2
    _set_at: float = 0

    def begin(self) -> None:
        """A test begins."""
        if (now := time.monotonic()) >= self._set_at + 10:
            faulthandler.dump_traceback_later(130, file=self.shown_on)
            self._set_at = now


_watchdog = _Watchdog()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _watchdog.begin()


def pytest_sessionfinish() -> None:
    faulthandler.cancel_dump_traceback_later()


_OF_THE_KERNEL = ("eBPF is forbidden here", "this kernel has no ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With MCR_RUN_ALL, as CI sets it for root, a test that is skipped has failed; but for what the kernel lacks.

    A test that failed shows the counters and the log of its daemons, as they are now.
    """
    report = yield
    if report.skipped and os.environ.get("MCR_RUN_ALL"):
        assert isinstance(report.longrepr, tuple)
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(_OF_THE_KERNEL):
            report.outcome = "failed"
            report.longrepr = f"skipped, and may not be: {reason}"
    if report.failed and report.when == "call":
        for number, mcr in enumerate(getattr(item, "funcargs", {}).get("daemons", ())):
            report.sections.append((f"daemon {number}", mcr.describe()))
    return report
