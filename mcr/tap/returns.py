"""A short look at the wire for datagrams that other machines return to a rule.

Its own packet socket sees what comes to either path, and costs packets only while it looks.
"""

import random
import socket
import struct
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Final

import attrs

from mcr.errors import SystemFault
from mcr.model.flow import IPV4, Flow
from mcr.net import uapi
from mcr.net.buffer import set_buffer
from mcr.net.filter.cbpf import REJECT_ALL, Instruction, accept_udp, attach_filter, select_udp
from mcr.net.filter.thinning import thin
from mcr.net.interfaces import link_header
from mcr.tap.copies import Crowd, Echo, Origin, Return, Sightings

_SECONDS: Final = 0.5  # of a look
_SETTLED: Final = 0.1  # of it, after which what was on its way when it began has come
_KNOWN_SECONDS: Final = 1.0  # of one at somebody who is known, which is to be surer
_KNOWN_SETTLED: Final = 0.3
_JUDGED: Final = 0.2  # after that, before which a proof does not end it: who sends what is to be told as well
_SHORTEST_WAIT = 0.001
_HELD = 1_000  # flows, at the most, that a filter may hold
_SIGNS_SECONDS: Final = 3.0  # of one that has seen a payload come back, or is to see that nothing does any more
_DATAGRAMS = 16_384  # then it ends, and after so many frames, whoever takes them
_APART = 256  # datagrams between two looks at what was lost
_PACE = 4_000  # datagrams a second of which all can be seen
_MOST_SHARE = 1 << 16
_BUFFER = 8 << 20  # bytes of frames that wait
_FRAME = 0x10000 + 64  # bytes, at most
_UDP_HEADER = 8
_LENGTH = struct.Struct("!H")
_STATISTICS = struct.Struct("=II")  # struct tpacket_stats: frames that came, and those of them that were lost
_IPV6_HEADER = 40
_SHORTEST = 28  # bytes of the headers of IPv4 and UDP
_MAC = slice(6, 12)  # of the sender, in an Ethernet header


@attrs.frozen
class View:
    """What is to be looked at.

    Attributes:
        flows: what the rule takes, all in the same VLAN.
        index: of the interface.
        rate: datagrams a second that come, about.
        left: packed addresses, and MACs, of this machine: no rule takes what comes from there.
        known: who is said to return it.
        named: packed addresses from which other rules take the same flow.
    """

    flows: Collection[Flow]
    index: int
    rate: float
    left: Collection[bytes] = frozenset()
    known: frozenset[Origin] = frozenset()
    named: frozenset[bytes] = frozenset()

    @property
    def vlan(self) -> int:
        """Of the flows; 0: none."""
        return next((each.vlan for each in self.flows), None) or 0


@attrs.frozen
class Verdict:
    """What a look has found out.

    Attributes:
        returners: who sends what others have sent before.
        is_varied: if there are none: there was nothing that a loop might have brought.
        is_over: others send, and nothing of that comes from those who are known.
        seconds: that it took.
        echoes: what they send, and those who are known; none, if it can't be told: not all of it was seen.
        crowd: if there are none: who may be a loop that is full, or a source that repeats itself.
    """

    returners: tuple[Return, ...] = ()
    is_varied: bool = False
    is_over: bool = False
    seconds: float = 0.0
    echoes: tuple[Echo, ...] = ()
    crowd: Crowd | None = None


def look_for_returners(view: View) -> Verdict:
    """Look at what comes in for a rule; and, if that is too much to see all of it, at a share of the payloads.

    Raises:
        SystemFault: no packet socket could be opened, or it ended.
    """
    name = str(view.index)
    try:
        name = socket.if_indextoname(view.index)
        seen = _look(view, name, 1)
        if seen.is_whole or (seen.verdict.returners and not view.named):
            return seen.verdict
        second = _look(view, name, share_of(view.rate * seen.frames_each)).verdict
        if second.returners or second.crowd:
            return second
        return attrs.evolve(second, crowd=seen.verdict.crowd)  # of few payloads there may be none in the share
    except OSError as error:
        raise SystemFault(f"Cannot look for a loop on {name}", error.errno or 0) from None


