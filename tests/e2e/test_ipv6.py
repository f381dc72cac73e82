"""IPv6 comes in and leaves, in either family, judged on the wire; what IP would drop is counted by its cause."""

import errno
import json
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6MLQuery2,
    ICMPv6MLReport2,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from ipv6_addresses import speak_ipv6
from lab import Namespace
from mcr_process import PATIENCE, Mcr, wait_until
from sources import repeating, sending
from test_unsound import damaged, mac_of, tapped, troubles
from topology import MakeMcr, Plant

GROUP = "ff15::1"
HEADERS = 14 + 40 + 8


def drain(tap: socket.socket) -> None:
    """Forget what has come."""
    patience = tap.gettimeout()
    tap.setblocking(False)
    with suppress(BlockingIOError):
        while tap.recv(1):
            pass
    tap.settimeout(patience)


def joined(relay: Namespace) -> list[str]:
    """Lines of the kernel's about the group."""
    group = socket.inet_pton(socket.AF_INET6, GROUP).hex()
    with relay.entered():
        return [each for each in Path("/proc/thread-self/net/igmp6").read_text().splitlines() if group in each]


def widen(relay: Namespace) -> None:
    """IPv6 begins anew then, off as namespaces of the lab have it."""
    relay.ip("link set dev in0 mtu 1500")
    relay.sysctl("net.ipv6.conf.in0.disable_ipv6", "0")


IPV6_OFF_AND_ON: tuple[tuple[Callable[[Namespace], object], Callable[[Namespace], object]], ...] = (
    (
        lambda relay: relay.sysctl("net.ipv6.conf.in0.disable_ipv6", "1"),
        lambda relay: relay.sysctl("net.ipv6.conf.in0.disable_ipv6", "0"),
    ),
    (
        lambda relay: relay.ip("link set dev in0 mtu 1200"),  # the kernel forgets its groups
        widen,
    ),
)


@pytest.fixture
def plant6(plant: Plant) -> Plant:
    """With IPv6: 2001:db8::/64 where packets come in, 2001:db8:1::/64 and 2001:db8:2::/64 behind out0 and out1."""
    speak_ipv6(plant.source, "src0", "2001:db8::1/64")
    speak_ipv6(plant.relay, "in0", "2001:db8::2/64")
    for i in range(2):
        speak_ipv6(plant.relay, f"out{i}", f"2001:db8:{i + 1}::1/64")
        speak_ipv6(plant.receiver, f"rx{i}", f"2001:db8:{i + 1}::2/64")
        plant.relay.cut_super_frames(f"out{i}")
        plant.relay.set_feature(f"out{i}", "tx-checksum-ip-generic", enable=False)  # so that each has its checksum
    return plant


def packet(
    payload: bytes,
    *extensions: Packet,
    group: str = GROUP,
    source: str = "2001:db8::1",
    hlim: int = 16,
    tc: int = 0,
) -> Packet:
    made = IPv6(src=source, dst=group, hlim=hlim, tc=tc)
    for each in extensions:
        made /= each
    return made / UDP(sport=5000, dport=5000) / Raw(payload)


def frame(payload: bytes, *extensions: Packet, mac: str = "33:33:00:00:00:01", **how: str | int) -> Packet:
    return Ether(dst=mac) / packet(payload, *extensions, **how)  # type: ignore[arg-type]


def arriving(tap: socket.socket) -> Iterator[Packet]:
    """UDP datagrams from port 6000 on, with right checksums."""
    while True:
        found = Ether(tap.recv(4096))
        if UDP in found and 6000 <= found[UDP].dport < 6100:
            network = found[IPv6] if IPv6 in found else found[IP]
            again = network.__class__(bytes(network))
            del again[UDP].chksum
            assert network.__class__(bytes(again))[UDP].chksum == found[UDP].chksum
            yield found


