"""Turns at the daemon's time, for clients that must not keep others waiting."""

from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from itertools import chain

import trio

from mcr.errors import ShuttingDown

LONGEST_REST = 4.0
"""Seconds. A turn that took longer than a request can has waited itself, for a change of many rules: that is no reason
to let the next one wait four times as long."""


class Turns:
    """One has its turn at a time; users take turns, however often each asks; between two turns there is a rest.

    Args:
        share: of the time that turns take altogether, at most, unless single ones take long; see `LONGEST_REST`.
    """

    def __init__(self, share: float) -> None:
        self._rest = 1 / share - 1
        self._rested = 0.0  # when the next turn may begin
        self._taken = False
        self._waiting: dict[Hashable, deque[trio.Event]] = {}  # by user; the first is the next
        self._stopping = trio.Event()

    def stop(self) -> None:
        """Give no more turns: whoever waits for one, or asks for one, is told so."""
        self._stopping.set()
        for event in chain.from_iterable(self._waiting.values()):
            event.set()
        self._waiting.clear()

    @asynccontextmanager
    async def turn(self, user: Hashable) -> AsyncIterator[None]:
        """Wait for a turn of this user, and take it.

        Raises:
            ShuttingDown: there are no more.
        """
        await self._wait(user)
        try:
            with trio.move_on_at(self._rested):
                await self._stopping.wait()
            if self._stopping.is_set():
                raise ShuttingDown("mcrd is stopping")
            started = trio.current_time()
            try:
                yield
            finally:
                ended = trio.current_time()
                self._rested = ended + min(self._rest * (ended - started), LONGEST_REST)
        finally:
            self._pass_on()

    async def _wait(self, user: Hashable) -> None:
        if not self._taken:
            self._taken = True
            return
        mine = trio.Event()
        self._waiting.setdefault(user, deque()).append(mine)
        try:
            await mine.wait()
        except trio.Cancelled:
            if mine.is_set():
                self._pass_on()
            else:
                self._leave(user, mine)
            raise

    def _pass_on(self) -> None:
        if not self._waiting:
            self._taken = False
            return
        user, events = next(iter(self._waiting.items()))
        event = events.popleft()
        del self._waiting[user]
        if events:
            self._waiting[user] = events  # behind the other users
        event.set()

    def _leave(self, user: Hashable, event: trio.Event) -> None:
        self._waiting[user].remove(event)
        if not self._waiting[user]:
            del self._waiting[user]
