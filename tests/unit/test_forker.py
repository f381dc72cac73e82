"""What processes are forked from outlives those who ask it: one that is killed takes nothing from the others."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVE = """
import os, socket, sys
import forker
if forker.serve(socket.socket(fileno=int(sys.argv[1]))):
    os._exit(7)
"""
WAIT_MS = 30_000


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """Of a forker, whose processes end at once, with a status of 7."""
    mine, theirs = pair()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "e2e")}
    with mine:
        with theirs:
            command = [sys.executable, "-c", SERVE, str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        yield mine
    assert process.wait(WAIT_MS) == 0


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def ask(door: socket.socket) -> int:
    """Have a process forked; where its end is reported."""
    reader, writer = os.pipe()
    socket.send_fds(door, [b"{}"], [writer])
    os.close(writer)
    return reader


def wait(readable: socket.socket | int) -> None:
    poll = select.poll()
    poll.register(readable, select.POLLIN)
    assert poll.poll(WAIT_MS)


def goes_before_its_answer(door: socket.socket) -> None:
    mine, theirs = pair()
    with theirs:
        with mine:
            report = ask(mine)
        socket.send_fds(door, [b"door"], [theirs.fileno()])
    wait(report)
    os.close(report)


def does_not_read_its_answer(door: socket.socket) -> None:
    mine, theirs = pair()
    with mine:
        with theirs:
            socket.send_fds(door, [b"door"], [theirs.fileno()])
        report = ask(mine)
        wait(mine)
    os.close(report)


def does_not_read_the_report(door: socket.socket) -> None:
    os.close(ask(door))
    wait(door)
    door.recv(16)


@pytest.mark.parametrize("goes", [goes_before_its_answer, does_not_read_its_answer, does_not_read_the_report])
def test_who_is_gone_is_missed_by_nobody(door: socket.socket, goes: object) -> None:
    assert callable(goes)
    goes(door)
    for _ in range(2):  # the second one is forked after the end of the first
        report = ask(door)
        wait(door)
        assert int(door.recv(16)) > 0
        wait(report)
        assert os.read(report, 16) == b"7"
        os.close(report)
