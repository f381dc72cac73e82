"""Every payload, once and in order, judged at the receiver; topologies in tests/README.md."""

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab import Lab, LabError
from mcr._native import lib
from mcr.net.capture import describes_super_frames
from mcr_process import Receiver, Sender, wait_until
from seccomp import WITHOUT_IO_URING
from topology import MakeMcr, Plant

PACKETS = 2000
"""As many as a capture ring holds, so that none is lost however long a busy machine keeps a worker waiting."""
RATE = 10_000

both_worker_counts = pytest.mark.parametrize("workers", [1, 2])


@pytest.mark.alone
@pytest.mark.parametrize(("workers", "prefix"), [(1, ()), (2, ()), (2, WITHOUT_IO_URING)], ids=["1", "2", "poll"])
def test_one_to_one(plant: Plant, make_mcr: MakeMcr, workers: int, prefix: Sequence[str | Path]) -> None:
    """More packets than there are slots in a ring and IP identifications (65,536)."""
    packets = 70_000
    ring = "env", "MCR_BUFFER_POOL_SMALL=8192"  # a pause of the machine's is no loss of the relay's
    mcr = make_mcr(plant.relay, prefix=[*ring, *prefix], executes_workers=False).start(workers)
    # Some 5.10 kernels can't enable a ring with restrictions; no other reason counts.
    expected = "poll" if prefix or lib.mcr_uring_probe() == -errno.EBADFD else "io_uring"
    assert {worker["io"] for worker in mcr.workers()} == {expected}
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=packets)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=packets, rate=50_000, size=1316).finish()
    receiver.expect_everything()
    stats = mcr.check_counters(arrived=packets)
    assert stats["egress"]["sent"] == packets
    assert stats["egress"]["bytes"] == packets * 1316


@both_worker_counts
def test_fan_out_to_three_groups_ports_and_interfaces_and_a_host(plant: Plant, make_mcr: MakeMcr, workers: int) -> None:
    mcr = make_mcr(plant.relay).start(workers)
    groups = ("239.2.2.1:6001:out0", "239.2.2.2:6002:out1", "239.2.2.3:6003:out2")
    mcr.add("in0:239.1.1.1:5000", *groups, "198.18.1.2:6000:out0")
    receiver = Receiver(
        plant.receiver,
        "239.2.2.1:6001@rx0=239.1.1.1:5000",
        "239.2.2.2:6002@rx1=239.1.1.1:5000",
        "239.2.2.3:6003@rx2=239.1.1.1:5000",
        "198.18.1.2:6000=239.1.1.1:5000",
        count=PACKETS,
    )
    Sender(plant.source, "src0", "239.1.1.1:5000", count=PACKETS, rate=RATE / 2).finish()
    receiver.expect_everything()
    assert mcr.check_counters(arrived=PACKETS)["egress"]["sent"] == 4 * PACKETS


