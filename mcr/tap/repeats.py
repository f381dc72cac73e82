"""A short look at the wire for datagrams that come to a rule again and again, as those of a loop do.

Its own packet socket sees what comes to either path, and costs packets only while it looks.
"""

import errno
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs

from mcr.errors import SystemFault
from mcr.model.flow import IPV4, Input
from mcr.net import uapi
from mcr.net.filter.cbpf import REJECT_ALL, attach_filter, select_udp
from mcr.net.interfaces import link_header

LOOK_SECONDS: Final = 0.5

_DATAGRAMS = 4_096  # then it is known well enough
_ENOUGH = 256  # to be suspect by
_FEW = 32  # tell nothing
_AGAIN = 4  # times that datagrams come in a loop, at the least; twice they come by redundancy
_BUFFER = 4 << 20  # bytes of frames that wait
_FRAME = 0x10000 + 64  # bytes, at most
_UDP_HEADER = 8
_LENGTH = struct.Struct("!H")
_IPV6_HEADER = 40
_SHORTEST = 28  # bytes of the headers of IPv4 and UDP


@attrs.frozen
class Repeats:
    """What was seen: datagrams, and how many of them are of those that came at least four times."""

    datagrams: int
    repeated: int

    @property
    def are_suspect(self) -> bool:
        """Whether it may be a loop: half of all that comes comes again and again."""
        return self.datagrams >= _FEW and 2 * self.repeated >= self.datagrams


def look_for_repeats(source: Input, index: int, seconds: float = LOOK_SECONDS) -> Repeats:
    """Look at what comes in for a rule.

    Args:
        source: what the rule takes.
        index: of the interface.
        seconds: at most.

    Raises:
        SystemFault: no packet socket could be opened, or it ended.
    """
    try:
        name = socket.if_indextoname(index)
        with _open(source, name) as tap:
            return _look(tap, seconds)
    except OSError as error:
        raise SystemFault(f"Cannot look for a loop on {source.interface}", error.errno or 0) from None
    except OverflowError:  # a range that no filter holds
        raise SystemFault(f"Cannot look for a loop on {source.interface}", errno.E2BIG) from None


def _open(source: Input, name: str) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        attach_filter(tap, REJECT_ALL)
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        tap.setsockopt(uapi.SOL_PACKET, uapi.PACKET_AUXDATA, 1)
        tap.setsockopt(uapi.SOL_PACKET, uapi.PACKET_VNET_HDR, 1)
        tap.bind((name, uapi.ETH_P_ALL))
        attach_filter(tap, select_udp(source.flows, link_header(tap)))
    except OSError:
        tap.close()
        raise
    return tap


def _look(tap: socket.socket, seconds: float) -> Repeats:
    seen: Counter[tuple[bytes, int]] = Counter()
    end, count = time.monotonic() + seconds, 0
    while count < _DATAGRAMS and (left := end - time.monotonic()) > 0:
        tap.settimeout(left)
        try:
            data, ancillary, _, _ = tap.recvmsg(_FRAME, socket.CMSG_SPACE(uapi.TPACKET_AUXDATA.size))
        except TimeoutError:
            break
        for flow, payload in payloads(data, ancillary):
            seen[flow, hash(payload)] += 1
            count += 1
        if count >= _ENOUGH and count % _ENOUGH == 0 and _repeats(seen, count).are_suspect:
            break
    return _repeats(seen, count)


def _repeats(seen: Counter[tuple[bytes, int]], count: int) -> Repeats:
    return Repeats(count, sum(times for times in seen.values() if times >= _AGAIN))


def payloads(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Flow and payload of each datagram of a frame, as recvmsg(2) gives it; none of a fragment, or what is no UDP.

    The flow: bytes of the addresses that it comes from and goes to, and of the port.
    """
    network = next((uapi.TPACKET_AUXDATA.unpack(each)[4] for _, _, each in ancillary), 0)
    _, kind, _, segment, _, _ = uapi.VIRTIO_NET_HDR.unpack_from(data)
    datagram = data[uapi.VIRTIO_NET_HDR.size + network :]
    found = _udp(datagram)
    if not found:
        return
    addresses, at = found
    flow = addresses + datagram[at + 2 : at + 4]
    (length,) = _LENGTH.unpack_from(datagram, at + 4)
    payload = datagram[at + _UDP_HEADER : at + length] if length else datagram[at + _UDP_HEADER :]
    step = segment if kind and segment else max(len(payload), 1)
    for begin in range(0, max(len(payload), 1), step):
        yield flow, payload[begin : begin + step]


def _udp(datagram: bytes) -> tuple[bytes, int] | None:
    """Its addresses, and where UDP's header is."""
    if len(datagram) < _SHORTEST:
        return None
    if datagram[0] >> 4 != IPV4:
        at = _IPV6_HEADER
        return (datagram[8:40], at) if len(datagram) >= at + _UDP_HEADER and datagram[6] == socket.IPPROTO_UDP else None
    at = 4 * (datagram[0] & 0x0F)
    whole = not _LENGTH.unpack_from(datagram, 6)[0] & 0x3FFF
    is_udp = datagram[9] == socket.IPPROTO_UDP and len(datagram) >= at + _UDP_HEADER
    return (datagram[12:20], at) if whole and is_udp else None
