"""A capture socket with a filter, and the frames that are sent to it."""

import os
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from lab import Lab, Namespace
from mcr.model.flow import Flow
from mcr.net.filter.base import CaptureFilters, Rejected
from mcr.net.filter.cbpf import REJECT_ALL, attach_filter
from mcr.net.filter.ebpf import EbpfFilters
from mcr.net.interfaces import find_interface
from mcr.process.descriptor_store import DescriptorStore
from mcr.shm.kernel_counters import KernelCounters
from mcr_process import PATIENCE

IN_VLAN = Flow(IPv4Address("239.1.1.1"), 5001, 7)
WANTED = [Flow(IPv4Address("239.1.1.1"), 5000), Flow(IPv4Address("239.1.1.1"), 5002)]
ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
WANTED6 = [Flow(IPv6Address("ff15::1"), 5000), Flow(IPv6Address("ff15::1"), 5002), Flow(IPv6Address("ff15::2"), 5000)]
OPEN = Path("/proc/self/fd")


def may_load_ebpf() -> bool:
    try:
        EbpfFilters(DescriptorStore()).close()
    except PermissionError:
        return False
    return True


def checksum(header: bytes) -> bytes:
    """Of an IP header (RFC 791)."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


def frame(
    group: str = "239.1.1.1",
    port: int = 5000,
    *,
    options: bytes = b"",
    fragment: int = 0,
    proto: int = 17,
    vlan: bytes = b"",
    first: int | None = None,
) -> bytes:
    """An Ethernet frame; its payload tells its destination."""
    payload = f"{group}:{port}".encode()
    ip_size = 20 + len(options)
    ethernet = b"\1\0\x5e\1\1\1" + b"\2\0\0\0\0\1" + vlan + b"\x08\x00"
    first = 0x40 | ip_size // 4 if first is None else first
    total = ip_size + 8 + len(payload)
    ip = struct.pack(
        "!BBHHHBBH4s4s", first, 0, total, 0, fragment, 9, proto, 0, b"\xc6\x12\0\1", IPv4Address(group).packed
    )
    ip = ip[:10] + checksum(ip + options) + ip[12:]
    return ethernet + ip + options + struct.pack("!HHHH", 4000, port, 8 + len(payload), 0) + payload


def frame6(
    group: str = "ff15::1",
    port: int = 5000,
    *,
    extensions: bytes = b"",
    first: int = 17,
    vlan: bytes = b"",
    whole: bool = True,
) -> bytes:
    """The same by IPv6; `extensions` stand before the UDP header, and `first` says what the first of them is."""
    payload = f"[{group}]:{port}".encode()
    udp = struct.pack("!HHHH", 4000, port, 8 + len(payload), 0xBEEF) + payload
    ip = struct.pack("!IHBB16s16s", 6 << 28, len(extensions + udp), first, 9, bytes(16), IPv6Address(group).packed)
    return b"\x33\x33\0\0\0\1" + b"\2\0\0\0\0\1" + vlan + b"\x86\xdd" + ip + extensions + (udp if whole else b"")


class Wire:
    """A link with a capture socket at its far end."""

    def __init__(self, lab: Lab) -> None:
        self.a, self.b = lab.namespace("a"), lab.namespace("b")
        lab.link(self.a, "a0", self.b, "b0")
        self.sender, self.capture = self._raw(self.a, "a0"), self._raw(self.b, "b0", deaf=True)
        self.capture.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)

    @staticmethod
    def _raw(namespace: Namespace, interface: str, *, deaf: bool = False) -> socket.socket:
        with namespace.entered():
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        if deaf:
            attach_filter(raw, REJECT_ALL)
        raw.bind((interface, ETH_P_ALL))
        return raw

    def send(self, *frames: bytes) -> None:
        for each in frames:
            self.sender.send(each)

    def receive(self, count: int) -> list[bytes]:
        """So many frames, and no more."""
        self.capture.settimeout(PATIENCE)
        got = [self.capture.recv(2000) for _ in range(count)]
        self.capture.settimeout(0)
        with pytest.raises(BlockingIOError):
            got.append(self.capture.recv(2000))
        return got


def opened(filters: CaptureFilters, wire: Wire, capture: int = 3) -> Rejected:
    with wire.b.entered():
        return filters.open(capture, find_interface("b0"), [wire.capture])


def look_for_lost(counters: KernelCounters, capture: int) -> int:
    """What a capture has lost, once that is known, though no packet follows on its processor that would count it."""
    deadline = time.monotonic() + PATIENCE
    while not (lost := counters.taken(capture).lost):
        assert time.monotonic() < deadline
        counters.look()
        time.sleep(0.01)  # it takes half a second: a processor's time that other tests can use
    return lost


@pytest.fixture
def wire(lab: Lab) -> Iterator[Wire]:
    made = Wire(lab)
    with made.sender, made.capture:
        yield made


@pytest.fixture
def one_processor() -> Iterator[None]:
    """What this thread sends is handed on, and carried out, on one processor."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    yield
    os.sched_setaffinity(0, processors)
