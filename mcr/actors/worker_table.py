"""The supervisor's table of workers, one row each. Values and handles; nothing here waits."""

import os
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import attrs

from mcr.actors.worker_process import WorkerExited, WorkerProcess, WorkerStarted
from mcr.logs.logger import get_logger
from mcr.model.log import Facility, LogLevels
from mcr.model.rule import NO_RULES
from mcr.model.worker import WorkerState, WorkerView
from mcr.process.turns import Turns
from mcr.relay.told import Told
from mcr.shm import records
from mcr.shm.segment import Segment
from mcr.stats.stalls import Checked

log = get_logger(Facility.SUPERVISOR)

_OVERDUE_WATCHES = 3  # without an acknowledgement that is due: the worker hangs, unless others had the processor


@attrs.define
class Worker:
    """One of them."""

    worker_id: int
    core: int
    process: WorkerProcess
    state: WorkerState = WorkerState.STARTING
    pid: int | None = None
    incarnation: int = 0
    generation: int = 0
    restarts: int = 0
    last_exit: str | None = None
    overdue: float = 0
    """For how many checks it has acknowledged nothing although something is due, and it could have."""
    turns: Turns | None = None
    """As of the last check; None: nothing was suspected of it then."""
    weight: float = 1.0
    """Of the last check (`Turns.weight`)."""
    hung: int | None = None
    """Pid that was killed since it did not do its work."""
    ended: bool = False

    def tell(self, *commands: records.Command) -> None:
        """Send commands to its process, in order."""
        self.process.deliver(self.incarnation, commands)

    def kill(self, what: str) -> None:
        """End its process, which hangs; another takes its place."""
        if self.pid is None:
            return
        self.overdue = 0
        try:
            os.kill(self.pid, signal.SIGKILL)
            self.hung, fate = self.pid, "it hangs and is killed"
        except ProcessLookupError:
            return
        except PermissionError:  # it is another user, and mcrd is root without the rights of root
            fate = f"it hangs, and mcrd may not end it without CAP_KILL; end it yourself: kill -9 {self.pid}"
        log.error(
            "worker %d (pid %d) %s: %s", self.worker_id, self.pid, what, fate, worker=self.worker_id, pid=self.pid
        )


