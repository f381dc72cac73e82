"""The loggers: one for each facility."""

import logging
from collections.abc import Mapping
from typing import Final

import attrs

from mcr.model.log import Facility, Level

ROOT: Final = "mcr"
"""Of the loggers' names."""

# The standard library's numbers where it has the level, so that its own handlers and filters agree with ours.
NUMBERS: Final[Mapping[Level, int]] = {
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
LABELS: Final[Mapping[int, str]] = {number: level.label for level, number in NUMBERS.items()}


@attrs.frozen
class Logger:
    """Logs for one facility. `fields` appear in JSON lines, beside the message."""

    _logger: logging.Logger

    def log(self, level: Level, message: str, /, *args: object, **fields: object) -> None:
        """Log `message % args`, if the facility's threshold lets the level pass."""
        self.log_kind(message, level, message, *args, **fields)

    def log_kind(self, kind: str, level: Level, message: str, /, *args: object, **fields: object) -> None:
        """The same, where more than the message tells the kinds of lines apart that are limited; see `LogLimit`."""
        number = NUMBERS[level]
        if self._logger.isEnabledFor(number):  # no line says where in the program it comes from
            extra = {"fields": fields, "kind": kind}
            record = self._logger.makeRecord(self._logger.name, number, "", 0, message, args, None, extra=extra)
            self._logger.handle(record)

    def log_past(self, when: float, kind: str, level: Level, message: str, /, *args: object, **fields: object) -> None:
        """The same of what happened before now: `when`, in seconds since 1970; what is later than now counts as now."""
        number = NUMBERS[level]
        if self._logger.isEnabledFor(number):
            extra = {"fields": fields, "kind": kind}
            record = self._logger.makeRecord(self._logger.name, number, "", 0, message, args, None, extra=extra)
            record.created = min(when, record.created)
            self._logger.handle(record)

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
    return Logger(logging.getLogger(name_of(facility)))


def name_of(facility: Facility) -> str:
    """The standard library's name of a facility's logger."""
    return f"{ROOT}.{facility.label}"
