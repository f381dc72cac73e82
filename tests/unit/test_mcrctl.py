"""The command line: what is asked of the daemon, what is printed, how failures end."""

import errno
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mcr
from fake_daemon import ADD, INPUT, LEVELS, PARAMS, STATS, VIEW, Daemon, Run
from mcr.cli.quantities import endpoint
from mcr.errors import InterfaceNotFound, McrError, RuleNotFound, SystemFault


def test_what_is_odd_about_a_rule_that_was_added_is_a_warning(run: Run, daemon: Daemon) -> None:
    """It is added all the same. JSON has it in the result, and standard error is for errors."""
    odd = {"state": "waiting", "reason": "eth0 is down", "warnings": ["eth1 is called eth9 now"]}
    daemon.results = {"add": [daemon.results["list"][0] | odd]}
    status, out, err = run(*ADD)
    assert (status, "dcfca9531161" in out) == (0, True)
    assert err == [
        "Warning: rule dcfca9531161 (cam): eth1 is called eth9 now",
        "Warning: rule dcfca9531161 (cam): eth0 is down",
    ]
    status, out, err = run(*ADD, "--json")
    assert (status, json.loads(out)[0]["warnings"], err) == (0, odd["warnings"], [])


def test_rule_that_not_every_worker_has_taken_over_is_told_as_list_tells_it(run: Run, daemon: Daemon) -> None:
    """One that has may be forwarding already."""
    daemon.results = {"add": [daemon.results["list"][0] | {"state": "pending"}]}
    status, out, err = run(*ADD)
    assert (status, out) == (1, "Added rule dcfca9531161\n")
    not_yet = "The rule dcfca9531161 (cam) is in place, but not active yet: not every worker has acknowledged it yet"
    assert f"Error: {not_yet}" in err


# Every command: its request, its answer for people and for machines


@pytest.mark.parametrize(
    ("args", "question", "words"),
    [
        (ADD, ("add", {"rules": [PARAMS]}), "Added rule dcfca9531161"),
        (("remove", "--rule-id", "x"), ("remove", {"rule_id": "x"}), "Removed rule dcfca9531161"),
        (("remove", "--name", "cam"), ("remove", {"name": "cam"}), "Removed rule dcfca9531161"),
        (("list",), ("list", None), "239.2.2.2:5001:eth1"),
        (("stats",), ("stats", None), "kernel_drops"),
        (("list-workers",), ("list_workers", None), "No workers."),
        (("ping",), ("ping", None), "mcrd answered on /run/mcr/control.sock in "),
        (("log-level", "get"), ("log_level.get", None), "control     debug"),
        (("log-level", "set", "--global", "debug"), ("log_level.set", {"level": "debug"}), "control     debug"),
        (
            ("log-level", "set", "--facility", "control", "--level", "debug"),
            ("log_level.set", {"facility": "control", "level": "debug"}),
            "control     debug",
        ),
    ],
)
def test_a_command_makes_one_questionand_shows_its_result(
    run: Run, daemon: Daemon, args: tuple[str, ...], question: Any, words: str
) -> None:
    method, params = question
    status, out, err = run(*args)
    assert (status, err) == (0, [])
    assert words in out
    status, out, err = run(*args, "--json")
    assert (status, err) == (0, [])
    assert json.loads(out) == daemon.results[method]
    assert out.count("\n") == 1
    assert daemon.calls == [(method, params)] * 2


@pytest.mark.parametrize("level", ["debug", "trace"])
def test_a_level_that_opens_the_capture_filters_says_what_that_costs(run: Run, daemon: Daemon, level: str) -> None:
    """On standard error, and to people: standard output has the levels, and nothing else."""
    daemon.results["log_level.set"] = LEVELS | {"ingress": level}
    assert run("log-level", "set", "--facility", "ingress", "--level", level, "--json")[2] == []
    status, out, err = run("log-level", "set", "--facility", "ingress", "--level", level)
    assert status == 0
    (note,) = err
    assert note.startswith("Note: while ingress logs at debug or trace, the capture filters admit all UDP on the input")
    assert "Note" not in out
    daemon.results["log_level.set"] = LEVELS | {"ingress": "info"}
    assert run("log-level", "set", "--facility", "ingress", "--level", "info")[2] == []