def relayed(tap: socket.socket, last: bytes, ports: set[int]) -> dict[int, list[Packet]]:
    """What comes to these ports, up to the last payload at each of them."""
    got: defaultdict[int, list[Packet]] = defaultdict(list)
    left = set(ports)
    for each in arriving(tap):
        got[each[UDP].dport].append(each)
        if bytes(each[UDP].payload) == last:
            left.discard(each[UDP].dport)
        if not left:
            return got
    raise AssertionError


def payloads(packets: list[Packet]) -> list[bytes]:
    read = (Ether(bytes(each)) for each in packets)
    return [bytes(each[UDP].payload)[: each[UDP].len - 8] for each in read]


SOUND = [
    frame(b"plain"),
    frame(b""),
    frame(b"odd"),
    frame(bytes(range(256)) * 5),
    frame(b"behind options", IPv6ExtHdrHopByHop(options=[RouterAlert()]), IPv6ExtHdrDestOpt()),
    frame(b"atomic", IPv6ExtHdrFragment()),
    Ether(dst="33:33:00:00:00:01") / Dot1Q(prio=3, vlan=0) / packet(b"with a priority"),
    frame(b"marked", tc=0xB9, hlim=7),
    frame(b"last"),
]


def test_ipv6_is_relayed_and_the_payload_crosses_families(plant6: Plant, make_mcr: MakeMcr) -> None:
    """Groups and hosts; with hop limit, traffic class, source and port as outputs ask."""
    speak_ipv6(plant6.relay, "out0", "2001:db8:1::9/64")
    own = {"2001:db8:1::1", "2001:db8:1::9"}
    mcr = make_mcr(plant6.relay).start(2)
    outputs = (
        "[ff15::2]:6000:out0",
        "[2001:db8:1::2]:6001:out0",
        "239.2.2.2:6002:out0",
        "[ff15::2]:6003:out0:ttl=8:dscp=46:source=[2001:db8:1::9]:source-port=4000",
        "[ff15::2]:6004:out0:ttl=dec:dscp=keep",
        "198.18.1.2:6005:out0",
        "[ff02::7]:6006:out0:gso=off",
    )
    with tapped(plant6.source, "src0") as wire:
        add(mcr, ",".join(outputs))
        wait_for_report(wire, GROUP)
    mcr.add("in0:239.1.1.1:5000", "[ff15::2]:6007:out0")
    rule = mcr.call("list")[0]
    assert (rule["input"]["group"], rule["state"], rule["path"]) == (GROUP, "active", "worker")
    assert "[ff15::1]:5000:in0" in mcr.ctl("list").stdout
    with tapped(plant6.source, "src0") as wire, tapped(plant6.receiver, "rx0") as tap:
        for each in SOUND:
            wire.send(bytes(each))
        got = relayed(tap, b"last", set(range(6000, 6007)))
        ipv4 = IP(src="198.18.0.1", dst="239.1.1.1") / UDP(dport=5000) / b"4"
        wire.send(bytes(Ether(dst="01:00:5e:01:01:01") / ipv4))
        (crossed,) = relayed(tap, b"4", {6007})[6007]
    sent = payloads(SOUND)
    assert {port: payloads(each) for port, each in got.items()} == dict.fromkeys(range(6000, 6007), sent)
    assert (crossed[IPv6].dst, crossed[IPv6].hlim, crossed[IPv6].src in own) == ("ff15::2", 1, True)
    ports = (6000, 6001, 6003, 6006)
    seen = {port: {(each[IPv6].dst, each[IPv6].hlim, each[IPv6].tc) for each in got[port]} for port in ports}
    assert seen == {
        6000: {("ff15::2", 1, 0)},
        6001: {("2001:db8:1::2", 64, 0)},
        6003: {("ff15::2", 8, 46 << 2)},
        6006: {("ff02::7", 1, 0)},
    }
    assert {each[IPv6].src for each in got[6000]} < own
    assert {(each[IPv6].src, each[UDP].sport) for each in got[6003]} == {("2001:db8:1::9", 4000)}
    kept = {(each[IPv6].hlim, each[IPv6].tc) for each in got[6004]}
    assert kept == {(15, 0), (6, 0xB9)}
    assert {each[IP].ttl for each in got[6002]} == {1}
    stats = mcr.check_counters(arrived=len(SOUND) + 1)
    assert (stats["ingress"]["matched"], stats["egress"]["errors"]) == (len(SOUND) + 1, 0)


