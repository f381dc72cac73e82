import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import LimitReached
from mcr.relay.slots import Slots


@given(st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=60))
def test_no_slot_is_handed_out_twice(steps: list[int | None]) -> None:
    """None takes the lowest free slot; a number gives back one of those held."""
    slots, held = Slots(10, "things"), set[int]()
    for step in steps:
        if step is not None:
            if step in held:
                held.remove(step)
                slots.give(step)
        elif len(held) == 10:
            with pytest.raises(LimitReached, match="No room for more things"):
                slots.take()
        else:
            taken = slots.take()
            assert taken == min(set(range(10)) - held)
            held.add(taken)


def test_a_number_that_rests_is_another_s_when_nobody_uses_it_any_more() -> None:
    waits: list[int] = []
    slots = Slots(32, "things", lambda: waits.append(slots.taken))
    assert [slots.take() for _ in range(4)] == [0, 1, 2, 3]
    slots.rest(1)
    slots.rest(2)
    assert (slots.taken, slots.take(), waits) == (2, 4, [])
    slots.rest(3)  # more than two rest
    assert (slots.take(), len(waits)) == (1, 1)
    assert [slots.take() for _ in range(29)] == [2, 3, *range(5, 32)]
    slots.rest(7)
    assert (slots.take(), len(waits)) == (7, 2)
