"""When a link is taken to have come back."""

import attrs
import pytest

from mcr.net.network import Link, has_new_carrier

UP = Link(7, "in0", carrier_ups=1)
OUT = attrs.evolve(UP, carrier=False)
BACK = attrs.evolve(UP, carrier_ups=2)
DOWN = attrs.evolve(UP, up=False)


@pytest.mark.parametrize(
    ("before", "now", "is_new"),
    [
        (OUT, BACK, True),
        (UP, BACK, True),  # it was out for a moment, and nobody looked then
        (OUT, attrs.evolve(OUT, carrier=True), True),  # a kernel that does not count
        (UP, UP, False),
        (UP, OUT, False),
        (DOWN, BACK, False),  # set up: the kernel reports its groups
        (UP, DOWN, False),
        (None, UP, False),  # new: they are joined, and reported
        (UP, None, False),
    ],
)
def test_carrier_is_new_where_an_interface_stayed_up(before: Link | None, now: Link | None, is_new: bool) -> None:
    assert has_new_carrier(before, now) is is_new
