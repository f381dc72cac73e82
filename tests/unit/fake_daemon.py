"""mcrctl as a function, and a daemon that needs no process."""

import sys
from collections.abc import Callable
from typing import Any, Self

import attrs
import pytest

from mcr.cli import requests, session

VIEW: dict[str, Any] = {
    "rule_id": "dcfca9531161",
    "name": "cam",
    "input": {"interface": "eth0", "group": "239.1.1.1", "port": 5000},
    "outputs": [{"group": "239.2.2.2", "port": 5001, "interface": "eth1"}],
    "state": "active",
}
LISTED: dict[str, Any] = VIEW | {
    "outputs": [VIEW["outputs"][0] | {"gso": "auto", "state": "active", "reason": ""}],
    "reason": "",
    "warnings": [],
    "origin": "runtime",
    "path": "worker",
    "path_reason": "",
}
"""As mcrctl list --json prints it."""
STATS: dict[str, Any] = {
    "ingress": dict.fromkeys(["recv", "matched", "parse_err", "no_match", "buf_exhaust", "kernel_drops", "pps"], 0),
    "egress": dict.fromkeys(["submitted", "sent", "errors", "bytes", "in_doubt", "pps"], 0),
    "rules": [],
    "workers": [],
    "interfaces": [],
}
LEVELS = {"supervisor": "info", "control": "debug"}
INPUT = ("--input-interface", "eth0", "--input-group", "239.1.1.1", "--input-port", "5000")
ADD = ("add", *INPUT, "--outputs", "239.2.2.2:5001:eth1")
PARAMS = {"input": VIEW["input"], "outputs": VIEW["outputs"], "rule_id": None, "name": None}


@attrs.define
class Daemon:
    """A daemon that needs no process: remembers calls, answers with what it is told to."""

    calls: list[tuple[str, Any]] = attrs.field(factory=list)
    path: tuple[str, str] | None = None
    process = 4242
    is_visible = False
    failure: BaseException | None = None
    results: dict[str, Any] = attrs.field(
        factory=lambda: {
            "add": [VIEW],
            "change": VIEW,
            "remove": VIEW,
            "list": [VIEW],
            "stats": STATS,
            "list_workers": [],
            "ping": {"pong": True},
            "version": {"version": "9.9.9", "protocol": 1, "pid": 42, "started": "2026-01-01T12:00:00Z"},
            "log_level.get": LEVELS,
            "log_level.set": LEVELS,
        }
    )

    def connect(self, path: str, origin: str) -> "Daemon":
        self.path = path, origin
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        self.calls.append((method, params))
        if self.failure:
            raise self.failure
        if isinstance(result := self.results[method], Exception):
            raise result
        return result


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    daemon = Daemon()
    monkeypatch.setattr(session, "Client", daemon.connect)
    monkeypatch.delenv("MCR_CONTROL_SOCKET", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return daemon


Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run mcrctl with arguments: its exit status, standard output, lines of standard error."""

    def run(*args: str) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["mcrctl", *args])
        try:
            status = requests.chosen(args)()
        except SystemExit as ended:  # a verdict
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err.splitlines()

    return run