def share_of(rate: float) -> int:
    """One payload of how many is to be looked at: a power of two."""
    return min(_MOST_SHARE, 1 << (int(rate) // _PACE).bit_length())


@attrs.frozen
class _Seen:
    """A look that has ended.

    Attributes:
        verdict: what it has found out.
        is_whole: nothing was lost.
        frames_each: for each datagram of the rule; more than one, if the filter lets in what it does not take.
    """

    verdict: Verdict
    is_whole: bool
    frames_each: float


def _look(view: View, name: str, share: int) -> _Seen:
    with _open(view, name, share) as tap:
        return _watch(tap, link_header(tap), view)


def _open(view: View, name: str, share: int) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        attach_filter(tap, REJECT_ALL)
        set_buffer(tap, socket.SO_RCVBUF, _BUFFER)
        tap.setsockopt(uapi.SOL_PACKET, uapi.PACKET_AUXDATA, 1)
        tap.setsockopt(uapi.SOL_PACKET, uapi.PACKET_VNET_HDR, 1)
        tap.setsockopt(uapi.SOL_PACKET, uapi.PACKET_IGNORE_OUTGOING, 1)  # or the kernel clones each that leaves
        tap.bind((name, uapi.ETH_P_ALL))
        link = link_header(tap)
        attach_filter(tap, _select(view, link, share, random.getrandbits(32)))
    except OSError:
        tap.close()
        raise
    return tap


def _select(view: View, link: int, share: int, seed: int) -> Sequence[Instruction]:
    """What the rule takes; if that is so many flows that no filter holds them, all UDP: `Taken` tells later."""
    with suppress(OverflowError):
        if len(view.flows) > _HELD:  # to find out takes long, and nobody else is answered meanwhile
            raise OverflowError
        wanted = select_udp(view.flows, link, by_source=True)
        return wanted if share == 1 else thin(wanted, link, share, seed)
    wanted = accept_udp({view.vlan})
    return wanted if share == 1 else thin(wanted, link, share, seed)


class Taken:
    """Tells what a rule takes, of which a filter has let in more."""

    def __init__(self, view: View) -> None:
        self._left = view.left
        packed = ((each, each.group.packed + each.port.to_bytes(2)) for each in view.flows)
        self._flows = {flow + each.source.packed if each.source else flow for each, flow in packed}

    def takes(self, origin: Origin, flow: bytes) -> bool:
        """Whether it is one of the rule's flows, and not from this machine."""
        if origin.address in self._left or origin.mac in self._left:
            return False
        return flow in self._flows or flow + origin.address in self._flows


def _watch(tap: socket.socket, link: int, view: View) -> _Seen:
    """See what comes, until something is proven, or lost: what came before that is whole."""
    seen, start, frames, taken = Sightings(view.named), time.monotonic(), 0, Taken(view)
    buffer, room = bytearray(_FRAME), socket.CMSG_SPACE(uapi.TPACKET_AUXDATA.size)
    seconds, settled = (_KNOWN_SECONDS, _KNOWN_SETTLED) if view.known else (_SECONDS, _SETTLED)
    end = start + seconds
    is_whole = True
    while max(seen.count, frames) < _DATAGRAMS:
        now = time.monotonic()
        if now >= end:
            if end > start + seconds or not _is_worth_more(seen, view.known):
                break
            end = start + _SIGNS_SECONDS
        tap.settimeout(max(end - now, _SHORTEST_WAIT))
        try:
            size, ancillary, _, _ = tap.recvmsg_into([buffer], room)
        except TimeoutError:
            continue
        if now >= start + settled:
            seen.settle()
        frames += 1
        for origin, flow, payload in datagrams(buffer[:size], ancillary, link, view.vlan):
            if taken.takes(origin, flow):
                seen.add(origin, hash((flow, payload)))
        if frames % _APART == 0:
            is_whole, is_proven = not _lost(tap), any(not each.is_beside for each in seen.returners())
            is_proven = is_proven or (end > start + seconds and bool(seen.part_returners()))
            if not is_whole or (is_proven and time.monotonic() >= start + settled + _JUDGED):
                break
            if seen.are_plain and not view.known:
                break
    is_whole = is_whole and not _lost(tap)
    verdict = _judge(seen, view.known, start, is_whole=is_whole)
    return _Seen(verdict, is_whole, max(frames / max(seen.count, 1), 1.0))


def _judge(seen: Sightings, known: frozenset[Origin], start: float, *, is_whole: bool) -> Verdict:
    """`is_whole`: nothing was lost."""
    machines = seen.by_machine()
    returners = seen.returners() or machines.returners() or seen.part_returners()
    return Verdict(
        returners,
        is_varied=is_whole and seen.are_varied,
        is_over=is_whole and seen.are_over(known) and machines.are_over(known),
        seconds=time.monotonic() - start,
        echoes=seen.echoes({*known, *(each.origin for each in returners)}) if is_whole else (),
        crowd=None if returners else seen.crowd(),
    )


def _is_worth_more(seen: Sightings, known: frozenset[Origin]) -> bool:
    """Whether a look that was short so far goes on."""
    machines = seen.by_machine()
    if seen.returners() or machines.returners() or seen.part_returners():
        return False
    if seen.returners(1, 1) or machines.returners(1, 1) or seen.part_returners(1, 1) or seen.crowd():
        return True
    is_over = seen.are_over(known) and machines.are_over(known)
    return bool(known) and not is_over and not any(each.returned for each in seen.echoes(known))


def _lost(tap: socket.socket) -> bool:
    _, lost = _STATISTICS.unpack(tap.getsockopt(uapi.SOL_PACKET, uapi.PACKET_STATISTICS, _STATISTICS.size))
    return bool(lost)


def datagrams(
    data: bytes | bytearray, ancillary: list[tuple[int, int, bytes]], link: int, vlan: int = 0
) -> Iterator[tuple[Origin, bytes, bytes]]:
    """Origin, flow and payload of each datagram of a frame, as recvmsg(2) gives it; none of a fragment, or no UDP.

    The flow: bytes of the address and the port that it goes to. `link`: bytes of the link layer's header. `vlan`: of
    the frames that are meant; 0: without a tag, or with one of a priority alone.
    """
    status, _, _, _, network, tci, _ = next((uapi.TPACKET_AUXDATA.unpack(each) for _, _, each in ancillary), (0,) * 7)
    if vlan != (tci & uapi.VLAN_VID_MASK if status & uapi.TP_STATUS_VLAN_VALID else 0):
        return
    _, kind, _, segment, _, _ = uapi.VIRTIO_NET_HDR.unpack_from(data)
    frame = bytes(data[uapi.VIRTIO_NET_HDR.size :])
    datagram = frame[network:]
    found = _udp(datagram)
    if not found:
        return
    source, group, at = found
    origin = Origin(frame[_MAC] if link else b"", source)
    flow = group + datagram[at + 2 : at + 4]
    (length,) = _LENGTH.unpack_from(datagram, at + 4)
    payload = datagram[at + _UDP_HEADER : at + length] if length else datagram[at + _UDP_HEADER :]
    step = segment if kind and segment else max(len(payload), 1)
    for begin in range(0, max(len(payload), 1), step):
        yield origin, flow, payload[begin : begin + step]


def _udp(datagram: bytes) -> tuple[bytes, bytes, int] | None:
    """Its source, where it goes, and where UDP's header is."""
    if len(datagram) < _SHORTEST:
        return None
    if datagram[0] >> 4 != IPV4:
        at = _IPV6_HEADER
        is_udp = len(datagram) >= at + _UDP_HEADER and datagram[6] == socket.IPPROTO_UDP
        return (datagram[8:24], datagram[24:40], at) if is_udp else None
    at = 4 * (datagram[0] & 0x0F)
    whole = not _LENGTH.unpack_from(datagram, 6)[0] & 0x3FFF
    is_udp = datagram[9] == socket.IPPROTO_UDP and len(datagram) >= at + _UDP_HEADER
    return (datagram[12:16], datagram[16:20], at) if whole and is_udp else None
