"""The log levels, here and in the workers."""

import logging
from typing import Protocol

from mcr.logs.limit import LogLimit
from mcr.logs.logger import NUMBERS, name_of
from mcr.logs.writer import LogFormat, Memory, QueuedWriter, formatter_for
from mcr.model.log import Facility, Level, LogLevels, LogLine


def setup_logging(log_format: LogFormat, levels: LogLevels) -> None:
    """Send the log to standard error from now on; what is still queued at the end of the process is flushed.

    Libraries log through the same lines, from warning up, under their own names.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line says who made it
    limit = LogLimit()
    for facility in Facility:
        logger = logging.getLogger(name_of(facility))
        logger.filters = [limit]
    handler = QueuedWriter(limit)
    handler.setFormatter(formatter_for(log_format))
    logging.basicConfig(handlers=[handler, Memory()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    _apply(levels)


class WorkerLevels(Protocol):
    """Passes the levels on to the workers, which filter their own records."""

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
        memories = (handler for handler in logging.root.handlers if isinstance(handler, Memory))
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
        logging.getLogger(name_of(facility)).setLevel(NUMBERS[levels.of(facility)])
