"""What happens again and again to a rule under a stream: moves between the paths, changes, outputs that fail.

MCR_TURNS says how many times; 1,000 take some two minutes.
"""

import os

import pytest

from firewalls import ACCEPT, firewall
from mcr_process import Mcr, Receiver, Sender, wait_until
from topology import MakeMcr, Plant, need_tcx

pytestmark = pytest.mark.alone

TURNS = int(os.environ.pop("MCR_TURNS", "24"))  # mcrd warns of what it does not know
FOREVER = 100_000_000
RATE = 20_000
OUT, OTHER = "239.2.2.2:6000:out0", "239.2.2.3:6001:out1"
FLOW, OTHER_FLOW = "239.2.2.2:6000@rx0=239.1.1.1:5000", "239.2.2.3:6001@rx1=239.1.1.1:5000"


@pytest.fixture
def mcr(plant: Plant, make_mcr: MakeMcr) -> Mcr:
    """A relay whose workers have room for whatever comes while they wait for a processor."""
    made = make_mcr(plant.relay, prefix=["env", "MCR_BUFFER_POOL_SMALL=32768"], executes_workers=False).start(2)
    made.add("in0:239.1.1.1:5000", OUT, OTHER)
    need_tcx(made)
    made.wait_for_path("kernel")
    return made


def stream(plant: Plant, mcr: Mcr, size: int = 188) -> Sender:
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=FOREVER, rate=RATE, size=size)
    wait_until(lambda: mcr.stats()["ingress"]["recv"] > 0, "the stream flows")
    return sender


def test_moves_between_the_paths_lose_double_and_reorder_nothing(plant: Plant, mcr: Mcr) -> None:
    """A change of any interface hands a rule to the workers for a moment; a firewall does while it is there."""
    receiver = Receiver(plant.receiver, FLOW)
    sender = stream(plant, mcr)
    moves, turn, known = 0, 0, settled(mcr)
    while moves < TURNS:
        turn += 1
        if turn % 10 == 5:
            with firewall(plant.relay, "postrouting", ACCEPT, rule=True):
                mcr.wait_for_path("worker")
        else:
            plant.relay.ip(f"link set dev out2 alias turn-{turn}")
        mcr.wait_for_path("kernel")
        before, known = known, settled(mcr)
        moves += 2 if known > before else 0  # there and back; it may be so short that no packet comes meanwhile
    sent = sender.stop()
    receiver.expect_all_of(sent)
    stats = mcr.check_counters(arrived=sent)
    assert stats["ingress"]["matched"] == sent
    assert stats["kernel_path"]["matched"] == sent - known > 0


def settled(mcr: Mcr) -> int:
    """What workers have forwarded, once the kernel forwards everything."""
    last = [shares(mcr)]

    def rests() -> bool:
        before, last[:] = last[0], [shares(mcr)]
        return before[0] < last[0][0] and before[1] == last[0][1]

    wait_until(rests, "the kernel forwards everything")
    return last[0][1]


def shares(mcr: Mcr) -> tuple[int, int]:
    """What the kernel path has forwarded, and the workers."""
    stats = mcr.stats()
    return stats["kernel_path"]["matched"], sum(worker["matched"] for worker in stats["workers"])


def test_changes_of_a_rule_cost_it_nothing(plant: Plant, mcr: Mcr) -> None:
    """Outputs come and go beside one that stays, which gets every packet."""
    receiver = Receiver(plant.receiver, FLOW)
    sender = stream(plant, mcr)
    (rule,) = mcr.call("list")
    for turn in range(TURNS // 2 * 2):
        change = "add_outputs" if turn % 2 == 0 else "remove_outputs"
        output = {"group": "239.2.2.4", "port": 6002 + turn // 2 % 10, "interface": "out2"}
        mcr.call("change", {"rule_id": rule["rule_id"], change: [output]})
    sent = sender.stop()
    receiver.expect_all_of(sent)
    stats = mcr.check_counters(arrived=sent)
    assert stats["ingress"]["matched"] == sent
    assert stats["rules"][0]["sent"] == stats["egress"]["sent"] >= 2 * sent


def test_an_output_that_fails_in_mid_stream_is_counted_exactly(plant: Plant, mcr: Mcr) -> None:
    """It goes down, and its MTU shrinks. The other output gets everything."""
    receiver = Receiver(plant.receiver, FLOW)
    other = Receiver(plant.receiver, OTHER_FLOW)
    sender = stream(plant, mcr, size=1316)
    for turn in range(TURNS // 8):
        for change, back in (("down", "up"), ("mtu 1000", "mtu 1500"))[:: 1 if turn % 2 else -1]:
            plant.relay.ip(f"link set dev out1 {change}")
            mcr.wait_for_path("worker")
            plant.relay.ip(f"link set dev out1 {back}")
            mcr.wait_for_path("kernel")
    sent = sender.stop()
    receiver.expect_all_of(sent)
    stats = mcr.check_counters(arrived=sent)
    good, bad = stats["rules"][0]["outputs"]
    assert (good["sent"], good["errors"]) == (sent, 0)
    assert bad["sent"] + bad["errors"] == sent
    assert bad["errors"] > 0
    other.process.terminate()
    report = other.verdict()
    wrong = {name: report[name] for name in ("duplicated", "reordered", "corrupted", "foreign") if report[name]}
    assert not wrong
    assert (
        0.9 * bad["sent"] < report["unique"] <= bad["sent"]
    )  # the kernel drops some as it goes down, and says nothing
