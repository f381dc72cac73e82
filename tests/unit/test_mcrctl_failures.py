"""How mcrctl ends: failures, Ctrl-C, readers that leave, closed descriptors."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import mcr
from fake_daemon import ADD, INPUT, Daemon, Run
from mcr.cli import failure, mcrctl, terminal
from mcr.errors import McrError, SystemFault


def test_an_error_is_a_line_and_hints_on_standard_error(run: Run, daemon: Daemon) -> None:
    daemon.failure = McrError("No rule has the id 'x'", "see the rules: mcrctl list", "or not")
    assert run("remove", "--rule-id", "x") == (
        1,
        "",
        ["Error: No rule has the id 'x'", "hint: see the rules: mcrctl list", "hint: or not"],
    )


def test_an_error_in_json_is_that_of_the_control_protocol(run: Run, daemon: Daemon) -> None:
    """One line on standard error, whatever the failure is; the exit status is the same as without --json."""
    daemon.failure = McrError("No rule has the id 'x'", "see the rules: mcrctl list")
    daemon.failure.code, daemon.failure.kind = -32002, "rule_not_found"
    status, out, (line,) = run("remove", "--rule-id", "x", "--json")
    assert (status, out) == (1, "")
    data = {"kind": "rule_not_found", "hints": ["see the rules: mcrctl list"]}
    assert json.loads(line) == {"error": {"code": -32002, "message": "No rule has the id 'x'", "data": data}}


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (("list",), "system_fault"),
        (("lst",), "usage_error"),
        (("--jsn", "list"), "usage_error"),
        (("list", "--control-socket", "--json", "--nothing"), "usage_error"),
        (("add",), "usage_error"),
        (("add", *INPUT, "--outputs", "x"), "usage_error"),
        (("add", "--batch", "/nonexistent"), "system_fault"),
        (("log-level", "set"), "usage_error"),
        (("config", "check", "/nonexistent"), "usage_error"),
        (("config", "export"), "system_fault"),
        (("report", "--output", "/nonexistent/report"), "system_fault"),
    ],
)
def test_every_failure_is_json_for_who_asked_for_that(
    run: Run, daemon: Daemon, args: tuple[str, ...], kind: str
) -> None:
    daemon.failure = SystemFault("", errno.ECONNREFUSED)
    status, _, (line,) = run(*args, "--json")
    error = json.loads(line)["error"]
    assert (status, error["data"]["kind"]) == (2 if kind == "usage_error" else 1, kind)
    assert run(*args)[0] == status


@pytest.mark.parametrize(
    "args",
    [
        ("add", *INPUT, "--input-interface", "eth1", "--outputs", "239.2.2.2:1:eth1"),
        ("add", *INPUT, "--input-port=5001", "--outputs", "239.2.2.2:1:eth1"),
        ("change", "--name", "a", "--new-name", "b", "--new-name", "c"),
        ("log-level", "set", "--global", "info", "--global", "debug"),
        ("report", "--output", "-", "--output", "x"),
        ("--control-socket", "/x", "--control-socket", "/y", "list"),
        ("config", "--control-socket", "/x", "--control-socket", "/y", "diff"),
    ],
)
def test_an_option_given_twice_is_told(run: Run, daemon: Daemon, args: tuple[str, ...]) -> None:
    status, _, err = run(*args)
    assert status == 2
    assert err[0].endswith("is given twice")
    assert daemon.calls == []


@pytest.mark.parametrize(
    ("args", "words", "hint"),
    [
        (
            (),
            "Missing command",
            (
                "commands: add, change, remove, list, stats, list-workers, ping, version, settings, log-level, "
                "capture, config, confirm, doctor, events, why, report, top, trace"
            ),
        ),
        (("log-level",), "Missing command", "commands: get, set"),
        (("log-level", "put"), "No such command 'put'", None),
        (("lst",), "No such command 'lst'", "did you mean list?"),
        (("--jsn", "list"), "No such option '--jsn'", "did you mean --json?"),
        (("add", "--healt", "auto"), "No such option '--healt'", "did you mean --health?"),
        (("add", "--input-prt", "1"), "No such option '--input-prt'", None),
        (("list-workers", "extra"), "Got unexpected extra argument (extra)", "see: mcrctl list-workers --help"),
        (("list", "--control-socket"), "Option '--control-socket' requires an argument", None),
        (
            ("config", "apply", "--confirm", "abc"),
            "Invalid value for '--confirm': 'abc' is not a valid number of seconds",
            None,
        ),
        (("remove",), "Give RULE, --rule-id or --name, or --all", None),
        (("remove", "--all", "--name", "y"), "Give either --all, or RULE, --rule-id or --name", None),
        (("remove", "--all", "y"), "Give either --all, or RULE, --rule-id or --name", None),
        (("change", "--new-name", "y"), "Give either RULE, or --rule-id, or --name", None),
        (
            ("change", "x", "--name", "y"),
            "Give either RULE, or --rule-id, or --name",
            "to give the rule another name: --new-name y",
        ),
        (("change", "--rule-id", "x"), "Nothing to change", None),
        (
            ("change", "--rule-id", "x", "--outputs", "239.2.2.2:1:eth1", "--add-outputs", "239.2.2.2:1:eth1"),
            "Give either --outputs, or --add-outputs and --remove-outputs",
            None,
        ),
        (("change", "news"), "Nothing to change", None),
        (("add", *INPUT, "--best-effort"), "--best-effort goes with --batch", None),
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


def test_no_summary_of_a_command_is_cut_off(run: Run) -> None:
    for group in ((), ("log-level",), ("config",)):
        _, out, _ = run(*group, "--help")
        assert "..." not in out.split("Commands:")[1]


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


def test_no_garbage_is_looked_for_while_modules_are_imported() -> None:
    code = "import gc; from mcr.cli import start; looked = []; gc.callbacks.append(lambda *_: looked.append(1)); "
    code += "freeze = gc.freeze; gc.freeze = lambda: (freeze(), print('looked', len(looked), flush=True)); start.main()"
    done = subprocess.run([sys.executable, "-c", code, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["looked 0", f"mcrctl, version {mcr.__version__}"]


MCRCTL = (sys.executable, "-c", "from mcr.cli.start import main; main()")


def mcrctl_process(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MCRCTL, *args], check=False, text=True, stderr=subprocess.PIPE, **options)


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = mcrctl_process("--help", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.slow
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
            patch.setattr(terminal, "show", refuse)
            with pytest.raises(SystemFault) as caught:
                mcrctl.cli.main(standalone_mode=False)
        assert [f"hint: {each}" for each in caught.value.hints] == hints


@pytest.mark.parametrize("moment", ["mcr.cli.requests", "mcr.cli.client"])
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


@pytest.mark.slow
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


def test_a_space_behind_a_comma_of_the_outputs_is_told(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    batch = tmp_path / "rules"
    batch.write_text(f"{' '.join(ADD[1:])}, 239.2.2.3:5001:eth1\n")
    change = ("change", "--name", "x", "--outputs", "239.2.2.2:5000:eth1,", "239.2.2.3:5001:eth1")
    for words in ((*ADD[:-1], f"{ADD[-1]},", "239.2.2.3:5001:eth1"), ("add", "--batch", str(batch)), change):
        status, _, err = run(*words)
        assert status == 2
        assert err[1] == "hint: no space behind a comma: --outputs 239.2.2.2:5000:eth1,239.2.2.3:5000:eth2"
    assert "hint: name the rule" not in "".join(run("add", "news")[2])
    assert daemon.calls == []


_KNOWN = "after G:P:IF, each once: :gso=…, :ttl=…, :dscp=…, :source=…, :source-port=…, :vlan=…"


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        *((unknown, _KNOWN) for unknown in ("9", "mtu=9")),
        ("tll=8", "did you mean ttl=8?"),
        ("source_port=9", "did you mean source-port=9?"),
        ("gso", "did you mean gso=…?"),
        ("gso=off:gso=off", "each option once"),
    ],
)
def test_an_unsound_option_of_an_output_is_told_with_what_there_is(run: Run, option: str, hint: str) -> None:
    text = f"239.2.2.2:1:eth1:{option}"
    status, _, errors = run(
        "add", "--input-interface", "eth0", "--input-group", "239.1.1.1", "--input-port", "1", "--outputs", text
    )
    assert status == 2
    assert errors[0].startswith(f"Error: Invalid output {text!r}: ")
    assert errors[1] == f"hint: {hint}"
