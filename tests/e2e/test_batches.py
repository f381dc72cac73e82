"""Rules by the many: what one daemon lists another takes, what can be had is, and what goes goes together."""

import json
from typing import Any

from mcr_process import Mcr
from topology import MakeMcr, Plant

KEPT = ("rule_id", "name", "input", "outputs", "state")


def rules(mcr: Mcr) -> list[dict[str, Any]]:
    return [{name: rule[name] for name in KEPT} for rule in json.loads(mcr.ctl("list", "--json").stdout)]


def line(group: str, output: str = "239.2.2.2:6000:out0", *words: str) -> str:
    where = "--input-interface in0 --input-port 5000 --input-group"
    return " ".join((where, group, "--outputs", output, *words))


def generation(mcr: Mcr) -> int:
    (worker,) = mcr.workers()
    return int(worker["generation"])


def test_what_one_lists_another_takes(plant: Plant, make_mcr: MakeMcr) -> None:
    """As often as one likes, if asked to; not otherwise; and never one that differs."""
    first, second = make_mcr(plant.relay, "first").start(), make_mcr(plant.relay, "second").start()
    first.ctl(
        *("add", "--batch", "-"),
        input="\n".join(
            [
                line("239.1.1.1", "239.2.2.2:6000:out0:gso=off,198.18.2.2:6000:out1", "--name", "studio-1"),
                line("239.1.1.2", "239.2.2.3:6000:out1", "--rule-id", "x"),
            ]
        ),
    )
    listed = first.ctl("list", "--json").stdout
    assert second.ctl("add", "--batch", "-", input=listed).stdout == "Added 2 rules\n"
    assert rules(second) == rules(first)
    before = generation(second)
    assert "Rule already exists" in second.ctl("add", "--batch", "-", input=listed, check=False).stderr
    again = second.ctl("add", "--batch", "-", "--idempotent", input=listed)
    assert again.stdout == "Added 0 rules; 2 were there already\n"
    assert generation(second) == before
    second.ctl("change", "--rule-id", "x", "--new-name", "other")
    differs = second.ctl("add", "--batch", "-", "--idempotent", input=listed, check=False)
    assert (differs.returncode, differs.stdout) == (1, "")
    assert "Error: <stdin>: rules[1]: Rule already exists: x (other) takes 239.1.1.2:5000 on in0" in differs.stderr
    wrong = json.loads(listed)
    wrong[1]["outputs"][0]["port"] = "6000"
    refused = second.ctl("add", "--batch", "-", input=json.dumps(wrong), check=False)
    assert "<stdin>: rules[1].outputs[0].port must be a whole number, not a string" in refused.stderr


