"""Listens for IGMP queries: who forwards groups by what hosts asked for forgets them if nobody asks.

Only queries that the kernel takes are heard, and these are what it answers: where reverse-path filtering drops them,
the watch hears nothing, and no switch hears of the groups that are joined here.

A plain raw socket: it costs other traffic nothing, as a tap would.
"""

import socket
import struct
from ipaddress import IPv4Address
from typing import Final

import attrs
import trio

from mcr.errors import describe_errno
from mcr.logs import get_logger
from mcr.model import Facility
from mcr.net.filter import IGMP_QUERIES, attach_filter

log = get_logger(Facility.NETWORK)

_MAX_INTERFACES: Final = 1_000  # that are remembered
_MAX_MESSAGE = 2_048
_IP_PKTINFO = 8  # <linux/in.h>
_PACKET_INFO = struct.Struct("i4s4s")  # struct in_pktinfo: interface index, local address, destination
_SHORTEST_QUERY = 8
_IP_HEADER = 20


@attrs.frozen
class Hearing:
    """What was heard on one interface.

    Attributes:
        listening: seconds since the watch began; None: it could not, or had to end.
        ago: seconds since the last query; None: there was none.
        querier: who sent it.
    """

    listening: float | None
    ago: float | None = None
    querier: IPv4Address | None = None


@attrs.define
class _Heard:
    since: float | None = None
    last: dict[int, tuple[float, IPv4Address]] = attrs.field(factory=dict)


@attrs.frozen
class QuerierWatch:
    """Handle of the watch."""

    _heard: _Heard

    def on(self, index: int) -> Hearing:
        """What was heard on the interface of this index."""
        now = trio.current_time()
        listening = None if self._heard.since is None else now - self._heard.since
        if index not in self._heard.last:
            return Hearing(listening)
        time, querier = self._heard.last[index]
        return Hearing(listening, now - time, querier)


async def run_querier_watch(*, task_status: trio.TaskStatus[QuerierWatch] = trio.TASK_STATUS_IGNORED) -> None:
    """Listen until cancelled. What can't be listened to is a warning in the log."""
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
        opened.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    except OSError:
        opened.close()
        raise
    return opened


def _note(heard: _Heard, message: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
    querier = parse_query(message)
    if querier is None:
        return
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            index, _, _ = _PACKET_INFO.unpack(data)
            heard.last.pop(index, None)  # so that the newest is last
            heard.last[index] = trio.current_time(), querier
            if len(heard.last) > _MAX_INTERFACES:
                del heard.last[next(iter(heard.last))]


def parse_query(message: bytes) -> IPv4Address | None:
    """Who sent a query, given with its IP header; None: it is none that a host would answer (RFC 3376, 4 and 9.1)."""
    if len(message) < _IP_HEADER:
        return None
    body = message[(message[0] & 0x0F) * 4 :]
    if len(body) < _SHORTEST_QUERY or body[0] != 0x11 or not _is_intact(body):  # noqa: PLR2004 - type: membership query
        return None
    return IPv4Address(message[12:16])


def _is_intact(body: bytes) -> bool:
    """Whether its checksum is right: with it, the words' ones' complement sum is all ones (RFC 1071)."""
    padded = body + b"\0" * (len(body) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    return total > 0 and total % 0xFFFF == 0


def _warn(error: OSError) -> None:
    log.warning(
        "cannot listen for IGMP queries (%s): mcrctl why won't know of queriers", describe_errno(error.errno or 0)
    )
