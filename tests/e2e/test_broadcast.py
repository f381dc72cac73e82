"""What is a broadcast address follows the networks of an interface."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from mcr_process import wait_until
from raw_frames import wait_for_raw, without_checksum_offload
from test_unsound import tapped
from topology import MakeMcr, Plant

ALL = "ff:ff:ff:ff:ff:ff"
WAYS = {"frames": ["MCR_KERNEL_PATH=off"], "sockets": ["MCR_KERNEL_PATH=off", "MCR_RAW_SEND=0"]}


def datagram(payload: bytes, to: str = "239.1.1.1") -> bytes:
    mac = "01:00:5e:01:01:01" if to.startswith("239") else ALL
    return bytes(Ether(dst=mac) / IP(src="198.18.0.1", dst=to, ttl=16) / UDP(sport=5, dport=5000) / Raw(payload))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_broadcast_address_there_is_a_host(plant: Plant, make_mcr: MakeMcr, way: str) -> None:
    """Nothing is sent to all for it; and as soon as the network has it, it is one."""
    without_checksum_offload(plant.relay, "out0")
    mcr = make_mcr(plant.relay, prefix=["env", *WAYS[way]]).start()
    mcr.add("in0:239.1.1.1:5000", "198.18.1.127:6002:out0")
    if way == "frames":
        wait_for_raw(mcr)
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
