"""Hosts that do not answer: what waits for them is theirs alone."""

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from mcr.net.neighbour_tables import read_tables
from mcr_process import Mcr, Receiver, Sender, descriptors_of, wait_until
from raw_frames import frames, wait_for_raw
from topology import MakeMcr, Plant

DEAD = [f"198.18.1.{100 + i}:6000:out0" for i in range(47)]


NOT_RAW = ["MCR_RAW_SEND=0", "MCR_SOCKET_SNDBUF=212992"]


KEPT = ["MCR_KERNEL_PATH=off"]


@pytest.mark.parametrize(
    ("settings", "late", "options"),
    [
        ([], False, ""),
        (NOT_RAW, False, ""),
        (NOT_RAW, True, ""),
        (KEPT, False, ":source=keep"),
        ([*KEPT, *NOT_RAW], False, ":source=keep"),
    ],
    ids=["default", "small", "small, late", "kept", "kept, small"],
)
def test_a_dead_neighbour_costs_only_its_own_output(
    plant: Plant, make_mcr: MakeMcr, settings: list[str], late: bool, options: str
) -> None:
    """Hosts, and a gateway: beside them a live host and groups, on their interface and another, get every packet.

    Also if the route to the gateway comes when the rule is there.
    """
    gateway = "route add 239.3.3.3/32 via 198.18.1.77 dev out0"
    if not late:
        plant.relay.ip(gateway)
    mcr = make_mcr(plant.relay, prefix=["env", *settings]).start()
    live = "198.18.1.2:6000:out0", "239.2.2.2:6001:out0", "239.2.2.2:6002:out1"
    dead = [f"{each}{options}" for each in DEAD]
    mcr.add("in0:239.1.1.1:5000", f"{live[0]}{options}", *dead, "239.3.3.3:6003:out0", *live[1:])
    if options:  # by common sockets of as many as can't fill them; small ones hold one
        assert raw_sockets(mcr) == (48 if NOT_RAW[1] in settings else 2)
    if late:
        descriptors = Path(f"/proc/{mcr.worker_pids()[0]}/fd")  # mcrd opens some for a moment
        before = len([*descriptors.iterdir()])
        plant.relay.ip(gateway)
        wait_until(lambda: len([*descriptors.iterdir()]) > before, "the worker has a socket for it alone")
    flows = "198.18.1.2:6000=239.1.1.1:5000", "239.2.2.2:6001@rx0=239.1.1.1:5000", "239.2.2.2:6002@rx1=239.1.1.1:5000"
    receivers = [Receiver(plant.receiver, flow, count=2000) for flow in flows]
    Sender(plant.source, "src0", "239.1.1.1:5000", count=2000, rate=2000).finish()
    for receiver in receivers:
        receiver.expect_everything()
    outputs = mcr.check_counters(arrived=2000)["rules"][0]["outputs"]
    assert [each["errors"] for each in (outputs[0], *outputs[-2:])] == [0, 0, 0]


def raw_sockets(mcr: Mcr) -> int:
    """Of UDP, which the kernel looks through for each packet that it takes for this machine."""
    with mcr.namespace.entered():
        return Path("/proc/thread-self/net/raw").read_text().count(":0011 ")


@pytest.fixture
def others_room() -> Iterator[None]:
    """The table of neighbours is left as it was. Its entries end a while after their network namespace."""
    before = read_tables()[4].entries
    yield
    wait_until(lambda: read_tables()[4].entries <= before + 100, "the entries end", 30)


@pytest.mark.alone  # the kernel has one table of neighbours for all network namespaces: 1,024 at most (gc_thresh3)
@pytest.mark.usefixtures("others_room")
def test_a_worker_of_many_hosts_is_back_as_soon(plant: Plant, make_mcr: MakeMcr) -> None:
    """900 sockets go to its successor while packets wait in the ring; then hosts come and go."""
    mcr = make_mcr(plant.relay).start()
    hosts = [f"198.18.{2 + i // 250}.{3 + i % 250}:6000:out0" for i in range(900)]
    plant.relay.ip("route add 198.18.0.0/16 dev out0")
    for first in (0, 450):
        mcr.add(f"in0:239.1.2.{1 + first // 450}:5000", *hosts[first : first + 450])
    rule = mcr.add("in0:239.1.1.1:5000", "198.18.1.2:6000:out0")
    receiver = Receiver(plant.receiver, "198.18.1.2:6000=239.1.1.1:5000", count=2000)
    (pid,) = mcr.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=2000, rate=0).finish()
    os.kill(pid, signal.SIGKILL)
    receiver.expect_everything()
    before = sockets_of(mcr)
    mcr.ctl("remove", "--rule-id", rule)
    wait_until(lambda: sockets_of(mcr) == before - 1, "the live host's socket is closed")


