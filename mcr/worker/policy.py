"""Decisions of the supervisor: when a worker may start again, and which core it runs on."""

import os
from collections.abc import Sequence

import attrs

STEADY_SECONDS = 1.0
"""A worker that lived this long was sound; its death counts as a first one.

A fault that crashes every worker does so within milliseconds. One that dies every second is still worth replacing at
once, since its rings have room for a limited time only.
"""

_FIRST_DELAY = 0.1
_MAX_DELAY = 5.0


@attrs.frozen
class RestartHistory:
    """How often in a row a worker died young."""

    early_deaths: int = 0

    def after_exit(self, uptime: float) -> "RestartHistory":
        """The history once a worker has exited after `uptime` seconds."""
        return RestartHistory(1 if uptime >= STEADY_SECONDS else self.early_deaths + 1)

    @property
    def delay(self) -> float:
        """Seconds to wait before the next start: none after a first death, then doubling up to five seconds."""
        if self.early_deaths <= 1:
            return 0.0
        return min(_FIRST_DELAY * 2.0 ** min(self.early_deaths - 2, 16), _MAX_DELAY)


def usable_cores() -> list[int]:
    """The processors that this process may use; all, where it may not ask."""
    try:
        return sorted(os.sched_getaffinity(0))
    except OSError:
        return list(range(os.cpu_count() or 1))


def worker_cores(count: int, allowed: Sequence[int]) -> tuple[int, ...]:
    """One core per worker, in turn from those that this process may use."""
    ordered = sorted(allowed)
    return tuple(ordered[i % len(ordered)] for i in range(count))
