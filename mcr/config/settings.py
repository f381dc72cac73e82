"""The settings that an operator has chosen at the start, as values for the parts of mcrd."""

import difflib
from collections.abc import Mapping
from typing import Final, TypeVar

import attrs

from mcr.config import table
from mcr.config.table import Given, Setting, choose
from mcr.model.endpoint import Endpoint
from mcr.model.log import LogLevels
from mcr.model.setting import SettingView
from mcr.net.capture import BufferPools
from mcr.worker.policy import usable_cores

_PREFIX: Final = "MCR_"
_DATAGRAM_BYTES = 2304  # what the kernel counts for one of 1,316 bytes that waits in a socket

_T = TypeVar("_T")


@attrs.frozen
class Settings:
    """All of it, checked."""

    control_socket: str
    num_workers: int
    levels: LogLevels
    state_dir: str = table.STATE_DIR.default
    """Directory of the rules that were added at run time."""
    no_state: bool = table.NO_STATE.default
    """Keep them nowhere."""
    metrics: Endpoint | None = table.METRICS.default
    """Where metrics are served; None: nowhere."""
    log_format: str = table.LOG_FORMAT.default
    send_buffer: int = table.SEND_BUFFER.default
    """Bytes that may wait in the socket of an output interface, or of a host."""
    stats_interval: float = table.STATS_INTERVAL.default / 1000
    """Seconds between two pairs of [STATS:…] lines; 0: after every 100,000 packets of a worker."""
    max_hold_us: int = table.MAX_HOLD.default
    """Microseconds that a packet may wait for others at high rates; 0: never."""
    receive_buffers: int = table.RECEIVE_BUFFERS.default
    """Packets that a worker takes from a capture ring at a time; while it has them, the ring keeps them."""
    absorb: bool = table.ABSORB.default
    """Keep matched packets out of the local IP stack, unless a UDP socket, a bridge or routing could want them."""
    raw_send: bool = table.RAW_SEND.default
    """Send raw frames to groups if nothing acts on packets between IP and the interface."""
    kernel_path: str = table.KERNEL_PATH.default
    """Whether the kernel forwards by the rules that allow it: auto, or off."""
    pools: BufferPools = attrs.field(factory=BufferPools)
    """How many packets a capture ring holds."""
    views: tuple[SettingView, ...] = ()
    """The same for people: what was asked for, and where."""


def settings_from(given: Given) -> Settings:
    """Settle every setting of the table.

    Raises:
        UsageError: a value is not allowed.
    """

    def value(setting: Setting[_T]) -> _T:
        return choose(setting, given).value

    return Settings(
        control_socket=value(table.CONTROL_SOCKET),
        num_workers=value(table.NUM_WORKERS) or len(usable_cores()),
        levels=LogLevels().with_global(value(table.LOG_LEVEL)),
        state_dir=value(table.STATE_DIR),
        no_state=value(table.NO_STATE),
        metrics=value(table.METRICS),
        log_format=value(table.LOG_FORMAT),
        send_buffer=value(table.SEND_BUFFER),
        stats_interval=value(table.STATS_INTERVAL) / 1000,
        max_hold_us=value(table.MAX_HOLD),
        receive_buffers=value(table.RECEIVE_BUFFERS),
        absorb=value(table.ABSORB),
        raw_send=value(table.RAW_SEND),
        kernel_path=value(table.KERNEL_PATH),
        pools=BufferPools(
            small=value(table.POOL_SMALL), standard=value(table.POOL_STANDARD), jumbo=value(table.POOL_JUMBO)
        ),
        views=tuple(choose(setting, given).view for setting in table.TABLE),
    )


def disagreements(settings: Settings) -> list[str]:
    """Warnings about settings that don't go together, though mcrd can run with them."""
    room = 2 * settings.send_buffer // _DATAGRAM_BYTES  # the kernel doubles what it is asked for, socket(7)
    if room >= settings.receive_buffers:
        return []
    buffer = f"{table.SEND_BUFFER.variable}={settings.send_buffer}"
    batch = f"{table.RECEIVE_BUFFERS.variable}={settings.receive_buffers}"
    what = f"{buffer} has room for {room} datagrams of 1316 bytes, and {batch} leave together"
    return [f"{what}: where an interface takes them more slowly, the others are errors"]


def is_asked_for(setting: Setting[_T], settings: Settings) -> bool:
    """Whether an operator has set a setting, be it to its default."""
    default = table.Source.DEFAULT.value
    return any(view.name == setting.shown_name and view.source != default for view in settings.views)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Warnings about variables that look like mcrd's and are not."""
    known = [setting.variable for setting in table.TABLE if setting.variable]
    options = {setting.option for setting in table.TABLE}
    said = []
    for name in sorted(environment):
        if name.startswith(_PREFIX) and name not in known:
            as_option = f"--{name.removeprefix(_PREFIX).lower().replace('_', '-')}"  # somebody may have meant that
            nearest = (
                [f"the option {as_option}"] if as_option in options else difflib.get_close_matches(name, known, n=1)
            )
            said.append(f"{name} means nothing to mcrd" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    return said
