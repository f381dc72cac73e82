"""How the posts of the workers pass from the mcrd before this one: its workers end when others are ready to go on."""

from collections.abc import Awaitable, Callable, Sequence
from socket import socket

import trio

from mcr.actors.predecessors import Predecessors
from mcr.actors.worker_process import Workshop, stand_by
from mcr.errors import McrError
from mcr.net.patience import close_all
from mcr.relay.relay import Relay
from mcr.shm.kept import Kept


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

    async def take_over(self, relay: Relay, generation: int, let_go: Callable[[], Awaitable[None]]) -> McrError | None:
        """Have the predecessors end, and close what else their mcrd has left and nobody wants; why that can't be."""
        await self._ready.wait()
        await relay.take_over(generation)
        try:
            await self._predecessors.end()
        except McrError as error:
            return error
        self._kept.store.close_inherited()
        await let_go()
        self.done.set()
        return None


async def close_beside(sockets: Sequence[socket]) -> None:
    """Close sockets, beside what the supervisor does: the kernel waits each time."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(close_all, sockets)
