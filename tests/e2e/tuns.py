"""Tunnels: interfaces without a link layer, whose other end a test holds."""

import fcntl
import os
import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from lab import Namespace

TUNSETIFF, IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0001, 0x1000, 0x4000
VIRTIO_NET_HDR = struct.Struct("BBHHHH")  # flags, kind, header length, segment size, checksum start and offset
NEEDS_CHECKSUM, GSO_UDP_L4 = 1, 5
IP_AND_UDP, UDP_AT, CHECKSUM_IN_UDP = 28, 20, 6
QUEUE = 4000  # packets that wait to be read


@attrs.frozen
class Tun:
    """What is written comes in by the interface; what leaves by it is read."""

    fd: int

    def write(self, *packets: bytes) -> None:
        """Packets, from their IP header on; each is a datagram of its own."""
        for each in packets:
            os.write(self.fd, VIRTIO_NET_HDR.pack(0, 0, 0, 0, 0, 0) + each)

    def write_super_frame(self, packet: bytes, segment: int) -> None:
        """A packet of IPv4 that is as many datagrams as its payload has segments of so many bytes."""
        header = VIRTIO_NET_HDR.pack(NEEDS_CHECKSUM, GSO_UDP_L4, IP_AND_UDP, segment, UDP_AT, CHECKSUM_IN_UDP)
        os.write(self.fd, header + packet)

    def write_scattered(self, packet: bytes) -> None:
        """A packet of more than a page, of which all but the first byte lies in page fragments."""
        os.write(self.fd, VIRTIO_NET_HDR.pack(0, 0, 1, 0, 0, 0) + packet)

    def read(self, seconds: float = 5.0) -> Iterator[bytes]:
        """What leaves, packet by packet, for as long as somebody asks; it has to come within so many seconds."""
        until = time.monotonic() + seconds
        while select.select([self.fd], [], [], max(0.0, until - time.monotonic()))[0]:
            yield os.read(self.fd, 1 << 17)[VIRTIO_NET_HDR.size :]
        raise AssertionError(f"nothing more leaves within {seconds:g} s")


@contextmanager
def tun(namespace: Namespace, name: str, *addresses: str) -> Iterator[Tun]:
    """Make an interface, with addresses (``ip address add``), and set it up. It is gone at the end."""
    with namespace.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    try:
        namespace.ip(
            *(f"address add {each} dev {name}" for each in addresses),
            f"link set dev {name} txqueuelen {QUEUE} up",
        )
        yield Tun(fd)
    finally:
        os.close(fd)
