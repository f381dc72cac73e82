"""Broadcast addresses: all on the link get what is sent there, and nobody else does."""

import socket
from collections.abc import Sequence

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from mcr_process import Mcr, wait_until
from raw_frames import by_sockets, wait_for_raw, without_checksum_offload
from test_unsound import mac_of, tapped
from topology import MakeMcr, Plant, need_tcx

ALL = "ff:ff:ff:ff:ff:ff"
LIMITED, DIRECTED = "255.255.255.255:6000:out0:ttl=3", "198.18.1.255:6001:out0"
TAGGED = "255.255.255.255:6002:out0:vlan=7"
OUTPUTS = LIMITED, DIRECTED, TAGGED
WAYS = {"kernel": [], "frames": ["MCR_KERNEL_PATH=off"], "sockets": ["MCR_KERNEL_PATH=off", "MCR_RAW_SEND=0"]}


def datagram(payload: bytes, to: str = "239.1.1.1") -> bytes:
    mac = "01:00:5e:01:01:01" if to.startswith("239") else ALL
    return bytes(Ether(dst=mac) / IP(src="198.18.0.1", dst=to, ttl=16) / UDP(sport=5, dport=5000) / Raw(payload))


def taken(tap: socket.socket, last: bytes, ports: Sequence[int]) -> list[Ether]:
    """Datagrams to these ports that come, up to the last to each."""
    left, found = {*ports}, []
    while left:
        frame = Ether(tap.recv(2048))
        if UDP in frame and frame[UDP].dport in ports:
            found.append(frame)
            left -= {frame[UDP].dport} if bytes(frame[UDP].payload)[: len(last)] == last else set()
    return found


def start(plant: Plant, make_mcr: MakeMcr, way: str, *outputs: str) -> Mcr:
    without_checksum_offload(plant.relay, "out0")
    mcr = make_mcr(plant.relay, prefix=["env", *WAYS[way]]).start()
    mcr.add("in0:239.1.1.1:5000", *outputs, state="degraded" if way == "sockets" and TAGGED in outputs else "active")
    if way == "kernel":
        need_tcx(mcr)
        mcr.wait_for_path("kernel")
    elif way == "frames":
        wait_for_raw(mcr)
    return mcr


@pytest.mark.parametrize("way", WAYS)
def test_an_output_may_be_a_broadcast_address(plant: Plant, make_mcr: MakeMcr, way: str) -> None:
    """The limited one, that of the network, and one in a VLAN, which UDP sockets can't send into."""
    mcr = start(plant, make_mcr, way, *OUTPUTS)
    payloads = [f"{number:4}".encode() for number in range(40)]
    with plant.receiver.entered():
        ordinary = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    before = by_sockets(plant.relay)
    with ordinary, tapped(plant.receiver, "rx0") as tap, tapped(plant.source, "src0") as wire:
        ordinary.settimeout(10)
        ordinary.bind(("", 6001))
        for payload in payloads:
            wire.send(datagram(payload))
        found = taken(tap, payloads[-1], [6000, 6001] if way == "sockets" else [6000, 6001, 6002])
        assert [ordinary.recv(2048) for _ in payloads] == payloads
    seen = {(each.dst, each.src, each[IP].src, each[IP].dst, each[IP].ttl, each[UDP].dport) for each in found}
    mac = mac_of(plant.relay, "out0")
    to_all = [("255.255.255.255", 3, 6000), ("198.18.1.255", 64, 6001)]
    to_all += [] if way == "sockets" else [("255.255.255.255", 64, 6002)]
    assert seen == {(ALL, mac, "198.18.1.1", *each) for each in to_all}
    for port in (6000, 6001):
        assert [bytes(each[UDP].payload)[:4] for each in found if each[UDP].dport == port] == payloads
    for each in found:
        checked = Ether(bytes(each))
        del checked[IP].chksum
        assert Ether(bytes(checked))[IP].chksum == each[IP].chksum
    stats = mcr.check_counters(arrived=40)
    sums = [(each["sent"], each["errors"]) for each in stats["rules"][0]["outputs"]]
    assert sums == [(40, 0), (40, 0), (0, 40) if way == "sockets" else (40, 0)]
    assert bool(by_sockets(plant.relay) - before) == (way == "sockets")
    assert bool(stats["kernel_path"]["matched"]) == (way == "kernel")
    (said,) = mcr.call("list")[0]["warnings"]
    assert said == "198.18.1.255 is the broadcast address of 198.18.1.0/24: every host there gets what is sent to it"


@pytest.mark.parametrize("way", ["frames", "sockets"])
def test_what_is_no_broadcast_address_there_is_a_host(plant: Plant, make_mcr: MakeMcr, way: str) -> None:
    """Nothing is sent to all for it; and as soon as the network has it, it is one."""
    mcr = start(plant, make_mcr, way, "198.18.1.127:6002:out0")
    with tapped(plant.receiver, "rx0") as tap, tapped(plant.source, "src0") as wire:
        wire.send(datagram(b"first"))
        while ARP not in (frame := Ether(tap.recv(2048))):
            assert UDP not in frame
        assert frame.pdst == "198.18.1.127"
        plant.relay.ip("address add 198.18.1.100/25 dev out0")
        wait_until(lambda: any("198.18.1.0/25" in each for each in mcr.call("list")[0]["warnings"]), "it is known")

        def broadcast() -> bool:
            wire.send(datagram(b"last"))
            tap.setblocking(False)
            try:
                while True:
                    frame = Ether(tap.recv(2048))
                    if UDP in frame:
                        assert (frame.dst, frame[IP].dst, frame[UDP].dport) == (ALL, "198.18.1.127", 6002)
                        return True
            except BlockingIOError:
                return False

        wait_until(broadcast, "it is sent to all")
