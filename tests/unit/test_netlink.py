"""What is asked of the kernel by hand, where its answer is not what it should be."""

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest

from mcr.net import firewall, netlink
from mcr.net.firewall import look_at_firewall
from mcr.net.netlink import look_at_links
from mcr.net.next_hop import find_next_hops, find_unknown, use_neighbours

HOST = IPv4Address("192.0.2.1")
TORN = b"\x20\0\0\0"  # a message ends before its header does


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Answers what is asked of netlink."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    monkeypatch.setattr(socket, "socket", lambda *_: ours)
    with theirs:
        yield theirs


@pytest.mark.parametrize(
    "ask",
    [
        lambda: look_at_links({1}),
        lambda: find_next_hops([(HOST, 1)]),
        lambda: find_unknown([(HOST, 1)]),
        lambda: use_neighbours([(1, HOST)]),
    ],
    ids=["links", "hops", "neighbours", "use"],
)
def test_an_answer_that_cannot_be_read_is_an_error(kernel: socket.socket, ask: Callable[[], object]) -> None:
    kernel.send(TORN)
    with pytest.raises(OSError, match="Bad message"):
        ask()


def test_a_firewall_of_which_the_answer_cannot_be_read_is_hidden(kernel: socket.socket) -> None:
    kernel.send(TORN)
    assert look_at_firewall().hidden.startswith("Bad message")


def test_who_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, kernel: socket.socket) -> None:
    monkeypatch.setattr(netlink, "PATIENCE_SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        look_at_links({1})


def test_a_firewall_that_is_not_told_of_in_time_is_hidden(
    monkeypatch: pytest.MonkeyPatch,
    kernel: socket.socket,
) -> None:
    monkeypatch.setattr(firewall, "PATIENCE_SECONDS", 0.01)
    assert look_at_firewall().hidden.startswith("Connection timed out")
