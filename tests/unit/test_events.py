"""How `mcrctl events` tells what has happened."""

import json
from typing import Any

import pytest

from fake_daemon import Daemon, Run
from mcr.errors import McrError, SystemFault

SILENT = {
    "number": 1,
    "time": "2026-01-01T12:00:00.000Z",
    "event": "feed_silent",
    "rule_id": "dada",
    "name": "studio 1",
    "seconds": 60.0,
}
BACK = SILENT | {"number": 2, "event": "feed_back", "name": None, "seconds": 300.0}
BROKEN = SILENT | {"event": "loss_begins", "seconds": 0.0, "lost": 3, "unit": "rtp"}
WHOLE = SILENT | {"event": "loss_ends", "seconds": 7.2, "lost": 1_200, "unit": "ts"}
AWAY = SILENT | {"event": "pids_away", "seconds": 0.0, "pids": [0, 257]}
THERE = SILENT | {"event": "pids_back", "seconds": 7.2, "pids": [257]}


def test_events_are_lines(run: Run, daemon: Daemon) -> None:
    daemon.results["events"] = {"events": [SILENT, BACK, BROKEN, WHOLE, AWAY, THERE]}
    assert run("events")[1].splitlines() == [
        "TIME                      EVENT        RULE      WHAT",
        "2026-01-01T12:00:00.000Z  feed silent  studio 1  60 s without packets",
        "2026-01-01T12:00:00.000Z  feed back    dada      5 min without packets",
        "2026-01-01T12:00:00.000Z  loss begins  studio 1  3 RTP packets lost",
        "2026-01-01T12:00:00.000Z  loss ends    studio 1  1,200 TS packets lost, within 7 s",
        "2026-01-01T12:00:00.000Z  pids away    studio 1  PIDs 0 (PAT), 257",
        "2026-01-01T12:00:00.000Z  pids back    studio 1  PID 257, within 7 s",
    ]
    assert json.loads(run("events", "--json")[1]) == [SILENT, BACK, BROKEN, WHOLE, AWAY, THERE]
    daemon.results["events"] = {"events": []}
    daemon.results["version"] = {"started": "2026-01-01T12:00:00Z"}
    assert run("events")[1] == "Nothing has happened since mcrd was started at 2026-01-01T12:00:00Z\n"
    assert json.loads(run("events", "--json")[1]) == []


def test_each_event_is_followed_once_also_over_a_restart(
    run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another mcrd counts from 1 again."""
    gone = SystemFault("", 111)
    gone.passing = True
    hangs = McrError("No reply from mcrd within 5 s")
    hangs.passing = hangs.silent = True
    last = BACK | {"number": 2}
    answers: list[Any] = [[SILENT], [], gone, gone, [BACK | {"number": 1}], hangs, hangs, [last], hangs, gone]
    answers.append(KeyboardInterrupt())
    asked = []

    def call(_: Daemon, method: str, params: Any = None) -> Any:
        if method == "version":
            return {"started": "first" if len(answers) > 7 else "next"}
        asked.append(params["after"])
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return {"events": answer}

    monkeypatch.setattr(Daemon, "call", call)
    monkeypatch.setattr("time.sleep", lambda _: None)
    status, out, told = run("events", "--follow", "--json")
    is_gone, does_not_answer = "mcrd has gone: waiting for the next one", "mcrd does not answer: waiting until it does"
    assert (status, told) == (0, [is_gone, does_not_answer, does_not_answer, is_gone])
    assert [json.loads(line) for line in out.splitlines()] == [
        SILENT | {"mcrd_started": "first"},
        BACK | {"number": 1, "mcrd_started": "next"},
        last | {"mcrd_started": "next"},
    ]
    assert asked == [0, 1, 1, 1, 0, 1, 1, 1, 2, 2, 2]
