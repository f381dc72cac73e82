"""Writes events as lines on standard error, text or JSON.

Rules of the module:

1. A line is one event on one line, whatever a message holds.
2. Nobody waits for the log, or fails by it. Lines go through a bounded queue to a thread that writes them; when
   standard error does not take them (a stopped terminal, a full pipe or disk), they are dropped and their number is
   logged later.
3. Lines that repeat do not flood it: see `mcr.logs.limit`.
4. The newest events of level warning and graver are remembered: `mcrctl report` needs no access to the journal.
"""

import contextlib
import json
import logging
import math
import os
import queue
import select
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Literal

from mcr.logs.limit import LogLimit
from mcr.logs.logger import LABELS, NUMBERS, ROOT, name_of
from mcr.model.log import Facility, Level, LogLine
from mcr.text.visible import visible

LogFormat = Literal["text", "json"]

_QUEUE_LINES = 10_000
_LONGEST_LINE = 16_384  # characters
_REMEMBERED_LINES = 200
_LEFT_OUT_SECONDS = 1  # between two reports of what was left out
_FLUSH_SECONDS = 2  # how long the end of the process waits for a standard error that takes nothing

_STDERR = 2


def formatter_for(log_format: LogFormat) -> logging.Formatter:
    """What makes the lines: for the journal, if standard error is connected to it."""
    journal = _is_journal(_STDERR)  # which notes the time itself
    formatter = _JsonFormatter() if log_format == "json" else _TextFormatter(timed=not journal)
    return _JournalFormatter(formatter) if journal else formatter


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(record: logging.LogRecord) -> str:
    return LABELS.get(record.levelno, record.levelname.lower())


def _facility(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _message(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    message = record.getMessage()
    return f"{message}\n{formatter.formatException(record.exc_info)}" if record.exc_info else message


class _TextFormatter(logging.Formatter):
    def __init__(self, *, timed: bool) -> None:
        super().__init__()
        self._timed = timed

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_level(record)} [{_facility(record)}] {_message(record, self)}"
        if self._timed:
            line = f"{_time(record)} {line}"
        return visible(line)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _time(record),
            "level": _level(record),
            "facility": _facility(record),
            "message": _message(record, self),
        }
        # Twice: the event's own members come first, and no field replaces one of them.
        return json.dumps(event | getattr(record, "fields", {}) | event, default=str)


def _is_journal(descriptor: int) -> bool:
    """Whether systemd connected a descriptor to the journal: it says of which file that is true (systemd.exec(5))."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _JournalFormatter(logging.Formatter):
    """The lines of another formatter, with the priority that the journal takes off again (sd-daemon(3))."""

    def __init__(self, lines: logging.Formatter) -> None:
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        level = next((level for level, number in NUMBERS.items() if record.levelno >= number), Level.DEBUG)
        return f"<{min(level, Level.DEBUG)}>{self._lines.format(record)}"


class Memory(logging.Handler):
    """Keeps the newest warnings, and what is graver."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: deque[LogLine] = deque(maxlen=_REMEMBERED_LINES)
        self._words = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Remember one event."""
        with contextlib.suppress(Exception):  # a bad log call is no reason to stop relaying; the writer has told it
            message = _message(record, self._words)
            self.lines.append(LogLine(_time(record), _level(record), _facility(record), message))


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}... ({len(line):,} characters)"


class QueuedWriter(logging.Handler):
    """Formats where the event happens, writes in a thread of its own."""

    def __init__(self, limit: LogLimit) -> None:
        self._limit = limit
        self._lines: queue.Queue[str | None] = queue.Queue(_QUEUE_LINES)
        self._dropped = 0
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="mcr-log", daemon=True)
        self._thread.start()
        super().__init__()  # now: it will be closed at the end of the process

    def emit(self, record: logging.LogRecord) -> None:
        """Have one event written, or counted as dropped."""
        try:
            self._lines.put_nowait(_cut(self.format(record)))
        except queue.Full:
            self._drop(1)
        except Exception:  # noqa: BLE001  # as every handler does: a bad log call is no reason to stop relaying
            self.handleError(record)

    def close(self) -> None:
        """Flush. The standard library calls this at the end of the process."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_FLUSH_SECONDS)
            self._thread.join(_FLUSH_SECONDS)
        super().close()

    def _write(self) -> None:
        due, fresh = math.inf, False  # when to see what was left out; only beside lines that are written some are
        while True:
            try:
                line = self._lines.get(timeout=None if due == math.inf else max(0, due - time.monotonic()))
            except queue.Empty:
                again = self._report_left_out() or fresh
                due, fresh = time.monotonic() + _LEFT_OUT_SECONDS if again else math.inf, False
                continue
            fresh, due = True, min(due, time.monotonic() + _LEFT_OUT_SECONDS)
            if line is None:
                break
            if not _write_line(line):
                self._drop(1)
            elif self._lines.empty():
                self._report_dropped()
        self._report_left_out()
        self._report_dropped()

    def _report_left_out(self) -> bool:
        """Whether there was something to report."""
        records = self._limit.left_out()
        for record in records:
            if not _write_line(_cut(self.format(record))):
                self._drop(1)
        return bool(records)

    def _drop(self, lines: int) -> None:
        with self._guard:
            self._dropped += lines

    def _report_dropped(self) -> None:
        if not self._dropped:
            return
        with self._guard:
            dropped, self._dropped = self._dropped, 0
        message = f"{dropped} log lines were dropped: standard error did not take them"
        record = logging.LogRecord(name_of(Facility.SUPERVISOR), logging.WARNING, __file__, 0, message, None, None)
        if not _write_line(self.format(record)):
            self._drop(dropped)


def _write_line(line: str) -> bool:
    """Write it, however long that takes; False if it can't be written."""
    # Not sys.stderr: a thread that blocks while holding that object's lock aborts the interpreter at its end.
    data = f"{line}\n".encode()
    while data:
        try:
            data = data[os.write(_STDERR, data) :]
        except BlockingIOError:  # whoever shares the terminal with us made it non-blocking
            select.select([], [_STDERR], [])
        except OSError:  # closed, or its disk is full
            return False
    return True
