"""The values of MCR: frozen, validated when made, equal by content.

Actors exchange them, the control protocol spells them as JSON (`mcr.control.wire`), and nothing here does any I/O.
Addresses are typed; only IPv4 is accepted so far.
"""

import enum
import hashlib
import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Self

import attrs

from mcr.errors import InvalidParams

Address = IPv4Address | IPv6Address

MAX_RULES = 16_384
"""Rules a relay holds at most (the worker's match table is sized for it)."""

MAX_OUTPUTS = 65_536
"""Outputs of all rules together, at most."""

MAX_OUTPUTS_PER_RULE = 512
"""Outputs of one rule, at most."""

MAX_INTERFACES = 128
"""Input interfaces, and likewise output interfaces, at most."""

MAX_NEIGHBOURS = 65_536
"""Hosts that are sent to, at most, and groups whose route leads to a gateway."""

MAX_BATCH = 256
"""Packets that a worker takes from a capture ring at a time, at most."""

DEFAULT_TRAIN = 32
"""Datagrams that leave in one system call at most, unless an output says otherwise."""

MAX_TRAIN = 64
"""Those that an output can ask for."""

AUTO = "auto"
OFF = "off"

_TRAIN_LENGTHS = frozenset(map(str, range(2, MAX_TRAIN + 1)))
_INTERFACE_NAME_MAX = 15  # IFNAMSIZ without the terminating NUL
_LABEL_MAX = 128


def parse_address(text: str, what: str) -> Address:
    """Turn text into an address.

    Args:
        text: the address as the operator wrote it.
        what: what the address is for, to name it in the error ("input group").
    """
    with suppress(OSError, ValueError):
        return IPv4Address(socket.inet_pton(socket.AF_INET, text))  # thrice as fast as in Python
    try:
        address = ip_address(text[1:-1] if text.startswith("[") and ":" in text else text)
    except (AddressValueError, ValueError):
        raise InvalidParams(
            f"Invalid {what}: {text!r} is not an IP address", "an IPv4 address such as 239.1.1.1"
        ) from None
    if isinstance(address, IPv6Address):
        raise InvalidParams(f"Invalid {what}: {text!r} is an IPv6 address", "MCR relays only IPv4 for now")
    return address


def check_port(port: int, what: str) -> int:
    """Return `port` if it is a UDP port number (1 to 65535)."""
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65_535:  # noqa: PLR2004
        raise InvalidParams(f"Invalid {what}: {port!r} is not a port", "a number from 1 to 65535")
    return port


def check_interface_name(name: str, what: str) -> str:
    """Return `name` if the kernel could have an interface of that name; whether it has one is another matter."""
    # isprintable comes first: it also refuses lone surrogates, which cannot be encoded and would raise below.
    if (
        not name.isprintable()
        or not 1 <= len(name.encode()) <= _INTERFACE_NAME_MAX
        or name in {".", ".."}
        or any(c in "/: " for c in name)
    ):
        raise InvalidParams(
            f"Invalid {what}: {name!r} is not an interface name",
            f"1 to {_INTERFACE_NAME_MAX} bytes without '/', ':' or white space; see: ip link show",
        )
    return name


def _check_label(value: str, what: str) -> str:
    if not value or len(value) > _LABEL_MAX or not value.isprintable() or value != value.strip():
        raise InvalidParams(
            f"Invalid {what}: {value!r}", f"1 to {_LABEL_MAX} printable characters, no white space at the ends"
        )
    return value


@attrs.frozen
class Input:
    """What a rule matches: datagrams to one group and port that arrive on one interface. A rule's identity."""

    interface: str = attrs.field()
    group: Address = attrs.field()
    port: int = attrs.field()

    def __attrs_post_init__(self) -> None:
        check_interface_name(self.interface, "input interface")
        if not self.group.is_multicast:
            raise InvalidParams(
                f"Invalid input group: {str(self.group)!r} is not a multicast address",
                "groups are 224.0.0.0 to 239.255.255.255",
            )
        check_port(self.port, "input port")

    def __str__(self) -> str:
        return f"{self.group}:{self.port} on {self.interface}"


@attrs.frozen
class Output:
    """Where a rule sends: a group or host, a port, and the interface the datagram leaves by.

    `gso`: how many datagrams that wait together may leave in one system call, for the kernel or the network card to cut
    apart (UDP segmentation offload): ``auto``, ``off``, or a number from 2 to 64.
    """

    group: Address
    port: int
    interface: str
    gso: str = AUTO

    def __attrs_post_init__(self) -> None:
        reserved = self.group.is_reserved and not self.group.is_multicast
        if self.group.is_unspecified or self.group.is_loopback or reserved:
            raise InvalidParams(
                f"Invalid output group: {str(self.group)!r} is neither a group nor a host on a network",
                "a multicast group such as 239.1.1.1 or a host's address",
            )
        check_port(self.port, "output port")
        check_interface_name(self.interface, "output interface")
        if self.gso not in {AUTO, OFF} and self.gso not in _TRAIN_LENGTHS:
            raise InvalidParams(f"Invalid gso: {self.gso!r}", "auto, off, or a number of datagrams from 2 to 64")

    @property
    def destination(self) -> tuple[Address, int, str]:
        """What makes it another output than the next."""
        return self.group, self.port, self.interface

    @property
    def max_train(self) -> int:
        """Datagrams that may leave in one system call."""
        return {AUTO: DEFAULT_TRAIN, OFF: 1}.get(self.gso) or int(self.gso)

    def __str__(self) -> str:
        return f"{self.group}:{self.port}:{self.interface}"


