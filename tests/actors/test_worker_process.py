"""One worker's process: what it holds, what it can do to mcrd, and what becomes of it when it hangs. Real processes."""

import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from multiprocessing import active_children
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing

import hostile_worker
from mcr.actors import worker_process
from mcr.actors.worker_process import (
    Post,
    WorkerEvent,
    WorkerExited,
    WorkerProcess,
    WorkerReported,
    WorkerStarted,
    Workshop,
    open_workshop,
    run_worker_process,
)
from mcr.process.descriptor_store import DescriptorStore
from mcr.shm import records
from mcr.shm.segment import Segment

E = TypeVar("E")


class Worker:
    def __init__(
        self, process: WorkerProcess, events: trio.MemoryReceiveChannel[WorkerEvent], workshop: Workshop
    ) -> None:
        self.process = process
        self._events = events
        self._workshop = workshop

    async def next(self, kind: type[E]) -> E:
        """The next event of this kind; what comes before is passed over."""
        with trio.fail_after(30):
            while True:
                event = await self._events.receive()
                if isinstance(event, kind):
                    return event

    async def running(self) -> WorkerStarted:
        """Have the next process forward by a generation."""
        started = await self.next(WorkerStarted)
        self.process.deliver(started.incarnation, (records.generation(1),))
        while records.Ack(1) not in (await self.next(WorkerReported)).events:
            pass
        return started

    async def standby(self, worker_pid: int) -> int:
        """The pid of the process that waits to be the next worker, once it does."""
        await wait_until(lambda: self._workshop.context.statistics().idle_workers == 1)
        (pid,) = (child.pid for child in active_children() if child.pid != worker_pid)
        assert pid
        return pid


@asynccontextmanager
async def worker() -> AsyncGenerator[Worker]:
    send, receive = trio.open_memory_channel[WorkerEvent](math.inf)
    core = min(os.sched_getaffinity(0))
    with Segment(0) as segment:
        async with open_workshop() as workshop, trio.open_nursery() as nursery:
            vacant = trio.Event()
            vacant.set()
            user = os.getuid(), os.getgid()
            post = Post(0, core, segment, workshop, user, trio.CapacityLimiter(1), send, DescriptorStore(), vacant)
            yield Worker(await nursery.start(run_worker_process, post), receive, workshop)
            nursery.cancel_scope.cancel()


def descriptors(pid: int) -> list[str]:
    return [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - nobody can tell it
            await trio.sleep(0.01)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "made"
    monkeypatch.setenv(hostile_worker.MARKER, str(path))
    return path


@pytest.mark.slow
async def test_nothing_that_a_worker_writes_is_unpickled_and_it_can_not_hang_mcrd(
    marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes a pickle into all that it holds, closes everything and stops."""
    monkeypatch.setattr(worker_process, "worker_main", hostile_worker.taken_over)
    async with worker() as taken_over:
        pid = (await taken_over.next(WorkerStarted)).pid
        await wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T")
        await trio.testing.wait_all_tasks_blocked()
        assert not marker.exists()
        os.kill(pid, signal.SIGKILL)
        assert (await taken_over.next(WorkerExited)).reason == "killed by signal 9 (SIGKILL)"
        assert (await taken_over.next(WorkerStarted)).incarnation == 2
    assert not marker.exists()


@pytest.mark.slow
async def test_a_worker_holds_what_is_named_for_it_and_nothing_else_and_stops_when_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the standby process has one socket."""
    monkeypatch.setattr(worker_process, "_STANDBY_SECONDS", 0)
    async with worker() as sound:
        started = await sound.running()
        held = Counter(re.sub(r"[0-9]+", "N", each) for each in descriptors(started.pid))
        held_by_standby = descriptors(await sound.standby(started.pid))
        sound.process.deliver(started.incarnation, (records.stop(),))
        exited = await sound.next(WorkerExited)
    assert (exited.reason, exited.delay) == ("stopped", None)
    assert sum(each.startswith("socket:") for each in held_by_standby) == 1, "where it will call in"
    ring = held.pop("anon_inode:[io_uring]", 0)
    assert ring <= 1
    assert held == {
        "/dev/null": 3,
        "/memfd:mcr-worker-N (deleted)": 1,
        "anon_inode:[eventfd]": 2,
        "socket:[N]": 1,  # its channel
    }


@pytest.mark.slow
def test_multiprocessing_starts_no_resource_tracker() -> None:
    """It removes files and shared memory, with mcrd's rights, for whoever asks, and lets in signals that mcrd holds."""
    code = (
        "from multiprocessing import resource_tracker\n"
        "from mcr.actors.worker_process import do_without_tracker\n"
        "do_without_tracker()\n"
        "resource_tracker.ensure_running()\n"
        "print(resource_tracker._resource_tracker._pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("None\n", "")


@pytest.mark.slow
async def test_a_process_that_does_not_report_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standby process is stopped, then becomes a worker."""
    monkeypatch.setattr(worker_process, "_STANDBY_SECONDS", 0)
    async with worker() as sound:
        first = await sound.running()
        os.kill(await sound.standby(first.pid), signal.SIGSTOP)
        limit = worker_process._ATTACH_SECONDS
        monkeypatch.setattr(worker_process, "_ATTACH_SECONDS", 2)
        monkeypatch.setattr(worker_process, "_STANDBY_SECONDS", math.inf)
        os.kill(first.pid, signal.SIGKILL)
        assert (await sound.next(WorkerExited)).pid == first.pid
        assert (await sound.next(WorkerExited)).reason == "did not attach within 2 s"
        monkeypatch.setattr(worker_process, "_ATTACH_SECONDS", limit)  # Python may take longer to start
        assert (await sound.running()).incarnation >= 3


@pytest.mark.slow
async def test_a_worker_that_gives_up_says_at_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "worker_main", hostile_worker.gives_up)
    async with worker() as given_up:
        assert (await given_up.next(WorkerExited)).reason == "gave up: start: No space left on device (os error 28)"


@pytest.mark.parametrize("commands", ["", "pp", "ds", "dddd", "pdpddpdp", "dddddp"])
def test_commands_are_cut_by_the_descriptors_that_come_with_them(commands: str) -> None:
    """Any number without one (p), at most two with (d); all of them, in order."""
    made = [records.egress_put(i, 1500, (None,) if each == "d" else ()) for i, each in enumerate(commands)]  # type: ignore[arg-type]
    portions = [*worker_process.portions(tuple(made), 2)]
    assert [each for portion in portions for each in portion] == made
    counts = [sum(bool(each.sockets) for each in portion) for portion in portions]
    assert max(counts) <= 2
    assert len(portions) == max(1, -(-commands.count("d") // 2))
