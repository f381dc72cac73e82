"""Rules that take several groups and ports: where each goes, who goes before a range, and what is joined."""

import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import product
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from ipv6_addresses import speak_ipv6
from lab import Namespace
from mcr_process import PATIENCE, Mcr, wait_until
from successors import take_over
from topology import MakeMcr, Plant, needs_root

pytestmark = needs_root

Sent = tuple[str, int, str]
"""Group and port that a datagram goes to, and what is in it."""

PORTS = range(5000, 5003)
TIMES = 5  # of a flow one after the other, for trains
ETH_P_ALL = 3
UDP_OF = {4: (9, 16, 4), 6: (6, 24, 16)}  # where a header has the protocol and the destination, and its bytes


def groups_of(first: str, count: int = 16) -> list[str]:
    return [str(ip_address(first) + number) for number in range(count)]


class Wires:
    """What leaves the relay, by its output interface."""

    def __init__(self, receiver: Namespace) -> None:
        self._sockets: dict[str, socket.socket] = {}
        with receiver.entered():
            for number in range(3):
                opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
                opened.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
                opened.bind((f"rx{number}", ETH_P_ALL))
                opened.settimeout(PATIENCE)
                self._sockets[f"out{number}"] = opened

    def close(self) -> None:
        for opened in self._sockets.values():
            opened.close()

    def received(self, interface: str, count: int) -> Counter[Sent]:
        """So many of the test's datagrams."""
        found: Counter[Sent] = Counter()
        while found.total() < count:
            found.update(datagrams(self._sockets[interface].recv(70_000)))
        return found


def datagrams(packet: bytes) -> Iterator[Sent]:
    """Those of a packet, if they are the test's: a super-frame is several."""
    version = packet[0] >> 4
    if version not in UDP_OF:
        return
    protocol, at, size = UDP_OF[version]
    udp = 4 * (packet[0] & 15) if version == 4 else 40
    payload = packet[udp + 8 : udp + int.from_bytes(packet[udp + 4 : udp + 6])]
    if packet[protocol] == socket.IPPROTO_UDP:
        destination = str(ip_address(packet[at : at + size])), int.from_bytes(packet[udp + 2 : udp + 4])
        for text in re.findall(rb"to \S+ \d{4}", payload):
            yield *destination, text.decode()


@pytest.fixture
def wires(plant: Plant) -> Iterator[Wires]:
    made = Wires(plant.receiver)
    yield made
    made.close()


class Sender:
    """Sends to each of some groups and ports, what says where it went."""

    def __init__(self, source: Namespace) -> None:
        with source.entered():
            index = socket.if_nametoindex("src0")
            self._sockets = {4: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)}
            self._sockets[6] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            self._sockets[4].setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + index.to_bytes(4, "little")
            )
            self._sockets[6].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)

    def close(self) -> None:
        for opened in self._sockets.values():
            opened.close()

    def send(self, groups: Iterable[str], ports: Iterable[int]) -> None:
        for group, port in product(groups, ports):
            self._sockets[ip_address(group).version].sendto(f"to {group} {port}".encode(), (group, port))


@contextmanager
def sender(source: Namespace) -> Iterator[Sender]:
    made = Sender(source)
    yield made
    made.close()


def add(mcr: Mcr, name: str, group: str, port: str, outputs: str) -> str:
    """As an operator does; what mcrctl says of it if it can't be."""
    options = ["--input-interface", "in0", "--input-group", group, "--input-port", port]
    return mcr.ctl("add", *options, "--outputs", outputs, "--name", name, check=False).stderr


def matched(mcr: Mcr) -> dict[str, int]:
    return {each["name"]: each["matched"] for each in mcr.stats()["rules"]}


def joined(relay: Namespace, first: str) -> set[str]:
    """Groups of the test that are joined in the relay."""
    lines = relay.run(["ip", "maddress", "show", "dev", "in0"]).stdout.splitlines()
    return {words[1] for words in map(str.split, lines) if words[0] in ("inet", "inet6")} & {*groups_of(first, 32)}


