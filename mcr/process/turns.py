"""What the scheduler tells of a process: how long it could have run, and others did."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import attrs

_NS = 1e9
_WHOLE_SECONDS = 0.9  # since the last check, for one that counts whole: they come once a second, but not evenly


@attrs.frozen
class Turns:
    """Of its main thread.

    Attributes:
        at: when this was read, in seconds of the monotonic clock.
        ran, waited: seconds for which it has had a processor so far, and waited for one until it had it.
        wants: whether it has one, or waits.
    """

    at: float
    ran: float = 0.0
    waited: float = 0.0
    wants: bool = False

    @classmethod
    def of(cls, pid: int) -> Self:
        """Until now. Where the kernel does not count (proc(5), schedstat) nobody waits."""
        with suppress(OSError, ValueError, IndexError):
            ran, waited, *_ = map(int, Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split())
            _, _, state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")
            if ran:  # a kernel that does not count says 0 of all: one that spins would seem to wait
                return cls(time.monotonic(), ran / _NS, waited / _NS, state.startswith(b"R"))
        return cls(time.monotonic())

    def weight(self, later: "Turns") -> float:
        """How much a check counts that comes then, after one now: less if it is early, or others had the processor."""
        return self.share(later) * min(max(later.at - self.at, 0) / _WHOLE_SECONDS, 1)

    def share(self, later: "Turns") -> float:
        """Of the time until then, in which it ran or had nothing to do."""
        passed = later.at - self.at
        if passed <= 0:
            return 1.0
        # How long it waits by then is not known before it gets its turn.
        lacked = passed - (later.ran - self.ran) if later.wants else later.waited - self.waited
        return 1 - min(max(lacked / passed, 0), 1)