def add(mcr: Mcr, outputs: str, *more: str, name: str = "six", group: str = "[ff15::1]") -> None:
    source = ("--input-interface", "in0", "--input-group", group, "--input-port", "5000")
    mcr.ctl("add", "--name", name, *source, "--outputs", outputs, *more)


def wait_for_report(wire: socket.socket, group: str) -> Packet:
    """Read until an MLD report names the group, and return what it says; the machine's own addresses have groups, too.

    Raises:
        TimeoutError: there is none.
    """
    while True:
        try:
            seen = Ether(wire.recv(2048))
        except OSError as error:  # told once after the interface went down
            if error.errno != errno.ENETDOWN:
                raise
            continue
        records: list[Packet] = seen[ICMPv6MLReport2].records if ICMPv6MLReport2 in seen else []
        for record in records:
            if record.dst == group:
                return record


def test_what_ip_would_drop_of_ipv6_is_counted_by_its_cause(plant6: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant6.relay).start()
    add(mcr, "[ff15::2]:6000:out0")
    add(mcr, "[ff15::2]:6001:out0", "--input-vlan", "7", name="tagged")
    unchecked = frame(b"no checksum")
    unchecked[UDP].chksum = 0
    sources = ("::1", "::", "ff15::9", "::ffff:198.18.0.1")
    own = ("2001:db8::2", "2001:db8:1::1")
    unsound = {
        "checksum": [bytes(unchecked), damaged(frame(b"payload"), HEADERS + 3), damaged(frame(b"source"), 14 + 15)],
        "source": [bytes(frame(b"x", source=each)) for each in sources],
        "loop": [
            *(bytes(frame(b"x", source=each)) for each in own),
            bytes(Ether(dst="33:33:00:00:00:01", src=mac_of(plant6.relay, "out0")) / packet(b"own MAC")),
        ],
        "other_host": [bytes(frame(b"x", mac="02:99:99:99:99:99"))],
        "fragment": [
            bytes(frame(b"not of eights", IPv6ExtHdrFragment(m=1))),
            bytes(Ether(dst="33:33:00:00:00:01") / IPv6(dst=GROUP) / IPv6ExtHdrFragment(nh=17, offset=9)),
        ],
        "malformed": [
            bytes(frame(b"cut"))[:-1],
            bytes(frame(b"routed", IPv6ExtHdrRouting(addresses=["2001:db8::7"]))),
            bytes(frame(b"for each hop, too late", IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop())),
            bytes(frame(b"too many", *[IPv6ExtHdrDestOpt()] * 5)),
            bytes(frame(b"an option to know", IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x7E, optdata=b"1234")]))),
            bytes(frame(b"padding that says something", IPv6ExtHdrDestOpt(options=[PadN(optdata=b"1234")]))),
            bytes(
                Ether(dst="33:33:00:00:00:01")
                / IPv6(src="2001:db8::1", dst=GROUP, nh=socket.IPPROTO_AH)
                / Raw(b"\x11\4\0\0" + bytes(20))
                / UDP(dport=5000)
            ),
            bytes(
                Ether(dst="33:33:00:00:00:01") / IPv6(dst=GROUP) / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt(nh=17)
            ),
            bytes(Ether(dst="33:33:00:00:00:01") / IPv6(dst=GROUP) / UDP(dport=5000, len=900) / b"x"),
        ],
    }
    others = [
        bytes(frame(b"other scope", group="ff12::1")),
        bytes(frame(b"other group", group="ff15::2")),
        bytes(frame(b"behind options", IPv6ExtHdrDestOpt(), group="ff15::2")),
        bytes(frame(b"a part of", IPv6ExtHdrFragment(m=1), group="ff15::2")),
        bytes(Ether(dst="33:33:00:00:00:01") / Dot1Q(vlan=7) / packet(b"of another group there", group="ff15::2")),
    ]
    nobodys = [
        bytes(Ether(dst="33:33:00:00:00:01") / Dot1Q(vlan=8) / packet(b"of another VLAN")),
        bytes(
            Ether(dst="33:33:00:00:00:16")
            / IPv6(dst="ff02::16", hlim=1)
            / IPv6ExtHdrHopByHop(options=[RouterAlert()])
            / ICMPv6MLReport2()
        ),
    ]
    arrived = [*(each for several in unsound.values() for each in several), *others]
    with tapped(plant6.source, "src0") as wire, tapped(plant6.receiver, "rx0") as tap:
        for each in (*arrived, *nobodys):
            wire.send(each)
        wire.send(bytes(Ether(dst="33:33:00:00:00:01") / Dot1Q(vlan=7) / packet(b"tagged")))
        wire.send(bytes(frame(b"last")))
        got = relayed(tap, b"last", {6000})
        if 6001 not in got:
            got |= relayed(tap, b"tagged", {6001})
    assert {port: payloads(each) for port, each in got.items()} == {6000: [b"last"], 6001: [b"tagged"]}
    ingress = mcr.check_counters(arrived=len(arrived) + 2)["ingress"]
    assert {cause: count for cause, count in ingress["parse_errors"].items() if count} == {
        cause: len(frames) for cause, frames in unsound.items()
    }
    assert (ingress["no_match"], ingress["matched"]) == (len(others), 2)
    assert mcr.says("from 2001:db8::2, which is this machine, comes back to in0: a loop")


