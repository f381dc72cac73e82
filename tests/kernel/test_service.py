"""What the service manager is told."""

import os
import socket

import pytest

from mcr.process.service import ServiceManager


def test_every_message_is_one_datagram_of_assignments(listener: socket.socket) -> None:
    manager = ServiceManager(listener.getsockname(), "", "")
    manager.ready("2 workers")
    manager.alive()
    manager.reloading()
    manager.stopping()
    said = [listener.recv(1000).decode() for _ in range(4)]
    assert said[:2] == ["READY=1\nSTATUS=2 workers", "WATCHDOG=1"]
    assert said[2].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert said[3].startswith("STOPPING=1\n")


def test_an_abstract_address_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0mcr-test-{os.getpid()}")
        listener.setblocking(False)
        ServiceManager(f"@mcr-test-{os.getpid()}", "", "").alive()
        assert listener.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/nonexistent/notify", "@nobody-listens", "x" * 200])
def test_nobody_to_tell_is_no_failure(address: str) -> None:
    ServiceManager(address, "", "").ready("x")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", "", 30.0),
        ("30000000", "{}", 30.0),
        ("30000000", "1", None),
        ("", "", None),
        ("x", "", None),
    ],
    ids=["any process", "this process", "another process", "none", "no number"],
)
def test_signs_of_life_are_wanted_only_of_this_process(usec: str, pid: str, seconds: float | None) -> None:
    assert ServiceManager("", usec, pid.format(os.getpid())).watchdog_seconds == seconds


def test_workers_do_not_inherit_the_service_manager(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", listener.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    manager = ServiceManager.from_environment()
    assert manager.watchdog_seconds == 1.0
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & os.environ.keys()
    manager.alive()
    assert listener.recv(100) == b"WATCHDOG=1"
