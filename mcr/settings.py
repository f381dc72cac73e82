"""What an operator chooses at the start: options of the command line and environment variables."""

from collections.abc import Mapping

import attrs

from mcr.errors import UsageError
from mcr.model import LogLevels

SEND_BUFFER = "MCR_SOCKET_SNDBUF"
STATS_INTERVAL = "MCR_STATS_INTERVAL_MS"
MAX_HOLD = "MCR_MAX_HOLD_US"


@attrs.frozen
class Settings:
    """All of it, checked."""

    control_socket: str
    num_workers: int
    levels: LogLevels
    send_buffer: int = 4 << 20
    """Bytes that may wait in the socket of an output interface."""
    stats_interval: float = 0.0
    """Seconds between two pairs of [STATS:…] lines; 0: after every 100,000 packets of a worker."""
    max_hold_us: int = 50
    """Microseconds that a packet may wait for others at high rates; 0: never."""


def from_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Complete settings from the environment.

    Raises:
        UsageError: a variable's value can't be used.
    """
    return attrs.evolve(
        settings,
        send_buffer=_number(environment, SEND_BUFFER, settings.send_buffer, range(4096, (1 << 30) + 1)),
        stats_interval=_number(environment, STATS_INTERVAL, 0, range(86_400_001)) / 1000,
        max_hold_us=_number(environment, MAX_HOLD, settings.max_hold_us, range(1001)),
    )


def _number(environment: Mapping[str, str], name: str, default: int, allowed: range) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal()) or int(text) not in allowed:
        raise UsageError(f"Invalid {name}: {text!r}", f"a whole number from {allowed[0]} to {allowed[-1]}")
    return int(text)
