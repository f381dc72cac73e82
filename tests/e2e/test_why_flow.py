"""`mcrctl why` about a flow that arrives, or something else in its place: one relay is asked by all tests.

Each leaves the network as it was. Causes that change it: test_why.py.
"""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Dot1Q, Ether

from asking import AS_UNDER_SYSTEMD, TV, fault, frame, query, troubles, why
from lab import Lab, end
from mcr_process import Mcr, Sender, wait_until, words_for_group
from sources import repeating, sending
from topology import Plant
from trafficgen.interface import open_interface


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    with Lab() as lab:
        yield Plant(lab)


@pytest.fixture(scope="module")
def daemons(plant: Plant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Mcr]]:
    mcr = Mcr(plant.relay, tmp_path_factory.mktemp("why"), prefix=AS_UNDER_SYSTEMD).start()
    mcr.add(*TV, rule_id="tv")
    yield [mcr]
    mcr.stop()


@pytest.fixture
def mcr(daemons: list[Mcr]) -> Iterator[Mcr]:
    """With nothing but the rule tv when a test begins."""
    (mcr,) = daemons
    yield mcr
    mcr.check_counters()
    for rule in mcr.call("list"):
        if rule["rule_id"] != "tv":
            mcr.call("remove", {"rule_id": rule["rule_id"]})


def test_all_is_well(plant: Plant, mcr: Mcr) -> None:
    """Every finding is ok, on one line each, and it takes no longer than it has to."""
    with sending(plant.source, "src0", frame()):
        started = time.monotonic()
        assert troubles(mcr) == []
        print(f"{time.monotonic() - started:.2f} s")
        shown = mcr.ctl("why", "tv")
        assert len(shown.stdout.splitlines()) == len(why(mcr))
    assert all(line.startswith("ok ") for line in shown.stdout.splitlines())


def test_rule_by_its_name(plant: Plant, mcr: Mcr) -> None:
    mcr.ctl("add", "--name", "evening news", *words_for_group("239.1.1.2"))
    with sending(plant.source, "src0", frame("239.1.1.2")):
        assert troubles(mcr, "evening news") == []


def test_unknown_rule(mcr: Mcr) -> None:
    refused = mcr.ctl("why", "tvv", check=False)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert (
        refused.stderr
        == "Error: No rule has the id or name 'tvv'\nhint: did you mean tv?\nhint: see the rules: mcrctl list\n"
    )


def test_a_range_is_asked_for_as_a_whole(plant: Plant, mcr: Mcr) -> None:
    """Any of its flows will do, but not what another rule takes of it."""
    ports = ["--input-port", "5000-5001"]
    words = ["--input-interface", "in0", "--input-group", "239.7.0.0/28", *ports, "--outputs", "239.8.0.0/28:6000:out0"]
    mcr.ctl("add", "--name", "studio", *words)
    with sending(plant.source, "src0", frame("239.7.0.9", 5001)):
        assert troubles(mcr, "studio") == []
        mcr.ctl("add", "--name", "ninth", *words_for_group("239.7.0.9"))
        assert troubles(mcr, "studio") == []
    with sending(plant.source, "src0", frame("239.7.0.9", 5000)):
        (arrives,) = (each for each in why(mcr, "studio") if each["check"] == "flow_arrives")
    assert "239.7.0.0/28:5000-5001 does not arrive on in0; of its group this does: 239.7.0.9:5000" in arrives["what"]
    with sending(plant.source, "src0", frame("239.7.0.9", 5002)):
        (port,) = (each for each in why(mcr, "studio") if each["check"] == "port")
    assert "have the source send to port 5000-5001" in port["remedy"]


def test_wrong_port(plant: Plant, mcr: Mcr) -> None:
    with sending(plant.source, "src0", frame(port=5001)):
        said = fault(mcr, "port")
        assert "239.1.1.1:5001 on in0" in said
        assert "--input-port 5001" in said
        mcr.add("in0:239.1.1.1:5001", "239.2.2.2:6000:out0", rule_id="right")
        assert why(mcr, "right")[-1]["verdict"] == "ok"
        assert "of its group this does: 239.1.1.1:5001 on in0, which rule right takes" in fault(mcr, "flow_arrives")


def test_wrong_group(plant: Plant, mcr: Mcr) -> None:
    with sending(plant.source, "src0", frame("239.1.1.2")):
        said = fault(mcr, "group")
        assert "239.1.1.2:5000 on in0" in said
        assert "--input-group 239.1.1.2" in said


def test_wrong_interface(plant: Plant, mcr: Mcr) -> None:
    with sending(plant.receiver, "rx2", frame()):
        said = fault(mcr, "arrival_interface")
    assert "239.1.1.1:5000 on out2" in said
    assert "--input-interface out2" in said


