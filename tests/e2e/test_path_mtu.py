"""What is longer than a router's next link gets there, also from a port that somebody has chosen."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from ipv6_addresses import speak_ipv6
from lab import Namespace
from mcr_process import PATIENCE, Sender, wait_until
from topology import MakeMcr, Plant

HOST, HOST6, OTHER6 = "203.0.113.9", "2001:db8:7::9", "2001:db8:7::a"
NARROW = 1300  # bytes of MTU, less than what is sent
COUNT = 100
SO_RCVBUFFORCE = 33


@contextmanager
def listening(namespace: Namespace, address: str) -> Iterator[socket.socket]:
    with namespace.entered():
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with opened:
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        opened.bind((address, 6000))
        yield opened


def receive(receiver: socket.socket) -> bool:
    """One of full length."""
    return len(receiver.recv(2048)) == 1316


@pytest.fixture
def far(plant: Plant) -> Namespace:
    """A host behind the receiver, which routes; the link between carries less than what is sent."""
    far = plant.lab.namespace("far")
    ends = plant.receiver, "narrow", far, "far0"
    plant.lab.link(*ends, a_address="203.0.113.1/24", b_address=f"{HOST}/24", mtu=NARROW)
    for i in range(2):
        speak_ipv6(plant.relay, f"out{i}", f"2001:db8:{i + 1}::1/64")
        speak_ipv6(plant.receiver, f"rx{i}", f"2001:db8:{i + 1}::2/64")
    speak_ipv6(plant.receiver, "narrow", "2001:db8:7::1/64")
    for address in HOST6, OTHER6:
        speak_ipv6(far, "far0", f"{address}/64")
    for name in "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding":
        plant.receiver.sysctl(name, "1")
    plant.relay.ip("route add 203.0.113.0/24 via 198.18.1.2", "route add 2001:db8:7::/64 via 2001:db8:1::2")
    far.ip("route add default via 203.0.113.1", "route add default via 2001:db8:7::1")
    return far


@pytest.mark.parametrize("switch", ["KERNEL_PATH=auto", "KERNEL_PATH=off"])
def test_a_way_that_carries_less_loses_nothing(plant: Plant, far: Namespace, make_mcr: MakeMcr, switch: str) -> None:
    """IPv4 is cut by the router; of IPv6 the relay is told, also by another interface, and cuts it from then on."""
    mcr = make_mcr(plant.relay, prefix=["env", f"MCR_{switch}"]).start()
    mcr.add("in0:239.1.1.1:5000", f"{HOST}:6000:out0:source-port=4000")
    mcr.add("in0:239.1.1.2:5000", f"[{HOST6}]:6000:out0:source-port=4000")
    mcr.add("in0:239.1.1.3:5000", f"[{OTHER6}]:6000:out0:source=[2001:db8:2::1]:source-port=keep")

    def send(group: str, count: int) -> None:
        Sender(plant.source, "src0", f"{group}:5000", count=count, rate=1000, size=1316).finish()

    def arrives(receiver: socket.socket, group: str) -> bool:
        send(group, 1)
        with suppress(BlockingIOError):
            return receive(receiver)
        return False

    for host, group in (HOST, "239.1.1.1"), (HOST6, "239.1.1.2"), (OTHER6, "239.1.1.3"):
        with listening(far, host) as receiver:
            receiver.setblocking(False)
            wait_until(partial(arrives, receiver, group), "one gets there")
            send(group, COUNT)
            receiver.settimeout(PATIENCE)
            assert all(receive(receiver) for _ in range(COUNT))