def test_version_shows_both(run: Run, daemon: Daemon) -> None:
    assert run("version") == (
        0,
        f"mcrctl {mcr.__version__}\nmcrd 9.9.9, process 42, protocol 1, since 2026-01-01T12:00:00Z\n",
        [],
    )
    assert json.loads(run("version", "--json")[1]) == {"mcrctl": mcr.__version__, "mcrd": daemon.results["version"]}


def test_version_works_without_a_daemon(run: Run, daemon: Daemon) -> None:
    daemon.failure = SystemFault("", errno.ECONNREFUSED, "start it")
    status, out, err = run("version")
    assert (status, err) == (0, [])
    assert out.splitlines() == [
        f"mcrctl {mcr.__version__}",
        "mcrd cannot be asked: Connection refused (os error 111)",
    ]
    assert json.loads(run("version", "--json")[1]) == {"mcrctl": mcr.__version__, "mcrd": None}


# The options that every command has


@pytest.mark.parametrize(
    "args",
    [
        ("--control-socket", "/x", "--json", "list"),
        ("list", "--control-socket", "/x", "--json"),
        ("--json", "list", "--control-socket", "/x"),
        ("--control-socket", "/y", "list", "--control-socket", "/x", "--json"),
        ("--control-socket", "/x", "log-level", "--json", "get"),
        ("log-level", "--control-socket", "/x", "get", "--json"),
        ("--json", "log-level", "get", "--control-socket=/x"),
    ],
)
def test_common_options_stand_anywhere(run: Run, daemon: Daemon, args: tuple[str, ...]) -> None:
    status, out, _ = run(*args)
    assert status == 0
    assert json.loads(out)
    assert daemon.path == ("/x", "from --control-socket")


def test_the_socket_has_a_default(run: Run, daemon: Daemon) -> None:
    run("list")
    assert daemon.path == ("/run/mcr/control.sock", "the default")


def test_the_environment_changes_the_default(run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCR_CONTROL_SOCKET", "/env")
    run("list")
    assert daemon.path == ("/env", "from MCR_CONTROL_SOCKET")
    run("list", "--control-socket", "/x")
    assert daemon.path == ("/x", "from --control-socket")


# add


def test_add_takes_outputs_in_one_option_or_in_several(run: Run, daemon: Daemon) -> None:
    one = "239.2.2.2:1:eth1,239.2.2.3:2:eth2"
    run("add", *INPUT, "--outputs", one)
    run("add", *INPUT, "--outputs", *one.replace(",", " --outputs ").split())
    first, second = (params["rules"][0]["outputs"] for _, params in daemon.calls)
    assert first == second
    assert [output["interface"] for output in first] == ["eth1", "eth2"]


def test_add_takes_an_id_and_a_name(run: Run, daemon: Daemon) -> None:
    run(*ADD, "--rule-id", "x", "--name", "the gate")
    assert daemon.calls == [("add", {"rules": [PARAMS | {"rule_id": "x", "name": "the gate"}]})]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("239.2.2.2:5001", "Invalid output '239.2.2.2:5001': interface missing in G:P:IF"),
        ("239.2.2.2", "Invalid output '239.2.2.2': port and interface missing in G:P:IF"),
        ("239.2.2.2::eth1", "Invalid output '239.2.2.2::eth1': port missing in G:P:IF"),
        (":5001:eth1", "Invalid output ':5001:eth1': group missing in G:P:IF"),
        ("239.2.2.2:5001:", "Invalid output '239.2.2.2:5001:': interface missing in G:P:IF"),
        ("", "Invalid outputs: one of them is empty"),
        ("239.2.2.2:1:eth1,", "Invalid outputs: one of them is empty"),
        ("239.2.2.2:x:eth1", "Invalid output '239.2.2.2:x:eth1': 'x' is not a port"),
        ("239.2.2.2:-1:eth1", "Invalid output '239.2.2.2:-1:eth1': '-1' is not a port"),
        ("239.2.2.2:²:eth1", "Invalid output '239.2.2.2:²:eth1': '²' is not a port"),
        ("ff15::1:6000:eth1", "Invalid output 'ff15::1:6000:eth1': an IPv6 address stands in brackets"),
        (
            "[ff15::1]:6000:eth1:source=fd00:1::1:ttl=4",
            "Invalid output '[ff15::1]:6000:eth1:source=fd00:1::1:ttl=4': an IPv6 address stands in brackets",
        ),
        ("ff15::1", "Invalid output 'ff15::1': an IPv6 address stands in brackets"),
        ("ff15::1:6000:eth1:gso=off", "Invalid output 'ff15::1:6000:eth1:gso=off': an IPv6 address stands in brackets"),
        ("fe80::1%eth0:6000:eth1", "Invalid output 'fe80::1%eth0:6000:eth1': an IPv6 address stands in brackets"),
        ("[ff15::1]:eth1", "Invalid output '[ff15::1]:eth1': interface missing in G:P:IF"),
        ("[ff15::1:6000:eth1", "Invalid output '[ff15::1:6000:eth1': port missing in G:P:IF"),
        ("[ff15::1]6000:eth1:eth1", "Invalid output '[ff15::1]6000:eth1:eth1': 'eth1' is not a port"),
    ],
)
def test_a_malformed_output_is_told_with_its_fault_and_an_example(
    run: Run, daemon: Daemon, spec: str, words: str
) -> None:
    status, out, err = run("add", *INPUT, "--outputs", spec)
    assert (status, out) == (2, "")
    assert (err[0], err[-1]) == (
        f"Error: {words}",
        "hint: for example: --outputs 239.2.2.2:5000:eth1,239.2.2.3:5000:eth2",
    )
    assert daemon.calls == []


