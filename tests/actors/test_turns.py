"""Turns: one at a time, user by user, with a rest between them."""

import pytest
import trio
import trio.testing

from mcr.control.turns import LONGEST_REST, Turns
from mcr.errors import ShuttingDown


async def test_users_take_turns_and_rest_between_them(autojump_clock: trio.testing.MockClock) -> None:
    """User 1 asks four times, then user 2 once. Each turn of a second is followed by four of rest."""
    turns, taken = Turns(0.2), []

    async def ask(uid: int) -> None:
        async with turns.turn(uid):
            taken.append((uid, trio.current_time()))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for uid in (1, 1, 1, 1, 2):
            nursery.start_soon(ask, uid)
            await trio.testing.wait_all_tasks_blocked()
    start = taken[0][1]
    assert [(uid, round(when - start, 3)) for uid, when in taken] == [(1, 0), (1, 5), (2, 10), (1, 15), (1, 20)]


async def test_who_stops_waiting_holds_nobody_up(autojump_clock: trio.testing.MockClock) -> None:
    turns = Turns(0.5)
    taken = []

    async def ask(number: int, patience: float) -> None:
        with trio.move_on_after(patience):
            async with turns.turn(number % 2):
                taken.append(number)
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(ask, number, 100 if number in (0, 5) else 0.5)
            await trio.testing.wait_all_tasks_blocked()
    assert taken == [0, 5]
    async with turns.turn(0):
        pass


async def test_turn_that_had_to_wait_itself_keeps_the_next_waiting_for_seconds_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As `list` waits while thousands of rules are added."""
    turns = Turns(0.2)
    async with turns.turn(1):
        await trio.sleep(60)
    ended = trio.current_time()
    async with turns.turn(2):
        assert trio.current_time() - ended <= LONGEST_REST


async def test_turn_of_one_who_stops_waiting_as_it_comes_is_the_next_ones(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Else nobody would ever have one again."""
    turns, waiting, taken = Turns(1), trio.CancelScope(), []

    async def ask(uid: int, scope: trio.CancelScope) -> None:
        with scope:
            async with turns.turn(uid):
                taken.append(uid)

    async with trio.open_nursery() as nursery:
        async with turns.turn(1):
            for uid, scope in ((2, waiting), (3, trio.CancelScope())):
                nursery.start_soon(ask, uid, scope)
                await trio.testing.wait_all_tasks_blocked()
            waiting.cancel()
        nursery.cancel_scope.deadline = trio.current_time() + 10
    assert taken == [3]


async def test_once_stopped_nobody_waits_any_more(autojump_clock: trio.testing.MockClock) -> None:
    """Neither for others' turns nor for the rest between two."""
    turns = Turns(0.01)
    refused: list[int] = []

    async def ask(uid: int) -> None:
        try:
            async with turns.turn(uid):
                await trio.sleep(1)
        except ShuttingDown:
            refused.append(uid)

    async with trio.open_nursery() as nursery:
        for uid in (1, 2, 2, 3):
            nursery.start_soon(ask, uid)
        await trio.sleep(1.5)  # the first has had its turn, and the next would begin after a rest
        turns.stop()
        started = trio.current_time()
    assert trio.current_time() == started
    assert len(refused) == 3
    with pytest.raises(ShuttingDown):
        async with turns.turn(1):
            pass
