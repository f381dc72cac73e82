"""Sockets that only send are given nothing."""

import socket
import struct

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from lab import Lab
from mcr.net.egress import open_egress, open_raw_egress
from mcr.net.interfaces import find_interface
from mcr_process import PATIENCE

SO_DETACH_FILTER = 27
GROUP, GROUP6 = "224.0.0.251", "ff02::fb"


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        (4, Ether(dst="01:00:5e:00:00:fb") / IP(src="198.18.0.1", dst=GROUP)),
        (6, Ether(dst="33:33:00:00:00:fb") / IPv6(src="fd00::1", dst=GROUP6)),
    ],
    ids=["4", "6"],
)
def test_a_raw_one_is_given_no_copy_of_what_comes_to_groups(version: int, headers: Packet) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with Lab() as lab:
        inside = lab.namespace("inside")
        inside.ip("link add a0 type veth peer name a1")
        inside.sysctl("net.ipv6.conf.a1.disable_ipv6", "0")
        inside.ip("address add 198.18.0.2/24 dev a1")
        inside.set_up("a0")
        inside.bring_up("a1", "a0")
        with (
            inside.entered(),
            open_raw_egress(find_interface("a1"), 1 << 16, foreign=True, version=version) as opened,
            socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP) as witness,
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire,
        ):
            opened.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)  # or it would hide what it is given
            witness.settimeout(PATIENCE)
            if version == 4:
                join = socket.inet_aton(GROUP) + socket.inet_aton("198.18.0.2")
                witness.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
            else:
                join = socket.inet_pton(family, GROUP6) + struct.pack("I", socket.if_nametoindex("a1"))
                witness.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, join)
            wire.bind(("a0", 0))
            for number in range(2):  # once the second is there, all have the first
                payload = bytes([number])
                wire.send(bytes(headers / UDP(sport=1111, dport=5353) / Raw(payload)))
                assert witness.recv(2048).endswith(payload)
            with pytest.raises(BlockingIOError):
                opened.recv(2048, socket.MSG_DONTWAIT)


@pytest.mark.parametrize("hop", ["via 198.18.0.2", "dev a0"])
def test_hosts_and_groups_keep_their_ttl_where_they_take_the_same_way(hop: str) -> None:
    """The kernel keeps one route for all that goes by a next hop, with the kind of what was sent first."""
    with Lab() as lab:
        here, there = lab.namespace("here"), lab.namespace("there")
        lab.link(here, "a0", there, "a1", a_address="198.18.0.1/24", b_address="198.18.0.2/24")
        there.ip("address add 203.0.113.7/24 dev a1")
        routes = [f"{each} {hop}" for each in ("203.0.113.0/24", "239.1.0.0/16")]
        here.ip(*(f"route add {each}" for each in routes))
        with there.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as wire:
            wire.bind(("a1", 0x0800))
            wire.settimeout(PATIENCE)
            with here.entered():
                interface = find_interface("a0")
                hosts = open_egress(interface, 1 << 16, of_neighbours=True)
                groups = open_egress(interface, 1 << 16)
                raw = open_raw_egress(interface, 1 << 16, foreign=False)
            with hosts, groups, raw:
                hosts.sendto(b"first", ("239.1.1.1", 6000))
                hosts.sendto(b"by a socket of UDP", ("203.0.113.7", 6000))
                raw.sendto(struct.pack("!HHHH", 1, 6000, 9, 0) + b"r", ("203.0.113.7", 0))
                assert [wire.recv(2048)[8] for _ in range(3)][1:] == [64, 64]
                here.ip(*(f"route {do} {each}" for each in routes for do in ("del", "add")))
                hosts.sendto(b"first", ("203.0.113.7", 6000))
                groups.sendto(b"to a group on the link", ("239.1.1.1", 6000))
                assert [wire.recv(2048)[8] for _ in range(2)][1:] == [1]