def automatic_rule_id(source: Input) -> str:
    """The stable id of a rule that was given none: a hash of its input tuple, the same on every machine."""
    text = f"{source.interface}|{source.group}|{source.port}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@attrs.frozen
class Rule:
    """One input, one or more outputs. `rule_id` is unique; so is the input tuple; so is the name, if there is one."""

    rule_id: str
    input: Input
    outputs: tuple[Output, ...]
    name: str | None = None

    def __attrs_post_init__(self) -> None:
        _check_label(self.rule_id, "rule id")
        if self.name is not None:
            _check_label(self.name, "rule name")
        if not self.outputs:
            raise InvalidParams(f"{self._called} has no outputs", "give at least one output G:P:IF")
        if len(self.outputs) > MAX_OUTPUTS_PER_RULE:
            raise InvalidParams(
                f"{self._called} has {len(self.outputs)} outputs", f"at most {MAX_OUTPUTS_PER_RULE} a rule"
            )
        seen: set[tuple[Address, int, str]] = set()
        for output in self.outputs:
            if output.destination in seen:
                raise InvalidParams(
                    f"{self._called} names output {output} twice", "every packet would leave twice; name it once"
                )
            if (output.interface, output.group, output.port) == (
                self.input.interface,
                self.input.group,
                self.input.port,
            ):
                raise InvalidParams(
                    f"{self._called} sends {output} back to where it came from",
                    "receivers there would get every packet twice; choose another group, port or interface",
                )
            seen.add(output.destination)

    @property
    def _called(self) -> str:
        """What its author knows it by, who has not seen an id that he did not give."""
        automatic = self.rule_id == automatic_rule_id(self.input)
        return f"The rule for {self.input}" if automatic else f"Rule {self.rule_id}"


class RuleState(enum.StrEnum):
    """Whether a rule forwards."""

    PENDING = "pending"
    """Accepted; not every running worker has acknowledged it yet."""

    ACTIVE = "active"
    """Every running worker has acknowledged it, and what it needs is there."""

    DEGRADED = "degraded"
    """Some outputs can't be served, or all; or the input only in part."""

    WAITING = "waiting"
    """What it needs is missing, or down: for a rule its input. It goes on by itself when that is back."""


@attrs.frozen
class OutputView(Output):
    """An output of a rule as `mcrctl list` shows it.

    Attributes:
        state: ``active``, ``waiting``, or ``pending`` with its rule.
        reason: one sentence; empty when it is active.
    """

    state: RuleState = attrs.field(default=RuleState.ACTIVE, kw_only=True)
    reason: str = attrs.field(default="", kw_only=True)

    def __attrs_post_init__(self) -> None:
        """It was checked as an output: there may be thousands to be shown."""

    @classmethod
    def of(cls, output: Output, state: RuleState = RuleState.ACTIVE, reason: str = "") -> Self:
        """An output and how it stands with it."""
        return cls(output.group, output.port, output.interface, output.gso, state=state, reason=reason)


@attrs.frozen
class RuleView:
    """A rule as `mcrctl list` shows it.

    Attributes:
        reason: one sentence that says why it is not active; empty when it is.
        warnings: what one should know of it, active or not.
    """

    rule_id: str
    name: str | None
    input: Input
    outputs: tuple[OutputView, ...]
    state: RuleState
    reason: str = ""
    warnings: tuple[str, ...] = ()


@attrs.frozen
class RuleChange:
    """One step of the rule set. Applying generation N to the rules of generation N-1 gives those of N.

    `renew`: the rules stay, but interfaces that were deleted, or left, and are back are opened again.
    """

    generation: int
    added: tuple[Rule, ...] = ()
    removed: tuple[Rule, ...] = ()
    renew: bool = False


