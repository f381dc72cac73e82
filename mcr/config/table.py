"""Every setting of mcrd, one row each: whatever reads, shows or documents settings goes by this table."""

import enum
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

import attrs

from mcr.config import paths
from mcr.config.kinds import FilePath, Kind, Listening, LogLevel, Switch, Whole, Word
from mcr.model.limits import MAX_BATCH
from mcr.model.log import Level
from mcr.model.setting import SettingView

_T = TypeVar("_T")


class Source(enum.Enum):
    """Where a value may come from. The first that has one counts."""

    COMMAND_LINE = "command line"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


Given = Mapping[Source, Mapping[str, str]]
"""The values that each source has, as text, by the names that it has for settings."""


@attrs.frozen
class Setting(Generic[_T]):
    """One row.

    Attributes:
        name: what a file calls it.
        kind: type of its values, and which are allowed.
        meaning: for people, a clause.
        unit: of its values, empty if they have none.
        option: of the command line, empty if there is none.
        variable: of the environment, empty if there is none.
        default_words: what the default comes to, where its value does not say that.
    """

    name: str
    kind: Kind[_T]
    default: _T
    meaning: str
    unit: str = ""
    option: str = ""
    variable: str = ""
    default_words: str = ""

    @property
    def default_text(self) -> str:
        """The default, as it is shown."""
        return self.default_words or self.kind.text(self.default)

    @property
    def sentence(self) -> str:
        """Its meaning."""
        return f"{self.meaning[0].upper()}{self.meaning[1:]}."

    @property
    def shown_name(self) -> str:
        """What `mcrctl settings` calls it."""
        return self.option or self.variable

    def called_by(self, source: Source) -> str:
        """What a source calls it; empty if the source can't have it."""
        names = {Source.COMMAND_LINE: self.option, Source.ENVIRONMENT: self.variable, Source.FILE: self.name}
        return names.get(source, "")


@attrs.frozen
class Choice(Generic[_T]):
    """What a setting was set to, and where."""

    setting: Setting[_T]
    value: _T
    source: Source

    @property
    def view(self) -> SettingView:
        """The same for people."""
        setting = self.setting
        is_default = self.source is Source.DEFAULT
        return SettingView(
            name=setting.shown_name,
            value=setting.default_text if is_default else setting.kind.text(self.value),
            default=setting.default_text,
            source=self.source.value,
            meaning=setting.meaning,
        )


def choose(setting: Setting[_T], given: Given) -> Choice[_T]:
    """Take a setting from the first source that has it. A variable that is empty counts as not set.

    Raises:
        UsageError: its value there is not allowed.
    """
    for source in Source:
        called = setting.called_by(source)
        text = given.get(source, {}).get(called) if called else None
        if text is None or (not text and source is Source.ENVIRONMENT):
            continue
        try:
            return Choice(setting, setting.kind.parse(text), source)
        except ValueError:
            raise setting.kind.refusal(text, called, setting.meaning) from None
    return Choice(setting, setting.default, Source.DEFAULT)


_POOL = Whole(range(1, 65_537))

