"""How much something has to do, told without a clock."""

import sys
from collections.abc import Callable
from types import FrameType


def count_calls(call: Callable[[], object]) -> int:
    """How many functions of Python it calls, itself among them."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count
