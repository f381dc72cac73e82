"""What captures count until they are closed."""

from types import SimpleNamespace
from typing import cast

import pytest

from mcr.net.filter.base import Rejected
from mcr.shm.kernel_counters import KernelCounters, Taken
from mcr.stats.captures import CaptureCounts, Watched


class Kernel:
    """Plays the kernel path's counters: of each capture a datagram is lost, and known to be when one looks at last."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def look(self) -> None:
        """Nothing is known yet."""

    def look_at_last(self, capture: int) -> None:
        self._known.add(capture)

    def taken(self, capture: int) -> Taken:
        return Taken(lost=int(capture in self._known))


@pytest.mark.parametrize("all_at_once", [False, True])
def test_what_captures_have_lost_is_counted_as_they_close(*, all_at_once: bool) -> None:
    counts = CaptureCounts((), cast("KernelCounters", Kernel()))
    rejected = cast("Rejected", SimpleNamespace(read=lambda: 0, state=0, close=lambda: None))
    for capture in (3, 4):
        counts.open(capture, Watched(f"eth{capture}", (), rejected))
    if all_at_once:
        counts.close_all()
    else:
        counts.close(3)
        counts.close(4)
    assert [(each.interface, each.kernel_drops) for each in counts.interfaces()] == [("eth3", 1), ("eth4", 1)]
