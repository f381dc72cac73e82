"""mcrds that take the place of others: how one ends and the next begins, and what has to hold then."""

import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from lab import Namespace
from mcr_process import SLOWNESS, Mcr, Receiver, Sender, wait_until
from service_manager import StoringManager
from topology import Plant

FLOW = "239.1.1.1:5000"
OUTPUTS = ("239.2.2.2:6000:out0", "239.3.3.3:6000:out1")
TO = f"239.2.2.2:6000@rx0={FLOW}"

_ETH_P_IP, _IP_HEADER_WORDS, _LEAVE = 0x0800, 0x0F, 0x17
_REPORT_3, _TO_INCLUDE, _BLOCK = 0x22, 3, 6  # RFC 3376, 4.2


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[StoringManager]:
    with StoringManager(tmp_path) as made:
        yield made


class Leaves:
    """Sees which groups hosts on a cable leave. A context manager."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        with namespace.entered():
            self._tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        self._tap.bind((interface, _ETH_P_IP))
        self._tap.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._tap.close()

    def seen(self) -> set[str]:
        """Since the last call."""
        groups: set[str] = set()
        while True:
            try:
                packet = self._tap.recv(2048)
            except BlockingIOError:
                return groups
            if packet[9] == socket.IPPROTO_IGMP:
                groups.update(self._left(packet[4 * (packet[0] & _IP_HEADER_WORDS) :]))

    @staticmethod
    def _left(message: bytes) -> Iterator[str]:
        if message[0] == _LEAVE:
            yield socket.inet_ntoa(message[4:8])
        if message[0] == _REPORT_3:
            (count,) = struct.unpack_from("!H", message, 6)
            for at in range(8, 8 + 8 * count, 8):
                if message[at] in (_TO_INCLUDE, _BLOCK):
                    yield socket.inet_ntoa(message[at + 4 : at + 8])


def end(mcr: Mcr) -> None:
    """As `systemctl restart` does, first."""
    assert mcr.process
    mcr.process.send_signal(signal.SIGTERM)
    assert mcr.process.wait(10 * SLOWNESS) == 0


def kill(mcr: Mcr) -> None:
    assert mcr.process
    mcr.process.kill()
    mcr.process.wait()


def take_over(mcr: Mcr, *options: str) -> None:
    """Another takes the place of this one, and answers; both are the same object."""
    first = mcr.process
    assert first
    mcr.begin(len(mcr.workers()), *options, "--take-over")
    assert first.wait(10 * SLOWNESS) == 0  # or the answer might be its own
    mcr.wait_until_it_answers(10 * SLOWNESS)


def came_in(mcr: Mcr) -> int:
    return int(mcr.stats()["ingress"]["recv"])


def wait_until_more_come_in(mcr: Mcr) -> None:
    before = came_in(mcr)
    wait_until(lambda: came_in(mcr) > before, "more come in")


def wait_for_kernel_path(mcr: Mcr) -> bool:
    """Unless it is off, or this kernel has none, until the rule takes it. Whether it does."""
    if any(f"{name} has no effect" in mcr.log() for name in ("MCR_ABSORB", "MCR_RAW_SEND", "MCR_KERNEL_PATH")):
        return False
    if mcr.call("list")[0]["path_reason"] == "MCR_KERNEL_PATH=off":
        return False
    mcr.wait_for_path("kernel")
    return True


def check_sums(mcr: Mcr, packets: int, lost: int = 0) -> None:
    stats = mcr.check_counters(arrived=packets)
    assert (stats["ingress"]["kernel_drops"], stats["egress"]["errors"]) == (lost, 0)
    taken = packets - lost
    assert [(each["matched"], each["sent"]) for each in stats["rules"]] == [(taken, 2 * taken)]


def forward(plant: Plant, flow: str = FLOW) -> None:
    receiver = Receiver(plant.receiver, f"239.2.2.2:6000@rx0={flow}", count=500)
    Sender(plant.source, "src0", flow, count=500, rate=5000).finish()
    receiver.expect_everything()
