"""Hosts and gateways on the kernel path: it finds their MACs, follows them, and notices who has gone."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mcr_process import PATIENCE, Mcr, Receiver, Sender, wait_until
from raw_frames import frames, is_datagram, is_sound, wait_for_raw, without_checksum_offload
from test_kernel_path import WITHOUT, shares, start
from test_unsound import mac_of, tapped
from topology import MakeMcr, Plant

SO_RCVBUFFORCE = 33
HOST, FAR, GROUP = "198.18.1.2:6000:out0", "203.0.113.9:6001:out0:ttl=9:dscp=10", "239.3.3.3:6002:out0"
GATEWAY = "route add 203.0.113.0/24 via 198.18.1.2 dev out0", "route add 239.3.3.3/32 via 198.18.1.2 dev out0"
HOST_FLOW = "198.18.1.2:6000=239.1.1.1:5000"


def normal(frame: bytes) -> bytes:
    """Without what the two paths differ in: port sent from and identification, a checksum left out, and its sums."""
    assert is_sound(frame, sum_may_lack=True)
    no = bytes(2)
    end = 14 + int.from_bytes(frame[16:18])
    return frame[:18] + no + frame[20:24] + no + frame[26:34] + no + frame[36:40] + no + frame[42:end]


def relayed(plant: Plant, count: int, outputs: int) -> list[bytes]:
    """What arrives of so many datagrams, as it is on the wire."""
    taken: list[bytes] = []
    with tapped(plant.source, "src0") as out, tapped(plant.receiver, "rx0") as came:
        came.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        for number in range(count):
            headers = IP(src="198.18.0.1", dst="239.1.1.1", ttl=16) / UDP(sport=5000, dport=5000)
            out.send(bytes(Ether(dst="01:00:5e:01:01:01") / headers / Raw(bytes([number]) * (number + 1))))
        while len(taken) < count * outputs:
            frame = came.recv(2048)
            taken += [frame] if is_datagram(frame) else []
    return taken


def test_hosts_and_gateways_get_the_same_frames_by_either_path(plant: Plant, make_mcr: MakeMcr) -> None:
    """Also a group behind a gateway, and before anything else was sent there."""
    without_checksum_offload(plant.relay, "out0")
    plant.relay.ip(*GATEWAY)
    outputs = HOST, FAR, GROUP, "239.2.2.2:6003:out0"
    made, counted = [], []
    for kernel in (True, False):
        mcr = start(plant, make_mcr, *outputs) if kernel else make_mcr(plant.relay, "worker", prefix=WITHOUT).start()
        if not kernel:
            mcr.add("in0:239.1.1.1:5000", *outputs)
            wait_for_raw(mcr)
        made.append(sorted(map(normal, relayed(plant, 200, outputs=4))))
        stats = mcr.check_counters(arrived=200)
        counted.append([{**each, "pps": 0, "bps": 0} for each in stats["rules"][0]["outputs"]])
        assert (shares(mcr)[0] > 100) == kernel
        mcr.stop()
    assert made[0] == made[1]
    assert counted[0] == counted[1]
    ntoa = socket.inet_ntoa
    seen = {(ntoa(each[30:34]), each[:6].hex(":"), ntoa(each[26:30]), each[22], each[15]) for each in made[0]}
    mac = mac_of(plant.receiver, "rx0")
    assert seen == {
        ("198.18.1.2", mac, "198.18.1.1", 64, 0),
        ("203.0.113.9", mac, "198.18.1.1", 9, 40),
        ("239.3.3.3", mac, "198.18.1.1", 1, 0),
        ("239.2.2.2", "01:00:5e:02:02:02", "198.18.1.1", 1, 0),
    }


@contextmanager
def deaf(plant: Plant) -> Iterator[None]:
    """The receiver does not answer ARP."""
    plant.receiver.ip("link set dev rx0 arp off")
    yield
    plant.receiver.ip("link set dev rx0 arp on")


def pass_on(plant: Plant, *flows: str) -> None:
    receiver = Receiver(plant.receiver, *flows, count=500)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=500, rate=10_000).finish()
    receiver.expect_everything()


def why(mcr: Mcr) -> str:
    return str(mcr.call("list")[0]["path_reason"])


def test_a_mac_is_followed_and_a_host_that_has_gone_is_noticed(plant: Plant, make_mcr: MakeMcr) -> None:
    """Nobody but the kernel path sends there, so the kernel has to be told to ask."""
    for name, value in ("base_reachable_time_ms", "500"), ("delay_first_probe_time", "1"), ("retrans_time_ms", "100"):
        plant.relay.sysctl(f"net.ipv4.neigh.out0.{name}", value)
    mcr = start(plant, make_mcr, HOST, "239.2.2.3:6001:out1")
    group = "239.2.2.3:6001@rx1=239.1.1.1:5000"
    pass_on(plant, HOST_FLOW, group)
    plant.receiver.sysctl("net.ipv4.conf.rx0.arp_notify", "1")
    plant.receiver.ip("link set dev rx0 address 02:00:00:00:00:99")
    with tapped(plant.source, "src0") as sender, tapped(plant.receiver, "rx0") as tap:
        tap.settimeout(PATIENCE)
        frame = Ether(dst="01:00:5e:01:01:01") / IP(src="198.18.0.1", dst="239.1.1.1") / UDP(sport=1, dport=5000)
        reached = ""
        while reached != "02:00:00:00:00:99":
            sender.send(bytes(frame / Raw(b"?")))
            while UDP not in (came := Ether(tap.recv(2048))):
                pass
            reached = came.dst
    before = shares(mcr)
    pass_on(plant, HOST_FLOW, group)
    assert shares(mcr) == (before[0] + 500, before[1])
    with deaf(plant):
        wait_until(lambda: why(mcr) == "198.18.1.2 does not answer ARP on out0", "its neighbour has gone")
        pass_on(plant, group)
    wait_until(lambda: pass_one(plant) and not why(mcr), "it is back")
    before = shares(mcr)
    pass_on(plant, HOST_FLOW, group)
    assert shares(mcr) == (before[0] + 500, before[1])


def pass_one(plant: Plant) -> bool:
    """What is sent there has the kernel ask again."""
    Sender(plant.source, "src0", "239.1.1.1:5000", count=1, rate=100).finish()
    return True


def test_a_way_that_carries_less_is_noticed(plant: Plant, make_mcr: MakeMcr) -> None:
    """A router behind the gateway says so (RFC 1191): IP cuts what is longer, and the kernel path would go on."""
    plant.relay.ip(*GATEWAY)
    mcr = start(plant, make_mcr, FAR)
    (whole,) = map(Ether, frames(plant, mcr, 1, 1316, 100))
    assert shares(mcr) == (1, 0)
    with tapped(plant.receiver, "rx0") as tap:
        said = IP(src="198.18.1.2", dst="198.18.1.1") / ICMP(type=3, code=4, nexthopmtu=1000) / bytes(whole[IP])[:28]
        tap.send(bytes(Ether(src=whole.dst, dst=whole.src) / said))
        wait_until(lambda: why(mcr).startswith("IP would do more for 203.0.113.9"), "it is a worker's")
        pass_one_long(plant)
        tap.settimeout(PATIENCE)
        while not (parts := Ether(tap.recv(2048)))[IP].flags.MF:
            pass
    assert parts[IP].dst == "203.0.113.9"


def pass_one_long(plant: Plant) -> None:
    Sender(plant.source, "src0", "239.1.1.1:5000", count=1, rate=100, size=1316).finish()
