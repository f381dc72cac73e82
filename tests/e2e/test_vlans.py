"""A rule takes the frames of its VLAN, and no others."""

import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from firewalls import ACCEPT, firewall
from lab import Namespace
from mcr_process import Mcr, Receiver, Sender, wait_until
from successors import take_over
from test_unsound import PAYLOAD_AT, relayed, tapped
from topology import MakeMcr, Plant, need_tcx

SOL_PACKET, PACKET_AUXDATA, PACKET_VNET_HDR, SO_RCVBUFFORCE = 263, 8, 15, 33
PLENTY = 1_000_000
LAST = b"the last one"
AUXDATA = struct.Struct("IIIHHHH")  # struct tpacket_auxdata: status, length, snapped, MAC, network, tag, its protocol
TP_STATUS_VLAN_VALID, ETH_P_8021Q, PACKET_OTHERHOST = 1 << 4, 0x8100, 3


def frame(payload: bytes, *tags: Packet, group: str = "239.1.1.1", flags: int = 0) -> bytes:
    """A datagram to a group, behind tags."""
    whole = Ether(dst="01:00:5e:01:01:01")
    for tag in tags:
        whole /= tag
    return bytes(whole / IP(src="198.18.0.1", dst=group, ttl=16, flags=flags) / UDP(sport=1, dport=5000) / Raw(payload))


def test_a_rule_takes_the_frames_of_its_vlan_alone(plant: Plant, make_mcr: MakeMcr) -> None:
    """What only an untagged rule wants never comes from a tag, and the other way round."""
    for interface in ("out0", "out1"):
        plant.relay.cut_super_frames(interface)
    mcr = make_mcr(plant.relay).start()
    added = ("add", "--input-interface", "in0", "--input-group", "239.1.1.1", "--input-port", "5000", "--outputs")
    mcr.ctl(*added, "239.2.2.2:6000:out0", "--name", "untagged")
    mcr.ctl(*added, "239.2.2.7:6000:out1", "--input-vlan", "7", "--name", "seven")
    with (
        tapped(plant.source, "src0") as wire,
        tapped(plant.receiver, "rx0") as untagged,
        tapped(plant.receiver, "rx1") as seven,
    ):
        for sent in (
            frame(b"in 8", Dot1Q(vlan=8)),
            frame(b"in 7", Dot1Q(vlan=7, prio=5)),
            frame(b"with a priority", Dot1Q(vlan=0, prio=3)),
            frame(b"of the provider's 7", Dot1AD(vlan=7)),
            frame(b"in 8 in 7", Dot1Q(vlan=7), Dot1Q(vlan=8)),
            frame(b"in 7 in 8", Dot1Q(vlan=8), Dot1Q(vlan=7)),
            frame(b"to no rule", Dot1Q(vlan=7), group="239.1.1.2"),
            frame(b"to no rule", Dot1Q(vlan=8), group="239.1.1.2"),
            frame(b"in two parts", Dot1Q(vlan=7), flags=1),
            frame(b"last"),
            frame(b"last", Dot1Q(vlan=7)),
        ):
            wire.send(sent)
        assert relayed(untagged, b"last") == [b"with a priority", b"last"]
        assert relayed(seven, b"last") == [b"in 7", b"last"]
    ingress = mcr.check_counters(arrived=7)["ingress"]
    assert (ingress["recv"], ingress["matched"], ingress["no_match"]) == (7, 4, 1)
    assert {name: count for name, count in ingress["parse_errors"].items() if count} == {"fragment": 1, "vlan": 1}
    first, second = mcr.call("list")
    assert ("vlan" in first["input"], second["input"]["vlan"]) == (False, 7)
    assert mcr.ctl("list").stdout.count("239.1.1.1:5000:in0 in VLAN 7") == 1

    with tapped(plant.source, "src0") as wire, tapped(plant.receiver, "rx0") as untagged:
        mcr.ctl("remove", "seven")
        wire.send(frame(b"in 7", Dot1Q(vlan=7)))
        wire.send(frame(b"the very last"))
        assert relayed(untagged, b"the very last") == [b"the very last"]
    assert mcr.check_counters(arrived=8)["ingress"]["recv"] == 8


def tagged_frames(tap: socket.socket, port: int, relay: Namespace, out: str = "out0") -> list[tuple[int | None, bytes]]:
    """All frames to a port that have come, each with its VLAN: the kernel has the tag beside it (packet(7)).

    One that the relay's machine sends comes behind all that has left by that interface.
    """
    with tapped(relay, out) as wire:
        wire.send(frame(LAST))
    found: list[tuple[int | None, bytes]] = []
    data = b""
    while not data.endswith(LAST):
        data, extra, *_ = tap.recvmsg(2048, 128)
        (auxiliary,) = (value for level, kind, value in extra if (level, kind) == (SOL_PACKET, PACKET_AUXDATA))
        status, *_, tag, protocol = AUXDATA.unpack(auxiliary)
        assert protocol == ETH_P_8021Q or not status & TP_STATUS_VLAN_VALID
        if data[12:14] == b"\x08\x00" and data[36:38] == port.to_bytes(2):
            found.append((tag & 0xFFF if status & TP_STATUS_VLAN_VALID else None, data))
    return found


