"""How the posts of the workers pass from the mcrd before this one: its workers end when others are ready to go on."""

from collections.abc import Awaitable, Callable, Sequence
from socket import socket

import trio

from mcr.actors.predecessors import Predecessors
from mcr.actors.worker_process import Workshop, stand_by
from mcr.actors.worker_table import WorkerTable
from mcr.errors import McrError
from mcr.model.worker import WorkerState
from mcr.net.patience import close_all
from mcr.relay.relay import Relay
from mcr.shm.kept import Kept

_START_SECONDS = 2.0  # for workers, whose processes stand by; it takes them some milliseconds
_LOOK_SECONDS = 0.002


class Succession:
    """Of all posts at once.

    Attributes:
        done: the posts are vacant, and what their workers have left is in order.
    """

    def __init__(self, kept: Kept, predecessors: Predecessors) -> None:
        self._kept = kept
        self._predecessors = predecessors
        self._ready = trio.Event()
        self.done = trio.Event()
        if not kept.inherited:
            self.done.set()

    async def prepare(self, workshop: Workshop) -> None:
        """Have a process ready for each post: to start one takes longer than a ring lasts."""
        if self._kept.inherited:
            await stand_by(workshop, len(self._kept.segments))
        self._ready.set()

    async def take_over(
        self, relay: Relay, workers: WorkerTable, let_go: Callable[[], Awaitable[None]]
    ) -> McrError | None:
        """Have the predecessors end, and close what else their mcrd has left and nobody wants; why that can't be.

        The former filters are in force until workers run: what they leave to the kernel path needs none meanwhile.
        """
        await self._ready.wait()
        await relay.give_up_former(workers.newest)
        try:
            await self._predecessors.end()
        except McrError as error:
            return error
        await let_go()
        self.done.set()
        if self._kept.inherited:
            with trio.move_on_after(_START_SECONDS):
                while not all(worker.state is WorkerState.RUNNING for worker in workers):  # noqa: ASYNC110 - once
                    await trio.sleep(_LOOK_SECONDS)
        await relay.take_over()
        self._kept.store.close_inherited()
        return None


async def close_beside(sockets: Sequence[socket]) -> None:
    """Close sockets, beside what the supervisor does: the kernel waits each time."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(close_all, sockets)
