"""What rules let go stays open, and keeps its slot, until no worker uses it."""

from collections.abc import Iterator
from contextlib import ExitStack
from socket import socket

import attrs
import pytest

from mcr.relay.closing import Closing
from mcr.relay.slots import Slots


@attrs.frozen(eq=False)
class Thing:
    slot: int
    all_sockets: tuple[socket, ...]


@pytest.fixture
def slots() -> Slots:
    return Slots(8, "things")


@pytest.fixture
def things(slots: Slots) -> Iterator[list[Thing]]:
    with ExitStack() as opened:
        yield [Thing(slots.take(), (opened.enter_context(socket()),)) for _ in range(3)]


def test_nothing_is_released_before_every_worker_forwards_without_it(slots: Slots, things: list[Thing]) -> None:
    closing, (first, second, third) = Closing(), things
    closing.add(5, slots, [first])
    closing.add(6, slots, [second, third])
    assert closing.release(4) == []
    assert slots.taken == 3
    assert closing.release(5) == [first]
    assert slots.take() == first.slot
    assert closing.release(9) == [second, third]
    assert closing.release(9) == []
    assert slots.taken == 1


def test_slots_of_one_kind_are_not_those_of_another(slots: Slots, things: list[Thing]) -> None:
    others = Slots(8, "others")
    closing, other = Closing(), Thing(others.take(), ())
    closing.add(2, slots, things)
    closing.add(2, others, [other])
    closing.release(2)
    assert (slots.taken, others.taken) == (0, 0)


def test_what_is_still_kept_at_the_end_is_closed(slots: Slots, things: list[Thing]) -> None:
    closing = Closing()
    closing.add(5, slots, things[:1])
    closing.add(7, slots, things[1:])
    (released,) = closing.release(5)
    closing.close()
    assert [each.fileno() == -1 for thing in things for each in thing.all_sockets] == [False, True, True]
    assert released is things[0]
