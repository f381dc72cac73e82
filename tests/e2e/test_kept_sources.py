"""Datagrams leave from where they came from, where an output asks for it: address and port, judged on the wire."""

import socket
from contextlib import suppress

from scapy.layers.inet import ICMP, IP, UDP, defragment, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ipv6_addresses import speak_ipv6
from mcr_process import PATIENCE
from raw_frames import without_checksum_offload
from test_unsound import tapped
from topology import MakeMcr, Plant

Origin = tuple[str, int]
"""An address and a port."""

SENDERS: tuple[Origin, ...] = (("198.18.0.1", 1111), ("203.0.113.9", 2222), ("198.18.0.3", 0))
SENDERS6: tuple[Origin, ...] = (("2001:db8::1", 1111), ("2001:db8:7::9", 2222), ("::5:7:0:9", 3333))
HOST6 = "2001:db8:1::2"
SO_RCVBUFFORCE = 33
NOBODY = ("0.0.0.0", "0.0.7.9")  # noqa: S104 - no address of this machine is bound to
OWN, OTHER = "198.18.1.1", "198.18.2.1"
LAST = b"the last one"


def datagram(payload: bytes, sender: Origin, group: str = "239.1.1.1", port: int = 5000) -> bytes:
    ip = IP(src=sender[0], dst=group, ttl=16)
    return bytes(Ether(dst="01:00:5e:01:01:01") / ip / UDP(sport=sender[1], dport=port) / Raw(payload))


def is_sound(packet: Packet) -> bool:
    """Whether its checksums are right, and there is one of UDP."""
    packet = type(packet)(bytes(packet))  # of one in fragments IP's is made here
    again = packet.copy()
    if IP in again:
        del again.chksum
    del again[UDP].chksum
    again = type(packet)(bytes(again))
    ip = IP not in packet or again.chksum == packet.chksum
    return bool(ip and packet[UDP].chksum and again[UDP].chksum == packet[UDP].chksum)


def arrived(tap: socket.socket, outputs: int) -> dict[int, list[Packet]]:
    """Datagrams off the wire, by their port, until each output's last one is there. Fragments are put together."""
    packets: list[Packet] = []
    tap.settimeout(PATIENCE)
    with suppress(TimeoutError):
        while sum(LAST in bytes(each) for each in packets if ICMP not in each) < outputs:
            frame = Ether(tap.recv(2048))
            packets += [frame[kind] for kind in (IP, IPv6) if kind in frame]
    found: dict[int, list[Packet]] = {}
    for each in defragment(packets):
        if UDP in each:
            found.setdefault(each[UDP].dport, []).append(each)
    return found


def test_what_is_odd_about_a_source(plant: Plant, make_mcr: MakeMcr) -> None:
    """Long datagrams keep it in fragments, IPv6 keeps it; nobody's can't be kept, and a foreign one not be claimed."""
    without_checksum_offload(plant.relay, "out0")
    for namespace, name, address in ((plant.relay, "out0", "2001:db8:1::1/64"), (plant.receiver, "rx0", f"{HOST6}/64")):
        speak_ipv6(namespace, name, address)
    speak_ipv6(plant.relay, "in0", "2001:db8::2/64")
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0:source=keep")
    mcr.add("in0:224.0.0.251:5353", "224.0.0.251:5353:out0:source=keep:ttl=keep")
    mcr.add("in0:239.1.1.3:5000", "239.2.2.2:6003:out0:source=198.18.1.9:source-port=keep", state="degraded")
    outputs = (
        "[ff15::2]:6004:out0:source=keep",
        f"[{HOST6}]:6005:out0:source=keep:source-port=4000",
        "[ff15::2]:6006:out0:source=[2001:db8:1::1]:source-port=keep",
    )
    place = ("--input-interface", "in0", "--input-group", "ff15::1", "--input-port", "5000")
    said = mcr.ctl("add", *place, "--outputs", ",".join(outputs)).stderr
    assert "leave with the addresses of their senders: routers and hosts there may drop them" in said
    mcr.wait_for_path("kernel")
    long = bytes(range(250)) * 20
    with tapped(plant.source, "src0") as wire, tapped(plant.receiver, "rx0") as tap:
        for payload in (b"of the worker, or not", b"of the kernel"):
            for nobody in NOBODY:
                wire.send(datagram(payload, (nobody, 68), "224.0.0.251", 5353))
            mcr.check_counters()
            wire.send(datagram(b"of somebody", SENDERS[1], "224.0.0.251", 5353))
            mcr.wait_for_path("kernel")
        wire.send(datagram(b"from a foreign address", SENDERS[0], "239.1.1.3"))
        for sender in SENDERS[:2]:
            for part in fragment(Ether(datagram(long, sender))[IP], 1480):
                wire.send(bytes(Ether(dst="01:00:5e:01:01:01") / part))
        for payload, sender in (
            (b"odd", SENDERS6[0]),
            (long[:1400], SENDERS6[1]),
            (b"of few words", SENDERS6[2]),
            (LAST, SENDERS6[0]),
        ):
            wire.send(datagram6(payload, sender))
        found = arrived(tap, len(outputs))
    assert [(each.src, bytes(each[UDP].payload)) for each in found[6000]] == [(each, long) for each, _ in SENDERS[:2]]
    assert [(each.src, each[UDP].sport, each.ttl) for each in found[5353]] == [(*SENDERS[1], 16)] * 2
    assert 6003 not in found
    origins = [*SENDERS6, SENDERS6[0]]
    assert [(each.src, each[UDP].sport) for each in found[6004]] == origins
    assert [(each.src, each[UDP].sport) for each in found[6005]] == [(address, 4000) for address, _ in origins]
    assert [(each.src, each[UDP].sport) for each in found[6006]] == [("2001:db8:1::1", port) for _, port in origins]
    assert all(is_sound(each) for several in found.values() for each in several)
    rules = mcr.check_counters()["rules"]
    assert [each["errors"] for each in rules] == [0, 4, 1, 0]
    assert rules[1]["outputs"][0]["last_error"] == "Cannot assign requested address (os error 99)"


def datagram6(payload: bytes, sender: Origin) -> bytes:
    ip = IPv6(src=sender[0], dst="ff15::1", hlim=16)
    return bytes(Ether(dst="33:33:00:00:00:01") / ip / UDP(sport=sender[1], dport=5000) / Raw(payload))
