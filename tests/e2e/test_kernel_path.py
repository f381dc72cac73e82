"""The kernel path: it forwards without a worker, and nobody can tell by what arrives, or by what was counted."""

import json
import os
import signal
import socket
import struct

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from asking import frame, why
from firewalls import ACCEPT, egress_firewall, firewall
from mcr_process import PATIENCE, Mcr, Receiver, Sender, wait_until
from sources import sending
from topology import MakeMcr, Plant, need_tcx

OUT = "239.2.2.2:6000:out0"
FLOW = "239.2.2.2:6000@rx0=239.1.1.1:5000"
WITHOUT = ["env", "MCR_KERNEL_PATH=off"]

SOL_UDP, UDP_SEGMENT = 17, 103


def start(plant: Plant, make_mcr: MakeMcr, *outputs: str, workers: int = 1) -> Mcr:
    """A relay with one rule, which takes the kernel path. A worker that is kept waiting loses nothing."""
    mcr = make_mcr(plant.relay, prefix=["env", "MCR_BUFFER_POOL_SMALL=32768"]).start(workers)
    mcr.add("in0:239.1.1.1:5000", *(outputs or (OUT,)))
    need_tcx(mcr)
    mcr.wait_for_path("kernel")
    return mcr


def shares(mcr: Mcr) -> tuple[int, int]:
    """Datagrams that matched: on the kernel path, and on that of the workers."""
    stats = mcr.check_counters()
    return stats["kernel_path"]["matched"], sum(worker["matched"] for worker in stats["workers"])


def send(plant: Plant, count: int = 1000, rate: float = 10_000, size: int = 1316) -> None:
    Sender(plant.source, "src0", "239.1.1.1:5000", count=count, rate=rate, size=size).finish()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_payload_takes_it_once_and_in_order(plant: Plant, make_mcr: MakeMcr, workers: int) -> None:
    """So it does while a worker dies, which it needs none of."""
    mcr = start(plant, make_mcr, OUT, "239.2.2.3:6001:out1", workers=workers)
    receiver = Receiver(plant.receiver, FLOW, "239.2.2.3:6001@rx1=239.1.1.1:5000", count=4000)
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=4000, rate=10_000, size=1316)
    wait_until(lambda: mcr.stats()["kernel_path"]["matched"] > 500, "some have been forwarded")
    for pid in mcr.worker_pids():
        os.kill(pid, signal.SIGKILL)
    sender.finish()
    receiver.expect_everything()
    stats = mcr.check_counters(arrived=4000)
    assert stats["kernel_path"]["matched"] == 4000
    assert stats["egress"]["bytes"] == 8000 * 1316
    mcr.wait_for_workers()


