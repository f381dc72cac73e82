"""Work that goes before the kernel's packets."""

import os
from threading import get_native_id

import pytest

from mcr.net.patience import before_packets


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Those that this thread was given, each with its priority."""
    given = list[tuple[int, int]]()

    def give(thread: int, policy: int, param: os.sched_param) -> None:
        assert thread == get_native_id()
        given.append((policy, param.sched_priority))

    monkeypatch.setattr(os, "sched_setscheduler", give)
    return given


def test_only_the_work_goes_before_packets(policies: list[tuple[int, int]]) -> None:
    """Also where it fails."""
    assert before_packets(lambda _number: [*policies], 7) == [(os.SCHED_FIFO, 1)]
    with pytest.raises(ZeroDivisionError):
        before_packets(lambda number: 1 // number, 0)
    assert policies == [(os.SCHED_FIFO, 1), (os.SCHED_OTHER, 0)] * 2


@pytest.mark.parametrize("denied", [False, True])
def test_a_thread_stays_as_it_was(monkeypatch: pytest.MonkeyPatch, *, denied: bool) -> None:
    """Also one that yields to others."""
    given = list[int]()

    def give(_thread: int, policy: int, _param: os.sched_param) -> None:
        if denied:
            raise PermissionError
        given.append(policy)

    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_BATCH)
    monkeypatch.setattr(os, "sched_setscheduler", give)
    assert before_packets(lambda number: number + 1, 7) == 8
    assert given == ([] if denied else [os.SCHED_FIFO, os.SCHED_BATCH])


def test_where_that_is_not_permitted_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", deny)
    assert before_packets(lambda number: number + 1, 7) == 8
