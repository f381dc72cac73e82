"""Tunnels as inputs and outputs: packets without a link layer come in and leave, in either family."""

import socket
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgReader

from ipv6_addresses import wait_for_address
from mcr_process import wait_until
from seccomp import WITHOUT_IO_URING
from sources import repeating
from test_unsound import damaged, relayed, tapped, troubles
from topology import MakeMcr, Plant
from tuns import Tun, tun

WITHOUT_EBPF = ("setpriv", "--bounding-set=-bpf,-sys_admin")
LONG = bytes(range(256)) * 12


@attrs.frozen
class Tunnels:
    """source ── in0 relay tun0, tun1, out0 ── receiver. The test is at the other end of the tunnels."""

    plant: Plant
    first: Tun
    second: Tun


@pytest.fixture
def tunnels(plant: Plant) -> Iterator[Tunnels]:
    for name in ("default", "all"):
        plant.relay.sysctl(f"net.ipv6.conf.{name}.disable_ipv6", "0")
    plant.relay.cut_super_frames("out0")
    with (
        tun(plant.relay, "tun0", "198.18.9.1 peer 198.18.9.2", "fd00:9::1/64 nodad") as first,
        tun(plant.relay, "tun1", "198.18.8.1 peer 198.18.8.2", "fd00:8::1/64 nodad") as second,
    ):
        for number in (8, 9):
            wait_for_address(plant.relay, f"fd00:{number}::1")
        yield Tunnels(plant, first, second)


def ipv4(payload: bytes, *, group: str = "239.1.1.1", port: int = 5000, source: str = "198.18.9.2") -> Packet:
    return IP(src=source, dst=group, ttl=16, id=7) / UDP(sport=4000, dport=port) / Raw(payload)


def ipv6(payload: bytes, *, group: str = "ff15::1", port: int = 5000) -> Packet:
    return IPv6(src="fd00:9::2", dst=group, hlim=16) / UDP(sport=4000, dport=port) / Raw(payload)


def without_checksum(packet: Packet) -> Packet:
    packet[UDP].chksum = 0
    return packet


def leaving(end: Tun, ports: set[int], last: bytes) -> dict[int, list[Packet]]:
    """What leaves to these ports, up to the last payload at each of them; what comes in fragments is put together."""
    got: defaultdict[int, list[Packet]] = defaultdict(list)
    left, parts = set(ports), b""
    for data in end.read():
        packet = IPv6(data) if data[0] >> 4 == 6 else IP(data)
        if IP in packet and (packet.frag or packet.flags.MF):
            parts += data[20:]
            if packet.flags.MF:
                continue
            packet, parts = IP(src=packet.src, dst=packet.dst, ttl=packet.ttl) / UDP(parts), b""
        if UDP not in packet or packet[UDP].dport not in ports:
            continue
        got[packet[UDP].dport].append(packet)
        left -= {packet[UDP].dport} if bytes(packet[UDP].payload) == last else set()
        if not left:
            return got
    raise AssertionError


def payloads(packets: list[Packet]) -> list[bytes]:
    return [bytes(each[UDP].payload) for each in packets]


SOUND = [b"plain", b"", b"x", bytes(1300), b"with an option", b"no checksum", LONG, b"last"]
SOUND6 = [b"plain", b"", b"x", bytes(1300), b"last"]


