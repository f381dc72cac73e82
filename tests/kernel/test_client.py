"""The connection to the daemon: replies, silence, and every way not to get one."""

import errno
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from answering import answering, call, replying
from mcr.cli import client
from mcr.cli.client import Client
from mcr.control import wire
from mcr.errors import McrError, SystemFault

LINE = "--input-interface eth0 --input-group 239.1.1.1 --input-port 5000 --outputs 239.2.2.2:5001:eth1"


def test_results_belong_to_their_requests() -> None:
    replies = replying(b'{"jsonrpc":"2.0","id":1,"result":"a"}\n', b'{"jsonrpc":"2.0","id":2,"result":"b"}\n')
    with answering(replies) as path, Client(path, "the default") as daemon:
        assert [daemon.call("x"), daemon.call("y")] == ["a", "b"]


def test_a_reply_may_come_in_pieces() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        for byte in b'{"jsonrpc":"2.0","id":1,"result":"' + b"x" * 200 + b'"}\n':
            connection.sendall(bytes([byte]))

    with answering(answer) as path:
        assert call(path) == "x" * 200


@pytest.mark.parametrize(
    ("text", "same"), [("studio 4", True), ('"a" \\', False), ("ä", False), ("\x1b[2J", False), ("\x7f", False)]
)
def test_a_reply_without_anything_to_spell_out_is_known_as_such(text: str, same: bool) -> None:
    """Whether the daemon escapes what is not ASCII, or not."""
    for ensure_ascii in (True, False):
        reply = json.dumps({"jsonrpc": "2.0", "id": 1, "result": [text]}, ensure_ascii=ensure_ascii).encode() + b"\n"
        with answering(replying(reply)) as path, Client(path, "the default") as daemon:
            assert daemon.call("x") == [text]
            assert daemon.is_visible == same


@pytest.mark.parametrize("request_id", [1, None])
def test_an_error_reply_is_raised_with_or_without_id(request_id: int | None) -> None:
    error = {"code": -32002, "message": "No", "data": {"kind": "k", "hints": ["a", "b"]}}
    reply = json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"
    with answering(replying(reply)) as path, pytest.raises(McrError) as caught:
        call(path)
    assert (caught.value.message, caught.value.hints) == ("No", ("a", "b"))


def test_what_is_said_before_the_connection_closes_is_heard_though_the_questionwas_not_read() -> None:
    def refuse(connection: socket.socket) -> None:
        connection.sendall(b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"full","data":{"hints":[]}}}\n')

    with answering(refuse) as path, Client(path, "the default") as daemon, pytest.raises(McrError, match=r"^full$"):
        daemon.call("add", {"rules": ["x" * 10_000_000]})


def test_a_daemon_that_closes_while_it_is_sent_to_does_not_end_the_process() -> None:
    with answering(replying(b"")) as path:
        command: list[str | Path] = [
            Path(sys.executable).with_name("mcrctl"),
            "add",
            "--batch",
            "-",
            "--control-socket",
            path,
        ]
        line = f"{LINE} --name {'x' * 1_000_000}"
        done = subprocess.run(command, input=line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: mcrd closed the connection without a reply\n")


@pytest.mark.parametrize("replies", [[], [b""], [b'{"jsonrpc":"2.0","id":1,"resu']])
def test_a_connection_that_closes_without_a_reply_is_told(replies: list[bytes]) -> None:
    with answering(replying(*replies)) as path, pytest.raises(McrError, match="closed the connection"):
        call(path)


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 400\n", b"[]\n", b"1\n", b"{}\n", b'{"id":2,"result":1}\n', b'{"error":1}\n']
)
def test_what_is_not_the_daemon_is_told(reply: bytes) -> None:
    with answering(replying(reply)) as path, pytest.raises(McrError, match="is not mcrd"):
        call(path)


def test_a_daemon_that_does_not_reply_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REPLY_TIMEOUT", 0.01)
    done = threading.Event()
    with answering(lambda _: done.wait(60)) as path:
        with pytest.raises(McrError, match="No reply from mcrd") as caught:
            call(path)
        done.set()
    assert not any("change" in hint for hint in caught.value.hints)
    assert (caught.value.passing, caught.value.silent) == (True, True)


def test_a_daemon_that_accepts_nobody_is_there_and_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_REPLY_TIMEVAL", (0, 10_000))
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        with pytest.raises(SystemFault, match="Connection refused") as caught:
            Client(path, "the default")
        assert (caught.value.passing, caught.value.silent) == (True, False)
        listener.listen(0)
        with (
            Client(path, "the default"),
            pytest.raises(SystemFault, match="Resource temporarily unavailable") as caught,
        ):
            Client(path, "the default")
        assert (caught.value.passing, caught.value.silent) == (True, True)


