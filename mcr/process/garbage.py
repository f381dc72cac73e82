"""When Python looks for garbage in circles. All threads wait meanwhile: some 0.4 µs for each object."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

THRESHOLDS: Final = 5_000, 1, 1_000
"""Young objects are looked at 5,000 at a time, then once more, with twice as many at most; what has stayed since then
is looked at hardly ever."""


def seek_in_short_steps() -> None:
    """Look for garbage often, in few objects each time."""
    gc.set_threshold(*THRESHOLDS)


def leave_what_is_there() -> None:
    """Look for no garbage in what is there now, as thousands of rules are: some 100 objects each.

    They are freed all the same once nobody has them. What is in a circle now stays for ever, so this is for what
    happens seldom.
    """
    gc.freeze()


@contextmanager
def seek_later() -> Iterator[None]:
    """Look for no garbage while this is made: thousands of objects that are free again at the end.

    They would be looked at in vain, and count as what stays.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
