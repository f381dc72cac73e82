"""AF_PACKET sockets that capture an input interface, one per worker.

Every socket has a TPACKET_V2 ring, which the worker maps: frames are handed over one by one, without a timer, and
those not read yet stay in the ring when a worker dies. The sockets of one interface share a fan-out group, so that
each frame goes to one worker, and what one source sends to one group always to the same. Where there is one worker
there is no group: to choose costs time.
"""

import mmap
import os
import shlex
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

import attrs

from mcr.errors import InvalidParams, SystemFault, errno_of
from mcr.model.flow import Flow
from mcr.net import uapi
from mcr.net.buffer import set_buffer
from mcr.net.filter.cbpf import REJECT_ALL, attach_filter, select_udp
from mcr.net.filter.spread import SOURCE_AND_GROUP, spread_by
from mcr.net.interfaces import Interface, bind_packet, link_header
from mcr.net.patience import close_all, in_parallel, set_option

_SLOT_OVERHEAD = 128  # TPACKET2 header, address, alignment and the link-layer header
_MIN_SLOT = 2048
_LARGE_SLOT = 16384
_ROOT_WITHOUT_RIGHTS = "root lacks it here: if this is a container, start it with --cap-add NET_RAW"
_BLOCK_BYTES = 128 << 10
_TRIAL_SECONDS = 1.0

COPY_BYTES = 4 << 20
"""Bytes of super-frames that may wait in a capture socket."""