def send_all(end: Tun) -> int:
    """Everything that is sound, between what is not; how many datagrams that are none."""
    option = IP(src="198.18.9.2", dst="239.1.1.1", ttl=16, options=[b"\x94\x04\0\0"]) / UDP(sport=1, dport=5000)
    cut = bytes(ipv4(b"cut short"))
    unsound = [
        cut[:10],  # not even a header of IP, so it is nobody's
        cut[:20],
        cut[:23],
        cut[:27],
        cut[:-1],
        damaged(ipv4(b"UDP checksum"), 26),
        damaged(ipv4(b"IP checksum"), 8),
        bytes(ipv4(b"of nobody", source="127.0.0.1")),
        bytes(ipv4(b"my own", source="198.18.8.1")),
        damaged(ipv6(b"UDP checksum"), 46),
        bytes(ipv6(b"cut short"))[:-1],
        bytes(ipv6(b"cut short"))[:41],
        bytes(ipv4(b"to no rule", port=5001)),
        bytes(ipv4(b"x", group="239.1.1.2")),
        bytes(ipv6(b"to no rule", port=5001)),
    ]
    end.write(*(each for each in unsound))
    end.write(*(bytes(ipv4(each)) for each in SOUND[:4]))
    end.write(bytes(option / Raw(b"with an option")), bytes(without_checksum(ipv4(b"no checksum"))))
    end.write(*map(bytes, fragment(ipv4(LONG), 1400)))
    end.write(*(bytes(ipv6(each)) for each in SOUND6))
    end.write(bytes(ipv4(b"last")))
    return len(unsound) - 1


@pytest.mark.parametrize(
    ("prefix", "workers", "waits"),
    [((), 1, "io_uring"), ((*WITHOUT_IO_URING, *WITHOUT_EBPF), 2, "poll")],
    ids=["io_uring", "poll, classic filters"],
)
def test_what_comes_out_of_a_tunnel_is_relayed_also_into_another(
    tunnels: Tunnels, make_mcr: MakeMcr, prefix: tuple[str | Path, ...], workers: int, waits: str
) -> None:
    """Groups and hosts; and what is cut short, corrupt or the relay's own is counted by its cause."""
    mcr = make_mcr(tunnels.plant.relay, prefix=prefix).start(workers)
    assert {each["io"] for each in mcr.wait_for_workers()} == {waits}
    groups = "239.2.2.2:6000:tun1", "[ff15::2]:6002:tun1", "239.2.2.4:6000:out0"
    mcr.add("tun0:239.1.1.1:5000", *groups, "198.18.8.2:6001:tun1", "[fd00:8::2]:6003:tun1", rule_id="four")
    mcr.call("add", {"rules": [{"input": six("tun0"), "outputs": [to("239.2.2.3", 6004), to("ff15::3", 6005)]}]})
    with tapped(tunnels.plant.receiver, "rx0") as tap:
        unsound = send_all(tunnels.first)
        got = leaving(tunnels.second, {*range(6000, 6006)}, b"last")
        first = relayed(tap, b"last")
    assert [each for each in first if len(each) < 1400] == [each for each in SOUND if each != LONG]
    for port, source, group, ttl in (
        (6000, "198.18.8.1", "239.2.2.2", 1),
        (6001, "198.18.8.1", "198.18.8.2", 64),
        (6004, "198.18.8.1", "239.2.2.3", 1),
    ):
        assert {(each.src, each.dst, each.ttl) for each in got[port]} == {(source, group, ttl)}
    for port, group, hops in ((6002, "ff15::2", 1), (6003, "fd00:8::2", 64), (6005, "ff15::3", 1)):
        assert {(each.src, each.dst, each.hlim) for each in got[port] if IPv6 in each} == {("fd00:8::1", group, hops)}
    assert [payloads(got[port]) for port in (6000, 6001)] == [SOUND] * 2
    assert [payloads(got[port]) for port in (6004, 6005)] == [SOUND6] * 2
    assert [[each for each in payloads(got[port]) if len(each) < 1400] for port in (6002, 6003)] == [
        [each for each in SOUND if each != LONG]
    ] * 2
    ingress = mcr.check_counters(arrived=unsound + len(SOUND) + len(SOUND6))["ingress"]
    assert (ingress["matched"], ingress["no_match"]) == (len(SOUND) + len(SOUND6), 3)
    causes = {"malformed": 6, "checksum": 3, "source": 1, "loop": 1}
    assert {name: count for name, count in ingress["parse_errors"].items() if count} == causes
    assert mcr.stats()["egress"]["errors"] == 0


def six(interface: str) -> dict[str, object]:
    return {"interface": interface, "group": "ff15::1", "port": 5000}


def to(group: str, port: int) -> dict[str, object]:
    return {"group": group, "port": port, "interface": "tun1"}


