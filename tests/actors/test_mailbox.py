import attrs
import pytest
import trio

from mcr.actors.mailbox import Reply, ask
from mcr.errors import RuleNotFound, ShuttingDown


@attrs.frozen
class Question:
    text: str
    reply: Reply[str]


async def answer_one(inbox: trio.MemoryReceiveChannel[Question]) -> None:
    with inbox:
        question = await inbox.receive()
        with question.reply:
            question.reply.resolve(question.text.upper())


async def test_answer_arrives(nursery: trio.Nursery) -> None:
    send, receive = trio.open_memory_channel[Question](0)
    nursery.start_soon(answer_one, receive)
    assert await ask(send, lambda reply: Question("yes", reply)) == "YES"


async def test_error_as_answer_is_raised_in_the_caller(nursery: trio.Nursery) -> None:
    async def refuse() -> None:
        question = await receive.receive()
        with question.reply:
            question.reply.resolve(RuleNotFound("no such rule"))

    send, receive = trio.open_memory_channel[Question](0)
    nursery.start_soon(refuse)
    with pytest.raises(RuleNotFound):
        await ask(send, lambda reply: Question("x", reply))


async def test_caller_is_released_when_the_actor_dies_in_the_middle() -> None:
    """Memory channels don't close when they are garbage: the guard around the reply does it."""

    async def die() -> None:
        with receive:
            question = await receive.receive()
            with question.reply:
                raise RuntimeError("a bug")

    send, receive = trio.open_memory_channel[Question](0)
    async with trio.open_nursery() as callers:
        with pytest.RaisesGroup(RuntimeError):
            async with trio.open_nursery() as actors:
                actors.start_soon(die)
                callers.start_soon(expect_shutdown, send)


async def expect_shutdown(send: trio.MemorySendChannel[Question]) -> None:
    with pytest.raises(ShuttingDown):
        await ask(send, lambda reply: Question("x", reply))


async def test_actor_that_is_gone_is_a_shutdown() -> None:
    send, receive = trio.open_memory_channel[Question](0)
    receive.close()
    await expect_shutdown(send)


async def test_caller_that_went_away_does_not_disturb_the_actor() -> None:
    send, receive = trio.open_memory_channel[Question](0)
    async with trio.open_nursery() as callers:
        callers.start_soon(ask, send, lambda reply: Question("late", reply))
        question = await receive.receive()
        callers.cancel_scope.cancel()
    with question.reply:
        question.reply.resolve("nobody listens")