@pytest.mark.alone  # for the same reason
@pytest.mark.usefixtures("others_room")
def test_a_full_table_of_neighbours_is_named_until_there_is_room(plant: Plant, make_mcr: MakeMcr) -> None:
    """IP drops what is sent to a host without an entry, and tells the socket nothing: that counts as sent."""
    mcr = make_mcr(plant.relay, executes_workers=False).start()
    full = f"the kernel's table of neighbours is full (net.ipv4.neigh.default.gc_thresh3={read_tables()[4].limit})"
    turns = count()
    assert fill(plant, next(turns))
    rule = mcr.add("in0:239.1.1.1:5000", "198.18.1.2:6000:out0", "239.2.2.2:6001:out1")
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=100_000, rate=200)
    wait_until(lambda: mcr.stats()["egress"]["sent"] > 10, "the stream flows")

    def told(*words: str) -> str:
        fill(plant, next(turns))  # again: entries of others may have ended meanwhile
        text = mcr.ctl(*words, check=False).stdout
        return next((line for line in text.splitlines() if full in line), "")

    for words in (("why", rule), ("doctor",)):
        line = wait_until(partial(told, *words), f"{words[0]} names the full table", 30)
        assert line.startswith("advice")
        assert "no entry for 198.18.1.2 on out0: while that lasts, IP drops what is sent to 198.18.1.2" in line
        assert "raise that setting above the number of hosts" in line
    assert mcr.call("list")[0]["state"] == "active"
    lost, sent = mcr.check_counters(arrived=sender.stop())["rules"][0]["outputs"]
    assert (lost["sent"], lost["errors"]) == (sent["sent"], 0)
    plant.relay.ip("neighbour flush dev out1")
    assert full not in mcr.ctl("why", rule, check=False).stdout
    receiver = Receiver(plant.receiver, "198.18.1.2:6000=239.1.1.1:5000", count=500)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=500, rate=5000).finish()
    receiver.expect_everything()


def fill(plant: Plant, turn: int) -> bool:
    """Fill the kernel's table with entries that it keeps, as long as they are reachable; the live host's ends.

    ip(8) ends a batch at the first entry that is refused, so new ones come before those of earlier turns.
    """
    plant.relay.run(["sysctl", "-qw", "net.ipv4.neigh.out1.base_reachable_time_ms=600000"])
    hosts = [f"198.18.{200 + turn % 50}.{1 + i}" for i in range(50)]
    hosts += [f"198.18.{100 + i // 250}.{1 + i % 250}" for i in range(read_tables()[4].limit)]
    entries = "".join(f"neighbour replace {each} lladdr 02:00:00:00:00:07 dev out1 nud reachable\n" for each in hosts)
    filled = plant.relay.run(
        ["ip", "-batch", "-"], input=f"neighbour flush to 198.18.1.2 dev out0\n{entries}", check=False
    )
    return "No buffer space available" in filled.stderr


def sockets_of(mcr: Mcr) -> int:
    """UDP sockets that the worker sends by."""
    (pid,) = mcr.worker_pids()
    lines = mcr.namespace.run(["cat", "/proc/net/udp"]).stdout.splitlines()
    inodes = {f"socket:[{line.split()[9]}]" for line in lines[1:]}
    return sum(each in inodes for each in descriptors_of(pid))


def test_hosts_beyond_the_limit_of_descriptors_are_refused_and_nothing_changes(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay, prefix=["prlimit", "--nofile=150:150", "--"]).start()
    mcr.add("in0:239.1.1.1:5000", "198.18.1.2:6000:out0")
    words = ["--input-interface", "in0", "--input-group", "239.1.1.2", "--input-port", "5000", "--outputs"]
    refused = mcr.ctl("add", *words, ",".join(f"198.18.2.{i}:6000:out0" for i in range(1, 200)), check=False)
    first, hint, *_ = refused.stderr.splitlines()
    assert first.startswith("Error: Cannot send to 198.18.2."), refused.stderr
    assert first.endswith(" on out0: socket: Too many open files (os error 24)")
    assert "LimitNOFILE" in hint
    assert len(mcr.call("list")) == 1
    receiver = Receiver(plant.receiver, "198.18.1.2:6000=239.1.1.1:5000", count=500)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=500, rate=5000).finish()
    receiver.expect_everything()
    mcr.add("in0:239.1.1.2:5000", "198.18.1.3:6000:out0")


def test_a_group_with_a_gateway_goes_there_on_either_path(plant: Plant, make_mcr: MakeMcr) -> None:
    """Raw frames would go to the group's hardware address: there are none, for as long as there is the route."""
    plant.relay.ip("route add 239.2.2.2/32 via 198.18.1.2 dev out0")
    (link,) = json.loads(plant.receiver.run(["ip", "-json", "link", "show", "dev", "rx0"]).stdout)
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0:gso=off", "239.3.3.3:6000:out0:gso=off")

    def destinations() -> set[tuple[str, str]]:
        taken = map(Ether, frames(plant, mcr, 4, 188, 1000, outputs=2))
        return {(each[IP].dst, each.dst) for each in taken if each[IP].dst.startswith("239.")}

    to_gateway, to_group = ("239.2.2.2", link["address"]), ("239.2.2.2", "01:00:5e:02:02:02")
    other = ("239.3.3.3", "01:00:5e:03:03:03")
    assert destinations() == {to_gateway, other}
    wait_for_raw(mcr)
    assert destinations() == {to_gateway, other}
    plant.relay.ip("route del 239.2.2.2/32")
    wait_until(lambda: destinations() == {to_group, other}, "no gateway any more")
    plant.relay.ip("route add 239.2.2.2/32 via 198.18.1.2 dev out0")
    wait_until(lambda: destinations() == {to_gateway, other}, "a gateway again")
