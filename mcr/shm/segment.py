"""A worker's shared memory, from the supervisor's side.

The memory is a sealed memfd: it has no name, so nothing of a killed daemon is left to clean up, and nobody can
shrink it under a reader. Layout and sizes are the compiler's (``native/shm_abi.h``); none is typed here.
"""

import fcntl
import mmap
import os
from collections.abc import Iterable
from typing import Any, Self

import attrs

from mcr._native import ffi, lib

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@attrs.frozen
class Totals:
    """A worker's counters, in packets (bytes: payload bytes). Summed over all who held the segment."""

    recv: int
    matched: int
    parse_err: int
    no_match: int
    buf_exhaust: int
    submitted: int
    sent: int
    errors: int
    in_doubt: int
    bytes: int
    log_dropped: int

    @classmethod
    def sum(cls, parts: Iterable["Totals"]) -> "Totals":
        """Add up, field by field."""
        return cls(*(sum(column) for column in zip(*map(attrs.astuple, parts), strict=True)))


@attrs.frozen
class OutputCounters:
    """One output's counters. `last_error` is an errno, 0 if no send failed."""

    submitted: int
    sent: int
    errors: int
    in_doubt: int
    bytes: int
    last_error: int


_NO_OUTPUT_COUNTERS = OutputCounters(0, 0, 0, 0, 0, 0)


class Segment:
    """One worker's segment, created and owned by the supervisor. Use as a context manager.

    Attributes:
        fd: the memfd, to be handed to the worker.
        shared: cffi pointer to ``struct mcr_segment``; invalid after `close`.
    """

    def __init__(self, worker_id: int) -> None:
        size = ffi.sizeof("struct mcr_segment")
        self.fd = os.memfd_create(f"mcr-worker-{worker_id}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self._memory = mmap.mmap(self.fd, size)
        self.shared: Any = ffi.from_buffer("struct mcr_segment *", self._memory)
        self.shared.header.length = size
        self.shared.header.worker_id = worker_id
        self.shared.header.version = lib.MCR_ABI_VERSION

    def close(self) -> None:
        """Unmap and release. The worker's own mapping stays valid."""
        ffi.release(self.shared)  # before the mapping goes, or mmap refuses to close
        self._memory.close()
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def captured(self, capture: int) -> int:
        """Packets the worker has taken from a capture ring."""
        return int(self.shared.captures[capture].cursor)

    def start_capture(self, capture: int) -> None:
        """Start a new ring's count at zero. Only while no worker holds the slot."""
        self.shared.captures[capture].cursor = 0

    def read(self, rules: int = 0, outputs: int = 0) -> "Counters":
        """Copy the worker's counters: totals, and those of the first so many rule and output slots."""
        return Counters(self.shared, rules, outputs)


class Counters:
    """A copy of one worker's counters, all read within microseconds of each other.

    Each value is whole; they add up exactly when traffic rests.
    """

    def __init__(self, shared: Any, rules: int, outputs: int) -> None:
        self._rules = ffi.new("struct mcr_rule_counters[]", rules)
        self._outputs = ffi.new("struct mcr_output_counters[]", outputs)
        ffi.memmove(self._rules, shared.rules, ffi.sizeof(self._rules))
        ffi.memmove(self._outputs, shared.outputs, ffi.sizeof(self._outputs))
        totals = shared.totals
        self.totals = Totals(*(getattr(totals, field.name) for field in attrs.fields(Totals)))

    def rule_matched(self, slot: int, tag: int) -> int:
        """Packets a rule matched; 0 while the slot does not bear its tag yet."""
        if slot >= len(self._rules) or self._rules[slot].tag != tag:
            return 0
        return int(self._rules[slot].matched)

    def output(self, slot: int, tag: int) -> OutputCounters:
        """An output's counters; zeros while the slot does not bear its rule's tag yet."""
        if slot >= len(self._outputs) or self._outputs[slot].tag != tag:
            return _NO_OUTPUT_COUNTERS
        counters = self._outputs[slot]
        return OutputCounters(*(getattr(counters, field.name) for field in attrs.fields(OutputCounters)))
