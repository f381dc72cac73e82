"""Ports that are held, and left to others."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from lab import Lab, Namespace
from mcr.model.flow import IPV4, Address
from mcr.net.port_guard import GuardedPort, PortGuards
from mcr.process.descriptor_store import DescriptorStore

OWN = IPv4Address("127.0.0.1")
PORT = GuardedPort(OWN, 5000)
FREE_FOR = 5  # looks


@pytest.fixture(autouse=True)
def machine(lab: Lab) -> Iterator[Namespace]:
    made = lab.namespace("machine")
    made.ip("link set dev lo up")
    made.sysctl("net.ipv6.conf.lo.disable_ipv6", "0")
    made.sysctl("net.ipv4.icmp_ratelimit", "0")
    with made.entered():
        yield made


@pytest.fixture
def guards() -> Iterator[PortGuards]:
    made = PortGuards(DescriptorStore())
    yield made
    made.close()


def is_held(port: int = PORT.port, address: Address = OWN) -> bool:
    """Whether nothing goes back to who sends there: over the loopback interface that is there at once."""
    with socket.socket(socket.AF_INET if address.version == IPV4 else socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.connect((str(address), port))
        sender.send(b"x")
        with suppress(ConnectionRefusedError):
            sender.send(b"y")
            return True
    return False


def listen(interface: str = "") -> socket.socket:
    """Another program; with an interface: that hears of nothing else."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        receiver.bind(("", PORT.port))
    except OSError:
        receiver.close()
        raise
    return receiver


@pytest.mark.parametrize("address", [OWN, IPv6Address("::1")])
def test_nothing_goes_back_from_a_port_that_is_held(guards: PortGuards, address: Address) -> None:
    assert not is_held(address=address)
    guards.hold({GuardedPort(address, 5000)})
    assert is_held(address=address)
    assert not is_held(5001, address)
    guards.hold(())
    assert not is_held(address=address)


def test_another_program_keeps_its_port_and_has_time_to_come_back(guards: PortGuards) -> None:
    with listen():
        guards.hold({PORT})
        for _ in range(2 * FREE_FOR):
            guards.look_again()
    for _ in range(FREE_FOR - 1):
        guards.look_again()
    listen().close()
    assert not is_held()
    guards.look_again()
    assert is_held()


def test_one_that_hears_another_interface_alone_does_not_stand_in_for_the_guard(machine: Namespace) -> None:
    """Also not after a restart, nor beside a rule of another interface; what both have is held for both."""
    machine.ip("link add other type veth peer name third")
    index, third = socket.if_nametoindex("lo"), socket.if_nametoindex("third")
    here, there = GuardedPort(OWN, 5000, interface=index), GuardedPort(OWN, 5000, interface=third)
    store = DescriptorStore()
    first = PortGuards(store)
    with listen("other"):
        first.hold({here})
        assert is_held()
        first.hold({here, there})
        assert sorted(store.all()) == sorted([here.name, there.name])
        left = {name: os.dup(fd) for name, fd in store.all().items()}
        first.close()
        second = PortGuards(DescriptorStore(inherited=left))
        second.hold({here})
        second.leave_former()
        assert is_held()
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            listen("lo")
        second.hold({there})
        assert not is_held()
    second.close()


def test_inputs_of_several_interfaces_share_a_port(guards: PortGuards) -> None:
    one, two = (GuardedPort(OWN, 5000, interface=index) for index in (1, 2))
    guards.hold({one, two})
    for _ in range(2 * FREE_FOR):
        guards.look_again()
    guards.hold({two})
    assert is_held()
    guards.hold(())
    assert not is_held()


def test_one_that_comes_later_is_told_that_the_port_is_in_use(guards: PortGuards) -> None:
    """It would get nothing otherwise, and not know."""
    guards.hold({PORT})
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        listen()


def test_an_address_that_is_not_there_yet_is_held_as_soon_as_it_is(guards: PortGuards, machine: Namespace) -> None:
    port = GuardedPort(IPv4Address("198.18.0.7"), 5000)
    guards.hold({port})
    machine.ip("address add 198.18.0.7/32 dev lo")
    assert not is_held(address=port.address)
    guards.look_again()
    assert is_held(address=port.address)


def test_the_next_mcrd_goes_on_with_them() -> None:
    store = DescriptorStore()
    first = PortGuards(store)
    first.hold({PORT, GuardedPort(OWN, 5001)})
    left = {name: os.dup(fd) for name, fd in store.all().items()}
    first.close()
    second = PortGuards(DescriptorStore(inherited=left))
    second.hold({PORT})
    assert (is_held(), is_held(5001)) == (True, True)
    second.leave_former()
    assert (is_held(), is_held(5001)) == (True, False)
    second.close()


def test_a_foreign_descriptor_is_not_gone_on_with() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((str(OWN), 0))
        guards = PortGuards(DescriptorStore(inherited={PORT.name: other.detach()}))
    guards.hold({PORT})
    assert is_held()
    guards.close()


def test_what_comes_to_a_port_that_is_held_takes_no_memory(guards: PortGuards) -> None:
    guards.hold({PORT})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(bytes(1000), (str(OWN), PORT.port))
    lines = Path("/proc/thread-self/net/udp").read_text(encoding="ascii").splitlines()[1:]
    (queued,) = (line.split()[4] for line in lines if f":{PORT.port:04X} " in line)
    assert queued == "00000000:00000000"