@both_worker_counts
def test_three_flows_into_one_output(plant: Plant, make_mcr: MakeMcr, workers: int) -> None:
    mcr = make_mcr(plant.relay).start(workers)
    flows = [f"239.1.1.{i}:{5000 + i}" for i in range(3)]
    for flow in flows:
        mcr.add(f"in0:{flow}", "239.2.2.2:6000:out0")
    receiver = Receiver(plant.receiver, f"239.2.2.2:6000@rx0={','.join(flows)}", count=PACKETS // 4)
    Sender(plant.source, "src0", *flows, count=PACKETS // 4, rate=RATE).finish()
    receiver.expect_everything()
    assert mcr.check_counters(arrived=3 * PACKETS // 4)["egress"]["sent"] == 3 * PACKETS // 4


def test_chain_of_three_relays(lab: Lab, make_mcr: MakeMcr) -> None:
    """source ─ relay 1 ─ relay 2 ─ relay 3 ─ receiver, a new group and port on each cable; one has two workers."""
    hosts = [lab.namespace(name) for name in ("source", "relay-1", "relay-2", "relay-3", "receiver")]
    for i in range(4):
        lab.link(hosts[i], "right", hosts[i + 1], "left", a_address=f"198.18.{i}.1/24", b_address=f"198.18.{i}.2/24")
    relays = [make_mcr(hosts[i], f"relay-{i}").start(workers) for i, workers in ((1, 1), (2, 2), (3, 1))]
    with hosts[1].entered():
        # Trains cross a virtual link uncut; kernels before 6.2 don't tell the next relay how to cut them.
        gso = "" if describes_super_frames() else ":gso=off"
    for i, mcr in enumerate(relays):
        mcr.add(f"left:239.1.1.{i}:{5000 + i}", f"239.1.1.{i + 1}:{5001 + i}:right{gso}")
    receiver = Receiver(hosts[4], "239.1.1.3:5003@left=239.1.1.0:5000", count=PACKETS)
    Sender(hosts[0], "right", "239.1.1.0:5000", count=PACKETS, rate=RATE / 2).finish()
    receiver.expect_everything()
    for mcr in relays:
        mcr.check_counters(arrived=PACKETS)


@both_worker_counts
def test_without_io_uring_the_same_is_forwarded(plant: Plant, make_mcr: MakeMcr, workers: int) -> None:
    """As in a container that forbids it: one warning, then fan-out, kill -9 and drain as ever."""
    mcr = make_mcr(plant.relay, prefix=WITHOUT_IO_URING).start(workers)
    unavailable = "io_uring is not available (Operation not permitted (os error 1))"
    assert mcr.says(unavailable)
    assert mcr.log().count(unavailable) == 1
    assert {worker["io"] for worker in mcr.workers()} == {"poll"}
    mcr.add("in0:239.1.1.1:5000", "239.2.2.1:6001:out0", "239.2.2.2:6002:out1", "198.18.3.2:6003:out2")
    receiver = Receiver(
        plant.receiver,
        "239.2.2.1:6001@rx0=239.1.1.1:5000",
        "239.2.2.2:6002@rx1=239.1.1.1:5000",
        "198.18.3.2:6003=239.1.1.1:5000",
        count=PACKETS,
    )
    Sender(plant.source, "src0", "239.1.1.1:5000", count=PACKETS, rate=RATE / 2).finish()
    receiver.expect_everything()
    for pid in mcr.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: {worker["restarts"] for worker in mcr.workers()} == {1}, "replaced")
    mcr.wait_for_workers()
    plant.relay.ip("link set dev out0 down")
    Sender(plant.source, "src0", "239.1.1.1:5000", count=1000, rate=RATE / 2).finish()
    egress = mcr.check_counters(arrived=PACKETS + 1000)["egress"]
    assert (egress["sent"], egress["errors"]) == (3 * PACKETS + 2 * 1000, 1000)


def test_only_group_port_and_interface_together_match(plant: Plant, make_mcr: MakeMcr) -> None:
    """The same group on another port, the same port on another group: counted, and not forwarded."""
    mcr = make_mcr(plant.relay).start(2)
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    mcr.add("out1:239.1.1.1:5001", "239.2.2.2:6000:out0")  # another interface
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=PACKETS)
    flows = ("239.1.1.1:5000", "239.1.1.1:5001", "239.1.1.2:5000")
    Sender(plant.source, "src0", *flows, count=PACKETS, rate=RATE).finish()
    receiver.expect_everything()
    ingress = mcr.check_counters(arrived=3 * PACKETS)["ingress"]
    assert (ingress["matched"], ingress["no_match"]) == (PACKETS, 2 * PACKETS)


def test_what_the_relay_sends_does_not_come_back_in(plant: Plant, make_mcr: MakeMcr) -> None:
    """Two rules that would make a ring on one interface: the relay's own datagrams are not its input."""
    mcr = make_mcr(plant.relay).start()
    mcr.add("out0:239.1.1.1:5000", "239.1.1.2:5000:out0")
    mcr.add("out0:239.1.1.2:5000", "239.1.1.1:5000:out0")
    Sender(plant.receiver, "rx0", "239.1.1.1:5000", count=1000, rate=5000).finish()
    stats = mcr.check_counters(arrived=1000)
    assert stats["egress"]["sent"] == 1000


def test_smallest_and_largest_datagram(plant: Plant, make_mcr: MakeMcr) -> None:
    """Beside an output interface without an address, which is warned of."""
    plant.relay.ip("address flush dev out2")
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", "239.2.2.3:6000:out2")
    assert mcr.says("warning [network] out2 has no IPv4 address")
    assert "out0 has no" not in mcr.log()
    for size in (36, 1472):
        receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=PACKETS)
        Sender(plant.source, "src0", "239.1.1.1:5000", count=PACKETS, rate=RATE, size=size).finish()
        receiver.expect_everything()


def test_tagged_frames_come_in_by_the_vlans_interface(plant: Plant, make_mcr: MakeMcr) -> None:
    """As `mcrctl why` advises: a rule with the VLAN's interface gets them, one with the interface below gets none."""
    for namespace, interface, address in ((plant.source, "src0", "198.18.7.1"), (plant.relay, "in0", "198.18.7.2")):
        try:
            namespace.ip(f"link add link {interface} name {interface}.7 type vlan id 7")
        except LabError as error:
            if "Unknown device type" in error.message:
                pytest.skip("this kernel has no 8021q")
            raise
        namespace.ip(f"address add {address}/24 dev {interface}.7")
        namespace.bring_up(f"{interface}.7")
    mcr = make_mcr(plant.relay).start()
    tagged = mcr.add("in0.7:239.1.1.1:5000", "239.2.2.2:6000:out0")
    untagged = mcr.add("in0:239.1.1.1:5000", "239.2.2.3:6000:out0")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=PACKETS)
    Sender(plant.source, "src0.7", "239.1.1.1:5000", count=PACKETS, rate=RATE).finish()
    receiver.expect_everything()
    stats = mcr.check_counters(arrived=PACKETS)
    assert {rule["rule_id"]: rule["matched"] for rule in stats["rules"]} == {tagged: PACKETS, untagged: 0}


@pytest.mark.parametrize("privileged", [True, False], ids=["eBPF", "classic"])
@both_worker_counts
@pytest.mark.usefixtures("worker_path")
def test_what_no_rule_wants_reaches_no_worker(
    plant: Plant,
    make_mcr: MakeMcr,
    workers: int,
    privileged: bool,
) -> None:
    """Five strangers to each packet of a stream: it is whole, they are counted, and the workers saw none of them."""
    if not privileged and Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip() == "0":
        pytest.skip("this kernel has no ban on eBPF: everybody may load it")
    prefix = [] if privileged else ["setpriv", "--bounding-set=-bpf,-sys_admin"]
    mcr = make_mcr(plant.relay, prefix=prefix).start(workers)
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=PACKETS)
    strangers = Sender(plant.source, "src0", "239.1.1.1:5001", count=5 * PACKETS, rate=5 * RATE)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=PACKETS, rate=RATE).finish()
    strangers.finish()
    receiver.expect_everything()
    stats = mcr.check_counters(arrived=6 * PACKETS)
    assert stats["ingress"]["no_match"] == stats["ingress"]["screened"] == 5 * PACKETS
    assert sum(worker["recv"] for worker in stats["workers"]) == PACKETS
    if not privileged:
        assert mcr.says("no eBPF (Operation not permitted (os error 1))")