@contextmanager
def auxiliary_tap(namespace: Namespace, interface: str) -> Iterator[socket.socket]:
    with tapped(namespace, interface) as tap:
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        tap.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        yield tap


def test_the_kernel_path_takes_the_tag_off_and_puts_it_on_again(plant: Plant, make_mcr: MakeMcr) -> None:
    """What leaves has no tag; whoever else gets the frame gets it as one of the VLAN."""
    mcr = make_mcr(plant.relay).start()
    added = ("add", "--input-interface", "in0", "--input-group", "239.1.1.1", "--input-port", "5000", "--outputs")
    mcr.ctl(*added, "239.2.2.2:6000:out0", "--input-vlan", "7")
    need_tcx(mcr)
    mcr.wait_for_path("kernel")

    def matched() -> int:
        return int(mcr.check_counters()["kernel_path"]["matched"])

    with tapped(plant.source, "src0") as wire:

        def moved() -> int:
            wire.send(frame(b"first", Dot1Q(vlan=7)))
            return matched()

        before = wait_until(moved, "it has moved there")
        payloads = [f"{number:4}".encode() for number in range(200)]
        with auxiliary_tap(plant.receiver, "rx0") as tap:
            for payload in payloads:
                wire.send(frame(payload, Dot1Q(vlan=7, prio=5)))
            assert matched() == before + 200
            found = tagged_frames(tap, 6000, plant.relay)
        assert [(vlan, data[PAYLOAD_AT:]) for vlan, data in found] == [(None, each) for each in payloads]
        with plant.relay.entered():
            behind = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with behind:
            behind.bind(("in0", 0x0800))  # it comes behind the program, unlike those for every protocol
            behind.setblocking(False)
            sent = frame(b"as it came", Dot1Q(vlan=7, prio=5))

            def seen() -> list[tuple[bytes, int]]:
                wire.send(sent)
                matched()
                with suppress(BlockingIOError):
                    data, address = behind.recvfrom(2048)
                    return [(data, address[2])]
                return []

            # For a VLAN that has no interface the kernel calls it another host's (vlan_do_receive).
            assert wait_until(seen, "it is looked at") == [(sent[:12] + sent[16:], PACKET_OTHERHOST)]


def sums(mcr: Mcr) -> list[tuple[int, int]]:
    return [(each["sent"], each["errors"]) for each in mcr.check_counters()["rules"][0]["outputs"]]


def disturb(plant: Plant, mcr: Mcr) -> None:
    """By a firewall that lets pass what leaves, another address, and another mcrd."""
    with firewall(plant.relay, "prerouting", ACCEPT):
        plant.relay.ip("address add 198.18.1.9/24 dev out0")
        take_over(mcr)
        plant.relay.ip("address delete 198.18.1.9/24 dev out0")


def test_outputs_send_into_their_vlans(plant: Plant, make_mcr: MakeMcr) -> None:
    """Each VLAN gets its own, and nobody without a tag; what can't be tagged does not leave, and it is said why."""
    plant.relay.cut_super_frames("out0")
    mcr = make_mcr(plant.relay, prefix=["env", "MCR_BUFFER_POOL_SMALL=16384"]).start()
    outputs = "239.2.2.2:6000:out0:vlan=7", "239.2.2.2:6000:out0:vlan=8:ttl=9:source-port=4000", "239.2.2.3:6001:out0"
    added = ("add", "--input-interface", "in0", "--input-group", "239.1.1.1", "--input-port", "5000", "--outputs")
    mcr.ctl(*added, ",".join(outputs))
    wait_until(lambda: mcr.call("list")[0]["state"] == "active", "raw frames leave")
    is_kernel = "MCR_ABSORB has no effect on in0" not in mcr.log()
    mcr.wait_for_path("kernel" if is_kernel else "worker")

    def send(count: int, size: int, meanwhile: Callable[[], None] = lambda: None) -> list[tuple[int | None, bytes]]:
        """What arrives of so many packets at the port of the VLANs; the output without a tag gets every one."""
        receiver = Receiver(plant.receiver, "239.2.2.3:6001@rx0=239.1.1.1:5000", count=count)
        with auxiliary_tap(plant.receiver, "rx0") as tap:
            sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=count, rate=5000, size=size)
            meanwhile()
            sender.finish()
            receiver.expect_everything()
            mcr.check_counters()
            return tagged_frames(tap, 6000, plant.relay)

    found = send(500, 1316)
    assert (sums(mcr), len(found)) == ([(500, 0)] * 3, 1000)
    assert mcr.stats()["kernel_path"]["matched"] == (500 if is_kernel else 0)
    own = mcr.call("list")[0]["outputs"]
    assert [each.get("vlan") for each in own] == [7, 8, None]
    for vlan, ttl, port in (7, 1, None), (8, 9, 4000):
        headers = [Ether(data) for tag, data in found if tag == vlan]
        assert len(headers) == 500
        ((group, mac, source, hops, came_from),) = {
            (each[IP].dst, each.dst, each[IP].src, each[IP].ttl, each[UDP].sport) for each in headers
        }
        assert (group, mac, source, hops) == ("239.2.2.2", "01:00:5e:02:02:02", "198.18.1.1", ttl)
        assert port in {None, came_from}

    found = send(10_000, 188, partial(disturb, plant, mcr))
    assert (sums(mcr), len(found)) == ([(10_500, 0)] * 3, 20_000)

    def fails(size: int, error: str) -> None:
        before = sums(mcr)
        assert send(100, size) == []
        assert sums(mcr) == [(sent, failed + 100) for sent, failed in before[:2]] + [(before[2][0] + 100, 0)]
        (rule,) = mcr.stats()["rules"]
        assert [each["last_error"] for each in rule["outputs"]] == [error, error, None]

    plant.relay.ip("link set dev out0 mtu 1000")
    wait_until(lambda: "MTU 1000" in mcr.log() and mcr.call("list")[0]["state"] == "active", "it has been looked at")
    fails(1316, "Message too long (os error 90)")
    with firewall(plant.relay, "postrouting", ACCEPT, rule=True):
        wait_until(lambda: "nftables" in mcr.call("list")[0]["reason"], "it is said why there is no tag")
        (rule,) = mcr.call("list")
        why = "frames with a VLAN tag cannot leave by out0: nftables has a chain passed at postrouting"
        assert (rule["state"], rule["reason"]) == ("degraded", f"2 of 3 outputs: {why}, in table ip filter")
        assert [each["state"] for each in rule["outputs"]] == ["waiting", "waiting", "active"]
        fails(188, "Operation not supported (os error 95)")


