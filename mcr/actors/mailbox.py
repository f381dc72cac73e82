"""The question-and-answer pair between an actor's handle and the actor.

An actor reads commands from an inbox; a command that wants an answer carries a `Reply`. The actor uses each reply as
a context manager, so that a caller is released even if the actor dies in the middle of the request: memory channels
don't close when they are garbage.
"""

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Generic, NoReturn, Self, TypeVar

import attrs
import trio

from mcr.errors import McrError, ShuttingDown

T = TypeVar("T")
C = TypeVar("C")


@attrs.frozen
class Reply(Generic[T]):
    """The actor's end of one question: answer it once, with a value or with an `McrError` for the caller."""

    _answer: trio.MemorySendChannel[T | McrError]

    def resolve(self, answer: T | McrError) -> None:
        """Answer. A caller that has gone away is not an error."""
        with suppress(trio.BrokenResourceError):
            self._answer.send_nowait(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._answer.close()


class Reached:
    """A number, such as a generation. One task sets it, others wait until it is large enough."""

    def __init__(self) -> None:
        self.number = 0
        self._changed = trio.Event()

    def set(self, number: int) -> None:
        """Let those go on that wait for this or less."""
        if number != self.number:
            self.number = number
            self._changed.set()
            self._changed = trio.Event()

    async def at_least(self, number: int) -> int:
        """Wait until it is as large; what it is then."""
        while self.number < number:
            await self._changed.wait()
        return self.number


async def next_beat(seconds: float) -> None:
    """Wait for the next whole multiple of so many seconds: all who do so wake the process together."""
    await trio.sleep_until((trio.current_time() // seconds + 1) * seconds)


async def repeat(inbox: trio.MemorySendChannel[C], command: C, seconds: float) -> NoReturn:
    """Send a command at each beat."""
    while True:
        await next_beat(seconds)
        await tell(inbox, command)


async def tell(inbox: trio.MemorySendChannel[C], command: C) -> None:
    """Send a command: without a round through the scheduler, if the actor waits for one or the inbox has room."""
    try:
        inbox.send_nowait(command)
    except trio.WouldBlock:
        await inbox.send(command)
    except trio.BrokenResourceError:
        await trio.lowlevel.checkpoint_if_cancelled()  # when all are stopped, who is left may find the actor gone
        raise


async def ask(inbox: trio.MemorySendChannel[C], question: Callable[[Reply[T]], C]) -> T:
    """Send a command that wants an answer, and wait for it.

    Args:
        inbox: the actor's.
        question: makes the command, given the reply it is to carry.

    Raises:
        McrError: what the actor answered, or `ShuttingDown` if it is gone.
    """
    send: trio.MemorySendChannel[T | McrError]
    receive: trio.MemoryReceiveChannel[T | McrError]
    send, receive = trio.open_memory_channel(1)
    with receive:
        try:
            await tell(inbox, question(Reply(send)))
            answer = await receive.receive()
        except (trio.BrokenResourceError, trio.EndOfChannel):
            raise ShuttingDown("The daemon is stopping", "start it again: mcrd supervisor") from None
    if isinstance(answer, McrError):
        raise answer
    return answer
