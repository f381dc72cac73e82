"""What a loop brings back is told from what a source repeats (native/returns.h)."""

import socket
from typing import Any

import pytest

from mcr._native import ffi, lib

MS = 1_000_000
WHILE = lib.MCR_RETURN_NS
START = 10**12


class Returns:
    """The table, and a clock."""

    def __init__(self) -> None:
        self.table: Any = ffi.new("struct mcr_returns *")
        self.now = START

    def come(
        self, payload: bytes = b"payload", *, after: int = 1, source: str = "198.18.0.1", rule: int = 0, room: int = 100
    ) -> int:
        """How often it leaves."""
        self.now += after
        packet = ffi.new("struct mcr_packet *", {"family": socket.AF_INET})
        packet.source = int.from_bytes(socket.inet_aton(source), "little")
        data = ffi.from_buffer(payload)
        arrival = ffi.new("struct mcr_arrival *", {"capture": 3, "rule": rule, "packet": packet, "size": len(payload)})
        arrival.data = ffi.cast("uint8_t *", data)
        return int(lib.mcr_returns_take(self.table, arrival, self.now, room))

    def expire(self, after: int) -> list[int]:
        """Rules whose datagrams are lost."""
        self.now += after
        lost = []
        while entry := lib.mcr_returns_expire(self.table, self.now):
            lost.append(entry.rule)
        return lost

    @property
    def counts(self) -> tuple[int, int]:
        """Held, and lost."""
        return self.table.held[3], self.table.lost[3]


@pytest.fixture
def returns() -> Returns:
    return Returns()


def test_what_comes_back_is_held_and_lost_when_no_more_comes(returns: Returns) -> None:
    assert returns.come() == 1
    assert [returns.come(after=MS) for _ in range(3)] == [0, 0, 0]
    assert (returns.counts, returns.expire(WHILE), returns.table.waiting) == ((3, 0), [], 1)
    assert (returns.expire(1), returns.counts, returns.table.waiting) == ([0], (0, 3), 0)
    assert returns.come() == 1


def test_what_a_source_repeats_leaves_each_time(returns: Returns) -> None:
    """What was held leaves with what comes after it, a few at a time, and as far as there is room."""
    came = [returns.come(after=MS) for _ in range(300)]
    assert (sum(came), max(came), returns.counts) == (300, 9, (0, 0))
    assert came[:3] == [1, 0, 0]
    assert came[-1] == 1
    assert returns.expire(2 * WHILE) == []
    assert returns.table.waiting == 0
    assert returns.come() == 1


def test_there_may_be_no_room_for_what_was_held(returns: Returns) -> None:
    assert sum(returns.come(after=MS) for _ in range(202)) == 1
    assert [returns.come(after=MS, room=1) for _ in range(3)] == [1, 1, 1]
    assert [returns.come(after=MS, room=3) for _ in range(3)] == [3, 3, 3]


@pytest.mark.parametrize(
    "other",
    [{"payload": b"payloae"}, {"payload": b"payload\0"}, {"payload": b""}, {"source": "198.18.0.2"}, {"rule": 1}],
    ids=str,
)
def test_what_differs_is_another(returns: Returns, other: dict[str, Any]) -> None:
    assert [returns.come(), returns.come(**other), returns.come(), returns.come(**other)] == [1, 1, 0, 0]


def test_what_comes_seldom_is_no_loops(returns: Returns) -> None:
    assert [returns.come(after=WHILE + 1) for _ in range(5)] == [1] * 5


def test_each_is_forwarded_held_or_lost(returns: Returns) -> None:
    """Also where there are more than can be remembered, and when a capture goes."""
    came = [returns.come(b"%d" % (number % 20_000), after=1) for number in range(100_000)]
    held, lost = returns.counts
    assert sum(came) + held + lost == len(came)
    assert held
    lib.mcr_returns_give_up(returns.table, 3)
    assert returns.counts == (0, held + lost)
    assert returns.expire(2 * WHILE) == []
    assert returns.table.waiting == 0
