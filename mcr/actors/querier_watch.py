"""Listens for IGMP queries, and for those of MLD, its counterpart in IPv6.

A snooping switch forwards only the groups that hosts report, and forgets them when no querier asks again. How long a
query holds depends on the querier: on the interval that it announces (IGMPv3) or keeps.

Only queries that the kernel accepts are heard, and those are the ones it answers. Where reverse-path filtering or a
firewall drops them, the watch hears nothing, and no switch learns which groups are joined here.

A raw socket sees IGMP, or ICMPv6, alone. A tap would cost all other traffic on the machine.
"""

import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import attrs
import trio

from mcr.errors import describe_errno, errno_of
from mcr.logs.logger import get_logger
from mcr.model.flow import IPV4, IPV6, Address
from mcr.model.log import Facility
from mcr.net import uapi
from mcr.net.filter.cbpf import IGMP_QUERIES, attach_filter

log = get_logger(Facility.NETWORK)

_MAX_INTERFACES: Final = 1_000  # that are remembered
_MAX_MESSAGE = 2_048
_PACKET_INFO = struct.Struct("i4s4s")  # struct in_pktinfo: interface index, local address, destination
_PACKET_INFO6 = struct.Struct("16si")  # struct in6_pktinfo: destination, interface index
_ANCILLARY = socket.CMSG_SPACE(max(_PACKET_INFO.size, _PACKET_INFO6.size))
_MLD_QUERY: Final = 130
_MLD = struct.Struct("!B3xH2x16s")  # type, response code, group
_MLD2 = struct.Struct("!24xBB2x")  # robustness, interval code
_SHORTEST_QUERY = 8
_SHORTEST_QUERY_V3 = 12
_IP_HEADER = 20
_TTL = 8  # where it is
_GAPS: Final = 3  # between queries that are remembered; after a start two come within a quarter of the interval
_ROBUSTNESS: Final = 2  # queries that may be lost (RFC 3376, 8.1), unless the querier announces another number
_INTERVAL: Final = 125.0  # seconds between two queries (8.2), likewise
_RESPONSE: Final = 10.0  # seconds that hosts may take to answer (8.3), likewise


_Message = tuple[bytes, list[tuple[int, int, bytes]], int, Any]
"""What recvmsg(2) gives: data, ancillary data, flags, address."""


@attrs.frozen
class Query:
    """A query as it was sent (RFC 3376, 4.1; RFC 3810, 5.1).

    Attributes:
        querier: who sent it; snooping switches without an address say 0.0.0.0.
        group: the group that it asks about; 0.0.0.0, or ::, for all.
        response: seconds that hosts may take to answer.
        robustness: queries that may be lost before a membership ends; None: not announced.
        interval: seconds between two queries; None: not announced.
    """

    querier: Address
    group: Address
    response: float = _RESPONSE
    robustness: int | None = None
    interval: float | None = None


@attrs.frozen
class Hearing:
    """What was heard on one interface.

    Attributes:
        listening: seconds since the watch began; None: it could not, or had to end.
        ago: seconds since the last query; None: there was none.
        querier: who sent it.
        holds: seconds after which a switch forgets the groups if no other query comes (RFC 3376, 8.4).
        interval: seconds between two queries of this querier; None: not known yet.
    """

    listening: float | None
    ago: float | None = None
    querier: Address | None = None
    holds: float = _ROBUSTNESS * _INTERVAL + _RESPONSE
    interval: float | None = None

    @property
    def lately(self) -> bool:
        """Whether there is a querier, as far as a switch knows."""
        return self.ago is not None and self.ago <= self.holds

    @property
    def overdue(self) -> bool:
        """Whether the next query should have come by now."""
        return self.ago is not None and self.ago > 1.5 * (self.interval or _INTERVAL)


@attrs.define
class Queries:
    """The queries on one interface, from the newest back."""

    last: Query
    time: float
    gaps: deque[float] = attrs.field(factory=lambda: deque(maxlen=_GAPS))

    def follow(self, query: Query, time: float) -> None:
        """Take in the next one."""
        gap = time - self.time
        if gap > self.holds():  # it was silent, and has come back
            self.gaps.clear()
        else:
            self.gaps.append(gap)
        self.last, self.time = query, time

    def interval(self) -> float | None:
        """The interval that the querier announces; otherwise the longest of the last gaps, once there are enough."""
        if self.last.interval is not None:
            return self.last.interval
        return max(self.gaps) if len(self.gaps) == _GAPS else None

    def holds(self) -> float:
        """The group membership interval."""
        return (self.last.robustness or _ROBUSTNESS) * (self.interval() or _INTERVAL) + self.last.response


@attrs.define
class _Heard:
    since: float | None = None
    queries: dict[int, Queries] = attrs.field(factory=dict)


@attrs.frozen
class QuerierWatch:
    """Handle of the watch."""

    _heard: Mapping[int, _Heard]
    """By version of IP."""

    def on(self, index: int, version: int = IPV4) -> Hearing:
        """What was heard on the interface of this index, by IGMP; of version 6 by MLD."""
        heard = self._heard[version]
        now = trio.current_time()
        listening = None if heard.since is None else now - heard.since
        found = heard.queries.get(index)
        if found is None:
            return Hearing(listening)
        return Hearing(listening, now - found.time, found.last.querier, found.holds(), found.interval())