class Range:
    """A rule for 16 groups of 3 ports, and what becomes of what is sent to them.

    To `out0` each goes by its group and port, to `out1` all to one, to `out2` by its group.
    """

    def __init__(self, plant: Plant, mcr: Mcr, wires: Wires, *, ipv6: bool = False) -> None:
        self.mcr, self.wires, self._source = mcr, wires, plant.source
        self.first, self.there, self.one, self.other = (
            ("ff15::100", "ff15::200", "ff15::1:1", "ff15::2:2")
            if ipv6
            else ("239.1.0.0", "239.2.0.0", "239.3.3.3", "239.4.4.4")
        )
        self.length, self.shown = (124, "[{}]") if ipv6 else (28, "{}")
        self.named = str(ip_address(self.first) + 5)
        groups, one = self.shown.format(f"{self.there}/{self.length}"), self.shown.format(self.one)
        self._outputs = f"{groups}:6000-6002:out0,{one}:7000:out1,{groups}:8000:out2"

    def add(self) -> None:
        assert "Error" not in add(self.mcr, "range", f"{self.first}/{self.length}", "5000-5002", self._outputs)

    def add_named(self) -> None:
        """A rule for one of the flows."""
        assert "Error" not in add(self.mcr, "named", self.named, "5002", f"{self.shown.format(self.other)}:9000:out1")

    def send(self, groups: Iterable[str] = (), ports: Iterable[int] = PORTS) -> None:
        with sender(self._source) as opened:
            opened.send(groups or groups_of(self.first), ports)

    def check(self, *, has_all: bool = True) -> None:
        """Send to all of it, and see what leaves."""
        with sender(self._source) as opened:
            for group in groups_of(self.first):
                for port in PORTS:
                    opened.send([group] * TIMES, [port])
        flows = [(n, p) for n, p in product(range(16), range(3)) if has_all or (n, p) != (5, 2)]
        texts = {(n, p): f"to {ip_address(self.first) + n} {5000 + p}" for n, p in flows}
        begin = ip_address(self.there)
        by_both = [(str(begin + n), 6000 + p, text) for (n, p), text in texts.items()]
        one = [(self.one, 7000, text) for text in texts.values()]
        one += [] if has_all else [(self.other, 9000, f"to {self.named} 5002")]
        by_group = [(str(begin + n), 8000, text) for (n, _), text in texts.items()]
        for number, expected in enumerate((by_both, one, by_group)):
            assert self.wires.received(f"out{number}", TIMES * len(expected)) == Counter(expected * TIMES)


def check_ports_of_an_address(mcr: Mcr, wires: Wires, source: Namespace, settle: Callable[[], None]) -> int:
    """A range of which other rules take all, and then nothing; how many it matches."""
    address, ports = "198.18.0.2", (7000, 7001)
    for port in ports:
        assert not add(mcr, f"{port}", address, f"{port}", f"239.5.5.5:{port}:out1")
    assert not add(mcr, "ports", address, "7000-7001", "198.18.1.2:8000-8001:out0")
    settle()
    with sender(source) as opened:
        opened.send([address], ports)
        assert wires.received("out1", 2) == Counter(("239.5.5.5", each, f"to {address} {each}") for each in ports)
        for port in ports:
            mcr.call("remove", {"name": f"{port}"})
        settle()
        opened.send([address], ports)
    assert wires.received("out0", 2) == Counter(("198.18.1.2", 1000 + each, f"to {address} {each}") for each in ports)
    wait_until(lambda: matched(mcr)["ports"] == 2, "the range takes what no rule names")
    return 4


