"""What IP would drop is not relayed with a fresh checksum, and what this machine sent is not relayed again."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from lab import Lab, Namespace
from mcr_process import PATIENCE, STATUS, Mcr, wait_until
from sources import sending
from topology import MakeMcr, Plant

ETH_P_ALL = 0x0003
OTHER = "02:99:99:99:99:99"
PORT_AT = 14 + 20 + 2  # of the destination port, in an Ethernet frame without tags or options
PAYLOAD_AT = 14 + 20 + 8


def datagram(
    payload: bytes, *, source: str = "198.18.0.1", mac: str = "01:00:5e:01:01:01", sender: str | None = None
) -> Packet:
    link = Ether(dst=mac, src=sender) if sender else Ether(dst=mac)
    return link / IP(src=source, dst="239.1.1.1", ttl=16) / UDP(sport=5000, dport=5000) / Raw(payload)


def damaged(frame: Packet, at: int) -> bytes:
    """The same, but for one byte."""
    whole = bytearray(bytes(frame))
    whole[at] ^= 0x55
    return bytes(whole)


def mac_of(namespace: Namespace, interface: str) -> str:
    (link,) = json.loads(namespace.ip(f"-json link show dev {interface}"))
    return str(link["address"])


@contextmanager
def tapped(namespace: Namespace, interface: str) -> Iterator[socket.socket]:
    """A socket that sends and receives whole frames."""
    with namespace.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with tap:
        tap.bind((interface, ETH_P_ALL))
        tap.settimeout(PATIENCE)
        yield tap


def relayed(tap: socket.socket, last: bytes) -> list[bytes]:
    """Payloads that come to port 6000, up to the last."""
    got: list[bytes] = []
    while last not in got:
        frame = tap.recv(2048)
        if frame[12:14] == b"\x08\x00" and frame[PORT_AT : PORT_AT + 2] == (6000).to_bytes(2):
            got.append(frame[PAYLOAD_AT:])
    return got


def test_an_address_that_is_given_later_is_this_relays_too(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    plant.relay.ip("address add 198.18.9.9/24 dev out0")
    frame = bytes(datagram(b"x", source="198.18.9.9"))

    def loops() -> int:
        wire.send(frame)
        return int(mcr.stats()["ingress"]["parse_errors"]["loop"])

    with tapped(plant.source, "src0") as wire:
        wait_until(loops, "it is known")


def troubles(mcr: Mcr, *command: str) -> dict[str, str]:
    """Each finding that is not well, with its remedy, by its check."""
    done = mcr.ctl(*command, "--json", check=False)
    findings = json.loads(done.stdout)
    assert done.returncode == max(STATUS[each["verdict"]] for each in findings)
    return {each["check"]: f"{each['verdict']}: {each['what']}; {each['remedy']}" for each in findings}


def test_a_loop_ends_and_is_named(lab: Lab, make_mcr: MakeMcr) -> None:
    """source ── p0 br0 p1 ── in0 relay out0 ── p2 br0: what leaves by out0 comes back to in0."""
    source, switch, relay = (lab.namespace(name) for name in ("source", "switch", "relay"))
    lab.link(source, "src0", switch, "p0", a_address="198.18.0.1/24")
    lab.link(switch, "p1", relay, "in0", b_address="198.18.0.2/24")
    lab.link(switch, "p2", relay, "out0", b_address="198.18.0.3/24")
    lab.bridge(switch, "br0", ports=["p0", "p1", "p2"], mcast_snooping=False, mcast_querier=False)
    mcr = make_mcr(relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.1.1.1:5000:out0", rule_id="ring")
    with tapped(source, "src0") as wire:
        wire.send(bytes(datagram(b"once")))
        stats = mcr.check_counters(arrived=2)
        assert (stats["ingress"]["matched"], stats["ingress"]["parse_errors"]["loop"]) == (1, 1)
        expected = "239.1.1.1:5000 from 198.18.0.3, which this machine sent, comes back to in0: a loop"
        assert expected in wait_until(lambda: expected in mcr.log() and mcr.log(), "the log names it")
        assert mcr.says("warning [ingress] worker 0: " + expected)
    what = "this relay sent come back in on in0"
    assert what in troubles(mcr, "doctor")["loop"]
    with sending(source, "src0", datagram(b"again")):
        found = troubles(mcr, "why", "ring")["loop"]
    assert found.startswith("fault: ")
    assert what in found
    mcr.add("in0:239.1.1.9:5000", "239.2.2.2:6000:out0", rule_id="beside")
    afterwards = {rule: troubles(mcr, "why", rule) for rule in ("ring", "beside")}  # nothing is sent any more
    assert {rule: told["loop"].partition(":")[0] for rule, told in afterwards.items()} == {
        "ring": "fault",
        "beside": "advice",
    }
    assert afterwards["beside"]["flow_arrives"].startswith("fault")
    assert "flow_arrives" not in afterwards["ring"]  # the loop is its fault
