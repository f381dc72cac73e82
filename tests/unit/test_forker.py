"""What processes are forked from outlives those who ask it: one that is killed takes nothing from the others."""

import errno
import os
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVE = """
import os, socket, sys
import forker
if forker.serve(socket.socket(fileno=int(sys.argv[1]))):
    os._exit(7)
"""
REFUSE_ONCE = """
import errno, os
fork = os.fork
def refuse():
    os.fork = fork
    raise BlockingIOError(errno.EAGAIN, "")
os.fork = refuse
"""
WAIT_MS = 30_000


@contextmanager
def forking(code: str = SERVE) -> Iterator[tuple[socket.socket, int]]:
    """The door of a forker, whose processes end at once, with a status of 7; and its pid."""
    mine, theirs = pair()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "e2e")}
    with mine:
        with theirs:
            command = [sys.executable, "-c", code, str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        yield mine, process.pid
    assert process.wait(WAIT_MS / 1000) == 0


@pytest.fixture
def door() -> Iterator[socket.socket]:
    with forking() as (made, _):
        yield made


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


def expect_forks(door: socket.socket) -> None:
    for _ in range(2):  # the second one is forked after the end of the first
        report = ask(door)
        wait(door)
        assert int(door.recv(16)) > 0
        wait(report)
        assert os.read(report, 16) == b"7"
        os.close(report)


@pytest.mark.parametrize("goes", [goes_before_its_answer, does_not_read_its_answer, does_not_read_the_report])
def test_who_is_gone_is_missed_by_nobody(door: socket.socket, goes: object) -> None:
    assert callable(goes)
    goes(door)
    expect_forks(door)


def expect_refusal(door: socket.socket, number: int) -> None:
    """It is told why, and that is all: its report's other end is closed."""
    report = ask(door)
    wait(door)
    assert int(door.recv(16)) == -number
    wait(report)
    assert os.read(report, 16) == b""
    os.close(report)


def test_a_process_that_the_machine_refuses_costs_only_who_asked_for_it() -> None:
    with forking(REFUSE_ONCE + SERVE) as (door, _):
        expect_refusal(door, errno.EAGAIN)
        expect_forks(door)


def test_a_request_whose_descriptors_it_has_no_room_for_costs_only_who_asked() -> None:
    """The kernel cuts it off: there are none in it."""
    with forking() as (door, pid):
        expect_forks(door)  # it has started
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
        expect_refusal(door, errno.EMFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        expect_forks(door)
