"""The log: nine levels, a threshold per facility, text or JSON lines on standard error.

Rules of the module:

1. A line is one event on one line, whatever a message holds.
2. Nobody waits for the log, or fails by it. Lines go through a bounded queue to a thread that writes them; when
   standard error does not take them (a stopped terminal, a full pipe or disk), they are dropped and their number is
   told later.
3. What repeats does not flood it: see `mcr.logs.limit`.
4. The newest warnings, and what is graver, are remembered: who asks for help need not be able to read the journal.
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
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

import attrs

from mcr.logs.limit import LogLimit
from mcr.model.log import Facility, Level, LogLevels, LogLine
from mcr.text.visible import visible

LogFormat = Literal["text", "json"]

_QUEUE_LINES = 10_000
_LONGEST_LINE = 16_384  # characters
_REMEMBERED_LINES = 200
_LEFT_OUT_SECONDS = 1  # between two reports of what was left out
_FLUSH_SECONDS = 2  # how long the end of the process waits for a standard error that takes nothing

_STDERR = 2
_ROOT = "mcr"
# The standard library's numbers where it has the level, so that its own handlers and filters agree with ours.
_NUMBERS: Final[Mapping[Level, int]] = {
    Level.EMERGENCY: 70,
    Level.ALERT: 60,
    Level.CRITICAL: logging.CRITICAL,
    Level.ERROR: logging.ERROR,
    Level.WARNING: logging.WARNING,
    Level.NOTICE: 25,
    Level.INFO: logging.INFO,
    Level.DEBUG: logging.DEBUG,
    Level.TRACE: 5,
}
_LABELS: Final[Mapping[int, str]] = {number: level.label for level, number in _NUMBERS.items()}


@attrs.frozen
class Logger:
    """Speaks for one facility. `fields` appear in JSON lines, beside the message."""

    _logger: logging.Logger

    def log(self, level: Level, message: str, /, *args: object, **fields: object) -> None:
        """Log `message % args`, if the facility's threshold lets the level pass."""
        self.log_kind(message, level, message, *args, **fields)

    def log_kind(self, kind: str, level: Level, message: str, /, *args: object, **fields: object) -> None:
        """The same, where more than the message tells the kinds of lines apart that are limited; see `LogLimit`."""
        number = _NUMBERS[level]
        if self._logger.isEnabledFor(number):
            self._logger.log(number, message, *args, extra={"fields": fields, "kind": kind})

    def emergency(self, message: str, /, *args: object, **fields: object) -> None:
        """The system is unusable."""
        self.log(Level.EMERGENCY, message, *args, **fields)

    def alert(self, message: str, /, *args: object, **fields: object) -> None:
        """Somebody must act at once."""
        self.log(Level.ALERT, message, *args, **fields)

    def critical(self, message: str, /, *args: object, **fields: object) -> None:
        """A part of the relay no longer works."""
        self.log(Level.CRITICAL, message, *args, **fields)

    def error(self, message: str, /, *args: object, **fields: object) -> None:
        """Something failed."""
        self.log(Level.ERROR, message, *args, **fields)

    def warning(self, message: str, /, *args: object, **fields: object) -> None:
        """Something will fail, or packets are lost."""
        self.log(Level.WARNING, message, *args, **fields)

    def notice(self, message: str, /, *args: object, **fields: object) -> None:
        """Normal, but worth knowing: a start, a stop, a change of the rules."""
        self.log(Level.NOTICE, message, *args, **fields)

    def info(self, message: str, /, *args: object, **fields: object) -> None:
        """Normal."""
        self.log(Level.INFO, message, *args, **fields)

    def debug(self, message: str, /, *args: object, **fields: object) -> None:
        """For someone who looks for a fault."""
        self.log(Level.DEBUG, message, *args, **fields)

    def trace(self, message: str, /, *args: object, **fields: object) -> None:
        """Every step."""
        self.log(Level.TRACE, message, *args, **fields)


def get_logger(facility: Facility) -> Logger:
    """The logger of a facility. Before `setup_logging` it logs as the standard library does by default."""
    return Logger(logging.getLogger(f"{_ROOT}.{facility.label}"))


def setup_logging(log_format: LogFormat, levels: LogLevels) -> None:
    """Send the log to standard error from now on; what is still queued at the end of the process is flushed.

    Libraries log through the same lines, from warning up, under their own names.
    """
    limit = LogLimit()
    for facility in Facility:
        logger = logging.getLogger(f"{_ROOT}.{facility.label}")
        logger.filters = [limit]
    handler = _QueuedWriter(limit)
    journal = _is_journal(_STDERR)  # which notes the time itself
    formatter = _JsonFormatter() if log_format == "json" else _TextFormatter(timed=not journal)
    handler.setFormatter(_JournalFormatter(formatter) if journal else formatter)
    logging.basicConfig(handlers=[handler, _Memory()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    _apply(levels)


class WorkerLevels(Protocol):
    """Who passes the levels on to the workers, which filter their own records."""

    async def set_log_levels(self, levels: LogLevels) -> None:
        """Make the workers use these levels."""


class LogControl:
    """Owns the log levels."""

    def __init__(self, levels: LogLevels, workers: WorkerLevels) -> None:
        self._levels = levels
        self._workers = workers

    @property
    def levels(self) -> LogLevels:
        """The levels in force."""
        return self._levels

    def recent(self) -> tuple[LogLine, ...]:
        """The newest 200 events of level warning and graver, oldest first."""
        memories = (handler for handler in logging.root.handlers if isinstance(handler, _Memory))
        return next((tuple(memory.lines) for memory in memories), ())  # at once: other threads log, too

    async def set_global(self, level: Level) -> LogLevels:
        """Set every facility to one level: here at once, in the workers when this returns."""
        return await self.use(self._levels.with_global(level))

    async def set_facility(self, facility: Facility, level: Level) -> LogLevels:
        """Set one facility: here at once, in the workers when this returns."""
        return await self.use(self._levels.with_facility(facility, level))

    async def use(self, levels: LogLevels) -> LogLevels:
        """Set all of them: here at once, in the workers when this returns."""
        self._levels = levels
        _apply(levels)
        await self._workers.set_log_levels(levels)
        return levels


def _apply(levels: LogLevels) -> None:
    for facility in Facility:
        logging.getLogger(f"{_ROOT}.{facility.label}").setLevel(_NUMBERS[levels.of(facility)])


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(record: logging.LogRecord) -> str:
    return _LABELS.get(record.levelno, record.levelname.lower())


def _facility(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{_ROOT}.")


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
        level = next((level for level, number in _NUMBERS.items() if record.levelno >= number), Level.DEBUG)
        return f"<{min(level, Level.DEBUG)}>{self._lines.format(record)}"


class _Memory(logging.Handler):
    """Keeps the newest warnings, and what is graver."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: deque[LogLine] = deque(maxlen=_REMEMBERED_LINES)
        self._words = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a bad log call is no reason to stop relaying; the writer has told it
            message = _message(record, self._words)
            self.lines.append(LogLine(_time(record), _level(record), _facility(record), message))


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}... ({len(line):,} characters)"


class _QueuedWriter(logging.Handler):
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
        record = logging.LogRecord(
            f"{_ROOT}.{Facility.SUPERVISOR.label}", logging.WARNING, __file__, 0, message, None, None
        )
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
