"""The next mcrd asks the one that runs for what outlives it."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcr.control import handover
from mcr.control.handover import HandedOver
from mcr.control.peers import Peer
from mcr.errors import NotPermitted

_DAEMON = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(flush=True)
client, _ = listener.accept()
client.recv(1000) or sys.exit(1)
client.sendall(b'{"jsonrpc": "2.0", "id": 1, "result": {"names": [], "rules": []}}\\n')
client.recv(1000) or sys.exit(1)
"""


class Daemon:
    """Hands nothing on, and ends; with status 1 if it was not asked, or not told that all has come."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.process = subprocess.Popen([sys.executable, "-c", _DAEMON, self.path], stdout=subprocess.PIPE)
        assert self.process.stdout
        self.process.stdout.readline()

    def ends(self) -> int:
        return self.process.wait(60)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "mcr.sock")
    with made.process:
        yield made
        made.process.kill()


@pytest.fixture
def no_low_descriptor() -> Iterator[None]:
    """The next descriptor is above those that select() takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    taken = [os.open(os.devnull, os.O_RDONLY)]
    while taken[-1] < 1024:
        taken.append(os.dup(taken[0]))
    yield
    for each in taken:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_waits_until_the_other_has_ended_however_many_files_are_open(daemon: Daemon, no_low_descriptor: None) -> None:
    assert handover.take_over(daemon.path) == HandedOver({})
    assert daemon.ends() == 0


def test_another_user_is_not_believed(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor asked."""
    monkeypatch.setattr(handover, "peer_of", lambda _: Peer(7, 4_000_000, frozenset()))
    with pytest.raises(NotPermitted, match="it runs as 4000000") as refusal:
        handover.take_over(daemon.path)
    assert refusal.value.hints == ("run this one as 4000000, too, if that process (pid 7) is the mcrd that you mean",)
    assert daemon.ends() == 1
