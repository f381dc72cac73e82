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
