"""mcrctl add, change and remove: what is asked of the daemon, and what an operator reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_daemon import INPUT, LISTED, STATS, VIEW, Daemon, Run
from mcr.errors import InterfaceNotFound, McrError, RuleExists, RuleNotFound, SystemFault

OUTPUT = VIEW["outputs"][0]
Write = Callable[[str], str]


@pytest.fixture
def batch(tmp_path: Path) -> Write:
    def write(text: str) -> str:
        file = tmp_path / "rules"
        file.write_text(text)
        return str(file)

    return write


def line(port: int, *words: str) -> str:
    return " ".join((*INPUT[:-1], str(port), "--outputs", "239.2.2.2:5001:eth1", *words))


# change


@pytest.mark.parametrize(
    ("words", "params"),
    [
        (("--name", "cam", "--new-name", "tv"), {"name": "cam", "new_name": "tv"}),
        (("--rule-id", "x", "--new-name", ""), {"rule_id": "x", "new_name": ""}),
        (
            ("--rule-id", "x", "--outputs", "239.2.2.2:5001:eth1:gso=off", "--wait"),
            {"rule_id": "x", "outputs": [OUTPUT | {"gso": "off"}], "wait": True},
        ),
        (
            (
                *("--name", "cam", "--add-outputs", "239.2.2.2:5001:eth1,239.2.2.2:5001:eth1"),
                *("--remove-outputs", "239.2.2.2:5001:eth1", "--remove-outputs", "239.2.2.2:5001:eth1"),
            ),
            {"name": "cam", "add_outputs": [OUTPUT] * 2, "remove_outputs": [OUTPUT] * 2},
        ),
    ],
)
def test_change_asks_for_what_is_given(
    run: Run, daemon: Daemon, words: tuple[str, ...], params: dict[str, Any]
) -> None:
    assert run("change", *words) == (0, "Changed rule dcfca9531161\n", [])
    assert daemon.calls == [("change", params)]
    assert json.loads(run("change", *words, "--json")[1]) == VIEW


def test_what_is_odd_about_a_changed_rule_is_a_warning(run: Run, daemon: Daemon) -> None:
    daemon.results["change"] = VIEW | {"state": "degraded", "reason": "1 of 2 outputs: eth1 is down"}
    status, _, err = run("change", "--name", "cam", "--new-name", "tv")
    assert (status, err) == (0, ["Warning: rule dcfca9531161 (cam): 1 of 2 outputs: eth1 is down"])


# remove


@pytest.mark.parametrize(
    ("words", "params"),
    [
        (("--rule-id", "x", "--rule-id", "y"), {"rule_ids": ["x", "y"]}),
        (("--name", "a", "--rule-id", "x"), {"rule_ids": ["x"], "names": ["a"]}),
        (("--name", "studio-*"), {"names": ["studio-*"]}),
        (("--all",), {"all": True}),
    ],
)
def test_several_rules_are_removed_by_one_request(
    run: Run, daemon: Daemon, words: tuple[str, ...], params: dict[str, Any]
) -> None:
    daemon.results["remove"] = [VIEW] * 3
    assert run("remove", *words) == (0, "Removed 3 rules\n", [])
    assert daemon.calls[0] == ("remove", params)
    daemon.results["remove"] = [VIEW]
    assert run("remove", *words)[1] == "Removed rule dcfca9531161\n"
    daemon.results["remove"] = []
    assert run("remove", *words)[1] == "Removed 0 rules\n"


# A rule as an argument


def test_rules_may_be_named_by_an_argument_as_for_list(run: Run, daemon: Daemon) -> None:
    assert run("remove", "cam") == (0, "Removed rule dcfca9531161\n", [])
    assert daemon.calls == [("list", {"rule": "cam"}), ("remove", {"name": "cam"})]
    daemon.calls.clear()
    run("remove", "cam", "dcfca9531161", "--name", "studio-*")
    assert daemon.calls[2:] == [("remove", {"rule_ids": ["dcfca9531161"], "names": ["studio-*", "cam"]})]
    daemon.calls.clear()
    assert run("change", "cam", "--new-name", "tv") == (0, "Changed rule dcfca9531161\n", [])
    assert daemon.calls == [("list", {"rule": "cam"}), ("change", {"rule_id": "dcfca9531161", "new_name": "tv"})]


def test_an_argument_that_names_no_rule_removes_none(run: Run, daemon: Daemon) -> None:
    daemon.failure = McrError("No rule has the id or name 'x'")
    whole = "hint: no rule was removed: all that are named are removed, or none"
    assert run("remove", "x", "--name", "cam")[::2] == (1, ["Error: No rule has the id or name 'x'", whole])
    assert daemon.calls == [("list", {"rule": "x"})]
    daemon.failure = RuleNotFound("No rule has the id or name 'v*'")
    hint = "hint: a pattern stands behind an option: --name 'v*'"
    assert run("remove", "v*")[::2] == (1, ["Error: No rule has the id or name 'v*'", hint])


# list and stats of one rule


def test_one_rule_can_be_shown(run: Run, daemon: Daemon) -> None:
    assert "239.2.2.2:5001:eth1" in run("list", "cam")[1]
    counters = dict.fromkeys(["matched", "sent", "errors", "bytes", "pps", "bps"], 7)
    output = OUTPUT | dict.fromkeys(["submitted", "sent", "errors", "bytes", "pps", "bps"], 1_234)
    output |= {"last_error": "broken", "last_error_ago": 3.5}
    daemon.results["stats"] = STATS | {"rules": [VIEW | counters | {"outputs": [output]}]}
    _, out, _ = run("stats", "cam")
    assert daemon.calls == [("list", {"rule": "cam"}), ("stats", {"rule": "cam"})]
    assert "OUTPUT               SUBMITTED   SENT  ERRORS     BYTES    PPS  MBIT/S" in out
    assert "239.2.2.2:5001:eth1      1,234  1,234   1,234  1.234 kB  1,234    0.00" in out
    assert "broken, 4 s ago" in out
    assert "Ingress" not in out


# add --batch with JSON


def test_what_list_prints_is_taken(run: Run, daemon: Daemon, batch: Write) -> None:
    """Without what it only tells; whatever else a rule has is for the daemon to judge."""
    odd = LISTED | {"wrong": 1}
    daemon.results["add"] = [VIEW] * 2
    assert run("add", "--batch", batch(f"\ufeff \n{json.dumps([LISTED, odd])}"))[:2] == (0, "Added 2 rules\n")
    rule = {name: LISTED[name] for name in ("rule_id", "name", "input")} | {"outputs": [OUTPUT | {"gso": "auto"}]}
    assert daemon.calls == [("add", {"rules": [rule, rule | {"wrong": 1}]})]
    daemon.calls.clear()
    run("add", "--batch", batch(json.dumps(LISTED)))
    assert daemon.calls == [("add", {"rules": [rule]})]


def test_outputs_in_json_may_be_texts_as_in_files(run: Run, daemon: Daemon, batch: Write) -> None:
    plain = {name: LISTED[name] for name in ("rule_id", "input")}
    texts = plain | {"outputs": ["239.2.2.2:5001:eth1", "239.2.2.3:5001-5004:eth1:ttl=8"]}
    run("add", "--batch", batch(json.dumps(texts)))
    more = {"group": "239.2.2.3", "port": 5001, "last_port": 5004, "interface": "eth1", "ttl": 8}
    assert daemon.calls == [("add", {"rules": [plain | {"outputs": [OUTPUT, more]}]})]
    daemon.calls.clear()
    file = batch(json.dumps([texts, plain | {"outputs": ["239.2.2.2:eth1"]}]))
    told = run("add", "--batch", file)[2]
    assert f"{file}: rules[1]: Invalid output '239.2.2.2:eth1': interface missing in G:P:IF" in told[0]
    assert daemon.calls == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"name": "a"},\n{"name" "b"}]', ":2: not JSON: Expecting ':' delimiter"),
        ("[" * 100_000, ": not JSON that can be read"),
        ("[" + "9" * 5_000 + "]", ": not JSON that can be read"),
    ],
)
def test_what_is_no_json_is_told(run: Run, daemon: Daemon, batch: Write, text: str, words: str) -> None:
    file = batch(text)
    status, _, err = run("add", "--batch", file)
    assert (status, err[0]) == (2, f"Error: {file}{words}")
    assert daemon.calls == []


def test_an_empty_list_has_no_rules(run: Run, daemon: Daemon, batch: Write) -> None:
    assert run("add", "--batch", batch("[]"))[2][0].startswith("Error: No rules in ")
    assert daemon.calls == []


def test_a_fault_in_json_names_index_and_field(run: Run, daemon: Daemon, batch: Write) -> None:
    file = batch(json.dumps([LISTED, 7]))
    daemon.failure = McrError("rules[1].outputs[0].port must be a whole number, not a string; rules[0].x is odd")
    (error,) = run("add", "--batch", file)[2]
    assert error == (
        f"Error: {file}: rules[1].outputs[0].port must be a whole number, not a string; {file}: rules[0].x is odd"
    )


# add --batch with several faults


def test_every_fault_of_a_batch_is_told(run: Run, daemon: Daemon, batch: Write) -> None:
    text = [line(1), f"{line(2)} --nam x", f"{line(3)} --name 'x", *[f"{line(4)} extra"] * 30]
    file = batch(f"{line(1)}\n{line(2)} extra\n{line(70_000)}")
    assert run("add", "--batch", file)[2][:3] == [
        f"{file}:2: Got unexpected extra argument (extra)",
        f"{file}:3: Invalid input port: 70000 is not a port (input)",
        f"Error: 2 faults in {file}: no rule was added",
    ]
    file = batch("\n".join(text[:3]))
    assert run("add", "--batch", file)[::2] == (
        2,
        [
            f"{file}:2: No such option '--nam'",
            f"{file}:3: No closing quotation",
            f"Error: 2 faults in {file}: no rule was added",
            f"hint: {file}:2: did you mean --name?",
            f"hint: {file}:2: see: mcrctl add --help",
            f"hint: {file}:3: a rule is one line: no quotation and no \\ goes on to the next",
        ],
    )
    err = run("add", "--batch", batch("\n".join(text)))[2]
    assert err[20].startswith("Error: At least 20 faults in ")
    assert daemon.calls == []


def test_every_fault_of_a_batch_that_the_daemon_finds_is_told(run: Run, daemon: Daemon, batch: Write) -> None:
    faults = [
        RuleExists("Rule already exists (rules[0])", "a hint", "for all"),
        RuleExists("Rule already exists: rules[2] has the same name as rules[0], x", "for all"),
        InterfaceNotFound("Interface not found: x (rules[1]; also rules[0], rules[2] and 7 more)"),
    ]
    daemon.failure = McrError("Rule already exists (rules[0]); Rule already exists (rules[2])", "a hint")
    daemon.failure.code, daemon.failure.faults = RuleExists.code, faults
    file = batch("\n".join(map(line, (1, 2, 3))))
    assert run("add", "--batch", file)[::2] == (
        1,
        [
            f"{file}:1: Rule already exists",
            f"{file}:3: Rule already exists: it has the same name as {file}:1, x",
            f"{file}:2: Interface not found: x (also {file}:1, {file}:3 and 7 more)",
            f"Error: 3 faults in {file}: no rule was added",
            f"hint: {file}:1: a hint",
            "hint: for all",
        ],
    )


# add --batch --best-effort


def judge(monkeypatch: pytest.MonkeyPatch, daemon: Daemon, wrong: dict[int, type[McrError]]) -> None:
    """Have the daemon refuse requests with rules that have these ports, as it does: the first one that it meets."""

    def call(_: Daemon, method: str, params: dict[str, Any]) -> Any:
        daemon.calls.append((method, params))
        rules = params["rules"]
        for index, rule in enumerate(rules):
            if fault := wrong.get(rule["input"]["port"]):
                error = McrError("Refused" + (f" (rules[{index}])" if len(rules) > 1 else ""), "a hint")
                error.code = fault.code
                raise error
        return [VIEW | {"rule_id": str(rule["input"]["port"])} for rule in rules]

    monkeypatch.setattr(Daemon, "call", call)


def test_what_can_be_added_is_and_the_rest_is_named(
    run: Run, daemon: Daemon, batch: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, daemon, {3: InterfaceNotFound, 9: RuleExists, 10: RuleExists})
    file = batch("\n".join([line(1), "# none", *map(line, range(2, 11)), "--input-port x"]))
    status, out, (line_of_json,) = run("add", "--batch", file, "--best-effort", "--json")
    assert (status, len(json.loads(out))) == (1, 7)
    data = json.loads(line_of_json)["error"]["data"]
    assert [fault["message"] for fault in data["faults"]][1] == f"{file}:4: Refused"
    status, out, err = run("add", "--batch", file, "--best-effort")
    assert (status, out) == (1, "Added 7 rules\n")
    assert err[:4] == [
        f"{file}:12: Missing: --input-interface, --input-group, --outputs",
        f"{file}:4: Refused",
        f"{file}:10: Refused",
        f"{file}:11: Refused",
    ]
    assert err[4] == "Error: 4 of 11 rules were not added"
    assert "hint: a hint" in err


def test_if_all_can_be_added_it_is_one_request(
    run: Run, daemon: Daemon, batch: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, daemon, {})
    file = batch("\n".join(map(line, range(1, 100))))
    assert run("add", "--batch", file, "--best-effort", "--wait") == (0, "Added 99 rules\n", [])
    ((_, params),) = daemon.calls
    assert params["wait"] is True


def test_what_is_wrong_with_no_rule_ends_it(run: Run, daemon: Daemon, batch: Write) -> None:
    daemon.failure = SystemFault("Cannot connect", 111)
    status, out, err = run("add", "--batch", batch(f"{line(1)}\n{line(2)}"), "--best-effort")
    assert (status, out, err) == (1, "", ["Error: Cannot connect: Connection refused (os error 111)"])
    assert len(daemon.calls) == 1


# add --idempotent


def test_rules_that_were_there_are_told(run: Run, daemon: Daemon, batch: Write) -> None:
    there = VIEW | {"added": False}
    daemon.results["add"] = [there]
    assert run("add", *line(1).split(), "--idempotent")[:2] == (0, "Rule dcfca9531161 is there already\n")
    daemon.results["add"] = [there, VIEW | {"added": True}, there]
    assert run("add", "--batch", batch(line(1)), "--idempotent")[:2] == (0, "Added 1 rule; 2 were there already\n")
    assert [params["idempotent"] for _, params in daemon.calls] == [True, True]


def test_what_a_removal_leaves_is_named(run: Run, daemon: Daemon) -> None:
    daemon.results["remove"] = [VIEW | {"warnings": ["it was saved, and not in use"]}]
    daemon.results["list"] = [VIEW | {"origin": "file", "name": None}, VIEW | {"origin": "runtime"}]
    status, out, errors = run("remove", "--all")
    assert (status, out) == (0, f"Removed rule {VIEW['rule_id']}\n")
    assert errors == [
        f"Note: rule {VIEW['rule_id']} (cam): it was saved, and not in use",
        f"Note: 1 rule of configuration files stays: {VIEW['rule_id']}",
    ]


def test_what_is_removed_is_gone_though_the_rest_cannot_be_listed(run: Run, daemon: Daemon) -> None:
    for answer in ([{"origin": "file"}], McrError("mcrd is gone")):
        daemon.results["list"] = answer
        assert run("remove", "--all") == (0, f"Removed rule {VIEW['rule_id']}\n", [])


def test_a_removal_in_json_has_nothing_beside_it(run: Run, daemon: Daemon) -> None:
    """Standard error is for one line of JSON, if something failed; the result has the warnings."""
    daemon.results["remove"] = [VIEW | {"warnings": ["it was saved, and not in use"]}]
    status, out, errors = run("remove", "--all", "--json")
    assert (status, json.loads(out), errors) == (0, daemon.results["remove"], [])
    assert [method for method, _ in daemon.calls] == ["remove"]
