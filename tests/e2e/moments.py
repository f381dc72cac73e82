"""How long something takes, without the time for which the machine has no processor for whom it is measured at.

A time that mcrd keeps somebody waiting counts in full, whatever it waits for itself.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mcr_process import Mcr


def timed(action: Callable[[], object]) -> float:
    """Seconds that the calling thread needs, or waits for other processes."""
    begun, waited = time.monotonic(), _waited_here()
    action()
    return time.monotonic() - begun - (_waited_here() - waited)


def timed_ping(mcr: Mcr) -> float:
    """Seconds that the daemon takes to answer."""
    return timed(lambda: mcr.call("ping"))


def timed_ctl(mcr: Mcr, *words: str) -> float:
    """Seconds that an mcrctl command takes, the interpreter's start included."""
    taken: list[float] = []

    def run() -> None:
        process = mcr.popen_ctl(*words, stdout=subprocess.DEVNULL)  # executed, not forked
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        taken.append(_waited(Path("/proc", str(process.pid))))  # it is there until somebody asks for its status
        assert process.wait() == 0

    return timed(run) - taken[0]


def _waited_here() -> float:
    """The calling thread, and the main thread, which may have Python's lock meanwhile."""
    threads = {threading.get_native_id(), os.getpid()}
    return sum(_waited(Path("/proc/self/task", str(each))) for each in threads)


def _waited(whose: Path) -> float:
    """Seconds in which a thread could have run, and another did (proc(5), /proc/PID/schedstat)."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended; or the kernel does not count it
        return int((whose / "schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return 0.0