@pytest.mark.parametrize("path", ["kernel", "ipv6"])
def test_each_flow_of_a_range_goes_to_its_place_unless_a_rule_names_it(
    plant: Plant, make_mcr: MakeMcr, wires: Wires, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same offset, or all to one, with one set of counters; and again when the other rule has gone."""
    expected = "kernel"
    if path == "ipv6":
        for interface, number in (("in0", 0), *((f"out{number}", number + 1) for number in range(3))):
            speak_ipv6(plant.relay, interface, f"fd00:{number}::1/64")
        speak_ipv6(plant.source, "src0", "fd00::2/64")
    mcr = make_mcr(plant.relay).start(2)
    ranged = Range(plant, mcr, wires, ipv6=path == "ipv6")

    def settle() -> None:
        for number in range(len(mcr.call("list"))):
            mcr.wait_for_path(expected, number)

    ranged.add()
    settle()
    assert joined(plant.relay, ranged.first) == {*groups_of(ranged.first)}
    ranged.check()
    ranged.send([str(ip_address(ranged.first) + 16)])
    ranged.send([ranged.first], [4999, 5003])
    wait_until(lambda: matched(mcr) == {"range": 48 * TIMES}, "all is matched")

    ranged.add_named()
    inside = f"{ip_address(ranged.first) + 4}/{ranged.length + 2}"
    twice = add(mcr, "twice", inside, "5002", f"{ranged.shown.format(ranged.other)}:9000:out2")
    assert f"takes {ranged.shown.format(ip_address(ranged.first) + 4)}:5002 on in0" in twice
    settle()
    ranged.check(has_all=False)
    if path == "ipv6":  # workers take the rest
        expected = "worker"
        monkeypatch.setenv("MCR_KERNEL_PATH", "off")
    take_over(mcr)
    mcr.wait_until_it_answers(10.0)
    settle()
    ranged.check(has_all=False)
    wait_until(lambda: matched(mcr) == {"range": 142 * TIMES, "named": 2 * TIMES}, "the rule for one flow goes before")

    mcr.call("remove", {"name": "named"})
    settle()
    ranged.check()
    ranged.add_named()
    mcr.call("remove", {"name": "range"})
    settle()
    assert joined(plant.relay, ranged.first) == {ranged.named}
    ranged.send()
    assert wires.received("out1", 1) == Counter({(ranged.other, 9000, f"to {ranged.named} 5002"): 1})
    matched_more = check_ports_of_an_address(mcr, wires, plant.source, settle) if path != "ipv6" else 0
    stats = mcr.check_counters()
    assert stats["ingress"]["matched"] == 4 * 48 * TIMES + 1 + matched_more
    assert stats["kernel_path"]["matched"] > 0


RULES = """
[[rule]]
name = "tagged"
input = { interface = "in0", group = "239.1.0.0/30", port = "5000-5002", vlan = 7 }
outputs = ["239.2.0.0/30:6000-6002:out0"]

[[rule]]
name = "sourced"
input = { interface = "in0", group = "232.1.0.0/30", port = "5000-5002", sources = ["198.18.0.1"] }
outputs = ["239.3.0.0/30:7000-7002:out1"]

[[rule]]
name = "any"
input = { interface = "in0", group = "232.1.0.0/30", port = "5000-5002" }
outputs = ["239.5.0.0/30:8000-8002:out2"]

[[rule]]
name = "named"
input = { interface = "in0", group = "232.1.0.1", port = 5001 }
outputs = ["239.4.4.4:9000:out2"]
"""
FIRST, SECOND = "198.18.0.1", "198.18.0.3"
WithTag = tuple[str, int, str, int]
"""Group, port, who sends, and in which VLAN; 0: in none."""


def text_of(group: str, port: int, sender: str, vlan: int) -> str:
    return f"to {group}-{sender}-{vlan} {port}"


def frame_of(group: str, port: int, sender: str, vlan: int) -> bytes:
    whole = Ether(dst="01:00:5e:01:00:01") / Dot1Q(vlan=vlan) if vlan else Ether(dst="01:00:5e:01:00:01")
    data = IP(src=sender, dst=group, ttl=16) / UDP(sport=1, dport=port)
    return bytes(whole / data / Raw(text_of(group, port, sender, vlan).encode()))


@pytest.mark.parametrize("path", ["kernel", "classic"])
def test_ranges_of_a_file_name_vlans_and_sources(
    plant: Plant, make_mcr: MakeMcr, wires: Wires, tmp_path: Path, path: str
) -> None:
    """A range of a VLAN takes nothing without its tag; one with sources goes before one without, one flow before both.

    A classic filter, where eBPF is forbidden, lets more in, and leaves to the workers what is whose.
    """
    rules = tmp_path / "ranges.toml"
    rules.write_text(RULES)
    without_ebpf = ["setpriv", "--bounding-set=-bpf,-sys_admin"]
    switch = ["env", f"MCR_KERNEL_PATH={'auto' if path == 'kernel' else 'off'}"]
    mcr = make_mcr(plant.relay, prefix=without_ebpf if path == "classic" else switch).start(2, "--config", str(rules))
    for number in range(4):
        mcr.wait_for_path("kernel" if path == "kernel" else "worker", number)
    assert joined(plant.relay, "239.1.0.0") == {*groups_of("239.1.0.0", 4)}
    assert joined(plant.relay, "232.1.0.0") == {*groups_of("232.1.0.0", 4)}

    groups = groups_of("239.1.0.0", 4), groups_of("232.1.0.0", 4)
    flows = [*product((*groups[0], *groups[1]), PORTS, (FIRST, SECOND), (0, 7))]
    with plant.source.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind(("src0", 0))
        for each in flows:
            wire.send(frame_of(*each))

    def goes_to(flow: WithTag) -> tuple[str, str, str, int]:
        """The rule's name, the output interface, the group and the port."""
        group, port, sender, vlan = flow
        last, at = group.rpartition(".")[2], port - PORTS[0]
        match group in groups[0], vlan, sender:
            case True, 7, _:
                return "tagged", "out0", f"239.2.0.{last}", 6000 + at
            case False, 0, _ if (last, port) == ("1", 5001):
                return "named", "out2", "239.4.4.4", 9000
            case False, 0, "198.18.0.1":
                return "sourced", "out1", f"239.3.0.{last}", 7000 + at
            case False, 0, _:
                return "any", "out2", f"239.5.0.{last}", 8000 + at
        return "", "", "", 0

    places = {each: goes_to(each) for each in flows}
    counts = Counter(name for name, *_ in places.values())
    assert counts == {"tagged": 24, "sourced": 11, "any": 11, "named": 2, "": 48}
    for interface in ("out0", "out1", "out2"):
        expected = [(to, port, text_of(*each)) for each, (_, out, to, port) in places.items() if out == interface]
        assert wires.received(interface, len(expected)) == Counter(expected)
    del counts[""]
    wait_until(lambda: matched(mcr) == counts, "each rule has matched its own")
    stats = mcr.check_counters()
    assert stats["ingress"]["matched"] == 48
    assert (stats["kernel_path"]["matched"] > 0) == (path == "kernel")