def test_what_can_be_had_is_added_and_the_rest_is_named(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    lines = [line(f"239.1.1.{number}") for number in range(1, 30)]
    lines[4] = line("239.1.1.5", "239.2.2.2:6000:nosuch0")
    lines[9] = lines[3]
    lines[20] = line("240.0.0.1")
    lines[21] = "--input-port x"
    done = mcr.ctl("add", "--batch", "-", "--best-effort", input="\n".join(lines), check=False)
    assert (done.returncode, done.stdout) == (1, "Added 25 rules\n")
    said = [each for each in done.stderr.splitlines() if each.startswith(("<stdin>:", "Error: "))]
    assert [each.split(": ")[0] for each in said[:4]] == ["<stdin>:22", "<stdin>:5", "<stdin>:10", "<stdin>:21"]
    assert "Interface not found: nosuch0" in said[1]
    assert "Rule already exists" in said[2]
    assert "is not an address that datagrams are sent to" in said[3]
    assert said[4:] == ["Error: 4 of 29 rules were not added"]
    assert len(rules(mcr)) == 25
    again = mcr.ctl("add", "--batch", "-", "--best-effort", "--idempotent", input="\n".join(lines), check=False)
    assert (again.returncode, again.stdout) == (1, "Added 0 rules; 26 were there already\n")


def test_every_fault_is_named_at_once_and_nothing_is_added(plant: Plant, make_mcr: MakeMcr) -> None:
    """As JSON, too: one line on standard error."""
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", rule_id="x")
    batches = {
        "interface_not_found": [
            *(line(f"239.1.1.{number}", f"239.2.2.2:6000:nosuch{number}") for number in (2, 3)),
            line("239.1.1.4", "239.2.2.2:6000:nosuch3"),
        ],
        "rule_exists": [line("239.1.1.1"), line("239.1.1.3"), line("239.1.1.3")],
        "invalid_params": [line("240.0.0.1"), line("239.1.1.4", "x:6000:out0")],
    }
    for kind, lines in batches.items():
        text = "\n".join([line("239.1.1.9"), *lines])
        plain = mcr.ctl("add", "--batch", "-", input=text, check=False)
        told = [each for each in plain.stderr.splitlines() if each.startswith(("Error", "<stdin>", kind))]
        assert (plain.returncode, told[-1]) == (1, "Error: 2 faults in <stdin>: no rule was added")
        in_json = mcr.ctl("add", "--batch", "-", "--json", input=text, check=False)
        assert (in_json.returncode, in_json.stdout) == (1, "")
        data = json.loads(in_json.stderr)["error"]["data"]
        assert (data["kind"], len(data["faults"])) == (kind, 2)
        assert all(fault["message"].startswith("<stdin>:") for fault in data["faults"])
        if kind == "interface_not_found":
            assert data["faults"][1]["message"] == "<stdin>:3: Interface not found: nosuch3 (also <stdin>:4)"
        assert [rule["rule_id"] for rule in rules(mcr)] == ["x"]


def test_faults_of_several_kinds_are_named_at_once(plant: Plant, make_mcr: MakeMcr) -> None:
    """Values that are wrong, and rules that can't be beside each other, though others can't be read."""
    mcr = make_mcr(plant.relay).start()
    sound = [line("239.1.1.2"), line("239.1.1.2")]
    wrong = line("240.0.0.1")
    for lines, number in ((sound[0], wrong, sound[1]), 2), ((sound[0], wrong, sound[1], "--input-port x"), 3):
        refused = mcr.ctl("add", "--batch", "-", input="\n".join(lines), check=False)
        told = refused.stderr.splitlines()
        assert told[0].startswith("<stdin>:2: Invalid input group: '240.0.0.1'")
        assert told[1].startswith("<stdin>:3: Rule already exists: it has the same input as <stdin>:1")
        assert told[number] == f"Error: {number} faults in <stdin>: no rule was added"
        assert rules(mcr) == []


def test_many_are_removed_together_or_none(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    names = ["studio-1", "studio-2", "tv", "radio"]
    lines = [line(f"239.1.1.{number}", "239.2.2.2:6000:out0", "--name", name) for number, name in enumerate(names, 1)]
    mcr.ctl("add", "--batch", "-", input="\n".join(lines))
    before = generation(mcr)
    refused = mcr.ctl("remove", "--name", "studio-*", "--name", "camera-*", check=False)
    assert refused.returncode == 1
    assert "No rule has a name like 'camera-*'" in refused.stderr
    assert (len(rules(mcr)), generation(mcr)) == (4, before)
    assert mcr.ctl("remove", "--name", "studio-*", "--name", "tv").stdout == "Removed 3 rules\n"
    assert generation(mcr) == before + 1
    for command in ("list", "stats"):
        assert "radio" in mcr.ctl(command, "radio").stdout
        gone = mcr.ctl(command, "tv", check=False)
        assert (gone.returncode, gone.stderr.splitlines()[0]) == (1, "Error: No rule has the id or name 'tv'")
    (last,) = rules(mcr)
    assert mcr.ctl("remove", "--all").stdout == f"Removed rule {last['rule_id']}\n"
    assert rules(mcr) == []
