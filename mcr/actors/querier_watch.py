"""Listens for IGMP queries.

A snooping switch forwards only the groups that hosts report, and forgets them when no querier asks again. How long a
query holds depends on the querier: on the interval that it announces (IGMPv3) or keeps.

Only queries that the kernel accepts are heard, and those are the ones it answers. Where reverse-path filtering or a
firewall drops them, the watch hears nothing, and no switch learns which groups are joined here.

A raw socket sees IGMP alone. A tap would cost all other traffic on the machine.
"""

import socket
import struct
from collections import deque
from ipaddress import IPv4Address
from typing import Final

import attrs
import trio

from mcr.errors import describe_errno
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.net import uapi
from mcr.net.filter.cbpf import IGMP_QUERIES, attach_filter

log = get_logger(Facility.NETWORK)

_MAX_INTERFACES: Final = 1_000  # that are remembered
_MAX_MESSAGE = 2_048
_PACKET_INFO = struct.Struct("i4s4s")  # struct in_pktinfo: interface index, local address, destination
_SHORTEST_QUERY = 8
_SHORTEST_QUERY_V3 = 12
_IP_HEADER = 20
_TTL = 8  # where it is
_GAPS: Final = 3  # between queries that are remembered; after a start two come within a quarter of the interval
_ROBUSTNESS: Final = 2  # queries that may be lost (RFC 3376, 8.1), unless the querier announces another number
_INTERVAL: Final = 125.0  # seconds between two queries (8.2), likewise
_RESPONSE: Final = 10.0  # seconds that hosts may take to answer (8.3), likewise


@attrs.frozen
class Query:
    """A query as it was sent (RFC 3376, 4.1).

    Attributes:
        querier: who sent it; snooping switches without an address say 0.0.0.0.
        group: the group that it asks about; 0.0.0.0: about all.
        response: seconds that hosts may take to answer.
        robustness: queries that may be lost before a membership ends; None: not announced.
        interval: seconds between two queries; None: not announced.
    """

    querier: IPv4Address
    group: IPv4Address
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
    querier: IPv4Address | None = None
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

    _heard: _Heard

    def on(self, index: int) -> Hearing:
        """What was heard on the interface of this index."""
        now = trio.current_time()
        listening = None if self._heard.since is None else now - self._heard.since
        found = self._heard.queries.get(index)
        if found is None:
            return Hearing(listening)
        return Hearing(listening, now - found.time, found.last.querier, found.holds(), found.interval())


async def run_querier_watch(*, task_status: trio.TaskStatus[QuerierWatch] = trio.TASK_STATUS_IGNORED) -> None:
    """Listen until cancelled. If that is impossible, the log has a warning."""
    heard = _Heard()
    try:
        listener = trio.socket.from_stdlib_socket(_open())
    except OSError as error:
        _warn(error)
        task_status.started(QuerierWatch(heard))
        return
    with listener:
        heard.since = trio.current_time()
        task_status.started(QuerierWatch(heard))
        try:
            while True:
                message, ancillary, _, _ = await listener.recvmsg(_MAX_MESSAGE, socket.CMSG_SPACE(_PACKET_INFO.size))
                _note(heard, message, ancillary)
        except OSError as error:
            heard.since = None
            _warn(error)


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_IGMP)
    try:
        attach_filter(opened, IGMP_QUERIES)
        opened.setsockopt(socket.IPPROTO_IP, uapi.IP_PKTINFO, 1)
    except OSError:
        opened.close()
        raise
    return opened


def _note(heard: _Heard, message: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
    query = parse_query(message)
    if query is None or not query.group.is_unspecified:  # one about a group comes when a host leaves it, not in turn
        return
    now = trio.current_time()
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, uapi.IP_PKTINFO):
            index, _, _ = _PACKET_INFO.unpack(data)
            queries = heard.queries.pop(index, None)
            if queries is None:
                queries = Queries(query, now)
            else:
                queries.follow(query, now)
            heard.queries[index] = queries  # the newest is last
            if len(heard.queries) > _MAX_INTERFACES:
                del heard.queries[next(iter(heard.queries))]


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


def _warn(error: OSError) -> None:
    log.warning(
        "cannot listen for IGMP queries (%s): mcrctl why cannot tell whether there is a querier",
        describe_errno(error.errno or 0),
    )
