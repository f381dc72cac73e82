"""The command line: what is asked of the daemon, what is printed, how failures end."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import mcr
from fake_daemon import ADD, INPUT, LEVELS, PARAMS, STATS, VIEW, Daemon, Run
from mcr.cli import failure, mcrctl
from mcr.errors import InterfaceNotFound, McrError, SystemFault


@pytest.mark.parametrize("json_asked", [(), ("--json",)])
def test_what_is_odd_about_a_rule_that_was_added_is_a_warning(
    run: Run, daemon: Daemon, json_asked: tuple[str, ...]
) -> None:
    """It is added all the same."""
    odd = {"state": "waiting", "reason": "eth0 is down", "warnings": ["eth1 is called eth9 now"]}
    daemon.results = {"add": [daemon.results["list"][0] | odd]}
    status, out, err = run(*ADD, *json_asked)
    assert (status, "dcfca9531161" in out) == (0, True)
    assert err == ["Warning: rule dcfca9531161: eth1 is called eth9 now", "Warning: rule dcfca9531161: eth0 is down"]


def test_rule_that_not_every_worker_has_taken_over_is_told_as_list_tells_it(run: Run, daemon: Daemon) -> None:
    """One that has may be forwarding already."""
    daemon.results = {"add": [daemon.results["list"][0] | {"state": "pending"}]}
    status, out, err = run(*ADD)
    assert (status, out) == (1, "Added rule dcfca9531161\n")
    not_yet = "The rule dcfca9531161 is in place, but not active yet: not every worker has acknowledged it yet"
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
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_level_that_opens_the_capture_filters_says_what_that_costs(
    run: Run, daemon: Daemon, level: str, options: tuple[str, ...]
) -> None:
    """On standard error: standard output has the levels, and nothing else, as before."""
    daemon.results["log_level.set"] = LEVELS | {"ingress": level}
    status, out, err = run("log-level", "set", "--facility", "ingress", "--level", level, *options)
    assert status == 0
    (note,) = err
    assert note.startswith("Note: while ingress logs at debug or trace, the capture filters admit all UDP on the input")
    assert "Note" not in out
    daemon.results["log_level.set"] = LEVELS | {"ingress": "info"}
    assert run("log-level", "set", "--facility", "ingress", "--level", "info", *options)[2] == []


def test_version_shows_both(run: Run, daemon: Daemon) -> None:
    assert run("version") == (0, f"mcrctl {mcr.__version__}\nmcrd 9.9.9, process 42, protocol 1\n", [])
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
        ("239.2.2.2:x:eth1", "Invalid output '239.2.2.2:x:eth1': the port 'x' is not a number"),
        ("239.2.2.2:-1:eth1", "Invalid output '239.2.2.2:-1:eth1': the port '-1' is not a number"),
        ("239.2.2.2:²:eth1", "Invalid output '239.2.2.2:²:eth1': the port '²' is not a number"),
        ("[ff15::1]:6000:eth1", "Invalid output '[ff15::1]:6000:eth1': MCR relays only IPv4 for now"),
        ("ff15::1:6000:eth1", "Invalid output 'ff15::1:6000:eth1': MCR relays only IPv4 for now"),
        ("ff15::1", "Invalid output 'ff15::1': MCR relays only IPv4 for now"),
        ("ff15::1:6000:eth1:gso=off", "Invalid output 'ff15::1:6000:eth1:gso=off': MCR relays only IPv4 for now"),
        ("fe80::1%eth0:6000:eth1", "Invalid output 'fe80::1%eth0:6000:eth1': MCR relays only IPv4 for now"),
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


def test_a_batch_comes_from_standard_input(run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BATCH.encode())))
    assert run("add", "--batch", "-")[0] == 0
    assert len(daemon.calls[0][1]["rules"]) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{LINE}\n{LINE} extra", "2: Got unexpected extra argument (extra)"),
        (f"{LINE}\n\n--input-port x", "3: Invalid value for '--input-port': 'x' is not a valid integer"),
        ("--input-port", "1: Option '--input-port' requires an argument"),
        ("--inputs x", "1: No such option '--inputs'"),
        ("--json", "1: No such option '--json'"),
        ("# x\n--input-port 5", "2: Missing: --input-interface, --input-group, --outputs"),
        (f"{LINE},x", "1: Invalid output 'x': port and interface missing in G:P:IF"),
        (f"{LINE} --name 'x", "1: No closing quotation"),
        (LINE.encode() + b"\n\xff", "2: not text in UTF-8"),
        (f"{LINE} \\\n --name x", "1: No escaped character"),
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
        [f"Error: Invalid input group: 'x' is not an IP address ({file}:4, input.group)", "hint: a hint"],
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


def test_a_watch_ends_with_an_error_when_the_daemon_goes(run: Run, daemon: Daemon) -> None:
    daemon.failure = McrError("mcrd closed the connection without a reply")
    assert run("stats", "--watch")[0] == 1


# Failures


def test_an_error_is_a_line_and_hints_on_standard_error(run: Run, daemon: Daemon) -> None:
    daemon.failure = McrError("No rule has the id 'x'", "see the rules: mcrctl list", "or not")
    assert run("remove", "--rule-id", "x", "--json") == (
        1,
        "",
        ["Error: No rule has the id 'x'", "hint: see the rules: mcrctl list", "hint: or not"],
    )


@pytest.mark.parametrize(
    ("args", "words", "hint"),
    [
        (
            (),
            "Missing command",
            "commands: add, remove, list, stats, list-workers, ping, version, settings, log-level, doctor, why, report",
        ),
        (("log-level",), "Missing command", "commands: get, set"),
        (("log-level", "put"), "No such command 'put'", None),
        (("lst",), "No such command 'lst'", "did you mean list?"),
        (("--jsn", "list"), "No such option '--jsn'", "did you mean --json?"),
        (("add", "--input-prt", "1"), "No such option '--input-prt'", None),
        (("list", "extra"), "Got unexpected extra argument (extra)", "see: mcrctl list --help"),
        (("list", "--control-socket"), "Option '--control-socket' requires an argument", None),
        (("remove",), "Give either --rule-id or --name", None),
        (("remove", "--rule-id", "x", "--name", "y"), "Give either --rule-id or --name", None),
        (("log-level", "set"), "Give either --global LEVEL, or --facility NAME --level LEVEL", None),
        (
            ("log-level", "set", "debug"),
            "Got unexpected extra argument (debug)",
            "for all facilities: mcrctl log-level set --global debug",
        ),
        (("log-level", "set", "--level", "info"), "Give either --global LEVEL, or --facility NAME --level LEVEL", None),
        (
            ("log-level", "set", "--global", "info", "--level", "info"),
            "Give either --global LEVEL, or --facility NAME --level LEVEL",
            None,
        ),
    ],
)
def test_a_wrong_command_line_is_told_and_nothing_is_asked(
    run: Run, daemon: Daemon, args: tuple[str, ...], words: str, hint: str | None
) -> None:
    status, out, err = run(*args)
    assert (status, out, err[0]) == (2, "", f"Error: {words}")
    assert all(line.startswith("hint: ") for line in err[1:])
    assert hint is None or f"hint: {hint}" in err
    assert daemon.calls == []


def test_ctrl_c_ends_quietly_with_the_status_shells_expect(run: Run, daemon: Daemon) -> None:
    daemon.failure = KeyboardInterrupt()
    status, out, err = run("list")
    assert (status, out, [line for line in err if line]) == (130, "", [])


def test_a_bug_keeps_its_traceback(run: Run, daemon: Daemon) -> None:
    daemon.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        run("list")


def test_help_is_no_failure(run: Run) -> None:
    status, out, err = run("add", "--help")
    assert (status, err) == (0, [])
    assert "--input-interface" in out


def fail_with(error: Exception) -> click.Command:
    def command() -> None:
        raise error

    return click.Command("command", callback=command)


def test_an_error_out_of_a_nursery_is_reported_like_any_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mcrd"])
    group = ExceptionGroup("", [ExceptionGroup("", [SystemFault("AF_PACKET socket creation failed", errno.EPERM)])])
    assert failure.run(fail_with(group), "mcrd") == 1
    assert capsys.readouterr().err == (
        "Error: AF_PACKET socket creation failed: Operation not permitted (os error 1)\n"
    )


def test_a_bug_out_of_a_nursery_is_not_hidden_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mcrd"])
    with pytest.raises(ExceptionGroup):
        failure.run(fail_with(ExceptionGroup("", [McrError("error"), ZeroDivisionError()])), "mcrd")


# The process


def test_nothing_slow_is_imported() -> None:
    slow = {"trio", "attrs", "attr", "cattrs", "rich", "mcr.model", "mcr.control.wire", "logging", "asyncio"}
    slow |= {"ipaddress", "pathlib"}
    code = f"import sys; sys.path[:] = {[str(Path(mcr.__file__).parents[1]), *sys.path]}; "  # -S: what setuptools'
    code += "import mcr.cli.mcrctl; print(*sys.modules)"  # editable installation imports is not mcrctl's
    python = [sys.executable, "-S", "-c", code]
    loaded = subprocess.run(python, check=True, capture_output=True, text=True).stdout.split()
    assert slow.isdisjoint(loaded)


def test_no_garbage_is_looked_for_while_modules_are_imported() -> None:
    code = "import gc; from mcr.cli import start; looked = []; gc.callbacks.append(lambda *_: looked.append(1)); "
    code += "freeze = gc.freeze; gc.freeze = lambda: (freeze(), print('looked', len(looked))); start.main()"
    done = subprocess.run([sys.executable, "-c", code, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["looked 0", f"mcrctl, version {mcr.__version__}"]


MCRCTL = (sys.executable, "-c", "from mcr.cli.start import main; main()")


def mcrctl_process(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MCRCTL, *args], check=False, text=True, stderr=subprocess.PIPE, **options)


def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = mcrctl_process("--help", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize("words", [("version",), ("--help",), ("add", "--help"), ("--version",)])
def test_output_that_cannot_be_written_is_an_error(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = mcrctl_process(*words, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "Error: Cannot write to standard output: No space left on device (os error 28)\n"


def test_change_whose_answer_cannot_be_written_was_carried_out(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is said, or who asked does it again."""

    def refuse(*_: object, **__: object) -> None:
        raise SystemFault("Cannot write to standard output", errno.ENOSPC)

    for words, hints in ((ADD, ["hint: the change was carried out all the same"]), (("list",), [])):
        monkeypatch.setattr(sys, "argv", ["mcrctl", *words])
        with monkeypatch.context() as patch:
            patch.setattr(click, "echo", refuse)
            with pytest.raises(SystemFault) as caught:
                mcrctl.cli.main(standalone_mode=False)
        assert [f"hint: {each}" for each in caught.value.hints] == hints


