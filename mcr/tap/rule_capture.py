"""Captures the packets of one rule, where they come in and where they leave.

Sockets of its own see what the relay's see, so a capture costs the relay nothing, and what it can't keep up with is its
own loss. What the rule does with a packet is said by the worker's parser, from the same bytes.
"""

import errno
import select
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from itertools import chain, product
from types import TracebackType
from typing import Any, Final, Self

import attrs

from mcr._native import ffi, lib
from mcr.errors import SystemFault, errno_of
from mcr.model.flow import IPV6, Address, Flow
from mcr.model.span import Span
from mcr.net import uapi
from mcr.net.filter.cbpf import REJECT_ALL, Instruction, accept_udp, attach_filter, select_udp
from mcr.net.filter.tagged import with_sent_tagged
from mcr.net.interfaces import bind_packet, find_interface, link_header
from mcr.net.links import read_links
from mcr.net.network import Link, Network
from mcr.net.own import own_keys
from mcr.tap.merging import Merging
from mcr.text.addresses import with_port

BUFFER: Final = 32 << 20
"""Bytes of packets that wait on one interface, in one direction."""

_FRAME = 1 << 17  # bytes: more than any frame has
_AT_ONCE = 256  # packets of one socket before another gets its turn
_STEP_MS = 200  # until somebody who waits for packets looks at the clock
_HELD_MS = 2  # likewise, while packets wait for earlier ones of other places
_ON_ITS_WAY = 1_000_000  # nanoseconds, at most, between a packet's time stamp and its place in the queue
_TIME = struct.Struct("qq")  # seconds, nanoseconds
_ROOM = socket.CMSG_SPACE(uapi.TPACKET_AUXDATA.size) + socket.CMSG_SPACE(_TIME.size)
_PORTS = struct.Struct("!HH")
_TAG = struct.Struct("!HH")
_MACS = 12  # bytes
_TAGGED = uapi.ETH_P_8021Q.to_bytes(2)
_UDP_HEADER = 8  # bytes
_IPV4_BYTES = 4  # of an address
_CAUSES = {
    lib.MCR_CAUSE_CHECKSUM: "checksum",
    lib.MCR_CAUSE_SOURCE: "source",
    lib.MCR_CAUSE_LOOP: "loop",
    lib.MCR_CAUSE_OTHER_HOST: "other_host",
}
_RETURNED = "dropped: returned"

TAKEN: Final = "taken"
"""The rule takes it. What becomes of it at each output is not known here."""
SENT: Final = "sent"
PART: Final = "fragment"
"""It is taken with the rest of its datagram, if that comes."""


_Headers = tuple[int, bytes, int, bytes]
"""VLAN, destination, its port, and source, as they are in headers. With port 0 none can be read."""


@attrs.frozen
class Place:
    """An interface and a direction.

    Attributes:
        flows: groups (or hosts) and ports that are captured there.
        sources: that packets come from; none: from any.
        left: but for these.
    """

    interface: str
    outgoing: bool
    flows: frozenset[Flow]
    sources: frozenset[Address] = frozenset()
    left: frozenset[_Headers] = frozenset()

    def takes(self, vlan: int, group: bytes, port: int, source: bytes) -> bool:
        """Whether packets of one of the flows are the rule's, if they come from there."""
        if self.left and (vlan, group, port, source) in self.left:
            return False
        return not self.sources or ip_address(source) in self.sources


def places_of(rule: Mapping[str, Any], sides: Collection[str], others: Iterable[Mapping[str, Any]] = ()) -> list[Place]:
    """Where the packets of a rule are.

    Args:
        rule: as `list` gives it.
        sides: ``in``, ``out``, or both.
        others: rules that may take what comes from certain sources.
    """
    flows: defaultdict[tuple[str, bool], set[Flow]] = defaultdict(set)
    ends = [(rule["input"], False)] * ("in" in sides) + [(each, True) for each in rule["outputs"]] * ("out" in sides)
    for end, outgoing in ends:
        flows[end["interface"], outgoing] |= {Flow(*each, end.get("vlan") or 0) for each in _span(end).each()}
    taken, beside = rule["input"], [each["input"] for each in others]
    if "in" in sides and _is_range(taken):
        flows[taken["interface"], False] -= {*_going_before(taken, beside)}
    named = frozenset(map(ip_address, taken.get("sources", ())))
    left = frozenset(chain.from_iterable(_by_source(taken, each) for each in beside))
    return [
        Place(interface, outgoing, frozenset(wanted), *(() if outgoing else (named, left)))
        for (interface, outgoing), wanted in flows.items()
    ]


