"""`mcrctl why`: each cause is set up for real, named, and where it can be, remedied and gone.

Causes that leave the network as it was: test_why_flow.py.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from asking import AS_UNDER_SYSTEMD, TV, fault, frame, query, troubles, why
from firewalls import close_firewall
from lab import Lab, Namespace
from mcr_process import BIN, Mcr, wait_until
from sources import sending
from topology import MakeMcr, Plant, forwarded_to, needs_root
from users import MCR, Stage, socket_directory


@pytest.fixture
def mcr(plant: Plant, make_mcr: MakeMcr) -> Mcr:
    """A relay with a rule, tv, to a group and a host; it may do no more than under systemd."""
    mcr = make_mcr(plant.relay, prefix=AS_UNDER_SYSTEMD).start()
    mcr.add(*TV, rule_id="tv")
    return mcr


@pytest.fixture
def source(plant: Plant, mcr: Mcr) -> Iterator[None]:
    """The source sends what the rule takes, for as long as the relay is there."""
    with sending(plant.source, "src0", frame()):
        yield


def test_interfaces_by_other_names_of_theirs(plant: Plant, mcr: Mcr) -> None:
    for interface, other in (("in0", "feed"), ("out0", "hall"), ("out1", "yard")):
        plant.relay.ip(f"link property add dev {interface} altname {other}")
    mcr.add("feed:239.1.1.3:5000", "239.2.2.2:6000:hall", "198.18.2.2:6000:yard", rule_id="other")
    with sending(plant.source, "src0", frame("239.1.1.3")):
        assert troubles(mcr, "other") == []
    with sending(plant.source, "src0", frame("239.1.1.3", 5001)):
        assert troubles(mcr, "other") == ["fault port"]


# The way in


def test_interface_down(plant: Plant, mcr: Mcr) -> None:
    plant.relay.ip("link set dev in0 down")
    assert "sudo ip link set dev in0 up" in fault(mcr, "input_up")
    plant.relay.bring_up("in0")
    with sending(plant.source, "src0", frame()):
        assert troubles(mcr) == []


def test_no_carrier(plant: Plant, mcr: Mcr) -> None:
    plant.source.ip("link set dev src0 down")
    assert "in0 has no carrier" in fault(mcr, "input_carrier")


def test_interface_deleted_and_made_again(plant: Plant, mcr: Mcr) -> None:
    plant.relay.ip("link delete in0")
    assert "there is no interface in0" in fault(mcr, "input_interface")
    plant.lab.link(plant.source, "src0", plant.relay, "in0", a_address="198.18.0.1/24", b_address="198.18.0.2/24")
    with sending(plant.source, "src0", frame()):
        assert troubles(mcr) == []


@pytest.mark.usefixtures("source")
def test_interface_without_an_address(plant: Plant, mcr: Mcr) -> None:
    plant.relay.ip("address flush dev in0")
    assert troubles(mcr) == ["advice input_address"]
    plant.relay.sysctl("net.ipv4.conf.in0.rp_filter", "2")
    (advice,) = (each for each in why(mcr) if each["verdict"] == "advice")
    assert "keeps it from answering queriers" in advice["what"]
    plant.relay.ip("address add 198.18.0.2/24 dev in0")
    assert troubles(mcr) == []


def test_switch_snoops_and_nobody_queries(lab: Lab, make_mcr: MakeMcr) -> None:
    """source ── p0 br0 p1 ── in0 relay out0 ── rx0 receiver; br0 forwards only what its querier is told."""
    source, switch, relay, receiver = (lab.namespace(name) for name in ("source", "switch", "relay", "receiver"))
    lab.link(source, "src0", switch, "p0", a_address="198.18.0.1/24")
    lab.link(relay, "in0", switch, "p1", a_address="198.18.0.2/24")
    lab.link(relay, "out0", receiver, "rx0", a_address="198.18.1.1/24", b_address="198.18.1.2/24")
    lab.bridge(switch, "br0", ports=["p0", "p1"], mcast_snooping=True, mcast_querier=False)
    switch.ip("link set dev p1 type bridge_slave mcast_flood off")
    mcr = make_mcr(relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", rule_id="tv")
    switch.ip("link set dev br0 type bridge mcast_snooping 0 mcast_snooping 1")  # it forgets the join
    with sending(source, "src0", frame()):
        said = fault(mcr, "flow_arrives")
        assert "nothing of 239.1.1.1 arrives on in0" in said
        assert "does the source send?" in said
        assert "does the switch" in said
        switch.ip("link set dev br0 type bridge mcast_querier 1")
        wait_until(lambda: "239.1.1.1" in forwarded_to(switch, "p1"), "the switch has heard the join")

        def healed() -> set[str]:
            findings = why(mcr)
            return {each["check"] for each in findings if {each["verdict"] for each in findings} == {"ok"}}

        assert "querier" in wait_until(healed, "the switch forwards, and nothing is wrong any more", 30)


def test_queries_that_fail_the_reverse_path_check(plant: Plant, mcr: Mcr) -> None:
    """They come in, but the kernel answers none."""
    plant.relay.sysctl("net.ipv4.conf.in0.rp_filter", "1")
    with sending(plant.source, "src0", query("198.19.0.1")):
        said = fault(mcr, "querier")
        assert "the reverse-path filter finds no route back to the querier" in said
        plant.relay.sysctl("net.ipv4.conf.in0.rp_filter", "0")
        wait_until(lambda: troubles(mcr) == ["fault flow_arrives"], "queries are taken")


def test_firewall_that_drops_queries(plant: Plant, make_mcr: MakeMcr) -> None:
    """It is named; so is a flow that this machine itself sends."""
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", rule_id="tv")
    close_firewall(plant.relay, "input")
    with sending(plant.source, "src0", query()):
        said = fault(mcr, "querier")
        assert "the firewall of this machine has no rule that accepts IGMP" in said
        assert "nft insert rule ip closed input ip protocol igmp accept" in said
    with sending(plant.relay, "in0", frame()):
        assert "this machine itself sends 239.1.1.1:5000, out of in0" in fault(mcr, "local_source")


def test_packets_are_not_taken_while_the_worker_hangs(mcr: Mcr, source: None) -> None:
    (pid,) = mcr.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    assert "no worker has taken it" in fault(mcr, "matched")
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not troubles(mcr), "it goes on")


# The way out


@pytest.mark.usefixtures("source")
def test_output_down(plant: Plant, mcr: Mcr) -> None:
    """The other output is judged, too."""
    plant.relay.ip("link set dev out0 down")
    findings = why(mcr)
    assert [each["check"] for each in findings if each["verdict"] == "fault"] == ["output_up"]
    assert findings[-1]["what"] == "198.18.2.2:6000:out1 is sent"
    plant.relay.bring_up("out0")
    wait_until(lambda: not troubles(mcr), "it is sent again")


@pytest.mark.usefixtures("source")
def test_output_without_carrier_or_address_or_deleted(plant: Plant, mcr: Mcr) -> None:
    plant.relay.ip("address flush dev out0")
    assert troubles(mcr) == ["advice source_address"]
    plant.receiver.ip("link set dev rx0 down")
    assert troubles(mcr) == ["fault output_carrier"]
    plant.relay.ip("link delete out0")
    assert troubles(mcr) == ["fault output_interface"]
    plant.lab.link(plant.relay, "out0", plant.receiver, "rx0", a_address="198.18.1.1/24", b_address="198.18.1.2/24")
    wait_until(lambda: not troubles(mcr), "it is sent again")


@pytest.mark.usefixtures("source")
def test_ways_out_of_every_kind(plant: Plant, mcr: Mcr) -> None:
    """A link without ARP, a group behind a gateway, a receiver on the relay, a dead host that is not forgotten yet."""
    plant.relay.ip("link set dev out2 arp off")
    plant.relay.ip("route add 239.2.2.9 via 198.18.1.77 dev out0")
    ways = {
        "no-arp": "198.19.9.9:6000:out2",
        "gateway": "239.2.2.9:6000:out0",
        "local": "239.2.2.8:6000:out0",
        "dead": "198.18.2.2:6000:out1",
    }
    for port, (name, output) in enumerate(ways.items(), 7000):
        mcr.add(f"in0:239.1.1.1:{port}", output, rule_id=name)
    with plant.relay.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("0.0.0.0", 6000))  # noqa: S104 - in a namespace of its own
        listener.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.2.2.8") + socket.inet_aton("198.18.1.1")
        )
        with sending(plant.source, "src0", *(frame(port=port) for port in range(7000, 7004))):
            assert troubles(mcr, "no-arp") == []
            assert troubles(mcr, "gateway") == ["advice route", "fault neighbour"]
            plant.receiver.ip("address add 198.18.1.77/24 dev rx0")
            wait_until(lambda: troubles(mcr, "gateway") == ["advice route"], "the gateway answers")
            assert troubles(mcr, "local") == ["advice local_receiver"]
            assert troubles(mcr, "dead") == []
            plant.receiver.ip("address delete 198.18.2.2/24 dev rx1")
            plant.relay.ip("neigh change 198.18.2.2 dev out1 nud stale")
            assert troubles(mcr, "dead") == ["fault neighbour"]


def test_output_with_a_small_mtu(plant: Plant, mcr: Mcr) -> None:
    """It leaves in fragments, also where several would leave together."""
    plant.relay.ip("link set dev out0 mtu 1000")
    with sending(plant.source, "src0", *[frame(size=1316)] * 4):
        assert troubles(mcr) == ["advice mtu"]
        assert mcr.stats()["egress"]["errors"] == 0
        assert snmp(plant.relay, "Ip")["FragCreates"] > 0
        plant.relay.ip("link set dev out0 mtu 1500")
        assert troubles(mcr) == []


def snmp(namespace: Namespace, protocol: str) -> dict[str, int]:
    """The kernel's counters of a protocol."""
    lines = namespace.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith(f"{protocol}:"))
    return {name: int(value) for name, value in zip(names, values, strict=True)}