def test_large_and_small_datagrams_and_batches(plant6: Plant, make_mcr: MakeMcr) -> None:
    """What is longer than an output's MTU leaves in fragments, as the kernel cuts it."""
    plant6.relay.ip("link set dev out0 mtu 1400", "link set dev out1 mtu 1500")
    mcr = make_mcr(plant6.relay).start()
    add(mcr, "[ff15::2]:6000:out0,[ff15::2]:6000:out1")
    sent = [f"{i:4}".encode() * (1 + i % 363) for i in range(600)]
    with plant6.receiver.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        receiver.bind(("::", 6000))
        for name in ("rx0", "rx1"):
            member = socket.inet_pton(socket.AF_INET6, "ff15::2") + socket.if_nametoindex(name).to_bytes(4, "little")
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        receiver.settimeout(PATIENCE)
        with plant6.source.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("src0"))
            for each in sent:
                sender.sendto(each, (GROUP, 5000))
        got = [receiver.recvfrom(2048) for _ in range(2 * len(sent))]
    by_way = defaultdict(list)
    for payload, address in got:
        by_way[address[0]].append(payload)
    assert {way: by_way[way] for way in sorted(by_way)} == {"2001:db8:1::1": sent, "2001:db8:2::1": sent}
    mcr.check_counters(arrived=len(sent))


