"""When Python looks for garbage in circles. All threads wait meanwhile: some 0.4 µs for each object."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs

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

    They would be looked at in vain, and count as what stays. Several may be made at the same time, also in threads:
    garbage is looked for once the last is.
    """
    _making.begin()
    try:
        yield
    finally:
        _making.end()


@attrs.define
class _Making:
    """How many are made for whom garbage is to wait."""

    _number: int = 0
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def begin(self) -> None:
        with self._lock:
            self._number += 1
            gc.disable()

    def end(self) -> None:
        with self._lock:
            self._number -= 1
            if not self._number:
                gc.enable()


_making = _Making()
