"""Has flows refused that other machines return."""

from collections.abc import Callable

import attrs
import trio

from mcr.actors.mailbox import Reply
from mcr.actors.worker_table import WorkerTable
from mcr.errors import McrError
from mcr.relay.refusals import Refusal
from mcr.shm.records import Command


@attrs.frozen
class Refuse:
    """Refuse these flows and no others."""

    wanted: tuple[Refusal, ...]
    reply: Reply[None]


async def heed_refusal(command: Refuse, refuse: Callable[[tuple[Refusal, ...]], Command], workers: WorkerTable) -> None:
    """Carry it out, for the owner of the workers."""
    with command.reply as reply:
        try:
            told = await trio.to_thread.run_sync(refuse, command.wanted)
        except McrError as error:
            reply.resolve(error)
            return
        workers.tell_all(told)
        reply.resolve(None)
