"""What answers mcrctl is not mcrd, or means harm: one line says so, soon, and the terminal stays sane."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from answering import answering, call, replying
from fake_daemon import ADD, LEVELS, STATS, VIEW
from mcr.cli import client, report
from mcr.errors import McrError
from mcr.text.visible import visible

EVIL = 'a\nError: b\x1b[2J\x07\r\x9b31m\u202etxt\u2028c\u200b\ud800\x00"'
"""Ends lines, clears the screen, rings, turns what follows around, hides."""

DEEP: Any = []
for _ in range(2_000):
    DEEP = [DEEP]

FINDING = {"check": "c", "verdict": "ok", "what": "w", "evidence": "e", "remedy": "r"}

COMMANDS = [
    ("list",),
    ("stats",),
    ("list-workers",),
    ("settings",),
    ("log-level", "get"),
    ("log-level", "set", "--global", "info"),
    ("doctor",),
    ("why", "tv"),
    ADD,
    ("remove", "--name", "tv"),
    ("ping",),
    ("version",),
    ("report", "--output", "-"),
]

VERDICTS = ("doctor", "why")
"""Their other statuses are those of what they found."""

VALUES: list[Any] = [
    None,
    True,
    0,
    -1.5,
    float("inf"),
    10**400,
    "",
    EVIL,
    [],
    {},
    [None],
    [[]],
    [{}],
    [1],
    {"a": None},
    [VIEW | {"name": 1}],
    [VIEW | {"outputs": []}],
    [VIEW | {"outputs": 1}],
    [VIEW | {"input": None}],
    [VIEW, VIEW],
    [FINDING | {"verdict": "?"}],
    [FINDING | {"remedy": {}}],
    STATS | {"ingress": STATS["ingress"] | {"recv": "many"}},
    STATS | {"ingress": STATS["ingress"] | {"pps": 10**400}},
    STATS | {"rules": [{}]},
    LEVELS | {"x": []},
    DEEP,
]


def ask(run: Any, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """Exit status, and all that was printed; if it failed, that was one error and its hints."""
    status, out, err = None, "", []
    try:
        status, out, err = run(*words)
    except SystemExit as ended:  # of findings
        status, out = ended.code, capsys.readouterr().out
    if err and "--json" in words:
        (line,) = err
        error = json.loads(line)["error"]
        assert {"code", "message", "data"} <= error.keys()
        assert error["message"]
    elif err:
        assert err[0].startswith("Error: ")
        assert all(line.startswith("hint: ") for line in err[1:])
    assert not err or status == (3 if words[0] in VERDICTS else 1)
    return status, "\n".join([out, *err])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_value_of_the_wrong_type_is_no_traceback(
    run: Any, daemon: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: Any
) -> None:
    monkeypatch.setattr(report, "_interfaces", lambda: ())  # of this machine: nobody answers them
    for value in VALUES:
        daemon.results = dict.fromkeys(["doctor", "settings", "why", "log.recent", *daemon.results], value)
        for options in ((), ("--json",)) if words[0] != "report" else ((),):  # which is a text in any case
            ask(run, (*words, *options), capsys)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_text_of_others_moves_no_cursor(run: Any, daemon: Any, capsys: Any, words: Any) -> None:
    """Wherever a string stands in an answer."""
    results = {
        "doctor": [FINDING],
        "why": [FINDING],
        "settings": [
            dict.fromkeys(("name", "value", "source", "meaning", "effective"), "x"),
        ],
        "log.recent": [dict.fromkeys(("time", "level", "facility", "message"), "x")],
    }
    daemon.results = evil(daemon.results | results)
    for options in ((), ("--json",)):
        status, printed = ask(run, (*words, *options), capsys)
        assert status in (0, 1)
        assert [line for line in printed.splitlines() if not line.isprintable()] == []
        assert "\nError: b" not in printed
    daemon.failure = McrError(EVIL, EVIL)
    assert "\nError: b" not in ask(run, words, capsys)[1]


def evil(value: Any) -> Any:
    """The value with other strings, but for those that are words of the protocol."""
    if isinstance(value, str):
        return value if value in {"ok", "active"} else EVIL
    if isinstance(value, list):
        return [evil(each) for each in value]
    return {name: evil(each) for name, each in value.items()} if isinstance(value, dict) else value


def test_what_is_visible() -> None:
    assert visible(EVIL) == (r"a\nError: b\x1b[2J\x07\r\x9b31m\u202etxt\u2028c\u200b\ud800\x00" + '"')
    assert visible("ä 漢字 …") == "ä 漢字 …"


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff\xfe\n",
        b"null\n",
        b"[" * 100_000 + b"\n",
        b'{"id":1,"result":NaN}\n',
        b'{"id":1,"result":-Infinity}\n',
        b'{"id":1,"result":' + b"9" * 5_000 + b"}\n",
        b'{"id":7,"result":1}\n',
        b'{"id":"1","result":1}\n',
        b'{"result":1}\n',
        b'{"id":1,"error":null}\n',
        b'{"id":1,"error":{"message":1,"data":{"hints":[]}}}\n',
        b'{"id":1,"error":{"message":"x","data":{"hints":"abc"}}}\n',
        b'{"id":1,"error":{"message":"x","data":{"hints":[1]}}}\n',
    ],
    ids=lambda reply: repr(reply[:40]),
)
def test_a_reply_that_is_none_is_told(reply: bytes) -> None:
    with answering(replying(reply)) as path, pytest.raises(McrError, match="is not mcrd"):
        call(path)


def pouring(part: bytes, pause: Callable[[], None] = lambda: None) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                connection.sendall(part)
                pause()

    return answer


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_REPLY", 1 << 20)
    with answering(pouring(b"x" * 10_000)) as path, pytest.raises(McrError, match="its answer does not end"):
        call(path)


def test_an_answer_in_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WHOLE_REPLY_TIMEOUT", 0.1)
    with (
        answering(pouring(b"x", lambda: time.sleep(0.001))) as path,
        pytest.raises(McrError, match="No reply from mcrd"),
    ):
        call(path)