def test_add_takes_ipv6_addresses_in_brackets(run: Run, daemon: Daemon) -> None:
    run("add", *INPUT, "--outputs", "[ff15::1]:6000:eth1:source=[2001:db8::1]:ttl=8,239.2.2.2:1:eth1")
    first, _ = daemon.calls[0][1]["rules"][0]["outputs"]
    assert first == {"group": "ff15::1", "port": 6000, "interface": "eth1", "source": "2001:db8::1", "ttl": 8}
    assert endpoint(first) == "[ff15::1]:6000:eth1:ttl=8:source=[2001:db8::1]"


def test_values_are_for_the_daemon_to_judge(run: Run, daemon: Daemon) -> None:
    run("add", *INPUT, "--outputs", "x:99999:y")
    assert daemon.calls[0][1]["rules"][0]["outputs"] == [{"group": "x", "port": 99_999, "interface": "y"}]


@pytest.mark.usefixtures("daemon")
def test_every_missing_option_is_named_at_once(run: Run) -> None:
    status, _, err = run("add", "--input-port", "5000")
    assert status == 2
    assert err[0] == "Error: Missing: --input-interface, --input-group, --outputs"


# add --batch


LINE = " ".join(ADD[1:])
BATCH = """
# cameras
--input-interface eth0 --input-group 239.1.1.1 --input-port 5000 --outputs 239.2.2.2:5001:eth1
  --input-interface=eth0 --input-group 239.1.1.2 --input-port 5000 --outputs 239.2.2.2:5002:eth1 --name cam#1 # one

--input-interface 'eth0' --input-group 239.1.1.3 --input-port 5000 --outputs 239.2.2.2:5003:eth1 --name "a # \\"b\\""
"""


@pytest.fixture
def batch(tmp_path: Path) -> Callable[[str | bytes], str]:
    def write(text: str | bytes) -> str:
        file = tmp_path / "rules.txt"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(file)

    return write


