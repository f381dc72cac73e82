"""Rules come and go while traffic flows."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from mcr.cli.client import Client
from mcr_process import Mcr, Receiver, Sender, wait_until
from topology import MakeMcr, Plant

CHANGES = 500
CLIENTS = 2  # while a change of one is saved, that of the other is made


def change_rules(mcr: Mcr, number: int, changes: int) -> None:
    """Add rules and remove them, one after the other, as one client of several; `number` keeps theirs apart."""
    with Client(str(mcr.socket), "the test") as client:
        for done in range(changes // 2):
            # Now and then also on an interface that is opened and closed for it.
            for name in ("out2", "in0") if not number and done % 25 == 0 else ("in0",):
                rule = {
                    "rule_id": f"rule-{number}-{done}",
                    "input": {"interface": name, "group": f"239.{3 + number}.{done % 256}.1", "port": 7000},
                    "outputs": [{"group": "239.4.4.4", "port": 7000 + done % 10, "interface": "out1"}],
                }
                (added,) = client.call("add", {"rules": [rule]})
                assert added["state"] == "active"
                client.call("remove", {"rule_id": rule["rule_id"]})


@pytest.mark.alone
def test_hundreds_of_changes_cost_another_stream_nothing(plant: Plant, make_mcr: MakeMcr) -> None:
    """On the same interface, on one that is opened and closed each time, and to new outputs, by two clients at once.

    Hardly any are carried out together, so that as many come to each of the workers.
    """
    mcr = make_mcr(plant.relay, executes_workers=False).start(2)
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000")
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=2_000_000, rate=20_000)
    wait_until(lambda: mcr.stats()["ingress"]["recv"] > 0, "the stream flows")
    (before, *_) = mcr.workers()
    with ThreadPoolExecutor(CLIENTS) as clients:
        for each in [clients.submit(change_rules, mcr, number, CHANGES // CLIENTS) for number in range(CLIENTS)]:
            each.result()
    assert mcr.workers()[0]["generation"] - before["generation"] > 0.75 * CHANGES
    sent = sender.stop()
    receiver.expect_all_of(sent)
    assert mcr.check_counters(arrived=sent)["ingress"]["matched"] == sent
    assert [rule["input"]["port"] for rule in mcr.call("list")] == [5000]


def test_removed_rule_stops_at_once_and_added_again_goes_on(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    flow = "239.1.1.1:5000"
    rule = mcr.add(f"in0:{flow}", "239.2.2.2:6000:out0")
    Sender(plant.source, "src0", flow, count=100, rate=1000).finish()
    assert mcr.check_counters(arrived=100)["ingress"]["matched"] == 100
    mcr.ctl("remove", "--rule-id", rule)
    Sender(plant.source, "src0", flow, count=100, rate=1000).finish()
    assert mcr.stats()["ingress"]["matched"] == 100  # nobody captures in0 any more
    again = mcr.add(f"in0:{flow}", "239.2.2.2:6000:out0")
    assert again == rule  # the automatic id is a hash of the input
    receiver = Receiver(plant.receiver, f"239.2.2.2:6000@rx0={flow}", count=100)
    Sender(plant.source, "src0", flow, count=100, rate=1000).finish()
    receiver.expect_everything()
    stats = mcr.check_counters(arrived=200)
    assert stats["rules"][0]["matched"] == 100  # a new rule counts from zero
    assert stats["ingress"]["matched"] == 200  # the totals go on


def test_batch_is_one_request_all_or_none(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start(2)
    lines = [
        f"--input-interface in0 --input-group 239.5.{i // 256}.{i % 256} --input-port 5000 "
        f"--outputs 239.6.{i // 256}.{i % 256}:6000:out{i % 3} --name feed-{i}"
        for i in range(1000)
    ]
    bad = [*lines, "--input-interface nosuch0 --input-group 239.5.9.9 --input-port 5000 --outputs 239.6.9.9:6000:out0"]
    refused = mcr.ctl("add", "--batch", "-", input="\n".join(bad), check=False)
    assert refused.returncode == 1
    assert "Error: <stdin>:1001: Interface not found: nosuch0\n" in refused.stderr
    assert mcr.call("list") == []
    added = mcr.ctl("add", "--batch", "-", "--json", input="\n".join(lines))
    assert {rule["state"] for rule in json.loads(added.stdout)} == {"active"}
    assert len(mcr.call("list")) == 1000
    flows = [f"239.5.{i // 256}.{i % 256}:5000" for i in range(0, 1000, 100)]
    receiver = Receiver(
        plant.receiver,
        *(f"239.6.{i // 256}.{i % 256}:6000@rx{i % 3}={flows[i // 100]}" for i in range(0, 1000, 100)),
        count=200,
    )
    Sender(plant.source, "src0", *flows, count=200, rate=10_000).finish()
    receiver.expect_everything()
    mcr.check_counters(arrived=2000)


def test_rules_outlive_their_workers(plant: Plant, make_mcr: MakeMcr) -> None:
    """A worker that starts is told everything that was added, and nothing that was removed, before it."""
    mcr = make_mcr(plant.relay).start(2)
    for i in range(20):
        mcr.call(
            "add",
            {
                "rules": [
                    {
                        "rule_id": str(i),
                        "input": {"interface": "in0", "group": f"239.1.1.{i}", "port": 5000},
                        "outputs": [{"group": "239.2.2.2", "port": 6000, "interface": "out0"}],
                    }
                ]
            },
        )
    for i in range(0, 20, 2):
        mcr.call("remove", {"rule_id": str(i)})
    before = {worker["generation"] for worker in mcr.workers()}
    for pid in mcr.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: {worker["restarts"] for worker in mcr.workers()} == {1}, "both were replaced")
    mcr.wait_for_workers()
    assert {worker["generation"] for worker in mcr.workers()} == before
    flows = [f"239.1.1.{i}:5000" for i in range(20)]
    receiver = Receiver(plant.receiver, f"239.2.2.2:6000@rx0={','.join(flows[1::2])}", count=100)
    Sender(plant.source, "src0", *flows, count=100, rate=10_000).finish()
    receiver.expect_everything()
    ingress = mcr.check_counters(arrived=2000)["ingress"]
    assert (ingress["matched"], ingress["no_match"]) == (1000, 1000)
