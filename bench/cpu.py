"""CPU time that the whole machine spends, and that others spend.

The cost of a relay is mostly in the kernel, much of it in interrupts that are charged to whoever they interrupt: the
time of a process says little. What can't lie is the time in which a processor had nothing to do. The kernel keeps it in
nanoseconds, by clock readings at each entry to and exit from idle (interrupts count as busy), and /proc/timer_list
shows it; /proc/stat shows the same in hundredths of a second, for a kernel without that file.

The other way, a spinner of the lowest priority on each processor, was tried beside it. Counting its lost turns is wrong
where two processors are threads of one core, as they often are in virtual machines: a busy processor slows the turns of
the other by a third. Counting its lost time agrees with idle time at full load, and below it measures another machine,
one whose processors never halt.
"""

import itertools
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import attrs

_TIMER_LIST = Path("/proc/timer_list")
_TICKS = os.sysconf("SC_CLK_TCK")
_STEAL = 8  # column of /proc/stat
_KTHREADD = 2
_CPUCLOCK_SCHED = 2  # <linux/posix-timers.h>: a process's own clock, by its pid


@attrs.frozen
class CpuTimes:
    """One processor: when it was read, and how long it had been idle by then."""

    at_ns: int
    idle_ns: int


@attrs.frozen
class Snapshot:
    """All processors; `steal` and `foreign` in clock ticks."""

    cpus: tuple[CpuTimes, ...]
    steal: int
    foreign: int


@attrs.frozen
class Usage:
    """Between two snapshots.

    Attributes:
        wall_ns: how long it was.
        busy_ns: of each processor.
        busy: share of each processor.
        steal: share of the machine that the hypervisor gave to others.
        foreign: share of the machine that processes not ours took.
    """

    wall_ns: int
    busy_ns: tuple[int, ...]
    busy: tuple[float, ...]
    steal: float
    foreign: float


class Meter:
    """Measures from its making to `stop`. What measuring costs is outside, or the same for everybody."""

    def __init__(self) -> None:
        self._steal, self._foreign = _steal(), _foreign()
        self._cpus = _read_cpus()

    def stop(self) -> Usage:
        """Measure until now."""
        cpus = _read_cpus()
        return usage(Snapshot(self._cpus, self._steal, self._foreign), Snapshot(cpus, _steal(), _foreign()))


def _read_cpus() -> tuple[CpuTimes, ...]:
    """Visit each processor: one that is idle has not added up yet."""
    home = os.sched_getaffinity(0)
    try:
        return tuple(_read_cpu(cpu) for cpu in sorted(home))
    finally:
        os.sched_setaffinity(0, home)


def usage(before: Snapshot, after: Snapshot) -> Usage:
    """Subtract."""
    walls = [b.at_ns - a.at_ns for a, b in zip(before.cpus, after.cpus, strict=True)]
    busy = [max(0, wall - (b.idle_ns - a.idle_ns)) for wall, a, b in zip(walls, before.cpus, after.cpus, strict=True)]
    ticks = sum(walls) * _TICKS / 1e9
    return Usage(
        wall_ns=sum(walls) // len(walls),
        busy_ns=tuple(busy),
        busy=tuple(spent / wall for spent, wall in zip(busy, walls, strict=True)),
        steal=(after.steal - before.steal) / ticks,
        foreign=max(0, after.foreign - before.foreign) / ticks,
    )


def _read_cpu(cpu: int) -> CpuTimes:
    os.sched_setaffinity(0, {cpu})
    try:
        text = _TIMER_LIST.read_text(encoding="ascii")
    except OSError:
        return CpuTimes(time.monotonic_ns(), idle_from_stat(Path("/proc/stat").read_text(encoding="ascii"), cpu))
    return CpuTimes(time.monotonic_ns(), idle_from_timer_list(text, cpu))


def idle_from_timer_list(text: str, cpu: int) -> int:
    """Find how long a processor has been idle, in nanoseconds."""
    _, _, section = text.partition(f"\ncpu: {cpu}\n")
    section, _, _ = section.partition("\ncpu: ")
    found = dict(re.findall(r"\.(idle_sleeptime|iowait_sleeptime)\s*: (\d+) nsecs", section))
    return int(found["idle_sleeptime"]) + int(found["iowait_sleeptime"])


def idle_from_stat(text: str, cpu: int) -> int:
    """Find the same in /proc/stat."""
    fields = next(line for line in text.splitlines() if line.startswith(f"cpu{cpu} ")).split()
    return (int(fields[4]) + int(fields[5])) * 1_000_000_000 // _TICKS


def _steal() -> int:
    return int(Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()[_STEAL])


@attrs.frozen
class Process:
    """One line of /proc/PID/stat: `ticks` of it and of its children that have ended."""

    pid: int
    parent: int
    ticks: int

    @classmethod
    def parse(cls, text: str) -> "Process":
        """Read it; the name may contain anything."""
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        return cls(int(head.split(" ", 1)[0]), int(fields[1]), sum(int(field) for field in fields[11:15]))


def foreign_ticks(processes: Iterable[Process], own: int) -> int:
    """Add up what others took: neither this process and its descendants, nor threads of the kernel."""
    by_pid = {process.pid: process for process in processes}

    def is_foreign(process: Process) -> bool:
        pid = process.pid
        for _ in itertools.repeat(None, 64):
            if pid in (own, _KTHREADD):
                return False
            if pid not in by_pid or pid <= 1:
                return True
            pid = by_pid[pid].parent
        return True

    # What init has is what the descendants of all others had: also ours, and they may die at any time.
    return sum(process.ticks for process in by_pid.values() if process.pid != 1 and is_foreign(process))


def _foreign() -> int:
    processes = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                processes.append(Process.parse(Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace")))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return foreign_ticks(processes, os.getpid())


def run_time_ns(pids: Iterable[int]) -> int:
    """Time on a processor of some processes, threads that have ended included. For what is idle: interrupts count."""
    return sum(time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED) for pid in pids)
