"""Workers that hang are told from those that get no processor."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mcr.process.turns import Turns
from mcr.stats.captures import Backlog
from mcr.stats.stalls import Checked, Stalls
from mcr_process import PATIENCE


@contextmanager
def spinning(processor: int) -> Iterator[int]:
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as process:
        try:
            os.sched_setaffinity(process.pid, {processor})
            yield process.pid
        finally:
            process.kill()


def test_who_waits_for_the_processor_is_told_from_who_has_it() -> None:
    """Of three that want one all the time somebody gets a third at most."""
    processor = min(os.sched_getaffinity(0))
    with ExitStack() as stack:
        pids = [stack.enter_context(spinning(processor)) for _ in range(3)]
        first = then = [*map(Turns.of, pids)]
        while min(each.ran for each in then) < 0.02 or then[0].at - first[0].at < 0.2:
            assert then[0].at - first[0].at < PATIENCE, "is there schedstat in this kernel?"
            os.sched_yield()
            then = [*map(Turns.of, pids)]
        shares = [before.share(after) for before, after in zip(first, then, strict=True)]
        assert 0 < min(shares) < 0.5
    assert Turns.of(pids[0]).ran == 0, "it has ended"


def test_shares_are_of_the_time_in_which_it_could_have_run() -> None:
    asleep, running = Turns(10.0, 3.0, 1.0), Turns(10.0, 3.0, 1.0, wants=True)
    assert asleep.share(Turns(12.0, 3.0, 1.0)) == 1
    assert asleep.share(Turns(12.0, 3.5, 2.0)) == 0.5
    assert running.share(Turns(12.0, 5.0, 1.0, wants=True)) == 1
    assert running.share(Turns(12.0, 3.5, 1.5, wants=True)) == 0.25
    assert running.share(Turns(11.0, 3.1, 9.0)) == 0, "what is told of is longer ago"
    assert running.share(running) == running.share(Turns(12.0)) == 1
    assert running.weight(Turns(12.0, 3.5, 1.5, wants=True)) == 0.25
    assert asleep.weight(Turns(10.9)) == 1
    assert 0.5 < asleep.weight(Turns(10.5)) < 0.6, "it comes early"
    assert running.weight(running) == 0


def test_where_the_kernel_does_not_count_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that spins has to be ended there, too."""
    (tmp_path / "schedstat").write_text("0 0 0\n")
    (tmp_path / "stat").write_text("7 (mcrd) R 1")
    monkeypatch.setattr("mcr.process.turns.Path", lambda path: tmp_path / path.removeprefix("/proc/7/"))
    before = Turns.of(7)
    assert not before.wants
    assert before.share(Turns(before.at + 1)) == 1
    (tmp_path / "schedstat").write_text("5 0 1\n")
    assert Turns.of(7).wants


def test_a_worker_hangs_if_it_could_have_taken_what_waits() -> None:
    """Each is found once, and one that gets a tenth of a processor later."""
    stalls, found = Stalls(3), []
    for _ in range(32):
        stalls.note([Backlog(5, 7), Backlog(5, 7), Backlog(0, 7)])
        found.append(stalls.check((0.125, 1.0, 1.0)).hung)
    assert [at for at, each in enumerate(found) if 0 in each] == [24]
    assert [at for at, each in enumerate(found) if 1 in each] == [*range(3, 32, 3)]
    assert not any(2 in each for each in found)


def test_a_worker_that_has_taken_one_is_counted_anew() -> None:
    stalls = Stalls(1)
    for taken in (1, 1, 1, 2, 2, 2):
        stalls.note([Backlog(5, taken)])
        assert stalls.check((1.0,)).hung == ()
    stalls.note([Backlog(5, 2)])
    assert stalls.check((1.0,)) == Checked(hung=(0,))


def test_a_backlog_counts_once_however_often_it_is_checked() -> None:
    stalls, found = Stalls(1), []
    for _ in range(4):
        stalls.note([Backlog(5, 7)])
        found += [stalls.check((1.0,)) for _ in range(3)]
    assert [each.hung for each in found] == [()] * 9 + [(0,), (), ()]
    assert [bool(each.suspected) for each in found] == [False] * 3 + [True] * 6 + [False] * 3
