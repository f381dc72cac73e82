"""A probe: a short look at the wire for frames that are like a rule's flow, on any interface, tagged or not.

The socket takes what the capture's filter leaves out, and the flow itself if this machine sends it. While it is open,
its interface receives every group (allmulti), or a network card would keep back those that nobody here has joined.
"""

import ctypes
import errno
import os
import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from typing import Final, NamedTuple

import attrs

from mcr.errors import SystemFault, errno_of
from mcr.model.flow import Input
from mcr.net import uapi
from mcr.net.filter.cbpf import REJECT_ALL, attach_filter
from mcr.net.filter.kin import select_kin
from mcr.net.patience import set_option
from mcr.tap.sighting import Datagram, Look, Query, Sighting, Tag, Wanted, identify

LOOK_SECONDS: Final = 2.0
"""How long a look takes if the flow does not come in."""

_FRAMES = 4_000  # then only the very flow is still looked for, and as many of it as that
_SNAP = 128  # bytes of a frame: link header, tags, IP header and UDP header
_BUFFER = 256 << 10  # bytes of frames that wait
_EVERYWHERE = struct.pack("=HHi12x", socket.AF_PACKET, socket.htons(uapi.ETH_P_ALL), 0)  # struct sockaddr_ll

_libc = ctypes.CDLL(None, use_errno=True)


class _Frame(NamedTuple):
    """What recvmsg(2) gives. The address begins with the interface's name, the protocol and the type of packet."""

    data: bytes
    ancillary: list[tuple[int, int, bytes]]
    flags: int
    address: tuple[str, int, int]

    @property
    def outgoing(self) -> bool:
        return self.address[2] == uapi.PACKET_OUTGOING

    @property
    def looped(self) -> bool:
        """Whether this machine has sent it to itself."""
        return self.address[2] == uapi.PACKET_LOOPBACK


def look_at_wire(wanted: Wanted, index: int, seconds: float = LOOK_SECONDS) -> Look:
    """Look until the flow comes in where a rule takes it, or for so many seconds.

    Args:
        wanted: the flow, and where it should come in.
        index: of that interface.
        seconds: at most.

    Raises:
        SystemFault: naming the step.
    """
    source = wanted.input
    frames: Counter[Sighting] = Counter()
    queries: Counter[str] = Counter()
    try:
        name = socket.if_indextoname(index)  # the rule may know it by another
    except OSError as error:
        raise SystemFault(f"Cannot probe {source.interface}", errno_of(error)) from None
    started = time.monotonic()
    taken, payload, cut = 0, None, None
    with _open(source, index) as tap:
        while payload is None and taken < 2 * _FRAMES and (left := started + seconds - time.monotonic()) > 0:
            tap.settimeout(left)
            try:
                frame = _Frame(*tap.recvmsg(_SNAP, socket.CMSG_SPACE(uapi.TPACKET_AUXDATA.size))[:4])
            except TimeoutError:
                break
            except OSError as error:
                if error.errno != errno.EINVAL:  # a super-frame of a kind that the kernel can't describe
                    raise SystemFault(f"Cannot probe {source.interface}", errno_of(error)) from None
                continue
            taken += 1
            if taken == _FRAMES:
                strict = select_kin(source, _SNAP, strictly=True, sources=source.sources, left=wanted.left)
                attach_filter(tap, strict)
            came_by = source.interface if frame.address[0] == name else frame.address[0]
            match _identify(frame, came_by):
                case Datagram(sighting, _) if frame.outgoing:
                    frames[attrs.evolve(sighting, outgoing=True)] += 1
                case Datagram(sighting, size, sender):
                    seen = attrs.evolve(sighting, source=sender) if wanted.by_source else sighting
                    frames[seen] += 1
                    payload = size if seen in wanted else None
                    if _is_first_part(sighting) and attrs.evolve(seen, fragment=False) in wanted:
                        cut = max(cut or 0, size)
                case Query(interface, source.group.version) if not (frame.outgoing or frame.looped):
                    queries[interface] += 1
    return Look(time.monotonic() - started, frames, queries, payload, cut)


def _is_first_part(sighting: Sighting) -> bool:
    """Whether it is the first fragment of a datagram."""
    return sighting.fragment and sighting.port is not None


def _open(source: Input, index: int) -> socket.socket:
    step = "AF_PACKET socket"
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except OSError as error:
        raise SystemFault(f"Cannot probe {source.interface}: {step}", errno_of(error)) from None
    try:
        step = "SO_ATTACH_FILTER"
        attach_filter(opened, REJECT_ALL)
        step = "SO_RCVBUF"
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        step = "PACKET_AUXDATA"
        opened.setsockopt(uapi.SOL_PACKET, uapi.PACKET_AUXDATA, 1)  # the VLAN tag, which the kernel takes out
        step = "PACKET_VNET_HDR"
        opened.setsockopt(uapi.SOL_PACKET, uapi.PACKET_VNET_HDR, 1)
        step = "PACKET_ADD_MEMBERSHIP"
        membership = struct.pack("iHH8x", index, uapi.PACKET_MR_ALLMULTI, 0)
        set_option(opened, uapi.SOL_PACKET, uapi.PACKET_ADD_MEMBERSHIP, membership)
        step = "SO_ATTACH_FILTER"
        attach_filter(opened, select_kin(source, _SNAP))
        step = "bind"
        _bind_everywhere(opened)
    except OSError as error:
        opened.close()
        raise SystemFault(f"Cannot probe {source.interface}: {step}", errno_of(error)) from None
    return opened


def _bind_everywhere(target: socket.socket) -> None:
    """Bind to every interface, which `socket.bind` can't: it wants a name."""
    if _libc.bind(target.fileno(), _EVERYWHERE, len(_EVERYWHERE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _identify(frame: _Frame, interface: str) -> Datagram | Query | None:
    tag, network = None, 0
    for _, _, auxiliary in frame.ancillary:  # there is but one kind
        with suppress(struct.error):
            status, _, _, _, network, tci, protocol = uapi.TPACKET_AUXDATA.unpack(auxiliary)
            if status & uapi.TP_STATUS_VLAN_VALID:
                tag = Tag.from_tci(tci, protocol if status & uapi.TP_STATUS_VLAN_TPID_VALID else uapi.ETH_P_8021Q)
    _, kind, _, segment, _, _ = uapi.VIRTIO_NET_HDR.unpack_from(frame.data)
    data = frame.data[uapi.VIRTIO_NET_HDR.size + network :]
    return identify(data, interface, frame.address[1], tag, segment if kind else 0)
