import attrs
import pytest
import trio
import trio.testing

from mcr.actors.mailbox import Reached, Reply, ask, repeat
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


async def test_one_that_is_stopped_with_the_actor_finds_no_fault_in_that() -> None:
    """When mcrd stops, a task may run on for a moment and ask one that has ended already."""
    send, receive = trio.open_memory_channel[Question](0)
    receive.close()
    with trio.CancelScope() as scope:
        scope.cancel()
        await ask(send, lambda reply: Question("there?", reply))
    assert scope.cancelled_caught


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


async def test_those_who_wait_for_a_number_go_on_when_it_is_reached(nursery: trio.Nursery) -> None:
    reached = Reached()
    seen: list[tuple[int, int]] = []

    async def wait(number: int) -> None:
        seen.append((number, await reached.at_least(number)))

    for number in (1, 2, 4):
        nursery.start_soon(wait, number)
    for number, then in ((1, [(1, 1)]), (0, [(1, 1)]), (3, [(1, 1), (2, 3)])):
        await trio.testing.wait_all_tasks_blocked()
        reached.set(number)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == then
    nursery.cancel_scope.cancel()


async def test_commands_that_repeat_come_together_whenever_they_were_started(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    send, receive = trio.open_memory_channel[tuple[str, float]](0)

    async def tell(inbox: trio.MemoryReceiveChannel[str]) -> None:
        async for name in inbox:
            await send.send((name, trio.current_time()))

    for name, period in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        theirs, inbox = trio.open_memory_channel[str](0)
        nursery.start_soon(tell, inbox)
        nursery.start_soon(repeat, theirs, name, period)
        await trio.sleep(0.3)
    moments: dict[float, set[str]] = {}
    for _ in range(10):
        name, time = await receive.receive()
        moments.setdefault(round(time, 6), set()).add(name)
    assert moments == {1: {"a", "b"}, 2: {"a", "b", "c"}, 3: {"a", "b"}, 4: {"a", "b", "c"}}
    nursery.cancel_scope.cancel()