def test_a_batch_is_one_request(run: Run, daemon: Daemon, batch: Callable[[str | bytes], str]) -> None:
    daemon.results["add"] = [VIEW] * 3
    assert run("add", "--batch", batch(BATCH)) == (0, "Added 3 rules\n", [])
    ((method, params),) = daemon.calls
    assert method == "add"
    assert [rule["input"]["group"] for rule in params["rules"]] == ["239.1.1.1", "239.1.1.2", "239.1.1.3"]
    assert [rule["name"] for rule in params["rules"]] == [None, "cam#1", 'a # "b"']


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{LINE}\n{LINE}\n",
        f"{LINE}\r\n# x\r\n\r\n{LINE} --name 'x'\r\n",
        f"mcrctl add {LINE}\nsudo /usr/bin/mcrctl add {LINE} # x\n",
    ],
    ids=["byte order mark", "CRLF", "the whole command"],
)
def test_a_batch_may_come_from_elsewhere(
    run: Run, daemon: Daemon, batch: Callable[[str | bytes], str], text: str
) -> None:
    """An editor of Windows, a shell's history."""
    daemon.results["add"] = [VIEW] * 2
    assert run("add", "--batch", batch(text)) == (0, "Added 2 rules\n", [])
    first, second = daemon.calls[0][1]["rules"]
    assert first["input"] == second["input"] == {"interface": "eth0", "group": "239.1.1.1", "port": 5000}


def test_ends_of_json_are_written_as_in_files(run: Run, daemon: Daemon, batch: Callable[[str | bytes], str]) -> None:
    """Prefixes and ranges of ports as texts."""
    several: dict[str, Any] = {"interface": "eth0", "group": "239.1.0.0/24", "port": "5000-5009"}
    apart = {"interface": "eth0", "group": "239.1.0.0", "prefix": 24, "port": 5000, "last_port": 5009}
    rule = {"input": several, "outputs": ["239.1.0.0/24:5000-5009:eth0"]}
    assert run("add", "--batch", batch(json.dumps([rule, VIEW])))[0] == 0
    first, second = daemon.calls[0][1]["rules"]
    assert first == {"input": apart, "outputs": [apart]}
    assert second["input"] == VIEW["input"]


def test_a_batch_comes_from_standard_input(run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BATCH.encode())))
    assert run("add", "--batch", "-")[0] == 0
    assert len(daemon.calls[0][1]["rules"]) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{LINE}\n{LINE} extra", "2: Got unexpected extra argument (extra)"),
        (f"{LINE}\n\n{LINE.replace('5000', 'x')}", "3: Invalid input port: 'x' is not a port"),
        (f"{LINE} --name a --name b", "1: Option '--name' is given twice"),
        ("--input-port", "1: Option '--input-port' requires an argument"),
        ("--inputs x", "1: No such option '--inputs'"),
        ("--json", "1: No such option '--json'"),
        ("# x\n--input-port 5", "2: Missing: --input-interface, --input-group, --outputs"),
        (f"{LINE},x", "1: Invalid output 'x': port and interface missing in G:P:IF"),
        (f"{LINE} --name 'x", "1: No closing quotation"),
        (LINE.encode() + b"\n\xff", "2: not text in UTF-8"),
        (f"{LINE} \\\n{LINE}", "1: No escaped character"),
        (f"mcrctl list\n{LINE}", "1: Got unexpected extra arguments (mcrctl list)"),
    ],
)
def test_a_fault_in_a_batch_names_file_and_line_and_nothing_is_asked(
    run: Run, daemon: Daemon, batch: Callable[[str | bytes], str], text: bytes | str, words: str
) -> None:
    file = batch(text)
    status, _, err = run("add", "--batch", file)
    assert (status, err[0]) == (2, f"Error: {file}:{words}")
    assert daemon.calls == []


def test_a_fault_that_the_daemon_finds_names_file_and_line(
    run: Run, daemon: Daemon, batch: Callable[[str | bytes], str]
) -> None:
    daemon.failure = McrError("Invalid input group: 'x' is not an IP address (rules[1].input.group)", "a hint")
    file = batch(f"\n{LINE}\n\n{LINE}")
    assert run("add", "--batch", file) == (
        1,
        "",
        [f"Error: {file}:4: Invalid input group: 'x' is not an IP address (input.group)", "hint: a hint"],
    )


