"""Rules are there again after whatever ends mcrd, and wait for interfaces that are not there yet."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

from mcr_process import SLOWNESS, Mcr, Receiver, Sender, wait_until
from topology import MakeMcr, Plant

FLOW = "239.1.1.1:5000"
OUT = "239.2.2.2:6000:out0"


def crash(mcr: Mcr) -> None:
    """Kill the daemon; its workers end with it."""
    assert mcr.process
    pids = mcr.worker_pids()
    mcr.process.kill()
    mcr.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "its workers have ended")


def forwarded(plant: Plant, flow: str = FLOW, output: str = "239.2.2.2:6000@rx0", *, count: int = 500) -> None:
    receiver = Receiver(plant.receiver, f"{output}={flow}", count=count)
    Sender(plant.source, "src0", flow, count=count, rate=5000).finish()
    receiver.expect_everything()


def test_what_was_acknowledged_is_there_after_a_crash(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay, on_disk=True).start()
    rule = mcr.add(f"in0:{FLOW}", OUT)
    mcr.add("in0:239.1.1.2:5000", "239.2.2.3:6000:out1", rule_id="gone")
    mcr.ctl("remove", "--rule-id", "gone")
    before = mcr.rules()
    crash(mcr)
    mcr.start()
    wait_until(lambda: mcr.call("list")[0]["state"] == "active", "the workers have it")
    assert mcr.rules() == before
    assert mcr.says(f"1 of 1 saved rules are loaded from {mcr.state}/rules.sqlite")
    forwarded(plant)
    mcr.ctl("remove", "--rule-id", rule)
    crash(mcr)
    mcr.start()
    assert mcr.call("list") == []


def test_a_state_directory_that_was_deleted_is_made_again(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    first = mcr.add(f"in0:{FLOW}", OUT)
    shutil.rmtree(mcr.state)
    (told,) = (each for each in mcr.call("doctor") if each["check"] == "saved_rules")
    assert (told["verdict"], "their file was deleted or renamed" in told["what"]) == ("fault", True)
    mcr.add("in0:239.1.1.2:5000", "239.2.2.3:6000:out1", rule_id="news")
    assert mcr.says("was deleted or renamed: mcrd has made it again, with all rules that were saved")
    (told,) = (each for each in mcr.call("doctor") if each["check"] == "saved_rules")
    assert told["verdict"] == "ok"
    crash(mcr)
    mcr.start()
    assert [rule["rule_id"] for rule in mcr.call("list")] == [first, "news"]


def test_without_state_rules_are_forgotten(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start(1, "--no-state")
    mcr.add(f"in0:{FLOW}", OUT)
    assert mcr.process
    mcr.process.send_signal(signal.SIGTERM)
    mcr.process.wait()
    mcr.start(1, "--no-state")
    assert mcr.call("list") == []


def test_rules_are_known_by_their_directory_alone(plant: Plant, make_mcr: MakeMcr) -> None:
    """Another control socket finds the same ones; two daemons at a time never do."""
    first, second = make_mcr(plant.relay, "first").start(), make_mcr(plant.relay, "second")
    assert first.says(f"no rules are saved so far; they will be in {first.state}/rules.sqlite")
    first.add(f"in0:{FLOW}", OUT)
    rules = first.rules()
    second.state = first.state
    assert second.begin().wait(10 * SLOWNESS) == 1
    assert second.log().splitlines()[-2:] == [
        f"Error: Another mcrd uses the state directory {first.state}",
        "hint: give this one its own: --state-dir DIR, or none: --no-state",
    ]
    first.stop()
    second.start()
    wait_until(lambda: second.rules() == rules, "they are active")


def waiting(mcr: Mcr) -> dict[str, tuple[str, str]]:
    """How each rule stands, and why."""
    return {rule["rule_id"]: (rule["state"], rule["reason"]) for rule in mcr.call("list")}


def add_waiting(mcr: Mcr, rule_id: str, source: str, output: str) -> dict[str, Any]:
    interface, group, port = source.split(":")
    words = ["add", "--wait", "--json", "--rule-id", rule_id, "--outputs", output]
    words += ["--input-interface", interface, "--input-group", group, "--input-port", port]
    (rule,) = json.loads(mcr.ctl(*words).stdout)
    assert isinstance(rule, dict)
    return rule


def test_rules_wait_for_interfaces_and_are_used_once_they_are_there(plant: Plant, make_mcr: MakeMcr) -> None:
    """Inputs and outputs that are not there; a rule beside them is not disturbed."""
    mcr = make_mcr(plant.relay).start()
    missing = "there is no interface {} in this network namespace"
    refused = mcr.ctl(
        *("add", "--input-interface", "late0", "--input-group", "239.1.1.9", "--input-port", "5000", "--outputs", OUT),
        check=False,
    )
    assert "Interface not found: late0" in refused.stderr
    assert "--wait" in refused.stderr
    assert add_waiting(mcr, "input", "late0:239.1.1.1:5000", "239.2.2.9:6000:out0")["state"] == "waiting"
    added = add_waiting(mcr, "output", f"in0:{FLOW}", "239.2.2.2:6000:out0,239.2.2.3:6000:late1,198.18.9.2:6000:late1")
    assert added["state"] == "degraded"
    assert waiting(mcr)["input"] == ("waiting", missing.format("late0"))
    assert waiting(mcr)["output"] == ("degraded", f"2 of 3 outputs: {missing.format('late1')}")
    crash(mcr)
    mcr.start()
    wait_until(lambda: waiting(mcr)["output"][0] == "degraded", "the workers have it")
    assert waiting(mcr)["input"] == ("waiting", missing.format("late0"))
    forwarded(plant)
    stats = {rule["rule_id"]: rule for rule in mcr.stats()["rules"]}
    assert (stats["output"]["sent"], stats["output"]["errors"]) == (500, 1000)

    plant.lab.link(plant.source, "far0", plant.relay, "late0", a_address="198.18.8.2/24", b_address="198.18.8.1/24")
    plant.lab.link(plant.relay, "late1", plant.receiver, "far1", a_address="198.18.9.1/24", b_address="198.18.9.2/24")
    wait_until(lambda: set(waiting(mcr).values()) == {("active", "")}, "both are active")
    assert mcr.says("late0 is up: 1 rule goes on")
    receiver = Receiver(plant.receiver, "239.2.2.9:6000@rx0=239.1.1.1:5000", count=100)
    Sender(plant.source, "far0", FLOW, count=100, rate=1000).finish()
    receiver.expect_everything()
    host = Receiver(plant.receiver, f"198.18.9.2:6000={FLOW}", count=100)
    forwarded(plant, output="239.2.2.3:6000@far1", count=100)
    host.expect_everything()
    mcr.check_counters(arrived=700)


def test_an_interface_that_comes_under_a_second_name_is_used_once(plant: Plant, make_mcr: MakeMcr) -> None:
    """A rule waits for the altname that another rule's interface is given: nothing is forwarded twice.

    After a restart both rules would have the same input: the one that was there first has it.
    """
    mcr = make_mcr(plant.relay).start()
    mcr.add(f"in0:{FLOW}", OUT, rule_id="first")
    add_waiting(mcr, "second", f"late0:{FLOW}", OUT)
    plant.relay.ip("link property add dev in0 altname late0")
    reason = "late0 is there now, but cannot be used: Interface late0 is the one that other rules call in0"
    wait_until(lambda: waiting(mcr) == {"first": ("active", ""), "second": ("waiting", reason)}, "only one is active")
    forwarded(plant)
    mcr.check_counters(arrived=500)
    crash(mcr)
    mcr.start()
    why = "Rule already exists: first takes 239.1.1.1:5000 on in0"
    unused = {"first": ("active", ""), "second": ("waiting", f"it cannot be used: {why}")}
    wait_until(lambda: waiting(mcr) == unused, "the one is used again")
    assert mcr.says(f"rule second is saved, and cannot be used: {why}")
    assert f"1 rule cannot be used: {why}" in mcr.ctl("doctor", check=False).stdout
    plant.relay.ip("link property del dev in0 altname late0")
    freed = {"first": ("active", ""), "second": ("waiting", "there is no interface late0 in this network namespace")}
    wait_until(lambda: waiting(mcr) == freed, "it waits for an interface of its own")


def test_a_rule_that_was_saved_under_an_altname_has_the_own_name_later(plant: Plant, make_mcr: MakeMcr) -> None:
    """As one that is added has it: other rules on the same interface are accepted beside it."""
    mcr = make_mcr(plant.relay).start()
    add_waiting(mcr, "first", f"late0:{FLOW}", "239.2.2.2:6000:late1")
    crash(mcr)
    plant.relay.ip("link property add dev in0 altname late0")
    plant.relay.ip("link property add dev out0 altname late1")
    mcr.start()
    wait_until(lambda: waiting(mcr) == {"first": ("active", "")}, "it is in use")
    (shown,) = mcr.call("list")
    assert (shown["input"]["interface"], shown["outputs"][0]["interface"]) == ("in0", "out0")
    mcr.add("in0:239.1.1.2:5000", OUT)
    forwarded(plant)
