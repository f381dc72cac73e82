"""The file of the control socket: whose it is, who gets it, what is left of it."""

import errno
import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcr.control.listener import control_socket
from mcr.errors import SystemFault


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mcr") as directory:  # tmp_path is too long for a unix socket
        yield Path(directory, "control.sock")


def reaches(path: Path) -> bool:
    """Whether somebody listens."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def fault(path: Path) -> SystemFault:
    """The error that it ends with instead of listening."""
    with pytest.raises(SystemFault) as caught, control_socket(str(path)):
        pass
    return caught.value


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_it_is_for_owner_and_group_whatever_the_umask(path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        with control_socket(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert reaches(path)
    finally:
        os.umask(previous)


def test_it_is_never_open_to_others_not_even_while_it_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    bind = socket.socket.bind

    def bind_and_look(sock: socket.socket, address: str) -> None:
        bind(sock, address)
        modes.append(stat.S_IMODE(Path(address).stat().st_mode))

    monkeypatch.setattr(socket.socket, "bind", bind_and_look)
    previous = os.umask(0)
    try:
        with control_socket(str(path)):
            pass
    finally:
        os.umask(previous)
    assert modes == [0o660]


def test_a_missing_directory_is_made_and_nothing_is_left_in_it(path: Path) -> None:
    deeper = path.parent / "run" / "control.sock"
    with control_socket(str(deeper)):
        assert stat.S_IMODE(deeper.parent.stat().st_mode) == 0o750
    assert list(deeper.parent.iterdir()) == []


def test_a_live_one_is_never_stolen(path: Path) -> None:
    with control_socket(str(path)):
        for _ in range(2):
            error = fault(path)
            assert error.message == f"Failed to bind to {path}: Address already in use (os error 98)"
            assert "find the mcrd that is running: pgrep -a mcrd" in error.hints
            assert any("--take-over" in hint for hint in error.hints)
        assert reaches(path)


def test_a_live_one_of_a_daemon_without_lock_is_not_stolen_and_its_process_named(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        error = fault(path)
    assert error.errno == errno.EADDRINUSE
    assert f"process {os.getpid()} serves it" in error.hints


def test_a_daemon_that_binds_at_the_same_time_is_not_overrun(path: Path) -> None:
    # It is between removing the stale socket and binding its own.
    with path.with_name("control.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert fault(path).errno == errno.EADDRINUSE


def test_only_its_user_can_hold_the_lock(path: Path) -> None:
    with control_socket(str(path)):
        assert stat.S_IMODE(path.with_name("control.sock.lock").stat().st_mode) == 0o600


def test_a_stale_one_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    path.with_name("control.sock.lock").touch()
    with control_socket(str(path)):
        assert reaches(path)


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    error = fault(path)
    assert error.errno == errno.EADDRINUSE
    assert "is not a socket" in error.hints[0]
    assert path.read_text() == "precious"


def test_a_socket_that_came_in_our_place_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        with control_socket(str(path)):
            path.unlink()
            other.bind(str(path))
        assert path.is_socket()


def test_a_link_in_its_place_is_not_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns the directory could else have root change another file's group and mode."""
    victim = path.with_name("victim")
    victim.write_text("secret")
    victim.chmod(0o600)
    bind = socket.socket.bind

    def bind_and_exchange(sock: socket.socket, address: str) -> None:
        bind(sock, address)
        path.unlink()
        path.symlink_to(victim)

    monkeypatch.setattr(socket.socket, "bind", bind_and_exchange)
    assert fault(path).errno == errno.EEXIST
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


def test_a_directory_that_cannot_be_made_is_explained(path: Path) -> None:
    missing = path / "a" / "control.sock"
    error = fault(missing)
    assert error.message == f"Failed to bind to {missing}: No such file or directory (os error 2)"
    assert f"the directory {path}/a cannot be made: No such file or directory" in error.hints[0]
    assert f"mkdir -p {path}/a " in error.hints[1]


def test_a_refusal_says_whose_the_directory_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    path.parent.chmod(0o705)
    error = fault(path)
    assert error.message == f"Failed to bind to {path}: Permission denied (os error 13)"
    assert error.hints[0].endswith("mode 0705")


def test_a_path_too_long_for_a_socket_is_told(path: Path) -> None:
    assert fault(path.with_name("x" * 100)).message.endswith("File name too long (os error 36)")


def test_what_somebody_put_in_the_lock_s_place_is_left_alone_and_not_waited_for(path: Path) -> None:
    lock = path.with_name(f"{path.name}.lock")
    target = path.with_name("target")
    target.touch()
    ways: list[Callable[[], None]] = [lambda: os.mkfifo(lock), lambda: lock.symlink_to(target), lock.mkdir]
    for put in ways:
        put()
        assert fault(path).message.startswith(f"Failed to bind to {path}: ")
        if lock.is_dir():
            lock.rmdir()
        else:
            lock.unlink()
    assert target.exists()
    with control_socket(str(path)):
        assert reaches(path)
