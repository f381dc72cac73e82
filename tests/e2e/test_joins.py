"""Groups are asked for, so that switches which snoop IGMP forward them."""

from collections.abc import Iterator
from pathlib import Path

from lab import Lab, Namespace
from mcr_process import Receiver, Sender, wait_until
from topology import MakeMcr, Plant, forwarded_to


def joined(namespace: Namespace, interface: str) -> set[str]:
    """Groups joined on an interface, as /proc/net/igmp has them, without the all-hosts group."""
    with namespace.entered():
        lines = Path("/proc/thread-self/net/igmp").read_text().splitlines()[1:]
    return set(_groups(lines, interface)) - {"224.0.0.1"}


def _groups(lines: list[str], interface: str) -> Iterator[str]:
    device = ""
    for line in lines:
        words = line.split()
        if not line.startswith("\t"):
            device = words[1]
        elif device == interface:
            yield ".".join(str(byte) for byte in reversed(bytes.fromhex(words[0])))


def test_join_with_the_first_rule_leave_with_the_last_or_the_daemon(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    first = mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    second = mcr.add("in0:239.1.1.1:5001", "239.2.2.2:6000:out0")
    assert joined(plant.relay, "in0") == {"239.1.1.1"}
    mcr.ctl("remove", "--rule-id", first)
    assert joined(plant.relay, "in0") == {"239.1.1.1"}
    mcr.ctl("remove", "--rule-id", second)
    assert joined(plant.relay, "in0") == set()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    assert joined(plant.relay, "in0") == {"239.1.1.1"}
    mcr.stop()
    assert joined(plant.relay, "in0") == set()


def test_five_thousand_groups_with_default_limits(plant: Plant, make_mcr: MakeMcr) -> None:
    """Far beyond the 20 memberships of one socket; then all but one are left again."""
    mcr = make_mcr(plant.relay).start()
    groups = [f"239.{10 + i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(5000)]
    lines = [
        f"--input-interface in0 --input-group {group} --input-port 5000 --outputs 239.2.2.2:6000:out0 --rule-id {group}"
        for group in groups
    ]
    mcr.ctl("add", "--batch", "-", input="\n".join(lines))
    assert joined(plant.relay, "in0") == set(groups)
    last = groups[-1]
    receiver = Receiver(plant.receiver, f"239.2.2.2:6000@rx0={last}:5000", count=1000)
    Sender(plant.source, "src0", f"{last}:5000", count=1000, rate=10_000).finish()
    receiver.expect_everything()
    mcr.call("remove", {"rule_ids": groups[:-1]})
    assert joined(plant.relay, "in0") == {last}


def test_snooping_switch_forwards_because_of_the_join(lab: Lab, make_mcr: MakeMcr) -> None:
    """source ── p0 br0 p1 ── in0 relay out0 ── rx0 receiver; br0 is a switch with snooping and querier."""
    source, switch, relay, receiver = (lab.namespace(name) for name in ("source", "switch", "relay", "receiver"))
    lab.link(source, "src0", switch, "p0", a_address="198.18.0.1/24")
    lab.link(relay, "in0", switch, "p1", a_address="198.18.0.2/24")
    lab.link(relay, "out0", receiver, "rx0", a_address="198.18.1.1/24", b_address="198.18.1.2/24")
    lab.bridge(switch, "br0", ports=["p0", "p1"], mcast_snooping=True, mcast_querier=True)
    switch.ip("link set dev br0 type bridge mcast_last_member_interval 10")  # 0.1 s to take a leave seriously
    mcr = make_mcr(relay).start()
    # A rule for another group: the relay listens on in0, and yet the switch must not send it the first group.
    mcr.add("in0:239.7.7.7:5000", "239.2.2.3:6000:out0")
    wait_until(lambda: forwarded_to(switch, "p1") == {"239.7.7.7"}, "the switch knows who wants what")
    Sender(source, "src0", "239.1.1.1:5000", count=500, rate=5000).finish()
    assert mcr.check_counters()["ingress"]["recv"] == 0

    rule = mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    wait_until(lambda: "239.1.1.1" in forwarded_to(switch, "p1"), "the switch has heard the join")
    judge = Receiver(receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=500)
    Sender(source, "src0", "239.1.1.1:5000", count=500, rate=5000).finish()
    judge.expect_everything()
    mcr.check_counters(arrived=500)

    mcr.ctl("remove", "--rule-id", rule)
    wait_until(lambda: "239.1.1.1" not in forwarded_to(switch, "p1"), "the switch has heard the leave")
    Sender(source, "src0", "239.1.1.1:5000", count=500, rate=5000).finish()
    mcr.check_counters(arrived=500)
