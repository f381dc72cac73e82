"""How the workers end with mcrd, or are left to the next one."""

from collections.abc import Callable
from typing import assert_never

import attrs

from mcr.actors.mailbox import Reply
from mcr.actors.worker_table import WorkerTable


@attrs.frozen
class Rouse:
    """Have every worker acknowledge a generation, which one that hangs does not. The reply is which."""

    reply: Reply[int]


@attrs.frozen
class KillSilent:
    """End those that have not."""

    reply: Reply[None]


@attrs.frozen
class Stop:
    """Have all of them send what has arrived, and end. The reply is answered then."""

    reply: Reply[None]


Ending = Rouse | KillSilent | Stop


def heed_ending(command: Ending, workers: WorkerTable, stop: Callable[[Reply[None]], None]) -> None:
    """Carry one out, for the owner of the workers."""
    match command:
        case Rouse(reply):
            with reply:
                workers.tell_generation(workers.newest + 1)
                reply.resolve(workers.newest)
        case KillSilent(reply):
            with reply:
                workers.kill_silent()
                reply.resolve(None)
        case Stop(reply):
            stop(reply)
        case _:
            assert_never(command)
