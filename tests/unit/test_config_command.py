"""`mcrctl config check` and `export`."""

import json
import os
import subprocess
import sys
import tomllib
from ipaddress import IPv4Address
from itertools import chain
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples import examples
from fake_daemon import VIEW
from mcr.config.file import read_configuration
from mcr.config.rule_table import rule_of
from mcr.config.writing import toml_of
from mcr.errors import InvalidParams
from mcr.model.flow import Input, check_interface_name
from mcr.model.health import Health
from mcr.model.rule import Output, Rule, automatic_rule_id

TEN_FAULTS = """\
[settings]
num_worker = 2
max_hold_us = 5000
log_level = debug

[[rule]]
name = "one"
input = { interface = "eth0", group = "239.1.1.1", port = 70000 }
outputs = ["239.2.2.2:6000"]

[[rule]]
name = "one"
input = { interface = "a name that is too long", group = "10.0.0.1", port = 5000 }

[[rule]]
naem = "two"
input = { interface = "eth0", group = "239.1.1.2", port = "x" }
outputs = ["239.2.2.2:6000:eth1"]
"""


def test_ten_faults_are_told_at_once_with_their_lines(tmp_path: Path, run: Any) -> None:
    path = tmp_path / "mcr.toml"
    path.write_text(TEN_FAULTS)
    status, out, errors = run("config", "check", str(path))
    told = [line for line in out.splitlines() if not line.startswith("hint: ")]
    assert [line.split(": ")[0] for line in told] == [f"{path}:{line}" for line in (2, 3, 4, 8, 9, 11, 11, 13, 16, 17)]
    assert (status, errors) == (2, ["Error: 10 faults in the configuration"])
    status, out, _ = run("config", "check", str(path), "--json")
    faults = json.loads(out)["faults"]
    assert (status, len(faults)) == (2, 10)
    assert faults[0] == {
        "file": str(path),
        "line": 2,
        "message": "Unknown key 'num_worker' in settings",
        "hints": ["did you mean num_workers?", faults[0]["hints"][1]],
    }


def test_a_sound_file_is_told_as_such(tmp_path: Path, run: Any) -> None:
    (tmp_path / "a.toml").write_text("[settings]\nabsorb = true\n" + toml_of([rule_of(VIEW)]))
    (tmp_path / "b.toml").write_text("")
    assert run("config", "check", str(tmp_path)) == (0, "No fault: 2 files, 1 setting, 1 rule\n", [])