def test_trains_and_super_frames_are_cut_at_a_tunnel(tunnels: Tunnels, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(tunnels.plant.relay).start()
    mcr.add("tun0:239.1.1.1:5000", "239.2.2.2:6000:tun1")
    sent = [f"{number:04}".encode() * 50 for number in range(64)]
    tunnels.first.write_super_frame(bytes(ipv4(b"".join(sent[:50]))), 200)
    tunnels.first.write(*(bytes(ipv4(each)) for each in sent[50:]))
    assert payloads(leaving(tunnels.second, {6000}, sent[-1])[6000]) == sent
    assert mcr.check_counters(arrived=64)["ingress"]["matched"] == 64


def test_headers_are_found_in_page_fragments(tunnels: Tunnels, make_mcr: MakeMcr) -> None:
    """Where there is no link layer's header before them; also by the program at the ingress."""
    mcr = make_mcr(tunnels.plant.relay).start()
    mcr.add("tun0:239.1.1.1:5000", "239.2.2.2:6000:tun1")
    mcr.call("add", {"rules": [{"input": six("tun0"), "outputs": [to("239.2.2.3", 6001)]}]})
    wait_until(lambda: "checked" not in mcr.call("list")[0]["path_reason"], "a program runs at the ingress")
    sent = [bytes([number]) * 6000 for number in range(20)]
    for each in sent:
        tunnels.first.write_scattered(bytes(ipv4(each)))
        tunnels.first.write_scattered(bytes(ipv6(each)))
    tunnels.first.write_scattered(bytes(ipv4(bytes(6000), port=5001)))
    got = leaving(tunnels.second, {6000, 6001}, sent[-1])
    assert payloads(got[6000]) == payloads(got[6001]) == sent
    ingress = mcr.check_counters(arrived=41)["ingress"]
    assert (ingress["matched"], ingress["no_match"]) == (40, 1)


def test_what_is_said_of_a_tunnel_is_true(tunnels: Tunnels, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """It needs no route to hosts, no ARP, no querier; it is joined on; and what is captured begins with IP."""
    mcr = make_mcr(tunnels.plant.relay).start()
    outputs = "239.2.2.2:6000:tun1", "203.0.113.9:6001:tun1"
    mcr.add("tun0:239.1.1.1:5000", *outputs, rule_id="tv")
    mcr.add("in0:239.1.1.1:5000", "239.2.2.3:6000:tun1", rule_id="in")
    report = next(each for each in tunnels.first.read() if each[9] == socket.IPPROTO_IGMP and each[0] >> 4 == 4)
    assert report.endswith(socket.inet_aton("239.1.1.1"))

    def said() -> bool:
        first, second = mcr.call("list")
        assert (first["state"], first["warnings"]) == ("active", [])
        return (first["path_reason"], second["path_reason"]) == (
            "it does not come in by Ethernet",
            "frames cannot leave by tun1 without IP: it is not Ethernet",
        )

    if "no eBPF" not in mcr.log():
        wait_until(said, "it is said why workers forward it")
    file = tmp_path / "tv.pcapng"
    with repeating(lambda: tunnels.first.write(bytes(ipv4(b"seen")), bytes(ipv4(b"x", port=5009)))):
        assert {each.split(":")[0] for each in troubles(mcr, "why", "tv").values()} == {"ok"}
        mcr.ctl("capture", "tv", "--count", "6", "-w", str(file))
        assert "239.1.1.1:5009:tun0" in mcr.ctl("trace", "--unmatched", "tun0", "--seconds", "1").stdout
    assert "rule_warnings" not in troubles(mcr, "doctor")
    with PcapNgReader(str(file)) as reader:
        packets = list(reader)
    assert {(each.sniffed_on, each.dst, bytes(each[UDP].payload)) for each in packets if each[IP]} == {
        ("tun0", "239.1.1.1", b"seen"),
        ("tun1", "239.2.2.2", b"seen"),
        ("tun1", "203.0.113.9", b"seen"),
    }
