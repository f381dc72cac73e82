"""When packets are due: at a rate, or at once."""

import sys
import time

_SECOND_NS = 1_000_000_000
_BURST_S = 0.00025  # packets due within it are due together: a wake-up for each would cost more than sending it


class Paced:
    """A number of packets per second, in bursts that are 0.25 ms or more apart."""

    def __init__(self, rate: float, start_ns: int) -> None:
        """Plan packets.

        Args:
            rate: packets per second, above 0.
            start_ns: when packet 0 is due, in nanoseconds of CLOCK_MONOTONIC.
        """
        self._start_ns = start_ns
        self._burst = max(1, int(rate * _BURST_S))
        self._burst_ns = self._burst * _SECOND_NS / rate

    def due_ns(self, index: int) -> int:
        """When packet `index` is due."""
        return self._start_ns + int(index // self._burst * self._burst_ns)

    def due_by(self, now_ns: int) -> int:
        """How many packets are due at a time, which is not before the start."""
        return (int((now_ns - self._start_ns) / self._burst_ns) + 1) * self._burst


class AtOnce:
    """As fast as they can be sent: a packet is due when it is made."""

    def due_ns(self, _index: int) -> int:
        """When a packet is due: now."""
        return time.monotonic_ns()

    def due_by(self, _now_ns: int) -> int:
        """How many packets are due: all there may ever be."""
        return sys.maxsize


Schedule = Paced | AtOnce