def frames_in(namespace: Namespace, interface: str) -> int:
    """That have come in by an interface."""
    (link,) = json.loads(namespace.ip(f"-json -stats link show dev {interface}"))
    return int(link["stats64"]["rx"]["packets"])


def test_what_is_tagged_leaves_as_soon_as_anything_does(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """By a file's rule when mcrd starts, by one that is added, and when an interface is up again or made anew.

    However often it was down and up before, and with another address.
    """
    rules = tmp_path / "tagged.toml"
    rules.write_text(
        '[[rule]]\nname = "from a file"\ninput = { interface = "in0", group = "239.1.1.1", port = 5000 }\n'
        'outputs = ["239.2.2.2:6000:out0:vlan=7"]\n'
    )

    def output(rule: int) -> dict[str, Any]:
        (found,) = mcr.stats()["rules"][rule]["outputs"]
        return dict(found)

    def flows(rule: int) -> None:
        sent = int(output(rule)["sent"])
        wait_until(lambda: int(output(rule)["sent"]) > sent, "frames leave")

    with auxiliary_tap(plant.receiver, "rx0") as tap, auxiliary_tap(plant.receiver, "rx1") as added:
        sender = Sender(plant.source, "src0", "239.1.1.1:5000", "239.1.1.2:5000", count=PLENTY, rate=2000)
        mcr = make_mcr(plant.relay).start(1, "--config", str(rules))
        mcr.add("in0:239.1.1.2:5000", "239.2.2.3:6000:out1:vlan=8")
        flows(0)
        flows(1)
        sender.stop()
        mcr.check_counters()
        for rule, heard, out in (0, tap, "out0"), (1, added, "out1"):
            now = output(rule)
            assert (now["errors"], len(tagged_frames(heard, 6000, plant.relay, out))) == (0, now["sent"])

    def errors() -> int:
        return int(output(0)["errors"])

    def lost(go: Callable[[], object], back: Callable[[], object]) -> int:
        """Of a thousand a second, after `back`."""
        before = errors()
        go()

        def is_said() -> bool:
            now = output(0)
            assert now["last_error"] != "Operation not supported (os error 95)"
            return int(now["errors"]) > before and now["last_error"] == "Network is down (os error 100)"

        wait_until(is_said, "it is said why")
        back()
        before = errors()
        flows(0)
        return errors() - before

    def connect() -> None:
        ends = plant.relay, "out0", plant.receiver, "rx0"
        plant.lab.link(*ends, a_address="198.18.1.1/24", b_address="198.18.1.2/24")

    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=PLENTY, rate=1000)
    flows(0)
    down, up = "link set dev out0 down", "link set dev out0 up"
    address = "address add 198.18.1.9/24 dev out0", "address delete 198.18.1.9/24 dev out0"
    flaps = *(down, up) * 5, *(down, address[0], up, down, address[1], up) * 2, down
    again: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (partial(plant.relay.ip, down), partial(plant.relay.ip, up)),
        (partial(plant.relay.ip, *flaps), partial(plant.relay.ip, up)),
        (partial(plant.relay.ip, "link delete out0"), connect),
    ]
    for go, back in again:
        assert median(lost(go, back) for _ in range(3)) < 200
    sender.stop()
    assert output(0)["last_error"] != "Operation not supported (os error 95)"