def test_what_became_of_a_change_without_an_answer_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REPLY_TIMEOUT", 0.01)  # the daemon says nothing until the client has given up
    done = threading.Event()
    with answering(lambda _: done.wait(60)) as path, Client(path, "the default") as daemon:
        with pytest.raises(McrError, match="No reply from mcrd") as caught:
            daemon.call("add", {"rules": []})
        done.set()
    assert caught.value.hints[0].startswith("the change may still be carried out")


def test_what_became_of_a_change_is_not_claimed_if_the_daemon_goes() -> None:
    """Which may take longer on a busy machine than a client is made to wait above."""
    with answering(replying(b"")) as path, Client(path, "the default") as daemon:
        with pytest.raises(McrError, match="closed the connection") as caught:
            daemon.call("remove", {"name": "n"})
        assert caught.value.hints[0].startswith("the change may still be carried out")
        assert (caught.value.passing, caught.value.silent) == (True, False)


def test_a_daemon_that_says_that_it_works_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than one that says nothing."""
    monkeypatch.setattr(client, "REPLY_TIMEOUT", 0.5)

    def answer(connection: socket.socket) -> None:
        assert json.loads(connection.recv(65_536))["progress"] is True
        for seconds in range(12):
            connection.sendall(wire.encode_progress(1, seconds))
            time.sleep(0.05)  # that it takes long is the claim; a busy machine may make each ten times as long
        connection.sendall(b'{"jsonrpc":"2.0","id":1,"result":"done"}\n')

    with answering(answer) as path:
        assert call(path) == "done"


def test_no_socket_is_told_with_its_path_and_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DEFAULT_CONTROL_SOCKET", "/nonexistent")
    with pytest.raises(SystemFault) as caught:
        Client(str(tmp_path / "s"), "from MCR_CONTROL_SOCKET")
    assert caught.value.message == "No such file or directory (os error 2)"
    assert caught.value.hints[:2] == (
        f"the control socket {tmp_path}/s (from MCR_CONTROL_SOCKET) does not exist",
        "is mcrd running? pgrep -a mcrd",
    )


def test_a_path_without_a_socket_is_told_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as default, tempfile.TemporaryDirectory(prefix="mcr") as directory:
        default.bind(f"{directory}/s")
        monkeypatch.setattr(client, "DEFAULT_CONTROL_SOCKET", f"{directory}/s")
        with pytest.raises(SystemFault) as caught:
            Client(str(tmp_path / "typo"), "from --control-socket")
        assert f"there is one at {directory}/s, the default" in caught.value.hints
        assert caught.value.hints[-1] == f"start it: sudo mcrd supervisor --control-socket {tmp_path}/typo"


def test_a_path_that_is_no_socket_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no command to start mcrd there, which would fail."""
    monkeypatch.setattr(client, "DEFAULT_CONTROL_SOCKET", "/nonexistent")
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "link").symlink_to("link")
    states = {file: "is not a socket", tmp_path: "is not a socket"}
    for path in (file, tmp_path, file / "below", tmp_path / "link"):
        with pytest.raises(SystemFault) as caught:
            Client(str(path), "from --control-socket")
        state = states.get(path, "is unusable")
        assert caught.value.hints == (
            f"the control socket {path} (from --control-socket) {state}",
            "no mcrd can serve that path; name the one it has: --control-socket PATH, or MCR_CONTROL_SOCKET",
        )


def test_a_socket_that_nobody_serves_is_refused_in_the_words_of_the_system() -> None:
    with tempfile.TemporaryDirectory(prefix="mcr") as directory:
        path = f"{directory}/s"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        with pytest.raises(SystemFault) as caught:
            Client(path, "the default")
    assert caught.value.message == "Connection refused (os error 111)"
    assert "is mcrd running? pgrep -a mcrd" in caught.value.hints


def test_a_path_too_long_for_a_socket_is_told() -> None:
    with pytest.raises(SystemFault, match=r"File name too long \(os error 36\)") as caught:
        Client("/" + "ü" * 100, "the default")
    assert "the path of a socket may have 107 bytes at most; this one has 201" in caught.value.hints
    assert not any("start it" in each for each in caught.value.hints)


def test_a_socket_that_may_not_be_used_says_whose_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tmp_path.chmod(0o750)
    with pytest.raises(SystemFault) as caught:
        Client(str(tmp_path / "missing" / "s"), "the default")
    assert caught.value.message == "Permission denied (os error 13)"
    assert f"{tmp_path} belongs to " in caught.value.hints[0]
    assert caught.value.hints[0].endswith("mode 0750")