CONTROL_SOCKET: Final = Setting(
    "control_socket",
    FilePath("The control socket"),
    paths.DEFAULT_CONTROL_SOCKET,
    "Unix socket that mcrctl connects to",
    option="--control-socket",
    variable=paths.CONTROL_SOCKET_VARIABLE,
)
STATE_DIR: Final = Setting(
    "state_dir",
    FilePath("The state directory"),
    "/var/lib/mcr",
    "directory where rules are saved that were added at run time",
    option="--state-dir",
    variable="MCR_STATE_DIR",
)
NO_STATE: Final = Setting(
    "no_state",
    Switch(),
    default=False,
    meaning="save no rules, and load none at the start",
    option="--no-state",
)
NUM_WORKERS: Final = Setting(
    "num_workers",
    Whole(range(1, 257)),
    0,
    "worker processes, which share every input interface",
    option="--num-workers",
    default_words="one per core",
)
METRICS: Final = Setting(
    "metrics",
    Listening(),
    None,
    "where metrics are served over HTTP, for Prometheus and the like: ADDR:PORT, unix:PATH, or none",
    option="--metrics",
    variable="MCR_METRICS",
)
LOG_FORMAT: Final = Setting(
    "log_format", Word(("text", "json")), "text", "format of log lines on standard error", option="--log-format"
)
LOG_LEVEL: Final = Setting(
    "log_level", LogLevel(), Level.INFO, f"lowest level that is logged: {LogLevel.allowed}", option="--log-level"
)
POOL_SMALL: Final = Setting(
    "buffer_pool_small",
    _POOL,
    2000,
    "slots of a capture ring, for frames of up to 2 KB",
    unit="slots",
    variable="MCR_BUFFER_POOL_SMALL",
)
POOL_STANDARD: Final = Setting(
    "buffer_pool_standard",
    _POOL,
    500,
    "the same on interfaces with an MTU above 1920",
    unit="slots",
    variable="MCR_BUFFER_POOL_STANDARD",
)
POOL_JUMBO: Final = Setting(
    "buffer_pool_jumbo",
    _POOL,
    200,
    "the same on interfaces with an MTU above 16256",
    unit="slots",
    variable="MCR_BUFFER_POOL_JUMBO",
)
RECEIVE_BUFFERS: Final = Setting(
    "num_recv_buffers",
    Whole(range(1, MAX_BATCH + 1)),
    32,
    "packets a worker takes from a ring at a time",
    unit="packets",
    variable="MCR_NUM_RECV_BUFFERS",
)
SEND_BUFFER: Final = Setting(
    "socket_sndbuf",
    Whole(range(4096, (1 << 30) + 1)),
    4 << 20,
    "bytes that may wait in a socket that sends",
    unit="bytes",
    variable="MCR_SOCKET_SNDBUF",
)
MAX_HOLD: Final = Setting(
    "max_hold_us",
    Whole(range(1001)),
    50,
    "longest batching delay at high rates, in microseconds; 0: none",
    unit="microseconds",
    variable="MCR_MAX_HOLD_US",
)
STATS_INTERVAL: Final = Setting(
    "stats_interval_ms",
    Whole(range(86_400_001)),
    0,
    "milliseconds between [STATS:...] lines; 0: every 100,000 packets",
    unit="milliseconds",
    variable="MCR_STATS_INTERVAL_MS",
)
ABSORB: Final = Setting(
    "absorb",
    Switch(),
    default=True,
    meaning="1: keep matched packets out of the local IP stack unless a local UDP socket wants them",
    variable="MCR_ABSORB",
)
RAW_SEND: Final = Setting(
    "raw_send",
    Switch(),
    default=True,
    meaning="1: send to groups as raw frames where IP would only add headers",
    variable="MCR_RAW_SEND",
)
KERNEL_PATH: Final = Setting(
    "kernel_path",
    Word(("auto", "off")),
    "auto",
    "auto: forward in the kernel, without a worker, by the rules that allow it",
    variable="MCR_KERNEL_PATH",
)

TABLE: Final[tuple[Setting[Any], ...]] = (
    CONTROL_SOCKET,
    STATE_DIR,
    NO_STATE,
    NUM_WORKERS,
    METRICS,
    LOG_FORMAT,
    LOG_LEVEL,
    POOL_SMALL,
    POOL_STANDARD,
    POOL_JUMBO,
    RECEIVE_BUFFERS,
    SEND_BUFFER,
    MAX_HOLD,
    STATS_INTERVAL,
    ABSORB,
    RAW_SEND,
    KERNEL_PATH,
)
"""In the order in which they are shown."""

VARIABLES: Final = tuple(setting for setting in TABLE if not setting.option)
"""Those that are no options."""