def test_a_fault_in_the_only_rule_of_a_batch_names_file_and_line(
    run: Run, daemon: Daemon, batch: Callable[[str | bytes], str]
) -> None:
    daemon.failure = McrError("Interface not found: eth9")
    daemon.failure.code = InterfaceNotFound.code
    file = batch(f"\n{LINE}\n")
    assert run("add", "--batch", file)[2] == [f"Error: {file}:2: Interface not found: eth9"]
    for other in (McrError("mcrd closed the connection without a reply"), SystemFault("", 2)):
        daemon.failure = other  # it has nothing to do with the rule
        assert run("add", "--batch", file)[2] == [f"Error: {other.message}"]


def test_a_batch_without_rules_is_a_fault(run: Run, daemon: Daemon, batch: Callable[[str | bytes], str]) -> None:
    status, _, err = run("add", "--batch", batch("# nothing\n"))
    assert status == 2
    assert err[0].startswith("Error: No rules in ")
    assert daemon.calls == []


def test_a_batch_that_cannot_be_read_is_told(run: Run, daemon: Daemon) -> None:
    status, _, err = run("add", "--batch", "/nonexistent")
    assert (status, err) == (1, ["Error: Cannot read /nonexistent: No such file or directory (os error 2)"])
    assert daemon.calls == []


def test_a_batch_stands_alone(run: Run, daemon: Daemon) -> None:
    status, _, err = run("add", "--batch", "-", "--name", "x")
    assert (status, err[0]) == (2, "Error: --batch takes no other options of a rule")
    assert daemon.calls == []


# stats --watch


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of a watch that is ended by Ctrl-C in the third one."""
    pauses: list[float] = []

    def sleep(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    return pauses


def test_a_watch_in_a_pipe_prints_a_block_a_second_until_ctrl_c(run: Run, daemon: Daemon, seconds: list[float]) -> None:
    status, out, err = run("stats", "--watch")
    assert (status, err, seconds) == (0, [], [1, 1, 1])
    assert [block.split()[0] for block in out.split("\n\nIngress")] == ["Ingress", "recv", "recv"]
    assert daemon.calls == [("stats", None)] * 3


@pytest.mark.usefixtures("daemon", "seconds")
def test_a_watch_for_machines_prints_an_object_a_line(run: Run) -> None:
    _, out, _ = run("stats", "--watch", "--json")
    assert [json.loads(line) for line in out.splitlines()] == [STATS] * 3


def test_who_gives_a_watch_an_interval_is_told_that_it_takes_none(run: Run, daemon: Daemon) -> None:
    """It is read as the name of a rule, of which there may be one."""
    for rule, hints in (("0.5", ["hint: --watch takes no interval: it shows them every second"]), ("tv", [])):
        daemon.failure = RuleNotFound(f"No rule has the id or name {rule!r}", "see the rules: mcrctl list")
        assert run("stats", "--watch", rule)[2] == [
            f"Error: No rule has the id or name {rule!r}",
            *hints,
            "hint: see the rules: mcrctl list",
        ]


def test_a_watch_waits_for_the_next_daemon(run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told once, however long it takes; other errors end it, and so does a daemon that is not there to begin with."""
    gone = McrError("mcrd closed the connection without a reply")
    gone.passing = True
    hangs = McrError("No reply from mcrd within 5 s")
    hangs.passing = hangs.silent = True
    failures = iter((gone, gone, None, gone, hangs, None, McrError("No rule has the id x")))

    def sleep(_: float) -> None:
        daemon.failure = next(failures)

    monkeypatch.setattr("time.sleep", sleep)
    status, out, err = run("stats", "--watch", "--json")
    assert (status, [json.loads(line) for line in out.splitlines()]) == (1, [STATS] * 3)
    is_gone, does_not_answer = "mcrd has gone: waiting for the next one", "mcrd does not answer: waiting until it does"
    assert err[:3] == [is_gone, is_gone, does_not_answer]
    assert "No rule has the id x" in "".join(err[3:])
    daemon.failure = gone
    assert run("stats", "--watch")[0] == 1


# Failures


# The process
