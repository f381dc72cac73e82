"""Datagrams leave from where they came from, where an output asks for it: address and port, judged on the wire."""

import socket
from contextlib import suppress
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP, defragment, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from mcr_process import Mcr, wait_until
from raw_frames import without_checksum_offload
from test_how_it_leaves import wait_for_path
from test_ipv6 import speak_ipv6
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
KEPT: dict[str, tuple[str | None, int | None]] = {
    "239.2.2.2:6000:out0:source=keep": (None, None),
    "239.2.2.2:6001:out0:source=keep:source-port=4000:ttl=9": (None, 4000),
    "239.2.2.2:6002:out0": (OWN, 0),
    "239.2.2.2:6003:out0:source=198.18.2.1:source-port=keep": (OTHER, None),
    "198.18.1.2:6004:out0:source=keep:source-port=keep:dscp=46": (None, None),
    "239.2.2.2:6005:out0:vlan=7:source=keep": (None, None),
    "239.3.3.3:6006:out0:source=keep": (None, None),
    "198.18.1.2:6007:out0": (OWN, 0),
}
"""Address and port that each output's datagrams are to have; None: those that they came with; 0: any but those."""


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
    tap.settimeout(5)
    with suppress(TimeoutError):
        while sum(LAST in bytes(each) for each in packets if ICMP not in each) < outputs:
            frame = Ether(tap.recv(2048))
            packets += [frame[kind] for kind in (IP, IPv6) if kind in frame]
    found: dict[int, list[Packet]] = {}
    for each in defragment(packets):  # type: ignore[no-untyped-call]
        if UDP in each:
            found.setdefault(each[UDP].dport, []).append(each)
    return found


def payloads() -> list[tuple[bytes, Origin]]:
    """Such as wait together and travel in trains, of two senders in turn and in runs; of odd sizes, and empty ones."""
    sizes = [188] * 20 + [0, 1, 2, 3, 1400, 1399, 7, 188]
    turns = [0, 1, 0, 0, 1, 1, 2, 0] * 4
    return [(bytes([number % 251]) * size, SENDERS[turns[number]]) for number, size in enumerate(sizes)]


@pytest.mark.parametrize("switches", [("KERNEL_PATH=off",), ()], ids=str)
def test_each_sender_keeps_its_own(plant: Plant, make_mcr: MakeMcr, switches: tuple[str, ...]) -> None:
    """To groups, hosts and a gateway, through IP, as tagged raw frames, and on the kernel path."""
    without_checksum_offload(plant.relay, "out0")
    plant.relay.ip("route add 239.3.0.0/16 via 198.18.1.2 dev out0")
    mcr = make_mcr(plant.relay, prefix=["env", *(f"MCR_{each}" for each in switches)]).start()
    mcr.add("in0:239.1.1.1:5000", *KEPT)
    is_kernel = wait_for_path(mcr, switches)
    with plant.relay.entered():
        # For groups that keep the source, for those that keep the port, and for hosts.
        assert Path("/proc/thread-self/net/raw").read_text().count(":0011 ") == 3
    sent = payloads()
    with tapped(plant.source, "src0") as wire, tapped(plant.receiver, "rx0") as tap:
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        before = moved(mcr, wire, tap, len(KEPT)) if is_kernel else 0
        for payload, sender in [*sent, (LAST, SENDERS[0])]:
            wire.send(datagram(payload, sender))
        found = arrived(tap, len(KEPT))
    stats = mcr.check_counters()
    for text, (address, port) in KEPT.items():
        came = found[int(text.split(":")[1])][: len(sent)]
        assert [bytes(each[UDP].payload) for each in came] == [payload for payload, _ in sent], text
        assert [each[IP].src for each in came] == [address or sender for _, (sender, _) in sent], text
        if port != 0:
            assert [each[UDP].sport for each in came] == [port or theirs for _, (_, theirs) in sent], text
        else:
            assert not {each[UDP].sport for each in came} & {0, 1111, 2222}, text
        assert all(map(is_sound, came)), text
    assert {port for port, those in found.items() if not any(each.flags.DF for each in those)} == {6004}
    assert len({each.id for each in found[6004]}) > len(sent) / 2  # so that what routers cut can be put together
    assert {each.ttl for each in found[6001]} == {9}
    assert {each.ttl for each in found[6000]} == {1}
    assert {each.tos for each in found[6004]} == {46 << 2}
    (rule,) = stats["rules"]
    assert {each["errors"] for each in rule["outputs"]} == {0}
    assert (stats["kernel_path"]["matched"] - before) == (len(sent) + 1 if is_kernel else 0)


def moved(mcr: Mcr, wire: socket.socket, tap: socket.socket, outputs: int) -> int:
    """Have the flow move to the kernel path. What that has matched so far."""

    def matched() -> int:
        wire.send(datagram(LAST, SENDERS[0]))
        arrived(tap, outputs)
        return int(mcr.stats()["kernel_path"]["matched"])

    wait_until(matched, "it has moved there")
    return int(mcr.check_counters()["kernel_path"]["matched"])


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
    wait_for_path(mcr, ())
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
            for part in fragment(Ether(datagram(long, sender))[IP], 1480):  # type: ignore[no-untyped-call]
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
