"""How long everybody waits while Python looks for garbage, in objects."""

import gc
from collections.abc import Iterator

import pytest

from mcr.process.garbage import leave_what_is_there, seek_in_short_steps, seek_later


@pytest.fixture
def looked_at() -> Iterator[list[int]]:
    """How many objects each time."""
    counts: list[int] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            counts.append(sum(len(gc.get_objects(generation=each)) for each in range(info["generation"] + 1)))

    before = gc.get_threshold()
    gc.collect()
    seek_in_short_steps()
    gc.callbacks.append(count)
    yield counts
    gc.callbacks.remove(count)
    gc.set_threshold(*before)


def test_of_thousands_of_objects_that_are_made_few_are_looked_at_at_a_time(looked_at: list[int]) -> None:
    made = [[number] for number in range(100_000)]
    assert len(looked_at) >= len(made) // 10_000
    assert max(looked_at) < 20_000


def test_what_is_left_alone_is_looked_at_no_more(looked_at: list[int]) -> None:
    made = [[number] for number in range(20_000)]
    leave_what_is_there()
    looked_at.clear()
    gc.collect()
    assert looked_at
    assert max(looked_at) < len(made)


def test_garbage_is_looked_for_when_all_is_made(looked_at: list[int]) -> None:
    with seek_later():
        made = [[number] for number in range(20_000)]
        assert not looked_at
        del made
    assert gc.isenabled()


def test_garbage_waits_until_the_last_is_made() -> None:
    """A status page may be put together in a thread while doctor looks."""
    page, doctor = seek_later(), seek_later()
    page.__enter__()
    with doctor:
        page.__exit__(None, None, None)
        assert not gc.isenabled()
    assert gc.isenabled()
