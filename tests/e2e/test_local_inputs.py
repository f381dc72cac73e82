"""Rules that take what is sent to this machine alone, or to all on the link."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from ipv6_addresses import speak_ipv6
from lab import Namespace
from mcr_process import PATIENCE, SLOWNESS, Mcr, wait_until
from successors import take_over
from test_unsound import mac_of, relayed, tapped
from topology import MakeMcr, Plant, need_tcx

OWN = "198.18.0.2"
WAYS = {"kernel": [], "guard": ["MCR_ABSORB=0"]}  # where nothing is suppressed


def start(plant: Plant, make_mcr: MakeMcr, way: str, *groups: str) -> Mcr:
    plant.relay.cut_super_frames("out0")
    mcr = make_mcr(plant.relay, prefix=["env", *WAYS[way]]).start()
    for group in groups:
        mcr.add(f"in0:{group}:5000", "239.2.2.2:6000:out0")
    if way == "kernel":
        need_tcx(mcr)
        for number in range(len(groups)):
            mcr.wait_for_path("kernel", number)
    return mcr


@contextmanager
def udp(
    namespace: Namespace, *, to: tuple[str, int] | None = None, at: tuple[str, int] | None = None
) -> Iterator[socket.socket]:
    """An ordinary socket, which hears what ICMP says of the port that it is connected to."""
    with namespace.entered():
        made = socket.socket(socket.AF_INET6 if to and ":" in to[0] else socket.AF_INET, socket.SOCK_DGRAM)
    with made:
        made.settimeout(PATIENCE)
        if at:
            made.bind(at)
        if to:
            made.connect(to)
        yield made


@contextmanager
def joined(plant: Plant) -> Iterator[socket.socket]:
    """A receiver of what is relayed."""
    with udp(plant.receiver, at=("239.2.2.2", 6000)) as receiver:
        where = socket.inet_aton("239.2.2.2") + socket.inet_aton("198.18.1.2")
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, where)
        yield receiver


def unreachable(plant: Plant) -> int:
    """Messages that the relay's machine has sent of ports that nobody has."""
    return plant.relay.counter("Icmp", "OutDestUnreachs")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_sent_to_this_machine_is_relayed_and_nothing_goes_back(
    plant: Plant, make_mcr: MakeMcr, way: str
) -> None:
    """Also what comes in fragments, while another mcrd takes over, and with a receiver here."""
    mcr = start(plant, make_mcr, way, OWN)
    long = bytes(3000)
    with udp(plant.source, to=(OWN, 5000)) as sender, joined(plant) as receiver:
        for number in range(200):
            sender.send(payload := f"{number}".encode())
            assert receiver.recv(4096) == payload
        sender.send(long)
        assert receiver.recv(4096) == long
        take_over(mcr)
        mcr.wait_until_it_answers(10 * SLOWNESS)
        sender.send(b"after it")
        assert receiver.recv(4096) == b"after it"
        assert unreachable(plant) == 0
        stats = mcr.check_counters(arrived=202)
        assert stats["ingress"]["matched"] == 202
        with udp(plant.source, to=(OWN, 5001)) as other:
            other.send(b"to a port that no rule has")
            with pytest.raises(ConnectionRefusedError):
                other.recv(1)
        assert mcr.check_counters(arrived=203)["ingress"]["no_match"] == 1
        assert unreachable(plant) == 1
        with pytest.raises(OSError, match="in use"), udp(plant.relay, at=(OWN, 5000)):
            pass
        mcr.ctl("remove", mcr.call("list")[0]["rule_id"])
        with udp(plant.relay, at=("", 5000)) as local:
            mcr.add(f"in0:{OWN}:5000", "239.2.2.2:6000:out0")
            sender.send(b"to both")
            assert (receiver.recv(4096), local.recv(4096)) == (b"to both", b"to both")
        assert unreachable(plant) == 1


def datagram(to: str, payload: bytes, mac: str, source: str = "198.18.0.1") -> bytes:
    return bytes(Ether(dst=mac) / IP(src=source, dst=to, ttl=16) / UDP(sport=5, dport=5000) / Raw(payload))


def test_an_address_that_comes_and_goes(plant: Plant, make_mcr: MakeMcr) -> None:
    """While it is another machine's, what is sent there is left alone, though it comes by here."""
    mcr = start(plant, make_mcr, "kernel", OWN)
    mcr.add("in0:198.18.0.9:5000", "239.2.2.2:6000:out0", rule_id="nine", state="waiting")
    reason = "198.18.0.9 is not an address of this machine, nor a broadcast address of in0"
    assert mcr.call("list")[1]["reason"] == reason
    why = mcr.ctl("why", "nine", check=False)
    assert (why.returncode, reason in why.stdout) == (2, True)
    mac = mac_of(plant.relay, "in0")

    def state() -> str:
        return str(mcr.call("list")[1]["state"])

    with tapped(plant.source, "src0") as wire, tapped(plant.receiver, "rx0") as tap:
        wire.send(datagram("198.18.0.9", b"too early", mac))
        assert mcr.check_counters(arrived=1)["ingress"]["no_match"] == 1
        plant.relay.ip("address add 198.18.0.9/24 dev in0")
        wait_until(lambda: state() == "active", "it is there")
        mcr.wait_for_path("kernel", 1)
        wire.send(datagram("198.18.0.9", b"in time", mac))
        assert relayed(tap, b"in time") == [b"in time"]
        assert mcr.ctl("why", "nine", check=False).stdout.count("198.18.0.9 is an address of this machine") == 1
        plant.relay.ip("address delete 198.18.0.9/24 dev in0")
        wait_until(lambda: state() == "waiting", "it has gone")
        wire.send(datagram("198.18.0.9", b"too late", mac))
        wire.send(datagram(OWN, b"last", mac))
        assert relayed(tap, b"last") == [b"last"]
    ingress = mcr.check_counters(arrived=4)["ingress"]
    assert (ingress["matched"], ingress["no_match"]) == (2, 2)
    assert unreachable(plant) == 0


def test_an_ipv6_address_of_this_machine(plant: Plant, make_mcr: MakeMcr) -> None:
    speak_ipv6(plant.source, "src0", "fd00::1/64")
    speak_ipv6(plant.relay, "in0", "fd00::2/64")
    mcr = make_mcr(plant.relay).start()
    mcr.ctl(
        *("add", "--input-interface", "in0", "--input-group", "fd00::2", "--input-port", "5000"),
        *("--outputs", "239.2.2.2:6000:out0"),
    )
    with udp(plant.source, to=("fd00::2", 5000)) as sender, joined(plant) as receiver:
        for payload in (b"once", b"again"):
            sender.send(payload)
            assert receiver.recv(4096) == payload
        with udp(plant.source, to=("fd00::2", 5001)) as other:
            other.send(b"to a port that no rule has")
            with pytest.raises(ConnectionRefusedError):
                other.recv(1)
        sender.send(b"nobody has refused it")
    assert mcr.rules()[0]["state"] == "active"
