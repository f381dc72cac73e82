"""`mcrctl report`: what it does when something it asks for can't be had."""

import errno
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, Self

import pytest

from mcr.cli import failure, mcrctl, session
from mcr.errors import McrError, SystemFault

FINDING = {"check": "kernel", "verdict": "ok", "what": "Linux", "evidence": "uname -r", "remedy": ""}


RESULTS = {
    "version": {"version": "0.0.1", "protocol": 1, "pid": 1},
    "doctor": [FINDING, FINDING | {"verdict": "fault", "what": "No"}, FINDING | {"verdict": "advice"}],
    "list": [],
    "list_workers": [{"pid": 1}],
}


class OldDaemon:
    """A daemon that knows few methods, and answers one of them with what no view expects."""

    is_visible = False

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str, _params: object = None) -> Any:
        if method not in RESULTS:
            raise McrError(f"Unknown method: {method!r}")
        return RESULTS[method]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The sections of a report on this machine."""
    monkeypatch.setattr(session, "Client", OldDaemon)
    monkeypatch.setattr(sys, "argv", ["mcrctl", "report", "--output", "-"])
    assert failure.run(mcrctl.cli, "mcrctl") == 0
    parts = re.split(r"^== (.*) ==\n\n", capsys.readouterr().out, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_a_section_that_cannot_be_had_says_why_and_the_others_are_there(told: dict[str, str]) -> None:
    assert told["Settings"].strip() == "mcrd cannot be asked: Unknown method: 'settings'"
    assert told["Workers"].startswith("Not available: KeyError")
    assert told["Rules"].startswith("No rules")
    assert "lo: " in told["Interfaces that mcrctl sees"]


def test_the_worst_findings_come_first(told: dict[str, str]) -> None:
    verdicts = [line.split()[0] for line in told["Findings of mcrctl doctor"].strip().splitlines()]
    assert verdicts == ["fault", "advice", "ok"]


def test_who_asks_is_not_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Closed:
        def __init__(self, *_: object) -> None:
            raise SystemFault("", errno.EACCES, "you are alice; the socket belongs to root")

    monkeypatch.setattr(session, "Client", Closed)
    monkeypatch.setattr(sys, "argv", ["mcrctl", "report", "--output", "-"])
    assert failure.run(mcrctl.cli, "mcrctl") == 0
    out = capsys.readouterr().out
    assert "mcrd cannot be asked: Permission denied (os error 13)" in out
    assert "alice" not in out


def test_it_is_for_its_owner_alone_and_replaces_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(session, "Client", OldDaemon)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mcrctl", "report", "--output", "made"])
    before = os.umask(0)
    try:
        assert failure.run(mcrctl.cli, "mcrctl") == 0
        assert (tmp_path / "made").stat().st_mode == stat.S_IFREG | 0o600
    finally:
        os.umask(before)
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo(tmp_path / "fifo")
    for name in ("made", "link", "dangling", "fifo"):
        monkeypatch.setattr(sys, "argv", ["mcrctl", "report", "--output", name])
        assert failure.run(mcrctl.cli, "mcrctl") == 1
        assert f"Error: Cannot write {name}: File exists (os error 17)\n" in capsys.readouterr().err
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


def test_an_empty_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mcrctl", "report", "--output", ""])
    assert failure.run(mcrctl.cli, "mcrctl") == 2
    assert capsys.readouterr().err.startswith("Error: --output is empty\n")
    assert not list(Path(tmp_path).iterdir())
