"""What an operator chooses at the start: options of the command line and environment variables."""

from collections.abc import Mapping

import attrs

from mcr.errors import UsageError
from mcr.model import MAX_BATCH, LogLevels
from mcr.net.capture import BufferPools

SEND_BUFFER = "MCR_SOCKET_SNDBUF"
STATS_INTERVAL = "MCR_STATS_INTERVAL_MS"
MAX_HOLD = "MCR_MAX_HOLD_US"
RECEIVE_BUFFERS = "MCR_NUM_RECV_BUFFERS"
ABSORB = "MCR_ABSORB"
POOL_SMALL = "MCR_BUFFER_POOL_SMALL"
POOL_STANDARD = "MCR_BUFFER_POOL_STANDARD"
POOL_JUMBO = "MCR_BUFFER_POOL_JUMBO"

_POOL = range(1, 65_537)


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
    receive_buffers: int = 32
    """Packets that a worker takes from a capture ring at a time; while it has them, the ring keeps them."""
    absorb: bool = False
    """End packets that a rule takes after their capture, where no socket of this machine could take them, too."""
    pools: BufferPools = attrs.field(factory=BufferPools)
    """How many packets a capture ring holds."""


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
        receive_buffers=_number(environment, RECEIVE_BUFFERS, settings.receive_buffers, range(1, MAX_BATCH + 1)),
        absorb=bool(_number(environment, ABSORB, int(settings.absorb), range(2))),
        pools=BufferPools(
            small=_number(environment, POOL_SMALL, settings.pools.small, _POOL),
            standard=_number(environment, POOL_STANDARD, settings.pools.standard, _POOL),
            jumbo=_number(environment, POOL_JUMBO, settings.pools.jumbo, _POOL),
        ),
    )


def _number(environment: Mapping[str, str], name: str, default: int, allowed: range) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal()) or int(text) not in allowed:
        raise UsageError(f"Invalid {name}: {text!r}", f"a whole number from {allowed[0]} to {allowed[-1]}")
    return int(text)