def test_without_a_file_those_of_the_service_are_checked(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcr.cli.config.CONFIGURATION", (str(tmp_path / "no"), str(tmp_path)))
    assert run("config", "check") == (0, "No fault: 0 files, 0 settings, 0 rules\n", [])
    tmp_path.rmdir()
    status, _, errors = run("config", "check")
    assert (status, errors[0]) == (2, f"Error: There is neither {tmp_path}/no nor {tmp_path}")


def test_a_directory_of_which_nothing_is_read_is_told(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was named; the service's only if it holds something, as it is empty at first."""
    warning = f"warning: no file in {tmp_path} ends with .toml\n"
    none = "No fault: 0 files, 0 settings, 0 rules\n"
    assert run("config", "check", str(tmp_path)) == (0, none + warning, [])
    monkeypatch.setattr("mcr.cli.config.CONFIGURATION", (str(tmp_path),))
    assert run("config", "check") == (0, none, [])
    for name in ("sport.conf", ".a.toml"):
        (tmp_path / name).touch()
    assert run("config", "check") == (0, none + warning, [])
    assert json.loads(run("config", "check", "--json")[1])["warnings"] == [f"no file in {tmp_path} ends with .toml"]
    (tmp_path / "sport.toml").touch()
    assert run("config", "check") == (0, none.replace("0 files", "1 file"), [])


def test_checking_imports_nothing_that_the_daemon_needs(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(toml_of([rule_of(VIEW)]))
    code = "import sys; from mcr.cli import failure, mcrctl; sys.argv = ['mcrctl', 'config', 'check', sys.argv[1]]; "
    code += "status = failure.run(mcrctl.cli, 'mcrctl'); print(*sys.modules); sys.exit(status)"
    python = [sys.executable, "-c", code, str(tmp_path)]
    shown = subprocess.run(python, check=True, capture_output=True, text=True).stdout
    assert {"trio", "cattrs", "pyroute2", "tree_sitter", "mcr._native", "sqlite3"}.isdisjoint(shown.split())


PIECES = st.sampled_from([*TEN_FAULTS.splitlines(keepends=True), *"[]{}\"'=,#.\n\x00", '"""', "\\", "é", "9" * 5000])
MUTATION = st.tuples(st.integers(0, len(TEN_FAULTS)), st.integers(0, 12), st.lists(PIECES, max_size=3).map("".join))


# Nothing of it is kept. Each example is a command.
@settings(examples(0.4), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MUTATION, max_size=6))
def test_whatever_stands_in_a_file_there_is_no_traceback(
    tmp_path: Path, run: Any, mutations: list[tuple[int, int, str]]
) -> None:
    text = TEN_FAULTS
    for start, length, piece in mutations:
        text = text[:start] + piece + text[start + length :]
    (tmp_path / "a.toml").write_text(text)
    status, out, _ = run("config", "check", str(tmp_path))
    assert status == (0 if out.startswith("No fault") else 2)


# Export.


def has_name(name: str) -> bool:
    """Whether an interface can have it."""
    try:
        return bool(check_interface_name(name, ""))
    except InvalidParams:
        return False


PRINTABLE = st.characters(exclude_categories=["C", "Z"])
LABELS = st.text(PRINTABLE | st.sampled_from("\"'\\ #[]"), min_size=1, max_size=20).map(str.strip).filter(bool)
INTERFACES = st.text(PRINTABLE | st.sampled_from("[]=,\"'\\"), min_size=1, max_size=15).filter(has_name)
PORTS = st.integers(1, 65535)
GROUPS = st.integers(0xE0000000, 0xEFFFFFFF).map(IPv4Address)
OUTPUTS = st.builds(Output, GROUPS, PORTS, INTERFACES, st.sampled_from(["auto", "off", "2", "64"]))


@st.composite
def rule(draw: st.DrawFn, group: IPv4Address) -> Rule:
    source = Input(draw(INTERFACES), group, draw(PORTS))
    outputs = draw(st.lists(OUTPUTS, min_size=1, max_size=4, unique_by=lambda each: each.destination))
    kept = tuple(each for each in outputs if each.group != group) or (Output(group + 1, 1, "o"),)
    rule_id = draw(st.none() | LABELS)
    return Rule(automatic_rule_id(source) if rule_id is None else rule_id, source, kept, draw(st.none() | LABELS))


def are_distinct(rules: list[Rule]) -> bool:
    """Whether no two have an input in common, nor goes one by the id or name of another."""
    called = [{rule.rule_id, rule.name} - {None} for rule in rules]
    return len({rule.input for rule in rules}) == len(rules) and len({*chain(*called)}) == sum(map(len, called))


RULES: st.SearchStrategy[list[Rule]] = st.lists(
    st.integers(0xE0000000, 0xEFFFFFFE).map(IPv4Address).flatmap(rule), max_size=5
).filter(are_distinct)


@examples(0.4)  # of up to five rules, each independent of the others
@given(RULES)
def test_what_was_exported_is_read_again_as_the_same_rules(
    tmp_path_factory: pytest.TempPathFactory, rules: list[Rule]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"exported-{os.getpid()}.toml"
    path.write_text(toml_of(rules))
    configuration = read_configuration([str(path)])
    assert configuration.faults == ()
    assert [each.rule for each in configuration.rules] == rules


def view(rule: Rule) -> dict[str, Any]:
    """A rule as `list` shows it."""
    shown = attrs.asdict(
        rule, value_serializer=lambda _, __, value: str(value) if isinstance(value, IPv4Address | Health) else value
    )
    outputs = [{**each, "state": "active", "reason": ""} for each in shown["outputs"]]
    if not rule.input.sources:
        del shown["input"]["sources"]
    return {**shown, "outputs": outputs, "state": "active", "reason": "", "warnings": []}


def test_rules_are_exported_in_one_form(run: Any, daemon: Any) -> None:
    source = Input("eth0", IPv4Address("239.1.1.1"), 5000)
    outputs = (Output(IPv4Address("239.2.2.2"), 6000, "eth1", "8"), Output(IPv4Address("192.0.2.7"), 6000, "eth2"))
    automatic = Rule(automatic_rule_id(source), source, outputs[:1])
    named = Rule("sport", Input("eth0", IPv4Address("239.1.1.2"), 5000), outputs, 'the "é" feed', Health.AUTO)
    daemon.results["list"] = [view(named), view(automatic)]  # in the order in which they were added
    status, out, _ = run("config", "export")
    assert (status, out) == (
        0,
        """\
[[rule]]
input = { interface = "eth0", group = "239.1.1.1", port = 5000 }
outputs = ["239.2.2.2:6000:eth1:gso=8"]

[[rule]]
name = "the \\"é\\" feed"
rule_id = "sport"
input = { interface = "eth0", group = "239.1.1.2", port = 5000 }
outputs = [
    "239.2.2.2:6000:eth1:gso=8",
    "192.0.2.7:6000:eth2",
]
health = "auto"
""",
    )
    assert json.loads(run("config", "export", "--json")[1]) == tomllib.loads(out)


def test_a_daemon_of_another_make_is_no_traceback(run: Any, daemon: Any) -> None:
    daemon.results["list"] = [VIEW | {"input": {"interface": "eth0"}}]
    status, _, errors = run("config", "export")
    assert status == 1
    assert "does not answer as this mcrctl expects" in errors[0]


RUN_TIME = VIEW | {"origin": "runtime"}


@pytest.mark.parametrize(
    ("port", "told"),
    [
        (5001, "= {}: it stands in the files now, and goes on; it stays saved, too"),
        (5002, "- {}: not used any more, in favour of the files' rule dcfca9531161; it stays saved"),
    ],
    ids=["moved", "displaced"],
)
def test_what_becomes_of_a_rule_of_run_time_is_told(
    run: Any, daemon: Any, tmp_path: Path, port: int, told: str
) -> None:
    """By mcrd for its own files, and by mcrctl for another."""
    daemon.results["list"] = [RUN_TIME]
    (tmp_path / "a.toml").write_text(toml_of([rule_of(VIEW)]).replace("5001", str(port)))

    status, out, _ = run("config", "diff", str(tmp_path))
    assert status == 1
    assert out.splitlines() == [
        f"+ dcfca9531161 cam: 239.1.1.1:5000 on eth0 to 239.2.2.2:{port}:eth1",
        told.format("dcfca9531161 cam (run time): 239.1.1.1:5000 on eth0 to 239.2.2.2:5001:eth1"),
    ]
    differs = json.loads(run("config", "diff", str(tmp_path), "--json")[1])
    daemon.results["config.apply"] = APPLIED | {key: differs[key] for key in ("differences", "run_time")}
    assert run("config", "apply")[1] == out
    back = differs["run_time"][0] | {"change": "restored", "rival": None}
    daemon.results["config.apply"] = APPLIED | {"run_time": [back]}
    assert run("config", "apply")[1].startswith("+ dcfca9531161 cam (run time): 239.1.1.1:5000 on eth0 to ")


# Apply, and confirm.

APPLIED = {"files": ["/etc/mcr/mcr.toml"], "faults": [], "differences": [], "restart": []}


def test_what_waits_for_confirmation_is_told(run: Any, daemon: Any) -> None:
    waits = {"state": "waiting", "deadline": "2026-01-01T12:02:00Z", "seconds_left": 119.6}
    daemon.results["config.apply"] = APPLIED | {"trial": waits}
    status, out, _ = run("config", "apply", "--confirm", "120")
    assert (status, out.splitlines()[1]) == (
        0,
        "What the files say is taken back in 120 s, at 2026-01-01T12:02:00Z. Keep it: mcrctl confirm",
    )
    assert daemon.calls[-1] == ("config.apply", {"confirm": 120})
    taken_back = {"state": "taken_back", "deadline": "2026-01-01T12:02:00Z", "seconds_left": 0.0}
    daemon.results["config.apply"] = APPLIED | {"trial": taken_back}
    out = run("config", "apply")[1]
    assert out.endswith("Nobody confirmed what the files say, so it was taken back at 2026-01-01T12:02:00Z\n")
    daemon.results["config.apply"] = APPLIED  # of an mcrd of before
    assert run("config", "apply")[1] == "Nothing differs: 1 file\n"
    run("config", "apply", "--reload")
    assert daemon.calls[-1] == ("config.apply", {"reload": True})
    daemon.results["confirm"] = {"confirmed": True}
    assert run("confirm") == (0, "Confirmed: it is no longer taken back\n", [])


def test_a_reload_finds_the_socket_that_files_have_mcrd_serve(
    run: Any, daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is there: the files may have changed since mcrd was started. Who names one means it."""
    daemon.results["config.apply"] = APPLIED
    file, chosen = tmp_path / "mcr.toml", tmp_path / "mcr.sock"
    monkeypatch.setattr("mcr.cli.config.CONFIGURATION", (str(file), str(tmp_path / "rules.d")))
    default = ("/run/mcr/control.sock", "the default")

    def asked(*words: str) -> Any:
        run("config", "apply", *words)
        return daemon.path

    assert asked("--reload") == default
    file.write_text(f'[settings]\ncontrol_socket = "{chosen}"\n')
    assert asked("--reload") == default
    chosen.touch()
    assert asked("--reload") == (str(chosen), "from the configuration files")
    assert asked() == default
    assert asked("--reload", "--control-socket", "/x") == ("/x", "from --control-socket")


def test_what_is_not_active_is_told_with_the_reason(run: Any, daemon: Any) -> None:
    after = {"name": "late", "input": {"interface": "eth7", "group": "239.1.1.3", "port": 5000}, "outputs": ["x"]}
    added = {"rule_id": "a", "change": "added", "before": None, "after": after}
    waits = {"rule_id": "a", "name": "late", "state": "waiting", "reason": "there is no interface eth7"}
    daemon.results["config.apply"] = APPLIED | {"differences": [added], "not_active": [waits]}
    lines = run("config", "apply")[1].splitlines()
    assert lines == ["+ a late: 239.1.1.3:5000 on eth7 to x", "", "a (late): there is no interface eth7"]


def test_times_that_cannot_be_meant_are_refused(run: Any) -> None:
    for words in (["--confirm", "0"], ["--confirm", "5", "--dry-run"], ["--reload", "--dry-run"]):
        assert run("config", "apply", *words)[0] == 2
