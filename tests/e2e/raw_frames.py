"""Whether datagrams leave as raw frames, and what they are on the wire."""

import re
import socket
import struct

from corpus import add_up
from lab import Namespace
from mcr_process import PATIENCE, Mcr, Receiver, Sender, wait_until
from topology import Plant

_PLAIN_IP = 0x45  # version, and length in words
_RIGHT = 0xFFFF  # what a right checksum and all under it come to (RFC 1071)


def wait_for_raw(mcr: Mcr, interface: str = "out0", *, times: int = 1) -> None:
    """Until raw frames leave by an interface, for the first time or again."""
    wait_until(
        lambda: len(re.findall(rf"{interface}: datagrams to groups leave as raw frames", mcr.log())) >= times,
        "raw frames leave",
    )


def wait_until_barred(mcr: Mcr, reason: str, interface: str = "out0") -> None:
    """Until none leave any more by an interface, and a reason has been found."""
    said = f"{interface}: no raw frames leave any more", f"not everything may leave as raw frames: {reason}"
    wait_until(lambda: all(each in mcr.log() for each in said), f"no raw frames: {reason}")


def by_sockets(namespace: Namespace) -> int:
    """Datagrams that UDP sockets here have sent."""
    return namespace.counter("Udp", "OutDatagrams")


OUT = "239.2.2.2:6000:out0:gso=off"  # each datagram is a send of its own: what UDP sockets have sent counts them


def relay(plant: Plant, *, count: int = 1000, size: int = 188, rate: float = 10_000) -> int:
    """Packets through the relay, each once and in order. How many of them its UDP sockets have sent."""
    before = by_sockets(plant.relay)
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=count)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=count, rate=rate, size=size).finish()
    receiver.expect_everything()
    return by_sockets(plant.relay) - before


def frames(plant: Plant, mcr: Mcr, count: int, size: int, rate: float, *, outputs: int = 1) -> list[bytes]:
    """Forward so many packets, and take the datagrams that arrive off the wire."""
    with plant.receiver.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    with wire:
        wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        wire.bind(("rx0", 0x0800))
        wire.settimeout(PATIENCE)
        Sender(plant.source, "src0", "239.1.1.1:5000", count=count, rate=rate, size=size).finish()
        mcr.check_counters()
        taken: list[bytes] = []
        while len(taken) < count * outputs:
            frame = wire.recv(2048)
            taken += [frame] if is_datagram(frame) else []
        return taken


# Of frames of IPv4 without options.


def is_datagram(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP


def is_sound(frame: bytes, *, sum_may_lack: bool = False) -> bool:
    """Whether the checksums of IP and UDP are right, or there is none of UDP."""
    udp = frame[34 : 14 + int.from_bytes(frame[16:18])]
    if frame[14] != _PLAIN_IP or add_up(frame[14:34]) != _RIGHT:
        return False
    pseudo = frame[26:34] + struct.pack("!HH", socket.IPPROTO_UDP, len(udp))
    if not any(udp[6:8]):
        return sum_may_lack
    return add_up(pseudo + udp + bytes(len(udp) % 2)) == _RIGHT


def origin(frame: bytes) -> tuple[int, int, str, int]:
    """TTL, type of service, address and port that it came from."""
    return frame[22], frame[15], socket.inet_ntoa(frame[26:30]), int.from_bytes(frame[34:36])


def port_of(frame: bytes) -> int:
    """Where it goes."""
    return int.from_bytes(frame[36:38])


def without_checksum_offload(namespace: Namespace, interface: str) -> None:
    """So that what arrives has the checksums that it would have on a wire, and is cut as it would be there."""
    namespace.cut_super_frames(interface)
    namespace.set_feature(interface, "tx-checksum-ip-generic", enable=False)
