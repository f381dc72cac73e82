"""IPv6 on the kernel path: what it takes, beside IPv4 and firewalls, and from the sources that rules name."""

import socket

from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from firewalls import ACCEPT, firewall
from mcr_process import PATIENCE, Mcr, wait_until
from sources import sending
from test_ipv6 import GROUP, add, found, frame, payloads, plant6, relayed, wait_for_report
from test_unsound import mac_of, tapped
from topology import MakeMcr, Plant, need_tcx

__all__ = ["plant6"]  # a fixture


def burst(wire: socket.socket, count: int) -> list[bytes]:
    """Send so many, and then a last one; their payloads."""
    sent = [f"{number} of {count}".encode() for number in range(count - 1)] + [b"last"]
    for each in sent:
        wire.send(bytes(frame(each)))
    return sent


def taken(mcr: Mcr) -> tuple[int, int]:
    """Datagrams that matched: on the kernel path, and on that of the workers."""
    stats = mcr.check_counters()
    return stats["kernel_path"]["matched"], sum(worker["matched"] for worker in stats["workers"])


def test_the_kernel_path_takes_ipv6(plant6: Plant, make_mcr: MakeMcr) -> None:
    """To groups, hosts and gateways, whatever IPv4 beside it does, and until a firewall of IPv6 comes."""
    plant6.relay.ip("-6 route add 2001:db8:7::/64 via 2001:db8:1::2 dev out0")
    mcr = make_mcr(plant6.relay).start()
    outputs = "[ff15::2]:6000:out0", "[2001:db8:1::2]:6001:out0", "[2001:db8:7::7]:6002:out0", "[ff15::3]:6003:out1"
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6005:out0")
    need_tcx(mcr)
    rule = mcr.add("in0:[ff15::1]:5000", *outputs, "[fe80::77]:6004:out0")

    def why() -> str:
        return str(mcr.call("list")[1]["path_reason"])

    silent = "fe80::77 does not answer neighbour solicitations on out0"
    wait_until(lambda: why() == silent, "it has been asked")
    mcr.ctl("change", "--rule-id", rule, "--outputs", ",".join(outputs))
    mcr.wait_for_path("kernel", 1)
    with tapped(plant6.source, "src0") as wire, tapped(plant6.receiver, "rx0") as tap:
        sent = burst(wire, 20)
        got = relayed(tap, b"last", {6000, 6001, 6002})
        assert {port: payloads(each) for port, each in got.items()} == dict.fromkeys((6000, 6001, 6002), sent)
        seen = {
            port: {(each[Ether].dst, each[IPv6].dst, each[IPv6].hlim, each[IPv6].fl, each[IPv6].src) for each in those}
            for port, those in got.items()
        }
        host = mac_of(plant6.receiver, "rx0")
        assert seen == {
            6000: {("33:33:00:00:00:02", "ff15::2", 1, 0, "2001:db8:1::1")},
            6001: {(host, "2001:db8:1::2", 64, 0, "2001:db8:1::1")},
            6002: {(host, "2001:db8:7::7", 64, 0, "2001:db8:1::1")},
        }
        assert taken(mcr) == (20, 0)
        with plant6.relay.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as local:
            local.settimeout(PATIENCE)
            local.bind(("::", 5000))
            member = socket.inet_pton(socket.AF_INET6, GROUP) + socket.if_nametoindex("in0").to_bytes(4, "little")
            local.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
            mcr.wait_for_path("kernel", 1)
            sent = burst(wire, 20)
            relayed(tap, b"last", {6000})
            came = [local.recvfrom(2048) for _ in sent]
            assert [(payload, address[:2]) for payload, address in came] == [
                (each, ("2001:db8::1", 5000)) for each in sent
            ]
        assert taken(mcr) == (40, 0)
        with firewall(plant6.relay, "postrouting", ACCEPT, rule=True, family=10):
            reason = "nftables has a chain passed at postrouting, in table ip6 filter"
            wait_until(lambda: why() == reason, "`list` names the firewall")
            mcr.wait_for_path("kernel", 0)
            burst(wire, 20)
            relayed(tap, b"last", {6000})
            assert taken(mcr) == (40, 20)
        mcr.wait_for_path("kernel", 1)
        plant6.relay.ip("link set dev out1 down")
        wait_until(lambda: why() == "out1 is down", "it is a worker's")
        plant6.relay.ip("link set dev out1 up")
    stats = mcr.check_counters(arrived=60)
    assert stats["egress"]["errors"] == 0


def test_a_group_of_ipv6_is_taken_from_the_sources_that_a_rule_names(plant6: Plant, make_mcr: MakeMcr) -> None:
    """The network hears of them by MLDv2; a rule for any takes the rest, and what nobody takes is named."""
    group, wanted, other = "ff35::1", "2001:db8::1", "2001:db8::9"
    mcr = make_mcr(plant6.relay).start()
    with tapped(plant6.source, "src0") as wire, tapped(plant6.receiver, "rx0") as tap:
        add(mcr, "[ff15::2]:6000:out0", "--input-source", wanted, "--health", "auto", group=f"[{group}]")
        assert wait_for_report(wire, group).sources == [wanted]
        assert found(mcr, "source_joined").startswith(("ok: ff35::1 is joined from 2001:db8::1", "ok: whether"))

        def send(payload: bytes, *sources: str) -> None:
            for source in sources:
                wire.send(bytes(frame(payload, group=group, source=source)))

        with sending(plant6.source, "src0", frame(b"x", group=group, source=other)):
            assert f"from {other}" in found(mcr, "source")
            assert f"{other}" in mcr.ctl("trace", "--unmatched", "in0").stdout
        send(b"named alone", wanted, other)
        wait_until(lambda: mcr.check_counters()["rules"][0]["matched"] == 1, "it is the rule's")
        add(mcr, "[ff15::2]:6001:out0", name="any", group=f"[{group}]")
        for number in (0, 1):
            mcr.wait_for_path("kernel", number)
        send(b"each", other, wanted)
        send(b"last", wanted, other)
        got = relayed(tap, b"last", {6000, 6001})
        mcr.late_outputs = {("239.2.2.2", 6002, "out0")}
        mcr.ctl("change", "six", "--outputs", "239.2.2.2:6002:out0")  # a worker's, whatever the other rule is
        mcr.wait_for_path("worker", 0)
        send(b"apart", other, wanted)
        send(b"end", wanted, other)
        more = relayed(tap, b"end", {6001, 6002})
    assert {port: payloads(packets) for port, packets in got.items()} == {
        6000: [b"named alone", b"each", b"last"],
        6001: [b"each", b"last"],
    }
    assert {port: payloads(packets) for port, packets in more.items()} == {
        6001: [b"apart", b"end"],
        6002: [b"apart", b"end"],
    }
    wait_until(lambda: mcr.stats()["rules"][0]["health"]["packets"] == 5, "its stream is watched, and that alone")
    stats = mcr.check_counters()
    assert [rule["matched"] for rule in stats["rules"]] == [5, 4]
    assert stats["kernel_path"]["matched"] > 0
    refused = ("--input-group", f"[{group}]", "--input-port", "5000", "--input-source", f"{other},{wanted}")
    said = mcr.ctl("add", "--input-interface", "in0", *refused, "--outputs", "239.1.1.1:1:out1", check=False).stderr
    assert f"takes [{group}]:5000 on in0 from {wanted}" in said
