"""What the supervisor knows of its workers."""

import os
import signal

import pytest
import trio

from mcr.actors.worker_process import WorkerExited, WorkerProcess, WorkerStarted
from mcr.actors.worker_table import WorkerTable
from mcr.model.log import LogLevels
from mcr.process.turns import Turns
from mcr.shm import records
from mcr.stats.stalls import Checked


class Workers:
    """Two workers, and what is delivered to them."""

    def __init__(self) -> None:
        self.table = WorkerTable(LogLevels())
        self._inboxes = []
        for core in (4, 5):
            send, receive = trio.open_memory_channel(100)
            self.table.add(core, WorkerProcess(send))
            self._inboxes.append(receive)

    def delivered(self, worker_id: int) -> list[records.Command]:
        """Since the last call."""
        waiting = self._inboxes[worker_id].statistics().current_buffer_used
        return [each for _ in range(waiting) for each in self._inboxes[worker_id].receive_nowait().commands]


@pytest.fixture
def workers() -> Workers:
    return Workers()


def test_nothing_is_kept_for_a_worker_that_has_no_process(workers: Workers) -> None:
    """One that can't be started, as in a sandbox that denies it, would have all that was ever said in its inbox."""
    workers.table.start(WorkerStarted(0, 1, 100))
    assert records.generation(1) in workers.delivered(0)
    workers.table.tell_all(records.generation(2))
    assert (len(workers.delivered(0)), len(workers.delivered(1))) == (1, 0)
    workers.table.exit(WorkerExited(0, 100, "killed by signal 9 (SIGKILL)", 0.1))
    workers.table.tell_all(records.generation(3))
    assert (len(workers.delivered(0)), len(workers.delivered(1))) == (0, 0)
    workers.table.start(WorkerStarted(0, 2, 101))
    assert workers.delivered(0) == [records.levels(LogLevels()), records.own(b""), records.generation(3)]


def test_worker_that_may_not_be_killed_takes_nothing_else_down(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """mcrd as root without CAP_KILL, as in a container that drops capabilities, and a worker that is another user."""

    def refuse(pid: int, number: int) -> None:
        assert (pid, number) == (100, signal.SIGKILL)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    workers.table.tell_generation(2)
    workers.table.start(WorkerStarted(0, 1, 100))
    workers.table.acknowledge(0, 1)
    workers.table.start(WorkerStarted(1, 1, 101))
    workers.table.acknowledge(1, 2)
    for _ in range(4):
        workers.table.kill_overdue()
    (said,) = caplog.messages
    assert said == (
        "worker 0 (pid 100) has not acknowledged generation 2: it hangs, and mcrd may not end it without CAP_KILL;"
        " end it yourself: kill -9 100"
    )
    workers.table.exit(WorkerExited(0, 100, "killed by signal 9 (SIGKILL)", 0.1))
    last = workers.table[0].last_exit
    assert last is not None
    assert last.endswith("Z killed by signal 9 (SIGKILL)")


def test_a_worker_that_gets_no_processor_does_not_hang(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks count for as much of a second as it could have answered in: a quarter, or all of it."""
    waited, killed = {100: 0.0, 101: 0.0}, []
    now = 10.0
    monkeypatch.setattr(Turns, "of", lambda pid: Turns(now, waited=waited[pid]))
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    for worker_id in (0, 1):
        workers.table.start(WorkerStarted(worker_id, 1, 100 + worker_id))
    for check in range(1, 11):
        workers.table.weigh()
        workers.table.kill_hung(Checked())
        now += 1
        waited[100] += 0.75
        assert (100 in killed, 101 in killed) == (check >= 9, check >= 3)
    assert workers.table.weigh() == (0.25, 1.0)
    workers.table.exit(WorkerExited(0, 100, "killed by signal 9 (SIGKILL)", 0.1))
    workers.table.start(WorkerStarted(0, 2, 100))
    now += 1
    waited[100] += 0.75
    assert workers.table.weigh() == (1.0, 1.0)  # it is another process, at which nobody has looked


def test_no_worker_is_looked_at_that_does_its_work(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def look(pid: int) -> Turns:
        read.append(pid)
        return Turns(1.0)

    monkeypatch.setattr(Turns, "of", look)
    for worker_id in (0, 1):
        workers.table.start(WorkerStarted(worker_id, 1, 100 + worker_id))
        workers.table.acknowledge(worker_id, 1)

    def check(suspected: tuple[int, ...]) -> list[int]:
        read.clear()
        workers.table.weigh()
        workers.table.kill_hung(Checked(suspected=suspected))
        return [*read]

    assert [check(each) for each in [(), (1,), (1,), (), ()]] == [[], [101], [101], [101], []]
    workers.table.tell_generation(2)
    workers.table.acknowledge(1, 2)
    assert check(()) == [100]


def test_nothing_is_let_go_that_a_process_may_still_use(workers: Workers) -> None:
    """One that has just started forwards by nothing yet; one that says more than it was told is not believed."""
    assert workers.table.forwarded_by() == workers.table.newest == 1
    workers.table.start(WorkerStarted(0, 1, 100))
    workers.table.tell_generation(2)
    assert (workers.table.newest, workers.table.forwarded_by()) == (2, 0)
    workers.table.acknowledge(0, 9)
    assert (workers.table.acknowledged(), workers.table.forwarded_by()) == (2, 2)
    workers.table.tell_generation(3)
    assert workers.table.forwarded_by() == 2
    workers.table.exit(WorkerExited(0, 100, "killed by signal 9 (SIGKILL)", 0.1))
    assert (workers.table.acknowledged(), workers.table.forwarded_by()) == (0, 3)
