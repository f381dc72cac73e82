"""Counters and rates, as `mcrctl stats` shows them."""

from collections.abc import Iterable, Sequence

import attrs

from mcr.model.flow import Address
from mcr.model.health import StreamHealth
from mcr.model.numbers import values_of


@attrs.frozen
class ParseErrors:
    """The parts of `parse_err`: why datagrams were not relayed. Fields are in the order of native/shm_abi.h."""

    malformed: int = 0
    """Not a whole, well-formed UDP datagram."""
    fragment: int = 0
    """A part of one that can belong to none, as its lengths contradict each other; or of one of IPv6."""
    checksum: int = 0
    """The checksum of the IP header, or UDP's, is wrong."""
    source: int = 0
    """From an address that no host can have: 0.0.0.0, 127.0.0.0/8, a group, a broadcast address."""
    loop: int = 0
    """From an address or MAC of this machine: it was sent here, and came back."""
    other_host: int = 0
    """To another host's MAC: seen only since the interface is promiscuous."""
    vlan: int = 0
    """With a second VLAN tag, or one that is not 802.1Q's."""
    fragment_overlap: int = 0
    """A part that overlaps others, or is there already; and those others."""
    fragment_incomplete: int = 0
    """Parts of datagrams of which others have not come within a second."""
    fragment_evicted: int = 0
    """Parts of datagrams whose place another one was given: too many were incomplete at a time."""
    returned: int = 0
    """From a machine that returns what others send to the rule, while it is refused."""

    @classmethod
    def sum(cls, parts: Iterable["ParseErrors"]) -> "ParseErrors":
        """Add up, field by field."""
        return cls(*(sum(column) for column in zip(*map(error_counts, parts), strict=True)))


error_counts = values_of(ParseErrors)


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
    no_match_pps: float = 0.0
    """What `no_match` grew by, likewise."""
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
class SendError:
    """Why a datagram was not sent."""

    errno: int
    ago: float
    """Seconds since then."""


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
    last_error: SendError | None = None
    """The newest; None: no send failed."""
    pps: float = 0.0
    """Packets sent per second."""
    bps: float = 0.0
    """Payload bits sent per second."""
    error_pps: float = 0.0
    """Packets per second that were not sent."""
    vlan: int | None = None
    """That its frames are tagged with; None: none."""
    prefix: int | None = None
    """Bits that its groups have in common; None: it has one."""
    last_port: int | None = None
    """Of its ports; None: it has one."""


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
    """Matched packets per second."""
    bps: float
    """Payload bits sent a second."""
    outputs: tuple[OutputStats, ...] = ()
    last_packet_ago: float | None = None
    """Seconds since the newest packet, to about a second; None: none was seen since this mcrd has the rule."""
    health: StreamHealth | None = None
    """Of its stream, as it comes in; None: it is not watched."""


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
class KernelPathStats:
    """The share of the kernel path, which forwards without a worker."""

    recv: int = 0
    matched: int = 0
    parse_err: int = 0
    kernel_drops: int = 0
    """Another program at the interface's ingress took them first."""
    submitted: int = 0
    sent: int = 0
    errors: int = 0
    bytes: int = 0


@attrs.frozen
class InterfaceStats:
    """One input interface, over all workers. At rest recv = matched + no_match + buf_exhaust + all parse errors."""

    interface: str
    recv: int
    kernel_drops: int
    parse_errors: ParseErrors = ParseErrors()
    looped: float | None = None
    """Seconds since the last datagram of this machine came back in, to about a second; None: none did."""
    matched: int = 0
    no_match: int = 0
    buf_exhaust: int = 0


@attrs.frozen
class Stats:
    """Everything `mcrctl stats` shows."""

    ingress: IngressStats
    egress: EgressStats
    rules: Sequence[RuleStats] = ()
    workers: tuple[WorkerStats, ...] = ()
    interfaces: tuple[InterfaceStats, ...] = ()
    kernel_path: KernelPathStats = KernelPathStats()
