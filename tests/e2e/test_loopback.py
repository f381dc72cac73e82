"""The loopback interface as input and output: what programs on the relay's machine send, and what they receive."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lab import LabError, Namespace
from mcr_process import PATIENCE
from sources import repeating
from test_unsound import relayed, tapped, troubles
from topology import MakeMcr, Plant

PAYLOADS = [b"first", b"", b"long" * 300, b"last"]


def family_of(group: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in group else socket.AF_INET


def index_of(namespace: Namespace, interface: str) -> int:
    with namespace.entered():
        return socket.if_nametoindex(interface)


def by(namespace: Namespace, interface: str, group: str) -> socket.socket:
    """A program's socket, which sends to groups out of this interface."""
    with namespace.entered():
        made = socket.socket(family_of(group), socket.SOCK_DGRAM)
    index = index_of(namespace, interface)
    if family_of(group) == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    else:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", b"", b"", index))
    return made


@contextmanager
def listening(namespace: Namespace, address: str, port: int) -> Iterator[socket.socket]:
    with namespace.entered():
        made = socket.socket(family_of(address), socket.SOCK_DGRAM)
    with made:
        made.bind((address, port))
        made.settimeout(PATIENCE)
        yield made


@contextmanager
def receiving(namespace: Namespace, interface: str, group: str, port: int) -> Iterator[socket.socket]:
    """A program's socket that has joined the group there."""
    with listening(namespace, group, port) as made:
        index = index_of(namespace, interface)
        address = socket.inet_pton(family_of(group), group)
        if family_of(group) == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address + struct.pack("i", index))
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", address, b"", index))
        yield made


def send(namespace: Namespace, interface: str, group: str, port: int = 5000) -> None:
    with by(namespace, interface, group) as program:
        for each in PAYLOADS:
            program.sendto(each, (group, port))


def take(program: socket.socket) -> list[bytes]:
    return [program.recv(65_536) for _ in PAYLOADS]


@pytest.fixture
def relay(plant: Plant) -> Namespace:
    """It speaks IPv6 on its loopback interface, where groups take a local route."""
    plant.relay.sysctl("net.ipv6.conf.lo.disable_ipv6", "0")
    plant.relay.ip("address replace ::1/128 dev lo", "route add local ff15::/16 dev lo")
    plant.relay.cut_super_frames("out0")
    return plant.relay


def test_programs_on_the_relays_machine_send_and_receive_by_the_loopback(
    plant: Plant, relay: Namespace, make_mcr: MakeMcr
) -> None:
    mcr = make_mcr(relay).start()
    mcr.add("lo:239.1.1.1:5000", "239.2.2.2:6000:out0", "239.2.2.3:6000:lo")
    mcr.add("in0:239.1.1.9:5000", "239.2.2.9:6000:lo", "239.2.2.8:6000:out1", "198.18.3.1:6001:out2", rule_id="local")
    outputs = [{"group": "ff15::3", "port": 6000, "interface": "lo"}]
    mcr.call("add", {"rules": [{"input": {"interface": "lo", "group": "ff15::1", "port": 5000}, "outputs": outputs}]})
    mcr.add("lo:127.0.0.2:5000", "239.2.2.5:6000:lo")
    assert [(each["state"], each["reason"]) for each in mcr.call("list")] == [("active", "")] * 4
    with ExitStack() as opened:
        by_lo = ("239.2.2.3", "239.2.2.9", "239.2.2.5", "ff15::3")
        joined = [*((group, "lo") for group in by_lo), ("239.2.2.8", "out1")]
        here = {group: opened.enter_context(receiving(relay, name, group, 6000)) for group, name in joined}
        host = opened.enter_context(listening(relay, "198.18.3.1", 6001))
        wire = opened.enter_context(tapped(plant.receiver, "rx0"))
        send(relay, "lo", "239.1.1.2")  # which no rule takes
        send(relay, "lo", "239.1.1.1")
        send(relay, "lo", "ff15::1")
        send(relay, "lo", "127.0.0.2")
        send(plant.source, "src0", "239.1.1.9")
        assert relayed(wire, b"last") == PAYLOADS
        assert [take(each) for each in (host, *(here[group] for group in by_lo))] == [PAYLOADS] * 5
        assert relay.counter("Icmp", "OutDestUnreachs") == 0
        with repeating(lambda: send(plant.source, "src0", "239.1.1.9"), 0.02):
            found = troubles(mcr, "why", "local")
        here["239.2.2.8"].settimeout(0)
        with pytest.raises(BlockingIOError):  # what leaves by another interface comes back to nobody here
            here["239.2.2.8"].recv(2048)
    assert "joined 239.2.2.8 on out1" in found["local_receiver"]
    assert found["local_receiver"].endswith("mcrctl change RULE --add-outputs 239.2.2.8:6000:lo")
    assert mcr.check_counters()["ingress"]["parse_err"] == 0


def test_rules_that_feed_each_other_by_the_loopback_are_refused(relay: Namespace, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(relay).start()
    mcr.add("lo:239.1.1.1:5000", "239.1.1.2:5000:lo", rule_id="there")
    back = ("add", "--input-interface", "lo", "--input-group", "239.1.1.2", "--input-port", "5000", "--rule-id", "back")
    with pytest.raises(
        LabError, match=r"Rule back would feed itself: .* to 239\.1\.1\.1:5000:lo, which there sends to 239"
    ):
        mcr.ctl(*back, "--outputs", "239.2.2.2:6000:out0,239.1.1.1:5000:lo")
    mcr.ctl(*back, "--outputs", "239.2.2.2:6000:out0")
    with pytest.raises(LabError, match="Rule back would feed itself"):
        mcr.ctl("change", "back", "--add-outputs", "239.1.1.1:5000:lo")
    assert [len(each["outputs"]) for each in mcr.call("list")] == [1, 1]
