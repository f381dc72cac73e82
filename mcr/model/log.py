"""Levels, facilities and lines of the log."""

import enum

import attrs

from mcr.errors import InvalidParams


class Level(enum.IntEnum):
    """Severities of syslog (RFC 5424, 6.2.1), and trace below them. Smaller is graver."""

    EMERGENCY = 0
    ALERT = 1
    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7
    TRACE = 8

    @property
    def label(self) -> str:
        """The name operators type and read."""
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> "Level":
        """Find a level by its label."""
        try:
            return cls[text.upper()]
        except KeyError:
            raise InvalidParams(
                f"Unknown level: {text!r}", "levels: " + ", ".join(level.label for level in cls)
            ) from None


class Facility(enum.IntEnum):
    """The parts of MCR that log. The order is the order of the level table in shared memory."""

    SUPERVISOR = 0
    """Processes: start, exit, restart, stop."""
    RULES = 1
    """The rule store."""
    CONTROL = 2
    """The control socket and its clients."""
    STATS = 3
    """The [STATS:…] lines."""
    NETWORK = 4
    """Interfaces, sockets, group memberships."""
    WORKER = 5
    """A worker's own life: what it attached, applied, acknowledged."""
    INGRESS = 6
    """Capture and parsing, in the workers."""
    EGRESS = 7
    """Sending, in the workers."""

    @property
    def label(self) -> str:
        """The name operators type and read."""
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> "Facility":
        """Find a facility by its label."""
        try:
            return cls[text.upper()]
        except KeyError:
            raise InvalidParams(
                f"Unknown facility: {text!r}", "facilities: " + ", ".join(facility.label for facility in cls)
            ) from None


@attrs.frozen
class LogLine:
    """An event of the log. `time` is UTC (RFC 3339); `facility` is that of a `Facility`, or the name of a library."""

    time: str
    level: str
    facility: str
    message: str


@attrs.frozen
class LogLevels:
    """The threshold of every facility, in the order of `Facility`."""

    levels: tuple[Level, ...] = (Level.INFO,) * len(Facility)

    def of(self, facility: Facility) -> Level:
        """The threshold of one facility."""
        return self.levels[facility]

    def with_global(self, level: Level) -> "LogLevels":
        """Every facility at one level."""
        return LogLevels((level,) * len(Facility))

    def with_facility(self, facility: Facility, level: Level) -> "LogLevels":
        """One facility changed, the others as they were."""
        return LogLevels(tuple(level if f == facility else self.levels[f] for f in Facility))