async def run_querier_watch(*, task_status: trio.TaskStatus[QuerierWatch] = trio.TASK_STATUS_IGNORED) -> None:
    """Listen until cancelled. If that is impossible, the log has a warning."""
    by_version = {IPV4: _Heard(), IPV6: _Heard()}
    async with trio.open_nursery() as nursery:
        await nursery.start(_listen, by_version[IPV4], "IGMP", _open, _note)
        await nursery.start(_listen, by_version[IPV6], "MLD", _open6, _note6)
        task_status.started(QuerierWatch(by_version))


async def _listen(
    heard: _Heard,
    protocol: str,
    open_listener: Callable[[], socket.socket],
    note: Callable[[_Heard, _Message], None],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    try:
        listener = trio.socket.from_stdlib_socket(open_listener())
    except OSError as error:
        task_status.started()
        if error.errno != errno.EAFNOSUPPORT:  # without IPv6 there is nothing to be heard
            _warn(protocol, error)
        return
    with listener:
        heard.since = trio.current_time()
        task_status.started()
        try:
            while True:
                note(heard, await listener.recvmsg(_MAX_MESSAGE, _ANCILLARY))
        except OSError as error:
            heard.since = None
            _warn(protocol, error)


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_IGMP)
    try:
        attach_filter(opened, IGMP_QUERIES)
        opened.setsockopt(socket.IPPROTO_IP, uapi.IP_PKTINFO, 1)
    except OSError:
        opened.close()
        raise
    return opened


def _open6() -> socket.socket:
    """Open the socket for MLD: the kernel checks checksums, and says by which interface a message came."""
    opened = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6)
    try:
        blocked = ~(1 << _MLD_QUERY) & (1 << 256) - 1
        opened.setsockopt(socket.IPPROTO_ICMPV6, uapi.ICMPV6_FILTER, blocked.to_bytes(32, "little"))
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    except OSError:
        opened.close()
        raise
    return opened


def _note(heard: _Heard, message: _Message) -> None:
    data, ancillary, _, _ = message
    query = parse_query(data)
    for level, kind, value in ancillary:
        if query and (level, kind) == (socket.IPPROTO_IP, uapi.IP_PKTINFO):
            _follow(heard, _PACKET_INFO.unpack(value)[0], query)


def _note6(heard: _Heard, message: _Message) -> None:
    data, ancillary, _, address = message
    query = parse_mld_query(data, IPv6Address(address[0].partition("%")[0]))
    for level, kind, value in ancillary:
        if query and (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            _follow(heard, _PACKET_INFO6.unpack(value)[1], query)


def _follow(heard: _Heard, index: int, query: Query) -> None:
    if not query.group.is_unspecified:  # one about a group comes when a host leaves it, not in turn
        return
    now = trio.current_time()
    queries = heard.queries.pop(index, None)
    if queries is None:
        queries = Queries(query, now)
    else:
        queries.follow(query, now)
    heard.queries[index] = queries  # the newest is last
    if len(heard.queries) > _MAX_INTERFACES:
        del heard.queries[next(iter(heard.queries))]


def parse_mld_query(body: bytes, querier: IPv6Address) -> Query | None:
    """Read a query, from its ICMPv6 header on; None: it is none (RFC 2710, 3; RFC 3810, 5.1)."""
    if len(body) < _MLD.size:
        return None
    kind, code, group = _MLD.unpack_from(body)
    if kind != _MLD_QUERY or not querier.is_link_local:
        return None
    asked = IPv6Address(group)
    if len(body) < _MLD2.size:
        return Query(querier, asked, code / 1000)
    robustness, interval = _MLD2.unpack_from(body)
    response = (code if code < 0x8000 else (code & 0x0FFF | 0x1000) << ((code >> 12 & 0x07) + 3)) / 1000  # noqa: PLR2004
    return Query(querier, asked, response, robustness & 0x07 or None, float(_decode(interval)) or None)


def parse_query(message: bytes) -> Query | None:
    """Read a query, given with its IP header; None: it is none that a host would answer (RFC 3376, 4 and 9.1).

    Nor is one with a TTL of 0, which has never been on a wire: this machine asks itself (`mcr.net.igmp`).
    """
    if len(message) < _IP_HEADER or not message[_TTL]:
        return None
    body = message[(message[0] & 0x0F) * 4 :]
    if len(body) < _SHORTEST_QUERY or body[0] != 0x11 or not _is_intact(body):  # noqa: PLR2004 - type: membership query
        return None
    querier, group = IPv4Address(message[12:16]), IPv4Address(body[4:8])
    if len(body) < _SHORTEST_QUERY_V3:  # version 2; version 1 has no response time
        return Query(querier, group, body[1] / 10 or _RESPONSE)
    interval = float(_decode(body[9]))
    return Query(querier, group, _decode(body[1]) / 10, body[8] & 0x07 or None, interval or None)


def _decode(code: int) -> int:
    """A time as IGMPv3 has it: beyond 127 with an exponent (RFC 3376, 4.1.1 and 4.1.7)."""
    return code if code < 0x80 else (code & 0x0F | 0x10) << ((code >> 4 & 0x07) + 3)  # noqa: PLR2004


def _is_intact(body: bytes) -> bool:
    """Whether its checksum is right: with it, the words' ones' complement sum is all ones (RFC 1071)."""
    padded = body + b"\0" * (len(body) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    return total > 0 and total % 0xFFFF == 0


def _warn(protocol: str, error: OSError) -> None:
    log.warning(
        "cannot listen for %s queries (%s): mcrctl why cannot tell whether there is a querier",
        protocol,
        describe_errno(errno_of(error)),
    )