@pytest.mark.parametrize("moment", ["mcr.cli.mcrctl", "mcr.cli.tables"])
def test_ctrl_c_while_it_is_imported_ends_it_without_a_word(moment: str) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {moment!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from mcr.cli.start import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "version"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_error_that_cannot_be_written_is_still_a_status() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*MCRCTL, "nonsense"], check=False, stderr=full)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("closed", "status", "said"),
    [
        ("<&-", 2, "No rules in <stdin>"),
        (">&-", 1, "Cannot write to standard output: Bad file descriptor (os error 9)"),
    ],
)
def test_a_closed_descriptor_is_told_and_no_traceback(closed: str, status: int, said: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *MCRCTL, "add", "--batch", "-"],
        check=False,
        text=True,
        stderr=subprocess.PIPE,
    )
    assert (done.returncode, done.stderr.splitlines()[0]) == (status, f"Error: {said}")


def test_an_argument_where_an_option_is_wanted_names_the_option(run: Run, daemon: Daemon) -> None:
    status, _, err = run("remove", "news")
    assert status == 2
    assert "hint: name the rule by an option: --rule-id or --name" in err
    assert daemon.calls == []


def test_a_space_behind_a_comma_of_the_outputs_is_told(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    batch = tmp_path / "rules"
    batch.write_text(f"{' '.join(ADD[1:])}, 239.2.2.3:5001:eth1\n")
    for words in ((*ADD[:-1], f"{ADD[-1]},", "239.2.2.3:5001:eth1"), ("add", "--batch", str(batch))):
        status, _, err = run(*words)
        assert status == 2
        assert err[1] == "hint: no space behind a comma: --outputs 239.2.2.2:5000:eth1,239.2.2.3:5000:eth2"
    assert "hint: name the rule" not in "".join(run("add", "news")[2])
    assert daemon.calls == []


@pytest.mark.parametrize("option", ["9", "gso", "ttl=9", "gso=off:gso=off"])
def test_an_unknown_option_of_an_output_is_told_with_the_known_ones(run: Run, option: str) -> None:
    text = f"239.2.2.2:1:eth1:{option}"
    status, _, errors = run(
        "add", "--input-interface", "eth0", "--input-group", "239.1.1.1", "--input-port", "1", "--outputs", text
    )
    assert status == 2
    assert errors[0].startswith(f"Error: Invalid output {text!r}: ")
    assert errors[1] == "hint: after G:P:IF, each once: :gso=…"
