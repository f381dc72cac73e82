"""Where packets of rules may skip the IP stack, with a supervisor and a kernel that the test plays."""

import math
from collections.abc import Callable
from typing import cast

import pytest
import trio
import trio.testing

from mcr.actors import reviews
from mcr.actors.reviews import Review, ReviewRaw
from mcr.net.ip_bypass import UNSURE, Blocker, EgressChanges

OLD_KERNEL, FIREWALL = Blocker("an old kernel"), Blocker("a firewall")


class Changes:
    """Of what raw frames depend on; `blocking`: there may be a new blocker among them."""

    blocking = False

    def hear(self) -> bool:
        heard, self.blocking = self.blocking, False
        return heard


class Kernel:
    """Has what the test says, and counts how often it is asked whether it takes raw frames."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.unable: Blocker | None = None
        self.blocker: Callable[[], Blocker | None] = lambda: None
        monkeypatch.setattr(reviews, "kernel_blocker", self._tell_of_itself)
        monkeypatch.setattr(reviews, "find_blocker", self._tell_of_others)
        monkeypatch.setattr(trio.to_thread, "run_sync", self._look)

    async def _look(self, look: Callable[[], Blocker | None]) -> Blocker | None:
        """In the test's own time, which does not pass for threads."""
        await trio.sleep(0.01)
        return look()

    def _tell_of_itself(self) -> Blocker | None:
        self.asked += 1
        return self.unable

    def _tell_of_others(self) -> Blocker | None:
        return self.blocker()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.fixture
def changes() -> Changes:
    return Changes()


class Supervisor:
    """Is told of each verdict; has a review made."""

    def __init__(self, due: trio.MemorySendChannel[None], inbox: trio.MemoryReceiveChannel[Review]) -> None:
        self._due, self._inbox = due, inbox

    async def verdict(self) -> Blocker | None:
        with trio.fail_after(60):
            command = await self._inbox.receive()
        assert isinstance(command, ReviewRaw)
        with command.reply:
            command.reply.resolve(None)
        return command.blocker

    async def next_verdict(self) -> Blocker | None:
        """After a change that can't be a blocker, such as of a route."""
        await self._due.send(None)
        return await self.verdict()


@pytest.fixture
def supervisor(nursery: trio.Nursery, kernel: Kernel, changes: Changes) -> Supervisor:
    assert kernel
    due, due_received = trio.open_memory_channel[None](math.inf)
    send, inbox = trio.open_memory_channel[Review](0)
    nursery.start_soon(reviews._keep_raw, cast("EgressChanges", changes), due_received, send)
    return Supervisor(due, inbox)


async def test_kernel_that_takes_raw_frames_is_not_asked_again(
    supervisor: Supervisor, kernel: Kernel, autojump_clock: trio.testing.MockClock
) -> None:
    """It stays so; what else may block is looked for each time."""
    assert await supervisor.verdict() is None
    kernel.blocker = lambda: FIREWALL
    assert await supervisor.next_verdict() == FIREWALL
    kernel.blocker = lambda: None
    assert await supervisor.next_verdict() is None
    assert kernel.asked == 1


async def test_kernel_that_does_not_is_asked_each_time(
    supervisor: Supervisor, kernel: Kernel, autojump_clock: trio.testing.MockClock
) -> None:
    """The loopback interface that it is tried on may come up."""
    kernel.unable = OLD_KERNEL
    assert await supervisor.verdict() == OLD_KERNEL
    assert await supervisor.next_verdict() == OLD_KERNEL
    kernel.unable = None
    assert await supervisor.next_verdict() is None


async def test_what_cannot_be_seen_blocks_and_is_looked_for_again(
    supervisor: Supervisor, kernel: Kernel, autojump_clock: trio.testing.MockClock
) -> None:
    def fail() -> None:
        raise RuntimeError("no such luck")

    kernel.blocker = fail
    assert await supervisor.verdict() == Blocker("firewall rules and the like cannot be seen: no such luck")
    kernel.blocker = lambda: None
    assert await supervisor.verdict() is None, "nothing had to change for that"


async def test_what_may_be_a_new_blocker_blocks_until_it_was_looked_at(
    supervisor: Supervisor, kernel: Kernel, changes: Changes, autojump_clock: trio.testing.MockClock
) -> None:
    assert await supervisor.verdict() is None
    changes.blocking, kernel.blocker = True, lambda: FIREWALL
    assert [await supervisor.next_verdict(), await supervisor.verdict()] == [UNSURE, FIREWALL]