class WorkerTable:
    """All of them, by their ids.

    Attributes:
        newest: the newest generation that they have got.
    """

    def __init__(self, levels: LogLevels) -> None:
        """`levels`: the first commands are these, no addresses of this machine, and the generation without rules."""
        self._workers: list[Worker] = []
        self._told = Told()
        self.newest = NO_RULES
        self._told.note((records.levels(levels), records.own(b""), records.generation(self.newest)))

    def __getitem__(self, worker_id: int) -> Worker:
        return self._workers[worker_id]

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def add(self, core: int, process: WorkerProcess) -> None:
        """Take the next one in."""
        self._workers.append(Worker(len(self._workers), core, process))

    def tell_all(self, *commands: records.Command) -> None:
        """Send commands to all that have a process, in order. A new process gets the whole state anyway."""
        self._told.note(commands)
        for worker in self:
            if worker.pid is not None:
                worker.tell(*commands)

    def nudge(self) -> None:
        """Have all look at their rings."""
        for worker in self:
            if worker.pid is not None:
                worker.tell(records.generation(self.newest))

    def tell_generation(self, generation: int, *commands: records.Command) -> None:
        """Tell all of them that these commands make the next generation."""
        self.tell_all(*commands, records.generation(generation))
        self.newest = generation

    def acknowledged(self) -> int:
        """The newest generation that every worker that runs forwards by; 0 while none runs."""
        running = (worker.generation for worker in self if worker.state is WorkerState.RUNNING)
        return min(running, default=0)

    def forwarded_by(self) -> int:
        """The oldest generation that a process may still forward by; the newest if there is no process."""
        return min((worker.generation for worker in self if worker.pid is not None), default=self.newest)

    @property
    def have_ended(self) -> bool:
        """Whether all have stopped after the stop command."""
        return all(worker.ended for worker in self)

    def describe(self, interfaces: tuple[str, ...], segments: Sequence[Segment]) -> tuple[WorkerView, ...]:
        """Every worker, as it is now."""
        return tuple(
            WorkerView(
                worker_id=worker.worker_id,
                pid=worker.pid,
                core=worker.core,
                interfaces=interfaces,
                state=worker.state,
                restarts=worker.restarts,
                generation=worker.generation,
                last_exit=worker.last_exit,
                io=segments[worker.worker_id].engine,
            )
            for worker in self
        )

    # What happens to them.

    def start(self, started: WorkerStarted) -> None:
        """A worker has a new process: send it the state that the others have."""
        worker = self[started.worker_id]
        worker.pid = started.pid
        worker.incarnation = started.incarnation
        worker.state = WorkerState.STARTING
        worker.overdue = 0
        worker.turns, worker.weight = None, 1.0
        worker.tell(*self._told.whole())
        what = "worker %d started, pid %d, core %d"
        log.info(what, worker.worker_id, worker.pid, worker.core, worker=worker.worker_id, pid=worker.pid)

    def acknowledge(self, worker_id: int, generation: int) -> None:
        """A worker reports that it forwards by this generation, which cannot be newer than those it has got."""
        worker = self[worker_id]
        worker.generation = min(generation, self.newest)
        worker.overdue = 0
        if worker.state is WorkerState.STARTING:
            worker.state = WorkerState.RUNNING

    def exit(self, exited: WorkerExited) -> None:
        """A worker has no process any more."""
        worker = self[exited.worker_id]
        worker.pid = None
        worker.generation = 0
        if exited.delay is None:
            worker.ended = True
            worker.state = WorkerState.STOPPING
            log.info("worker %d stopped", worker.worker_id, worker=worker.worker_id)
            return
        worker.restarts += 1
        worker.state = WorkerState.WAITING
        killed = exited.pid == worker.hung and exited.reason.startswith("killed")
        why = f"hung and was {exited.reason} from mcrd" if killed else exited.reason
        worker.last_exit = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {why}"
        log.error(
            "Worker process exited unexpectedly: worker %d (pid %s) %s; restart %d in %.1f s",
            worker.worker_id,
            exited.pid,
            exited.reason,
            worker.restarts,
            exited.delay,
            worker=worker.worker_id,
            pid=exited.pid,
            restarts=worker.restarts,
        )

    def weigh(self) -> tuple[float, ...]:
        """How much this check counts for each: all of it where nothing was suspected, as nobody has looked there."""
        for worker in self:
            worker.weight = 1.0
            if worker.turns and worker.pid is not None:
                before, worker.turns = worker.turns, Turns.of(worker.pid)
                worker.weight = before.weight(worker.turns)
        return tuple(worker.weight for worker in self)

    def kill_hung(self, checked: Checked) -> None:
        """End those that hang, and look from now on when those get a processor that may."""
        for worker_id in checked.hung:
            self[worker_id].kill("takes no packets although some wait")
        self.kill_overdue()
        for worker in self:
            if worker.overdue == 0 and worker.worker_id not in checked.suspected:
                worker.turns = None
            elif worker.turns is None and worker.pid is not None:
                worker.turns = Turns.of(worker.pid)

    def kill_overdue(self) -> None:
        """End those that have not acknowledged the newest generation for some checks."""
        # Counted, not timed: a supervisor that was itself stopped must first read the reports of that time. And without
        # what others had of the processor: one that waits for it does not hang, and one in its place would wait, too.
        for worker in self:
            worker.overdue = worker.overdue + worker.weight if worker.generation < self.newest else 0
            if worker.overdue >= _OVERDUE_WATCHES:
                worker.kill(f"has not acknowledged generation {self.newest}")

    def kill_silent(self) -> None:
        """End those that have not acknowledged the newest generation."""
        for worker in self:
            if worker.generation < self.newest:
                worker.kill("does not answer, and mcrd is about to leave it to the next one")

    def stop(self) -> None:
        """Tell all of them to send what has arrived, and to end."""
        for worker in self:
            worker.state = WorkerState.STOPPING
        self.tell_all(records.stop())