def _is_range(taken: Mapping[str, Any]) -> bool:
    return bool(taken.get("prefix") or taken.get("last_port"))


def _span(end: Mapping[str, Any]) -> Span:
    return Span.of(ip_address(end["group"]), end["port"], end.get("prefix"), end.get("last_port"))


def _going_before(taken: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> Iterator[Flow]:
    """Flows that other rules take by group and port, from any source: of a range, which `taken` is, or not."""
    for each in others:
        if not _is_range(each) and not each.get("sources") and each["interface"] == taken["interface"]:
            yield Flow(ip_address(each["group"]), each["port"], each.get("vlan") or 0)


def _by_source(taken: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[_Headers]:
    """What another rule takes of it from its sources, if these go before."""
    is_before = not taken.get("sources") if _is_range(other) == _is_range(taken) else _is_range(taken)
    vlan = taken.get("vlan") or 0
    if not is_before or (other["interface"], other.get("vlan") or 0) != (taken["interface"], vlan):
        return
    span, ranged = _span(taken), _is_range(taken)
    for group, port in _span(other).each() if other.get("sources") else ():
        if span.has(group, port):
            for source, read in product(map(ip_address, other["sources"]), (port,) if ranged else (port, 0)):
                yield vlan, group.packed, read, source.packed


@attrs.frozen
class Packet:
    """A captured packet.

    Attributes:
        place: number of its place.
        time: nanoseconds since 1970.
        data: from the link header on; from the IP header on where there is none.
        ends: addresses and ports of source and destination, as they are in the headers; ports of 0: none can be read.
        payload: bytes, of all its datagrams together.
        datagrams: how many it is; a super-frame is several, which the kernel or the network card cuts apart later.
        verdict: `TAKEN`, `SENT`, `PART`, or ``dropped: CAUSE``.
    """

    place: int
    time: int
    data: bytes
    ends: tuple[bytes, int, bytes, int]
    payload: int
    verdict: str
    datagrams: int = 1

    @property
    def source(self) -> str:
        """Who sent it, with the port."""
        return with_port(ip_address(self.ends[0]), self.ends[1])

    @property
    def destination(self) -> str:
        """To whom, with the port."""
        return with_port(ip_address(self.ends[2]), self.ends[3])


class RuleCapture:
    """A context manager: leaving it closes the sockets.

    Attributes:
        places: of the packets.
        has_link_header: whether packets of a place begin with one.
    """

    def __init__(
        self, places: Sequence[Place], used: Collection[str], refused: Callable[[], Collection[Address]] = tuple
    ) -> None:
        """Open nothing yet.

        Args:
            places: of the packets.
            used: interfaces of all rules. What comes from their MACs this machine has sent.
            refused: sources of which the relay takes nothing at present. Asked whenever packets are read.
        """
        self.places = places
        self._refused = refused
        self._used = used
        self.has_link_header: list[bool] = []
        self._sockets: list[socket.socket] = []
        self._closing = ExitStack()
        self._lost = [0] * len(places)
        # With port 0, what none can be read of.
        self._wanted = [
            {(each.vlan, each.group.packed, port) for each in place.flows for port in (each.port, 0)}
            for place in places
        ]

    def __enter__(self) -> Self:
        """Open the sockets.

        Raises:
            InterfaceNotFound: there is no such interface here.
            SystemFault: naming the step.
        """
        with self._closing as undo:
            for each in self.places:
                opened = undo.enter_context(_open(each))
                self._sockets.append(opened)
                self.has_link_header.append(link_header(opened) > 0)
            self._own = _own_addresses(self._used)
            for each, opened in zip(self.places, self._sockets, strict=True):
                attach_filter(opened, _select(each, link_header(opened)))
            self._closing = undo.pop_all()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._closing.close()

    def packets(self, seconds: float | None, stopped: Callable[[], bool]) -> Iterator[Packet]:
        """Packets as they come, for so many seconds or for ever, and until it is stopped; with all that wait then."""
        until = None if seconds is None else time.monotonic() + seconds
        poll = select.poll()
        numbers = {each.fileno(): number for number, each in enumerate(self._sockets)}
        for each in numbers:
            poll.register(each, select.POLLIN)
        merging = Merging[Packet](len(self.places))
        while not stopped() and (until is None or time.monotonic() < until):
            asked = time.time_ns()
            ready = {numbers[fd] for fd, _ in poll.poll(_HELD_MS if merging.holds else _STEP_MS)}
            for number in range(len(self.places)):
                merging.add(number, *(self._read(number) if number in ready else ((), asked - _ON_ITS_WAY)))
            yield from merging.take()
        for opened in self._sockets:
            attach_filter(opened, REJECT_ALL)
        while last := poll.poll(0):
            for fd, _ in last:
                merging.add(numbers[fd], *self._read(numbers[fd]))
            yield from merging.take()
        yield from merging.rest()

    def lost(self, place: int) -> int:
        """How many packets of a place found no room so far."""
        raw = self._sockets[place].getsockopt(uapi.SOL_PACKET, uapi.PACKET_STATISTICS, 8)
        _, dropped = struct.unpack("=II", raw)  # since it was asked last
        self._lost[place] += dropped
        return self._lost[place]

    def _read(self, place: int) -> tuple[list[Packet], int]:
        """What waits at a place, and the time up to which nothing else will come from there."""
        opened, asked = self._sockets[place], time.time_ns()
        packets: list[Packet] = []
        refused = {each.packed for each in self._refused()}
        for _ in range(_AT_ONCE):
            try:
                data, ancillary, _, address = opened.recvmsg(_FRAME, _ROOM, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return packets, asked - _ON_ITS_WAY
            except OSError as error:  # the interface went down; or a super-frame that the kernel can't describe
                if error.errno is None:
                    raise
                continue
            packet = self._packet(place, data, {kind: value for _, kind, value in ancillary}, address, refused)
            if packet:
                packets.append(packet)
        return packets, packets[-1].time - _ON_ITS_WAY if packets else 0

    def _packet(
        self, place: int, data: bytes, ancillary: Mapping[int, bytes], address: Any, refused: Collection[bytes]
    ) -> Packet | None:
        where = self.places[place]
        status, _, _, _, network, tag, protocol = uapi.TPACKET_AUXDATA.unpack(ancillary[uapi.PACKET_AUXDATA])
        seconds, nanoseconds = _TIME.unpack(ancillary[uapi.SO_TIMESTAMPNS])
        _, super_frame, _, segment, _, _ = uapi.VIRTIO_NET_HDR.unpack_from(data)
        data = data[uapi.VIRTIO_NET_HDR.size :]
        vlan = tag & uapi.VLAN_VID_MASK if status & uapi.TP_STATUS_VLAN_VALID else 0
        if where.outgoing and self.has_link_header[place] and data[_MACS : _MACS + 2] == _TAGGED:
            vlan = _TAG.unpack_from(data, _MACS)[1] & uapi.VLAN_VID_MASK  # a worker has sent it
            network = _MACS + _TAG.size + 2
        parsed = ffi.new("struct mcr_packet *")
        buffer = ffi.from_buffer("uint8_t[]", data)
        ret = lib.mcr_packet_parse(buffer, len(data), network, parsed)
        source, group = _addresses(data, network)
        ports = _PORTS.unpack_from(data, parsed.payload - _UDP_HEADER) if ret == 0 else (0, 0)
        # The filter lets in what has no port to look at.
        is_other = ret == -errno.EPROTONOSUPPORT and len(group) != _IPV4_BYTES  # behind extension headers
        wanted = (vlan, group, ports[1])
        if is_other or wanted not in self._wanted[place] or not where.takes(*wanted, source):
            return None
        is_part = ret == -errno.EOPNOTSUPP
        verdict = SENT if where.outgoing else "" if is_part else _unsound(ret)
        if not verdict:
            known = {
                "mac": _mac(address),
                "vouched": bool(status & (uapi.TP_STATUS_CSUM_VALID | uapi.TP_STATUS_CSUMNOTREADY) or super_frame),
                "elsewhere": address[2] == uapi.PACKET_OTHERHOST,
                "loopback": address[3] == uapi.ARPHRD_LOOPBACK,
            }
            frame = ffi.new("struct mcr_frame *", {"data": buffer, "size": len(data), "network": network, **known})
            check = lib.mcr_sanity_check_header if is_part else lib.mcr_sanity_check
            cause = _CAUSES.get(check(frame, parsed, self._own))
            sound = _RETURNED if source in refused else PART if is_part else TAKEN
            verdict = f"dropped: {cause}" if cause else sound
        if status & uapi.TP_STATUS_VLAN_VALID and self.has_link_header[place]:
            data = data[:_MACS] + _TAG.pack(protocol or uapi.ETH_P_8021Q, tag) + data[_MACS:]
        return Packet(
            place,
            seconds * 1_000_000_000 + nanoseconds,
            data,
            (source, ports[0], group, ports[1]),
            payload := parsed.payload_size if ret == 0 else 0,
            verdict,
            -(-payload // segment) or 1 if super_frame and segment else 1,
        )


def _select(place: Place, link: int) -> Sequence[Instruction]:
    tagged = place.flows if place.outgoing and link else ()
    with suppress(OverflowError):
        program = with_sent_tagged(select_udp(place.flows, link, outgoing=place.outgoing), tagged)
        if len(program) <= uapi.BPF_MAXINSNS:
            return program
    # Of all UDP its own is picked out later.
    return with_sent_tagged(accept_udp({each.vlan for each in place.flows}, outgoing=place.outgoing), tagged)


def _addresses(data: bytes, network: int) -> tuple[bytes, bytes]:
    """Source and destination, as they are in the header of IP."""
    is_ipv6 = len(data) > network and data[network] >> 4 == IPV6
    at, size = (network + 8, 16) if is_ipv6 else (network + 12, 4)
    return data[at : at + size], data[at + size : at + 2 * size]


def _unsound(ret: int) -> str:
    """Why the parser refuses a frame; empty if it doesn't."""
    return "dropped: malformed" if ret else ""


def _mac(address: Any) -> int:
    mac = address[4]
    return int(lib.mcr_own_mac(mac)) if address[3] == uapi.ARPHRD_ETHER and len(mac) == 6 else 0  # noqa: PLR2004


def _open(place: Place) -> socket.socket:
    interface = find_interface(place.interface)
    step = "AF_PACKET socket"
    with ExitStack() as undo:
        try:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            undo.callback(opened.close)
            step = "SO_ATTACH_FILTER"
            attach_filter(opened, REJECT_ALL)
            step = "SO_RCVBUF"
            _widen(opened)
            step = "SO_TIMESTAMPNS"
            opened.setsockopt(socket.SOL_SOCKET, uapi.SO_TIMESTAMPNS, 1)
            step = "PACKET_AUXDATA"
            opened.setsockopt(uapi.SOL_PACKET, uapi.PACKET_AUXDATA, 1)
            step = "PACKET_VNET_HDR"
            opened.setsockopt(uapi.SOL_PACKET, uapi.PACKET_VNET_HDR, 1)
            step = "bind"
            bind_packet(opened, interface.index, uapi.ETH_P_ALL)
        except OSError as error:
            raise SystemFault(f"Cannot capture on {place.interface}: {step}", errno_of(error)) from None
        undo.pop_all()
    return opened


def _widen(opened: socket.socket) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, uapi.SO_RCVBUFFORCE, BUFFER)
    except PermissionError:  # without CAP_NET_ADMIN: as much as net.core.rmem_max allows
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)


def interfaces_of(rules: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Those that rules use, as `list` gives them."""
    return frozenset(end["interface"] for rule in rules for end in (rule["input"], *rule["outputs"]))


def _own_addresses(used: Collection[str]) -> Any:
    """What the parser takes for this machine's, as mcrd tells its workers."""
    links = {each.index: each for each in read_links().values()}
    network = Network(
        links={each.index: Link(each.index, each.name, mac=each.mac, kind=each.kind) for each in links.values()},
        addresses={each.index: each.addresses for each in links.values()},
        addresses6={each.index: each.addresses6 for each in links.values()},
    )
    data = own_keys(network, {link.index for link in read_links(used).values()})
    own = ffi.new("struct mcr_own *")
    keys = ffi.from_buffer("struct mcr_rec_own_key[]", data)
    lib.mcr_own_set(own, keys, len(keys))
    return own