class WorkerState(enum.StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    """The process exists and has not acknowledged a generation yet."""

    RUNNING = "running"

    WAITING = "waiting"
    """It exited; the restart policy holds it back for a moment."""

    STOPPING = "stopping"


@attrs.frozen
class WorkerView:
    """A worker as `mcrctl list-workers` shows it."""

    worker_id: int
    pid: int | None
    core: int
    interfaces: tuple[str, ...]
    """Input interfaces it reads."""
    state: WorkerState
    restarts: int
    generation: int
    """The newest generation of the rules that it has acknowledged."""
    last_exit: str | None = None
    """When its last process ended unexpectedly, and how: ``2026-01-01T12:00:00Z killed by signal 9 (SIGKILL)``."""
    io: str | None = None
    """How it enters the kernel: ``io_uring``, or ``poll`` where that is forbidden; None before it has started."""


@attrs.frozen
class ParseErrors:
    """The parts of `parse_err`: why datagrams were not relayed. Fields are in the order of native/shm_abi.h."""

    malformed: int = 0
    """Not a whole, well-formed IPv4 UDP datagram."""
    fragment: int = 0
    """A part of one: fragments are not put together."""
    checksum: int = 0
    """The checksum of the IP header, or UDP's, is wrong."""
    source: int = 0
    """From an address that no host can have: 0.0.0.0, 127.0.0.0/8, a group, a broadcast address."""
    loop: int = 0
    """From an address or MAC of this machine: it was sent here, and came back."""
    other_host: int = 0
    """To another host's MAC: seen only since the interface is promiscuous."""

    @classmethod
    def sum(cls, parts: Iterable["ParseErrors"]) -> "ParseErrors":
        """Add up, field by field."""
        return cls(*(sum(column) for column in zip(*map(attrs.astuple, parts), strict=True)))


@attrs.frozen
class IngressStats:
    """Datagrams in, in packets. At rest recv = matched + parse_err + no_match + buf_exhaust."""

    recv: int = 0
    """Datagrams that arrived on an input interface and were looked at; each one in a super-frame counts."""
    matched: int = 0
    """They matched a rule."""
    parse_err: int = 0
    """Not a sound datagram for this machine: `parse_errors` has the causes."""
    no_match: int = 0
    """No rule asks for them."""
    screened: int = 0
    """The part of `no_match` that a filter in the kernel rejected: no worker saw these, or counts them."""
    buf_exhaust: int = 0
    """Super-frames that are longer than a ring slot, dropped because no buffer was free for the whole."""
    kernel_drops: int = 0
    """Arrived, but the capture ring was full (PACKET_STATISTICS), or its interface's last rule went. In frames."""
    pps: float = 0.0
    """What `recv` grew by a second, over the last second or two."""
    parse_errors: ParseErrors = ParseErrors()


@attrs.frozen
class EgressStats:
    """Datagrams out, in packets. At rest submitted = sent + errors."""

    submitted: int = 0
    """What the outputs were owed: one for each output of each matched packet."""
    sent: int = 0
    """Accepted by the kernel for transmission."""
    errors: int = 0
    """Not sent."""
    bytes: int = 0
    """Payload bytes of what was sent."""
    in_doubt: int = 0
    """The part of `errors` that a dying worker had in hand: it may or may not have left. Never sent twice."""
    pps: float = 0.0


@attrs.frozen
class OutputStats:
    """One output of one rule."""

    group: Address
    port: int
    interface: str
    submitted: int
    sent: int
    errors: int
    in_doubt: int
    bytes: int
    last_error: str | None
    """The newest send error, as the system words it."""
    last_error_ago: float | None = None
    """Seconds since then; None: no send failed."""


@attrs.frozen
class RuleStats:
    """One rule; sent, errors and bytes are over all its outputs."""

    rule_id: str
    name: str | None
    matched: int
    sent: int
    errors: int
    bytes: int
    pps: float
    """Matched packets a second."""
    bps: float
    """Payload bits sent a second."""
    outputs: tuple[OutputStats, ...] = ()


@attrs.frozen
class WorkerStats:
    """One worker's share."""

    worker_id: int
    recv: int
    matched: int
    parse_err: int
    no_match: int
    buf_exhaust: int
    kernel_drops: int
    submitted: int
    sent: int
    errors: int
    bytes: int
    log_dropped: int
    """Log records that found the event ring full."""


@attrs.frozen
class InterfaceStats:
    """One input interface, over all workers."""

    interface: str
    recv: int
    kernel_drops: int
    parse_errors: ParseErrors = ParseErrors()
    looped: float | None = None
    """Seconds since the last datagram of this machine came back in, to about a second; None: none did."""


@attrs.frozen
class Stats:
    """Everything `mcrctl stats` shows."""

    ingress: IngressStats
    egress: EgressStats
    rules: tuple[RuleStats, ...] = ()
    workers: tuple[WorkerStats, ...] = ()
    interfaces: tuple[InterfaceStats, ...] = ()


@attrs.frozen
class SettingView:
    """A setting of the daemon as `mcrctl settings` shows it.

    Attributes:
        name: of the option or environment variable.
        value: what was asked for, or the default.
        source: ``command line``, ``environment`` or ``default``.
        effective: what is in force, where that is not `value`, and why.
    """

    name: str
    value: str
    default: str
    source: str
    meaning: str
    effective: str | None = None


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
    """Who speaks in the log. The order is the order of the level table in shared memory."""

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
