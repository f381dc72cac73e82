"""Workers, as `mcrctl list-workers` shows them."""

import enum

import attrs


class WorkerState(enum.StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    """The process exists and has not acknowledged a generation yet."""

    RUNNING = "running"

    WAITING = "waiting"
    """It exited; the restart policy holds it back for a moment."""

    STOPPING = "stopping"


@attrs.frozen
class WorkerView:
    """A worker as `mcrctl list-workers` shows it."""

    worker_id: int
    pid: int | None
    core: int
    interfaces: tuple[str, ...]
    """Input interfaces it reads; one that is awaited, or gone, is not among them."""
    state: WorkerState
    restarts: int
    generation: int
    """The newest generation of the rules that it has acknowledged."""
    last_exit: str | None = None
    """When its last process ended unexpectedly, and how: ``2026-01-01T12:00:00Z killed by signal 9 (SIGKILL)``."""
    io: str | None = None
    """How it enters the kernel: ``io_uring``, or ``poll`` where that is forbidden; None before it has started."""