@attrs.frozen
class BufferPools:
    """Slots of each capture ring, by the size of a slot; rounded up to a power of two.

    Measured at 650,000 packets per second: up to 4 MiB (2,048 small slots) a ring stays in the processor's cache and a
    packet costs a sixth less than with 16 MiB; with 1,024 slots some are lost whenever the worker is kept from running
    for two milliseconds.
    """

    small: int = 2000
    """Of 2 KiB: interfaces with an MTU up to 1,920."""
    standard: int = 500
    """Of 4 to 16 KiB: an MTU up to 16,256, jumbo frames among them."""
    jumbo: int = 200
    """Of 32 KiB and more."""

    def slots(self, frame_size: int) -> int:
        """Slots of a ring, given their size: a power of two that fills whole blocks."""
        wanted: int = getattr(self, self.name(frame_size))
        return max(1 << (wanted - 1).bit_length(), _BLOCK_BYTES // frame_size)

    @staticmethod
    def name(frame_size: int) -> str:
        """Which of the three is meant for slots of a size."""
        return "small" if frame_size <= _MIN_SLOT else "standard" if frame_size <= _LARGE_SLOT else "jumbo"


@attrs.frozen
class CaptureGroup:
    """The capture sockets of an input interface, one per worker, each with a ring of slots.

    Attributes:
        frame_size: of a slot, in bytes.
        frame_count: slots in each ring.
        offloads: the kernel says before each frame how to cut it.
        sockets: to be handed to the workers.
        watched: more descriptors of the same sockets, for the reader of their counters.
    """

    frame_size: int
    frame_count: int
    offloads: bool
    sockets: tuple[socket.socket, ...]
    watched: tuple[socket.socket, ...]


@attrs.frozen
class CaptureCount:
    """Frames since the last reading: `accepted` went into the ring, `dropped` found it full."""

    accepted: int
    dropped: int


class _Ring(NamedTuple):
    """To be made for a socket."""

    interface: Interface
    capture: socket.socket
    frame_size: int
    frame_count: int


def slot_size(mtu: int) -> int:
    """Bytes of a ring slot that holds a whole frame of an interface with this MTU: a power of two."""
    return max(_MIN_SLOT, 1 << (mtu + _SLOT_OVERHEAD - 1).bit_length())


def open_captures(interfaces: Sequence[Interface], count: int, pools: BufferPools) -> dict[str, CaptureGroup]:
    """Open `count` capture sockets on each of some interfaces. Nothing comes in until they get a filter that lets it.

    Returns:
        The sockets, by the interface's name.

    Raises:
        InvalidParams: an MTU is beyond what a slot can be made for.
        SystemFault: naming the step; nothing stays open.
    """
    offloads = describes_super_frames() if interfaces else False
    groups: dict[str, CaptureGroup] = {}
    opened: list[socket.socket] = []
    with ExitStack() as undo:
        undo.callback(close_all, opened)
        rings = []
        for interface in interfaces:
            frame_size = _checked_slot_size(interface)
            frame_count = pools.slots(frame_size)
            sockets = tuple(_open(interface, opened, offloads=offloads) for _ in range(count))
            watched = tuple(_duplicate(each, interface, opened) for each in sockets)
            groups[interface.name] = CaptureGroup(frame_size, frame_count, offloads, sockets, watched)
            rings += [_Ring(interface, each, frame_size, frame_count) for each in sockets]
        # Each takes a while, and all together as long as one.
        in_parallel(_allocate, rings)
        for interface in interfaces:
            if not interface.is_absent:
                _bind(interface, groups[interface.name].sockets)
        undo.pop_all()
    return groups


def adopt_captures(sockets: tuple[socket.socket, ...], frame_size: int, frame_count: int) -> CaptureGroup:
    """Go on with capture sockets that another mcrd has left: what waits in their rings is still to be read.

    Raises:
        ValueError: they are none, or their rings are of another size. They stay the caller's.
    """
    offloads = {_check_capture(each, frame_size * frame_count) for each in sockets}
    if len(offloads) != 1:
        raise ValueError("the sockets of one capture differ")
    return CaptureGroup(frame_size, frame_count, offloads.pop(), sockets, tuple(each.dup() for each in sockets))


def _check_capture(capture: socket.socket, ring: int) -> bool:
    """Whether it tells of offloads."""
    try:
        if (capture.family, capture.type) != (socket.AF_PACKET, socket.SOCK_RAW):
            raise ValueError("it is no capture socket")
        if capture.getsockopt(uapi.SOL_PACKET, uapi.PACKET_VERSION) != uapi.TPACKET_V2:
            raise ValueError("it has no ring")
        mmap.mmap(capture.fileno(), ring).close()  # the kernel maps the whole ring or nothing
        return bool(capture.getsockopt(uapi.SOL_PACKET, uapi.PACKET_VNET_HDR))
    except OSError as error:
        raise ValueError(f"its ring cannot be mapped: {error.strerror}") from None


def describes_super_frames() -> bool:
    """Whether the kernel can say how a frame of several UDP datagrams is to be cut: found out on the loopback.

    Where it can't, such a frame would end a capture that asks for it: the kernel drops it, but never gives its slot of
    the ring free again. So a capture may ask only if this has succeeded.
    """
    try:
        with ExitStack() as opened:
            tap = opened.enter_context(_open_socket())
            receiver = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
            sender = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
            receiver.bind(("127.0.0.1", 0))
            port = receiver.getsockname()[1]
            tap.setsockopt(uapi.SOL_PACKET, uapi.PACKET_VNET_HDR, 1)
            attach_filter(tap, REJECT_ALL)
            tap.bind(("lo", uapi.ETH_P_ALL))
            attach_filter(tap, select_udp([Flow(IPv4Address("127.0.0.1"), port)], link_header(tap)))
            sender.setsockopt(socket.IPPROTO_UDP, uapi.UDP_SEGMENT, 1)
            sender.sendto(b"12", ("127.0.0.1", port))
            tap.settimeout(_TRIAL_SECONDS)
            return tap.recv(2048)[1] == uapi.VIRTIO_NET_HDR_GSO_UDP_L4
    except (OSError, SystemFault):  # it can't; or it can't be tried: loopback is down, or a firewall in the way
        return False


def check_permission() -> None:
    """Find out whether this process may open capture sockets at all.

    Raises:
        SystemFault: it may not.
    """
    _open_socket().close()


def _open_socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except PermissionError as error:
        raise SystemFault("", errno_of(error), *_permission_hints()) from None
    except OSError as error:
        raise SystemFault("AF_PACKET socket creation failed", errno_of(error)) from None


def _permission_hints() -> tuple[str, ...]:
    program = shlex.quote(str(Path(sys.executable).with_name("mcrd")))
    return (
        "AF_PACKET socket creation failed: mcrd needs the capability CAP_NET_RAW and does not have it",
        "to try it out: sudo mcrd supervisor" if os.geteuid() else _ROOT_WITHOUT_RIGHTS,
        f"to develop: sudo setcap cap_net_raw,cap_setuid,cap_setgid=eip {program}",
        "in production: run it under systemd by packaging/systemd/mcrd.service, which grants it",
    )


def _checked_slot_size(interface: Interface) -> int:
    frame_size = slot_size(interface.mtu)
    if frame_size > _BLOCK_BYTES:
        raise InvalidParams(
            f"Cannot capture on {interface.name}: its MTU of {interface.mtu} is too large",
            f"at most {_BLOCK_BYTES - _SLOT_OVERHEAD}; set it with: ip link set dev {interface.name} mtu 65536",
        )
    return frame_size


def _open(interface: Interface, opened: list[socket.socket], *, offloads: bool) -> socket.socket:
    capture = _open_socket()
    opened.append(capture)
    step = "configure capture"
    try:
        attach_filter(capture, REJECT_ALL)
        step = "PACKET_VERSION"
        capture.setsockopt(uapi.SOL_PACKET, uapi.PACKET_VERSION, uapi.TPACKET_V2)
        if offloads:
            step = "PACKET_VNET_HDR"
            capture.setsockopt(uapi.SOL_PACKET, uapi.PACKET_VNET_HDR, 1)  # tells how a super-frame is to be cut
            step = "PACKET_COPY_THRESH"
            # Frames that are longer than a slot are queued whole.
            capture.setsockopt(uapi.SOL_PACKET, uapi.PACKET_COPY_THRESH, 1)
        step = "SO_RCVBUF"
        set_buffer(capture, socket.SO_RCVBUF, COPY_BYTES)
        step = "PACKET_IGNORE_OUTGOING"
        capture.setsockopt(uapi.SOL_PACKET, uapi.PACKET_IGNORE_OUTGOING, 1)
    except OSError as error:
        raise _fault(interface, step, error) from None
    return capture


def _duplicate(capture: socket.socket, interface: Interface, opened: list[socket.socket]) -> socket.socket:
    try:
        opened.append(capture.dup())
    except OSError as error:
        raise _fault(interface, "dup", error) from None
    return opened[-1]


def _allocate(ring: _Ring) -> None:
    blocks = ring.frame_count * ring.frame_size // _BLOCK_BYTES
    geometry = struct.pack("IIII", _BLOCK_BYTES, blocks, ring.frame_size, ring.frame_count)
    try:
        set_option(ring.capture, uapi.SOL_PACKET, uapi.PACKET_RX_RING, geometry)
    except OSError as error:
        step = f"PACKET_RX_RING of {ring.frame_count} slots of {ring.frame_size} bytes"
        raise _fault(ring.interface, step, error, *_ring_hints(ring)) from None


def _ring_hints(ring: _Ring) -> tuple[str, ...]:
    """Which settings make a ring this large."""
    pool, mib = BufferPools.name(ring.frame_size).upper(), ring.frame_size * ring.frame_count >> 20
    return (f"MCR_BUFFER_POOL_{pool} and the MTU of {ring.interface.mtu} make it {mib} MiB for each worker: lower one",)


def _bind(interface: Interface, group: Sequence[socket.socket]) -> None:
    """Have all receive what comes in, and share it among them where there are several."""
    # The kernel finds an id for the first that nobody in this network namespace uses.
    argument = (uapi.PACKET_FANOUT_CBPF | uapi.PACKET_FANOUT_FLAG_UNIQUEID) << 16
    step = "bind"
    try:
        for capture in group:
            step = "bind"
            bind_packet(capture, interface.index, uapi.ETH_P_ALL)
            if len(group) > 1:
                step = "PACKET_FANOUT"
                capture.setsockopt(uapi.SOL_PACKET, uapi.PACKET_FANOUT, argument)
                if capture is group[0]:
                    step = "PACKET_FANOUT_DATA"
                    spread_by(capture, SOURCE_AND_GROUP)
                number = capture.getsockopt(uapi.SOL_PACKET, uapi.PACKET_FANOUT) & 0xFFFF
                argument = number | uapi.PACKET_FANOUT_CBPF << 16
    except OSError as error:
        raise _fault(interface, step, error) from None


def _fault(interface: Interface, step: str, error: OSError, *hints: str) -> SystemFault:
    return SystemFault(f"Cannot capture on {interface.name}: {step}", errno_of(error), *hints)


def reject(sockets: Sequence[socket.socket]) -> None:
    """Let nothing more in; what is in the ring stays readable."""
    for each in sockets:
        # A worker could have locked its filter; then it goes on receiving until the socket is closed.
        with suppress(PermissionError):
            attach_filter(each, REJECT_ALL)


def read_count(capture: socket.socket) -> CaptureCount:
    """Read what came since the last call; the kernel's counts start over at every reading (packet(7))."""
    answer = capture.getsockopt(uapi.SOL_PACKET, uapi.PACKET_STATISTICS, 8)
    packets, drops = struct.unpack("II", answer)
    return CaptureCount(packets - drops, drops)