def test_tagged(plant: Plant, mcr: Mcr) -> None:
    """With other tags: tests/kernel/test_probe.py, tests/unit/test_incoming.py."""
    with sending(plant.source, "src0", frame("239.1.1.1", 5000, Dot1Q(vlan=100))):
        assert (
            "239.1.1.1:5000 on in0 with VLAN tag 100; add the rule with --input-interface in0 --input-vlan 100"
        ) in fault(mcr, "vlan_tag")


def test_fragments(plant: Plant, mcr: Mcr) -> None:
    """Of datagrams whose ends get lost; whole ones are forwarded. By the kernel path: test_kernel_path.py."""
    parts = [Ether(dst="01:00:5e:01:01:01") / part for part in frame(size=2000)[IP].fragment(1400)]
    with sending(plant.source, "src0", parts[0]):
        assert "in fragments" in fault(mcr, "fragments")
    with sending(plant.source, "src0", *parts):
        said = mcr.ctl("why", "tv", check=False).stdout  # advice is given
        assert "arrives in fragments, which are put together" in said
        assert "what comes is too large for out0 and leaves in fragments" in said
        assert "a worker forwards it (mcrd cannot load its eBPF programs: " in said


def test_nothing_is_sent(plant: Plant, mcr: Mcr) -> None:
    """There is a querier, so the switch is not to blame."""
    with plant.source.entered(), open_interface("src0") as querier:
        querier.send(bytes(query()))
    assert "nothing of 239.1.1.1 arrives on in0" in fault(mcr, "flow_arrives")


def test_super_frames(plant: Plant, mcr: Mcr) -> None:
    """They are what the datagrams in them are."""
    with plant.source.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.0.1"))
    sock.setsockopt(socket.IPPROTO_UDP, 103, 1316)  # UDP_SEGMENT, <linux/udp.h>
    sock.connect(("239.1.1.1", 5000))
    with sock, repeating(lambda: sock.send(bytes(13_160))):
        findings = why(mcr)
        assert {each["verdict"] for each in findings} == {"ok"}
        assert "with 1,316 bytes of payload" in str(findings)


def test_host_without_a_route(plant: Plant, mcr: Mcr) -> None:
    mcr.add("in0:239.1.1.1:5001", "198.19.7.7:6000:out1", rule_id="far")
    with sending(plant.source, "src0", frame(port=5001)):
        (trouble,) = (each for each in why(mcr, "far") if each["verdict"] != "ok")
        assert (trouble["verdict"], trouble["check"]) == ("fault", "route")
        plant.receiver.ip("address add 198.19.7.7/32 dev lo")
        plant.relay.ip("route add 198.19.7.7 via 198.18.2.2 dev out1")
        wait_until(lambda: why(mcr, "far")[-1]["verdict"] == "ok", "it has a route")
    plant.receiver.ip("address delete 198.19.7.7/32 dev lo")
    plant.relay.ip("route delete 198.19.7.7 via 198.18.2.2 dev out1")


def test_outputs_are_looked_at_before_the_feed_begins(mcr: Mcr) -> None:
    mcr.add(
        "in0:239.1.1.1:5001",
        "198.18.2.7:6000:out1",
        "239.2.2.3:6000:out0:source=198.18.9.9",
        rule_id="early",
        state="degraded",
    )
    findings = why(mcr, "early")
    assert [(each["verdict"], each["check"]) for each in findings if each["verdict"] != "ok"] == [
        ("advice", "rule_active"),
        ("fault", "flow_arrives"),
        ("fault", "neighbour"),
        ("fault", "output_waits"),
    ]
    assert "198.18.9.9 is not an address of this machine" in findings[-1]["what"]


def test_neighbour_that_never_answers(plant: Plant, mcr: Mcr) -> None:
    mcr.add("in0:239.1.1.1:5001", "198.18.2.7:6000:out1", rule_id="silent")
    with sending(plant.source, "src0", frame(port=5001)):
        wait_until(lambda: troubles(mcr, "silent") == ["fault neighbour"], "it was asked, and did not answer")
        plant.receiver.ip("address add 198.18.2.7/24 dev rx1")
        wait_until(lambda: troubles(mcr, "silent") == [], "it answers")
    plant.receiver.ip("address delete 198.18.2.7/24 dev rx1")


def test_many_at_once(mcr: Mcr) -> None:
    """Each is answered before a client gives up, if only by being told that others are first; the daemon goes on."""
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(mcr.call, "why", {"rule": "tv"}) for _ in range(12)]
        started = time.monotonic()
        assert mcr.call("ping") == {"pong": True}
        assert time.monotonic() - started < 1
        refused = [each.exception() for each in asked if each.exception()]
        assert all("mcrd is busy with" in str(error) for error in refused), refused
        assert 4 <= len(asked) - len(refused) < len(asked)


def test_flow_among_a_flood_of_its_group(plant: Plant, mcr: Mcr) -> None:
    """A thousand packets to other ports for each of its own."""
    strangers = Sender(plant.source, "src0", "239.1.1.1:5001", count=1_000_000, rate=50_000)
    with sending(plant.source, "src0", frame(), every=0.3):
        assert troubles(mcr) == []
    end(strangers.process)
