"""Few counters, read often: a reading of all of them would cost more."""

from collections.abc import Sequence

import attrs

from mcr.relay.placement import PlacedRule
from mcr.shm.kernel_counters import KernelCounters
from mcr.shm.segment import Segment


@attrs.frozen
class Meter:
    """Reads them.

    Attributes:
        segments: of the workers.
        kernel: counters of the kernel path; None: there are none.
    """

    segments: Sequence[Segment]
    kernel: KernelCounters | None = None

    def matched(self, placed: PlacedRule) -> int:
        """Packets that a rule matched, over both paths."""
        place = placed.slot, placed.tag
        by_kernel = self.kernel.rule_matched(*place) if self.kernel else 0
        return by_kernel + sum(each.rule_matched(*place) for each in self.segments)

    def all_matched(self, slots: int) -> int:
        """Packets that all rules in the first slots matched, and those before them: tells whether anything comes."""
        by_kernel = self.kernel.rules_matched(slots) if self.kernel else 0
        return by_kernel + sum(each.rules_matched(slots) for each in self.segments)

    def refused(self, place: int) -> int:
        """Datagrams of the flows that were refused with this place."""
        return sum(each.refused(place) for each in self.segments)

    def heard(self) -> tuple[int, ...]:
        """How far each worker has read what it is told: who has not moved after it was told something stands still."""
        return tuple(each.heard for each in self.segments)
