"""A rule is changed in its place: what stays of it, and every other rule, loses nothing and counts on."""

import json
from itertools import pairwise
from typing import Any

import pytest

from mcr_process import Mcr, Receiver, Sender, wait_until
from topology import MakeMcr, Plant

CHANGED, OTHER = "239.1.1.1:5000", "239.1.1.2:5000"
PLENTY = 1_000_000
KEPT, COMES, GOES = "239.2.2.2:6000:out0", "239.2.2.3:6000:out1", "239.2.2.4:6000:out2"


def change(mcr: Mcr, name: str, *words: str) -> dict[str, Any]:
    rule: dict[str, Any] = json.loads(mcr.ctl("change", "--name", name, *words, "--json").stdout)
    return rule


def counters(mcr: Mcr, rule_id: str) -> dict[str, Any]:
    (rule,) = mcr.call("stats", {"rule": rule_id})["rules"]
    return {name: rule[name] for name in ("matched", "sent", "errors", "bytes")} | {
        f"{each['group']}:{each['port']}:{each['interface']}": each["sent"] for each in rule["outputs"]
    }


def test_what_stays_of_a_changed_rule_loses_nothing(
    plant: Plant, make_mcr: MakeMcr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed, an output more, an output less, other options, at 2,000 packets per second; the rule beside it, too."""
    monkeypatch.setenv("MCR_BUFFER_POOL_SMALL", "16384")  # for four seconds, if a worker has to wait
    mcr = make_mcr(plant.relay).start(2)
    mcr.late_outputs = {("239.2.2.3", 6000, "out1"), ("239.2.2.4", 6000, "out2")}
    first = mcr.ctl(
        *("add", "--input-interface", "in0", "--input-group", "239.1.1.1", "--input-port", "5000"),
        *("--outputs", f"{KEPT},{GOES}", "--name", "studio", "--json"),
    )
    rule_id = json.loads(first.stdout)[0]["rule_id"]
    mcr.add(f"in0:{OTHER}", "239.2.2.9:6000:out0")
    generation = mcr.workers()[0]["generation"]
    receivers = [
        Receiver(plant.receiver, f"239.2.2.2:6000@rx0={CHANGED}"),
        Receiver(plant.receiver, f"239.2.2.9:6000@rx0={OTHER}"),
    ]
    sender = Sender(plant.source, "src0", CHANGED, OTHER, count=PLENTY, rate=4_000)
    wait_until(lambda: mcr.stats()["ingress"]["matched"] > 0, "the stream flows")
    seen = [counters(mcr, rule_id)]
    changes = 0
    for name, after, goes, comes, gso in [
        ("studio", "news", GOES, COMES, "off"),
        ("news", "studio", COMES, GOES, "8"),
        ("studio", "news", GOES, COMES, "auto"),
    ]:
        for words in (
            ("--new-name", after),
            ("--add-outputs", comes),
            ("--remove-outputs", goes),
            ("--add-outputs", f"{KEPT}:gso={gso}"),
        ):
            rule = change(mcr, after if changes % 4 else name, *words)
            assert rule["state"] == "active"
            changes += 1
            seen.append(counters(mcr, rule_id))
    assert [f"{each['group']}:{each['port']}:{each['interface']}" for each in rule["outputs"]] == [KEPT, COMES]
    assert (rule["name"], rule["rule_id"]) == ("news", rule_id)
    sent = sender.stop()
    packets, others = sent - sent // 2, sent // 2  # by turns
    for receiver, each in zip(receivers, (packets, others), strict=True):
        receiver.expect_all_of(each)
    stats = mcr.check_counters(arrived=sent)
    seen.append(counters(mcr, rule_id))
    for former, later in pairwise(seen):
        assert all(former[each] <= later[each] for each in ("matched", "sent", "errors", "bytes", KEPT))
    assert (seen[-1]["matched"], seen[-1][KEPT]) == (packets, packets)
    assert packets < seen[-1]["sent"] < 3 * packets
    assert stats["egress"]["sent"] == sum(rule["sent"] for rule in stats["rules"])
    assert stats["egress"]["bytes"] == sum(rule["bytes"] for rule in stats["rules"])
    assert [worker["generation"] for worker in mcr.workers()] == [generation + changes] * 2


def test_an_output_that_comes_gets_all_from_then_on_and_counts_from_zero(plant: Plant, make_mcr: MakeMcr) -> None:
    """Also one that was there before; and the rule is kept as it is now, in its place."""
    mcr = make_mcr(plant.relay).start()
    mcr.late_outputs = {("239.2.2.4", 6000, "out2")}
    rule_id = mcr.add(f"in0:{CHANGED}", KEPT, GOES)
    mcr.add(f"in0:{OTHER}", "239.2.2.9:6000:out0")

    def send(count: int, *receivers: Receiver) -> None:
        Sender(plant.source, "src0", CHANGED, count=count, rate=2_000).finish()
        for receiver in receivers:
            receiver.expect_everything()

    send(500, Receiver(plant.receiver, f"239.2.2.4:6000@rx2={CHANGED}", count=500))
    mcr.ctl("change", "--rule-id", rule_id, "--outputs", KEPT, "--new-name", "studio")
    send(300, Receiver(plant.receiver, f"239.2.2.2:6000@rx0={CHANGED}", count=300))
    change(mcr, "studio", "--add-outputs", GOES)
    send(200, Receiver(plant.receiver, f"239.2.2.4:6000@rx2={CHANGED}", count=200))
    mcr.check_counters(arrived=1_000)
    now = counters(mcr, rule_id)
    assert (now[KEPT], now[GOES], now["sent"], now["matched"]) == (1_000, 200, 1_700, 1_000)
    before = mcr.rules()
    assert mcr.process
    mcr.process.kill()
    mcr.process.wait()
    mcr.start()
    assert [{**each, "state": "active"} for each in mcr.rules()] == before


def test_a_change_that_is_refused_changes_nothing(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    rule_id = mcr.add(f"in0:{CHANGED}", KEPT, GOES)
    mcr.call("add", {"rules": [{"name": "tv", "input": rule_input(OTHER), "outputs": [rule_output("239.2.2.9")]}]})
    before, generation = mcr.rules(), mcr.workers()[0]["generation"]
    receiver = Receiver(plant.receiver, f"239.2.2.2:6000@rx0={CHANGED}", count=1_000)
    sender = Sender(plant.source, "src0", CHANGED, count=1_000, rate=2_000)
    for words, said in {
        ("--outputs", "239.2.2.2:6000:nosuch0"): "Interface not found: nosuch0",
        ("--new-name", "tv"): "Rule already exists",
        ("--remove-outputs", "239.2.2.5:6000:out0"): f"Rule {rule_id} has no output 239.2.2.5:6000:out0",
        ("--remove-outputs", f"{KEPT},{GOES}"): "has no outputs",
    }.items():
        refused = mcr.ctl("change", "--rule-id", rule_id, *words, check=False)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert said in refused.stderr
    sender.finish()
    receiver.expect_everything()
    assert mcr.rules() == before
    assert mcr.workers()[0]["generation"] == generation
    waiting = json.loads(
        mcr.ctl("change", "--rule-id", rule_id, "--add-outputs", "239.2.2.5:6000:late0", "--wait", "--json").stdout
    )
    assert waiting["state"] == "degraded"
    for words in (("--new-name", "studio"), ("--add-outputs", "239.2.2.6:6000:out0")):  # what stays may be missing
        mcr.ctl("change", "--rule-id", rule_id, *words)
    less = mcr.ctl("change", "--rule-id", rule_id, "--remove-outputs", "239.2.2.5:6000:late0", "--json")
    assert json.loads(less.stdout)["state"] == "active"
    mcr.late_outputs = {("239.2.2.6", 6000, "out0")}


def rule_input(flow: str) -> dict[str, Any]:
    group, port = flow.split(":")
    return {"interface": "in0", "group": group, "port": int(port)}


def rule_output(group: str) -> dict[str, Any]:
    return {"group": group, "port": 6000, "interface": "out0"}