# How it asks


@needs_root
@pytest.mark.parametrize("setcap", [True, False], ids=["setcap", "ambient"])
def test_as_another_user_than_root(plant: Plant, stage: Stage, setcap: bool) -> None:
    """With the file's capabilities, or those that systemd grants, it finds out the same."""
    rights: tuple[str, ...] = (
        "--inh-caps=-all,+net_raw",
        "--ambient-caps=-all,+net_raw",
        "--bounding-set=-all,+net_raw",
    )
    if setcap:
        capable, rights = stage.directory / "mcrd", ()
        shutil.copy(BIN / "mcrd", capable)
        subprocess.run(["setcap", "cap_net_raw,cap_setuid,cap_setgid=eip", capable], check=True)
        stage.over.append((capable, str(BIN / "mcrd")))
    mcr = Mcr(plant.relay, socket_directory(stage, MCR), prefix=stage.run_as(MCR, options=rights)).start()
    mcr.add(*TV, rule_id="tv")
    with sending(plant.source, "src0", frame()):
        assert troubles(mcr) == []
    mcr.stop()


def test_the_daemon_stops_in_time_while_it_is_asked(mcr: Mcr) -> None:
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(mcr.call, "why", {"rule": "tv"}) for _ in range(6)]
        wait_until(lambda: "allmulti 0" not in mcr.namespace.ip("-details link show dev in0"), "they look")
        mcr.stop()
        assert {str(each.exception()) for each in asked} <= {
            "The daemon is stopping",
            "mcrd closed the connection without a reply",
            "mcrd is busy with 4 such requests",  # for those that had to wait, on a busy machine
        }
