"""What an operator chooses at the start: options of the command line and environment variables."""

import difflib
from collections.abc import Collection, Mapping
from typing import Final

import attrs

from mcr.errors import UsageError
from mcr.model.limits import MAX_BATCH
from mcr.model.log import LogLevels
from mcr.model.setting import SettingView
from mcr.net.capture import BufferPools

CONTROL_SOCKET = "MCR_CONTROL_SOCKET"
_PREFIX = "MCR_"
_POOL = range(1, 65_537)
_DATAGRAM_BYTES = 2304  # what the kernel counts for one of 1,316 bytes that waits in a socket


@attrs.frozen
class Variable:
    """An environment variable that holds a whole number.

    Attributes:
        allowed: the values it may have.
        meaning: for people, one line, with the unit.
    """

    name: str
    default: int
    allowed: range
    meaning: str

    def read(self, environment: Mapping[str, str]) -> int | None:
        """Its value, None if it is not set or empty.

        Raises:
            UsageError: the value can't be used.
        """
        text = environment.get(self.name, "")
        if not text:
            return None
        if not (text.isascii() and text.isdecimal()) or int(text) not in self.allowed:
            least, most = self.allowed[0], self.allowed[-1]
            which = f"{least} or {most}" if len(self.allowed) == 2 else f"a whole number from {least} to {most}"  # noqa: PLR2004
            raise UsageError(f"Invalid {self.name}: {text!r}", f"{which} ({self.meaning})")
        return int(text)


POOL_SMALL: Final = Variable("MCR_BUFFER_POOL_SMALL", 2000, _POOL, "slots of a capture ring, for frames of up to 2 KB")
POOL_STANDARD: Final = Variable("MCR_BUFFER_POOL_STANDARD", 500, _POOL, "the same on interfaces with an MTU above 1920")
POOL_JUMBO: Final = Variable("MCR_BUFFER_POOL_JUMBO", 200, _POOL, "the same on interfaces with an MTU above 16256")
RECEIVE_BUFFERS: Final = Variable(
    "MCR_NUM_RECV_BUFFERS", 32, range(1, MAX_BATCH + 1), "packets a worker takes from a ring at a time"
)
SEND_BUFFER: Final = Variable(
    "MCR_SOCKET_SNDBUF",
    4 << 20,
    range(4096, (1 << 30) + 1),
    "bytes that may wait in a socket that sends",
)
MAX_HOLD: Final = Variable(
    "MCR_MAX_HOLD_US", 50, range(1001), "longest batching delay at high rates, in microseconds; 0: none"
)
STATS_INTERVAL: Final = Variable(
    "MCR_STATS_INTERVAL_MS", 0, range(86_400_001), "milliseconds between [STATS:...] lines; 0: every 100,000 packets"
)
ABSORB: Final = Variable(
    "MCR_ABSORB", 1, range(2), "1: keep matched packets out of the local IP stack unless a local UDP socket wants them"
)
RAW_SEND: Final = Variable(
    "MCR_RAW_SEND", 1, range(2), "1: send to groups as raw frames where IP would only add headers"
)

VARIABLES: Final = (
    POOL_SMALL,
    POOL_STANDARD,
    POOL_JUMBO,
    RECEIVE_BUFFERS,
    SEND_BUFFER,
    MAX_HOLD,
    STATS_INTERVAL,
    ABSORB,
    RAW_SEND,
)


@attrs.frozen
class Settings:
    """All of it, checked."""

    control_socket: str
    num_workers: int
    levels: LogLevels
    send_buffer: int = SEND_BUFFER.default
    """Bytes that may wait in the socket of an output interface, or of a host."""
    stats_interval: float = 0.0
    """Seconds between two pairs of [STATS:…] lines; 0: after every 100,000 packets of a worker."""
    max_hold_us: int = MAX_HOLD.default
    """Microseconds that a packet may wait for others at high rates; 0: never."""
    receive_buffers: int = RECEIVE_BUFFERS.default
    """Packets that a worker takes from a capture ring at a time; while it has them, the ring keeps them."""
    absorb: bool = bool(ABSORB.default)
    """Spare this machine's IP stack what a rule takes, where no UDP socket, bridge or routing could want that."""
    raw_send: bool = bool(RAW_SEND.default)
    """Send raw frames to groups, where nobody is between IP and the interface."""
    pools: BufferPools = attrs.field(factory=BufferPools)
    """How many packets a capture ring holds."""
    views: tuple[SettingView, ...] = ()
    """The same for people: what was asked for, and where."""


def from_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Complete settings from the environment.

    Raises:
        UsageError: a variable's value can't be used.
    """
    given = {variable.name: variable.read(environment) for variable in VARIABLES}
    views = tuple(_view(variable, given[variable.name]) for variable in VARIABLES)
    value = {view.name: int(view.value) for view in views}
    return attrs.evolve(
        settings,
        send_buffer=value[SEND_BUFFER.name],
        stats_interval=value[STATS_INTERVAL.name] / 1000,
        max_hold_us=value[MAX_HOLD.name],
        receive_buffers=value[RECEIVE_BUFFERS.name],
        absorb=bool(value[ABSORB.name]),
        raw_send=bool(value[RAW_SEND.name]),
        pools=BufferPools(
            small=value[POOL_SMALL.name], standard=value[POOL_STANDARD.name], jumbo=value[POOL_JUMBO.name]
        ),
        views=(*settings.views, *views),
    )


def disagreements(settings: Settings) -> list[str]:
    """What to tell of settings that don't go together, though mcrd can run with them."""
    room = 2 * settings.send_buffer // _DATAGRAM_BYTES  # the kernel doubles what it is asked for, socket(7)
    if room >= settings.receive_buffers:
        return []
    buffer, batch = f"{SEND_BUFFER.name}={settings.send_buffer}", f"{RECEIVE_BUFFERS.name}={settings.receive_buffers}"
    what = f"{buffer} has room for {room} datagrams of 1316 bytes, and {batch} leave together"
    return [f"{what}: where an interface takes them more slowly, the others are errors"]


def is_asked_for(variable: Variable, settings: Settings) -> bool:
    """Whether an operator has set a variable, be it to its default."""
    return any(view.name == variable.name and view.source == "environment" for view in settings.views)


def _view(variable: Variable, given: int | None) -> SettingView:
    return SettingView(
        name=variable.name,
        value=str(variable.default if given is None else given),
        default=str(variable.default),
        source="default" if given is None else "environment",
        meaning=variable.meaning,
    )


def unknown_variables(environment: Mapping[str, str], options: Collection[str]) -> list[str]:
    """What to tell of variables that look like mcrd's and are not.

    Args:
        environment: of the process.
        options: of the command line, ``--num-workers``: somebody may take one for a variable.
    """
    known = [CONTROL_SOCKET, *(variable.name for variable in VARIABLES)]
    said = []
    for name in sorted(environment):
        if name.startswith(_PREFIX) and name not in known:
            as_option = f"--{name.removeprefix(_PREFIX).lower().replace('_', '-')}"
            nearest = (
                [f"the option {as_option}"] if as_option in options else difflib.get_close_matches(name, known, n=1)
            )
            said.append(f"{name} means nothing to mcrd" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    return said
