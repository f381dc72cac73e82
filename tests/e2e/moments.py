"""How long something takes, without the time for which who is measured could have run, and others did.

What mcrd waits for counts in full; without its own waits for a processor only where the claim is about its work alone.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mcr_process import Mcr


def timed(action: Callable[[], object], *others: Path) -> float:
    """Seconds that the calling thread, and other processes for it, need."""
    measured = [*_threads_here(), *others]
    waited, begun = sum(map(_waited, measured)), time.monotonic()  # to read them takes Python's lock again and again
    action()
    took = time.monotonic() - begun
    return took - (sum(map(_waited, measured)) - waited)


def timed_ping(mcr: Mcr) -> float:
    """Seconds that the daemon takes to answer."""
    return timed(lambda: mcr.call("ping"))


def main_thread(mcr: Mcr) -> Path:
    """The one that answers."""
    assert mcr.process is not None
    return Path("/proc", str(mcr.process.pid))


def timed_ctl(mcr: Mcr, *words: str) -> float:
    """Seconds that an mcrctl command takes, the interpreter's start included."""
    taken: list[float] = []

    def run() -> None:
        process = mcr.popen_ctl(*words, stdout=subprocess.DEVNULL)  # executed, not forked
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        taken.append(_waited(Path("/proc", str(process.pid))))  # it is there until somebody asks for its status
        assert process.wait() == 0

    return timed(run) - taken[0]


def _threads_here() -> list[Path]:
    """The calling thread, and the main thread, which may have Python's lock meanwhile."""
    return [Path("/proc/self/task", str(each)) for each in {threading.get_native_id(), os.getpid()}]


def _waited(whose: Path) -> float:
    """Seconds in which a thread could have run, and another did (proc(5), /proc/PID/schedstat)."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended; or the kernel does not count it
        return int((whose / "schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return 0.0