def test_rules_outlive_a_restart_and_joins_a_flap(plant6: Plant, make_mcr: MakeMcr) -> None:
    """And are removed by the id that their input gives."""
    speak_ipv6(plant6.receiver, "rx0", "fe80::1/64")
    mcr = make_mcr(plant6.relay).start()
    add(mcr, "[ff15::2]:6000:out0,[fe80::1]:6001:out0:source=[2001:db8:1::1]", group="FF15:0::1")
    before = mcr.rules()
    mcr.stop()
    mcr.start()
    assert mcr.rules() == before
    printed = json.loads(mcr.ctl("list", "--json").stdout)
    assert printed[0]["outputs"][1]["source"] == "2001:db8:1::1"
    with tapped(plant6.source, "src0") as wire:
        plant6.source.ip("link set dev src0 down")
        wait_until(lambda: mcr.rules()[0]["state"] == "waiting", "the carrier is gone")
        plant6.source.ip("link set dev src0 up")
        wait_for_report(wire, GROUP)
        wait_until(lambda: mcr.rules()[0]["state"] != "waiting", "it is back")
        for off, on in IPV6_OFF_AND_ON:
            off(plant6.relay)
            wait_until(lambda: mcr.rules()[0]["state"] == "degraded", "there is no IPv6")
            drain(wire)
            on(plant6.relay)
            wait_for_report(wire, GROUP)
            assert len(joined(plant6.relay)) == 1
        mcr.stop()
        off, on = IPV6_OFF_AND_ON[0]
        plant6.relay.sysctl("net.ipv6.conf.in0.mldv2_unsolicited_report_interval", "1")  # nothing is said again later
        off(plant6.relay)
        mcr.start()
        wait_until(lambda: mcr.rules()[0]["state"] == "degraded", "there is no IPv6")
        drain(wire)
        on(plant6.relay)
        wait_for_report(wire, GROUP)
    mcr.ctl("remove", "--rule-id", before[0]["rule_id"])
    assert mcr.rules() == []


def found(mcr: Mcr, check: str) -> str:
    return troubles(mcr, "why", "six")[check]


def test_why_speaks_of_ipv6(plant6: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant6.relay).start()
    add(mcr, "[ff15::2]:6000:out0,[2001:db8:1::77]:6001:out0,[2001:db8:9::1]:6002:out0")
    assert found(mcr, "flow_arrives").startswith("fault: nothing of ff15::1 arrives on in0")
    with sending(plant6.source, "src0", frame(b"x")):
        said = troubles(mcr, "why", "six")
        unanswered = "fault: the host 2001:db8:1::77 does not answer neighbour discovery on out0"
        assert said["neighbour"].startswith(unanswered)
        assert said["route"].startswith("fault: no route to 2001:db8:9::1 leads through out0")
    with sending(plant6.source, "src0", frame(b"x", group="ff15::9")):
        assert "ff15::9" in found(mcr, "group")
    other = frame(bytes(188))
    other[UDP].dport = 5001
    with sending(plant6.source, "src0", other):
        assert "but this does: [ff15::1]:5001 on in0" in found(mcr, "port")
        assert "[ff15::1]:5001:in0" in mcr.ctl("trace", "--unmatched", "in0").stdout
    with sending(plant6.source, "src0", frame(b"x" * 20, IPv6ExtHdrFragment(m=1))):
        cut = troubles(mcr, "why", "six")["fragments"]
        assert "in fragments" in cut
        assert "with 1500, 1,452 bytes of payload at most" in cut
    query = Ether(dst="33:33:00:00:00:01") / IPv6(src="fe80::7", dst="ff02::1", hlim=1)
    query /= IPv6ExtHdrHopByHop(options=[RouterAlert()]) / ICMPv6MLQuery2(mrd=1000)
    with sending(plant6.source, "src0", query, frame(b"x")):
        findings = json.loads(mcr.ctl("why", "six", "--json", check=False).stdout)
        assert "an MLD querier is on in0" in {each["what"] for each in findings}
    plant6.relay.sysctl("net.ipv6.conf.in0.disable_ipv6", "1")
    assert "no link-local address" in found(mcr, "input_address")


def test_capture_shows_ipv6(plant6: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant6.relay).start()
    add(mcr, "[ff15::2]:6000:out0")
    with tapped(plant6.source, "src0") as wire, repeating(lambda: wire.send(bytes(frame(b"shown")))):
        shown = mcr.ctl("capture", "six", "--count", "4").stdout
    assert "[2001:db8::1]:5000" in shown
    assert "[ff15::2]:6000" in shown
