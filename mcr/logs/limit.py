"""Limits the lines of one kind in the log: lines that repeat with packets, clients or requests must not flood it.

A kind is the lines of one place in the program, whatever the names and numbers in them. Each may log `BURST` lines at
once, and `RATE` per second from then on. Further lines are counted, and the count is a line of its own.
"""

import logging
import threading
import time
from collections.abc import Callable

import attrs

from mcr.text.plurals import counted

BURST = 64
RATE = 8

UNLIMITED = ""
"""The kind of lines that come as often as an operator has asked for."""


@attrs.define
class _Kind:
    allowance: float
    counted_at: float
    left_out: int = 0
    newest: logging.LogRecord | None = None


class LogLimit(logging.Filter):
    """A filter of loggers. A record's kind is its `kind` if it has one, otherwise its text before names are put in."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._guard = threading.Lock()
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be logged."""
        key = record.name, str(getattr(record, "kind", record.msg))
        if key[1] == UNLIMITED:
            return True
        now = self._clock()
        with self._guard:
            kind = self._kinds.setdefault(key, _Kind(BURST, now))
            kind.allowance = min(BURST, kind.allowance + RATE * (now - kind.counted_at))
            kind.counted_at = now
            if kind.allowance >= 1:
                kind.allowance -= 1
                return True
            kind.left_out += 1
            kind.newest = record
            return False

    def left_out(self) -> list[logging.LogRecord]:
        """A record for each kind of which some were left out since this was asked last."""
        told = []
        with self._guard:
            for kind in self._kinds.values():
                if kind.newest:
                    told.append(_describe(kind.left_out, kind.newest))
                    kind.left_out, kind.newest = 0, None
        return told


def _describe(count: int, newest: logging.LogRecord) -> logging.LogRecord:
    try:
        text = newest.getMessage()
    except Exception:  # noqa: BLE001 - a bad log call, which those that were not left out have told
        text = str(newest.msg)
    message = f"{counted(count, 'more line')} such as: %s"
    return logging.LogRecord(newest.name, newest.levelno, newest.pathname, newest.lineno, message, (text,), None)