def test_super_frames_pass_whole_and_count_as_their_datagrams(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = start(plant, make_mcr)
    sizes = [1000] * 9 + [100]
    payload = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    with plant.receiver.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with plant.source.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.settimeout(PATIENCE)
        receiver.bind(("239.2.2.2", 6000))
        membership = struct.pack("4s4s", socket.inet_aton("239.2.2.2"), socket.inet_aton("198.18.1.2"))
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.0.1"))
        sender.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
        for _ in range(5):
            sender.sendto(payload, ("239.1.1.1", 5000))
            assert [len(receiver.recv(2048)) for _ in sizes] == sizes
    stats = mcr.check_counters(arrived=50)
    assert (stats["kernel_path"]["matched"], stats["egress"]["sent"]) == (50, 50)
    assert stats["egress"]["bytes"] == 5 * len(payload)


def test_a_socket_of_this_machine_gets_them_as_they_came(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = start(plant, make_mcr)
    with plant.relay.entered():
        local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with local:
        local.settimeout(PATIENCE)
        local.bind(("239.1.1.1", 5000))
        membership = struct.pack("4s4s", socket.inet_aton("239.1.1.1"), socket.inet_aton("198.18.0.2"))
        local.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        receiver = Receiver(plant.receiver, FLOW, count=50)
        send(plant, count=50, rate=1000)
        receiver.expect_everything()
        assert {local.recvfrom(2048)[1][0] for _ in range(50)} == {"198.18.0.1"}
    assert shares(mcr) == (50, 0)


def test_source_ports_are_the_same_on_both_paths(plant: Plant, make_mcr: MakeMcr) -> None:
    """Whichever worker sends: switches and firewalls go by them."""
    mcr = start(plant, make_mcr, OUT, "198.18.1.2:6001:out0", workers=2)
    with plant.receiver.entered():
        group, host = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with group, host:
        membership = struct.pack("4s4s", socket.inet_aton("239.2.2.2"), socket.inet_aton("198.18.1.2"))
        group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        for receiver, address in (group, ("239.2.2.2", 6000)), (host, ("198.18.1.2", 6001)):
            receiver.settimeout(PATIENCE)
            receiver.bind(address)

        def ports() -> list[set[int]]:
            """Of eight flows, as a flow is of one worker."""
            for _ in range(8):
                send(plant, count=1)
            return [{receiver.recvfrom(2048)[1][1] for _ in range(8)} for receiver in (group, host)]

        by_kernel = ports()
        assert [len(each) for each in by_kernel] == [1, 1]
        with plant.relay.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("", *by_kernel[0]))
        mcr.ctl("log-level", "set", "--facility", "ingress", "--level", "debug")
        mcr.wait_for_path("worker")
        assert ports() == by_kernel
    assert shares(mcr) == (8, 8)


def suppressed(plant: Plant, count: int = 200) -> int:
    """How many of so many packets IP is passed, marked as another host's, as they are not consumed."""

    def marked() -> int:
        (link,) = json.loads(plant.relay.ip("-json -stats -stats link show dev in0"))
        return int(link["stats64"]["rx"].get("otherhost", 0))

    before = marked()
    send(plant, count=count)
    return marked() - before


def test_packets_are_consumed_until_somebody_comes_who_wants_them(plant: Plant, make_mcr: MakeMcr) -> None:
    """A container, whose device is on top of the input interface, in another network namespace."""
    mcr = start(plant, make_mcr)
    wait_until(lambda: suppressed(plant) < 100, "they are consumed")
    container = plant.lab.namespace("container")
    inside = f"/proc/{os.getpid()}/fd/{container.fd}"
    plant.relay.ip(f"link add link in0 name eth0 netns {inside} type macvlan mode bridge")
    container.ip("address add 198.18.0.3/24 dev eth0")
    container.bring_up("eth0")
    mcr.wait_for_path("kernel")
    before = mcr.stats()["kernel_path"]["matched"]
    behind, receiver = (
        Receiver(container, "239.1.1.1:5000@eth0", count=1000),
        Receiver(plant.receiver, FLOW, count=1000),
    )
    send(plant)
    behind.expect_everything()
    receiver.expect_everything()
    assert mcr.check_counters()["kernel_path"]["matched"] - before == 1000


def test_an_output_that_is_down_is_counted_and_stops_no_other(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = start(plant, make_mcr, OUT, "239.2.2.3:6001:out1")
    receiver = Receiver(plant.receiver, "239.2.2.3:6001@rx1=239.1.1.1:5000", count=500)
    plant.relay.ip("link set dev out0 down")
    wait_until(lambda: mcr.call("list")[0]["path_reason"] == "out0 is down", "it is a worker's")
    send(plant, count=500)
    receiver.expect_everything()
    down, up = mcr.check_counters(arrived=500)["rules"][0]["outputs"]
    assert (down["errors"], down["last_error"]) == (500, "Network is unreachable (os error 101)")
    assert up["sent"] == 500
    plant.relay.bring_up("out0")
    mcr.wait_for_path("kernel")
    receiver = Receiver(plant.receiver, FLOW, count=500)
    send(plant, count=500)
    receiver.expect_everything()


def test_an_output_without_carrier_is_counted_and_stops_no_other(plant: Plant, make_mcr: MakeMcr) -> None:
    """The rule stays the kernel path's: what the kernel would drop there, and call sent, is not given to it."""
    mcr = start(plant, make_mcr, OUT, "239.2.2.3:6001:out1")
    plant.receiver.ip("link set dev rx0 down")
    wait_until(lambda: mcr.call("list")[0]["outputs"][0]["state"] == "waiting", "it is known")
    receiver = Receiver(plant.receiver, "239.2.2.3:6001@rx1=239.1.1.1:5000", count=500)
    send(plant, count=500)
    receiver.expect_everything()
    stats = mcr.check_counters(arrived=500)
    unplugged, up = stats["rules"][0]["outputs"]
    assert (unplugged["sent"], unplugged["errors"]) == (0, 500)
    assert unplugged["last_error"] == "Network is down (os error 100)"
    assert (up["sent"], stats["kernel_path"]["matched"]) == (500, 500)
    plant.receiver.bring_up("rx0")
    wait_until(lambda: mcr.call("list")[0]["state"] == "active", "it is back")
    receiver = Receiver(plant.receiver, FLOW, count=500)
    send(plant, count=500)
    receiver.expect_everything()


def test_what_is_longer_than_an_output_takes_goes_through_ip(plant: Plant, make_mcr: MakeMcr) -> None:
    plant.relay.ip("link set dev out0 mtu 1000")
    mcr = start(plant, make_mcr)
    receiver = Receiver(plant.receiver, FLOW, count=500)
    send(plant, count=500)
    receiver.expect_everything()
    assert shares(mcr) == (0, 500)


def test_rules_change_while_it_forwards(plant: Plant, make_mcr: MakeMcr) -> None:
    """An output that stays misses nothing, and what a rule has sent is never forgotten."""
    mcr = start(plant, make_mcr)
    receiver = Receiver(plant.receiver, FLOW, count=20_000)
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=20_000, rate=10_000)
    (rule,) = mcr.call("list")
    turns = 0
    while sender.process.poll() is None:
        change = "--add-outputs" if turns % 2 == 0 else "--remove-outputs"
        mcr.ctl("change", "--rule-id", rule["rule_id"], change, "239.2.2.3:6001:out0")
        turns += 1
    sender.finish()
    receiver.expect_everything()
    if turns % 2:
        mcr.ctl("change", "--rule-id", rule["rule_id"], "--remove-outputs", "239.2.2.3:6001:out0")
    stats = mcr.check_counters(arrived=20_000)
    assert stats["kernel_path"]["matched"] == 20_000
    (sums,) = stats["rules"]
    assert sums["sent"] == stats["egress"]["sent"] > 20_000
    mcr.ctl("remove", "--rule-id", rule["rule_id"])
    mcr.add("in0:239.1.1.1:5000", OUT)
    mcr.wait_for_path("kernel")
    receiver = Receiver(plant.receiver, FLOW, count=100)
    send(plant, count=100)
    receiver.expect_everything()
    stats = mcr.check_counters(arrived=20_100)
    assert (stats["rules"][0]["matched"], stats["kernel_path"]["matched"]) == (100, 20_100)


def test_where_datagrams_are_chained_workers_forward(plant: Plant, make_mcr: MakeMcr) -> None:
    """The kernel tells of features that are switched as of any other change of an interface."""
    plant.relay.set_feature("in0", "rx-gro", enable=True)
    mcr = start(plant, make_mcr)
    plant.relay.set_feature("in0", "rx-gro-list", enable=True)
    wait_until(lambda: "rx-gro-list is on" in mcr.call("list")[0]["path_reason"], "`list` says so")
    assert "rx-gro-list is on" in mcr.ctl("doctor", check=False).stdout
    plant.relay.set_feature("in0", "rx-gro-list", enable=False)
    mcr.wait_for_path("kernel")


def test_it_is_said_which_path_a_rule_takes_and_why(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", OUT, rule_id="tv")
    mcr.add("in0:239.1.1.3:5000", "239.2.2.2:6003:out0:gso=off")
    mcr.wait_for_path("kernel")
    said = [(each["path"], each["path_reason"]) for each in mcr.call("list")]
    assert said == [
        ("kernel", ""),
        ("worker", "239.2.2.2:6003:out0 has gso=off"),
    ]
    parts = [Ether(dst="01:00:5e:01:01:01") / part for part in frame(size=1000)[IP].fragment(600)]
    left = "what comes in fragments goes through a worker, as some did just now"
    forwarded = {
        "the kernel forwards it, without a worker": [frame()],
        f"the rule takes the kernel path, but {left}": parts,
    }
    for what, frames in forwarded.items():
        with sending(plant.source, "src0", *frames):
            assert [each["what"] for each in why(mcr) if each["check"] == "path"] == [what]
    with firewall(plant.relay, "postrouting", ACCEPT, rule=True):
        wait_until(lambda: "nftables" in mcr.call("list")[0]["path_reason"], "`list` names the firewall")
    mcr.wait_for_path("kernel")
    with egress_firewall(plant.relay, "out0"):
        reason = "nftables has a chain passed at egress, in table netdev last"
        wait_until(lambda: mcr.call("list")[0]["path_reason"] == reason, "`list` names what clones would bypass")
        assert f"not everything may leave as raw frames: {reason}" not in mcr.log()
    mcr.wait_for_path("kernel")
    mcr.ctl("log-level", "set", "--facility", "ingress", "--level", "debug")
    wait_until(lambda: "debug" in mcr.call("list")[0]["path_reason"], "the workers are to see everything")
    mcr.stop()
    off = make_mcr(plant.relay, "off", prefix=WITHOUT).start()
    off.add("in0:239.1.1.1:5000", OUT)
    (rule,) = off.call("list")
    assert (rule["path"], rule["path_reason"]) == ("worker", "MCR_KERNEL_PATH=off")
