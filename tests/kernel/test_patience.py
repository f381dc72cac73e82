"""Waiting in the kernel for several things at a time."""

import errno
import os
import select
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from mcr._native import lib
from mcr.net import patience
from mcr.net.patience import close_after_exit, close_all, in_parallel, set_option


def test_all_is_done_at_the_same_time() -> None:
    together = threading.Barrier(8, timeout=10)
    in_parallel(lambda _: together.wait(), range(8))


def test_a_failure_is_raised_and_everything_is_done_all_the_same() -> None:
    done = []

    def work(number: int) -> None:
        done.append(number)
        if number == 2:
            raise ValueError(number)

    with pytest.raises(ValueError, match="2"):
        in_parallel(work, range(6))
    assert sorted(done) == [0, 1, 2, 3, 4, 5]


def test_without_more_threads_it_is_done_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    in_parallel(done.append, range(5))
    assert done == [0, 1, 2, 3, 4]


def test_where_a_sandbox_denies_another_priority_it_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "setpriority", refuse)
    done: list[int] = []
    in_parallel(done.append, range(5))
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_sockets_are_closed_be_there_none_one_or_several() -> None:
    sockets = [socket.socket() for _ in range(4)]
    close_all([])
    close_all(sockets[:1])
    close_all(sockets[1:])
    assert [each.fileno() for each in sockets] == [-1] * 4


def test_an_option_is_set_and_a_refusal_is_raised() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
        set_option(target, socket.SOL_SOCKET, socket.SO_BROADCAST, (1).to_bytes(4, "little"))
        assert target.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
        with pytest.raises(OSError, match="Protocol not available") as refused:
            set_option(target, socket.SOL_SOCKET, 9_999, bytes(4))
        assert refused.value.errno == errno.ENOPROTOOPT


HOLDER = """
import os, sys
from mcr.net.patience import close_after_exit
descriptor = int(sys.argv[1])
close_after_exit([descriptor])
print(os.path.exists(f"/proc/self/fd/{descriptor}"), flush=True)
sys.stdin.read()
"""


def test_what_is_closed_after_exit_is_kept_until_then() -> None:
    """Its descriptor is closed, itself it is not; both without anybody waiting."""
    assert lib.mcr_uring_probe() == 0
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(writer)],
        pass_fds=[writer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        os.close(writer)
        assert holder.stdout
        assert holder.stdout.readline() == "False\n"
        assert select.select([reader], [], [], 0)[0] == []
        holder.communicate("")
    assert select.select([reader], [], [], 10)[0] == [reader]
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_where_nobody_else_closes_it_is_closed_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "lib", SimpleNamespace(mcr_close_after_exit=lambda *_: -errno.EPERM))
    reader, writer = os.pipe()
    close_after_exit([writer])
    assert os.read(reader, 1) == b""
    os.close(reader)
