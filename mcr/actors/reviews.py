"""Finds out again and again where packets of rules may skip this machine's IP stack.

On the way in, local delivery is suppressed where only UDP sockets could want them (`mcr.net.local_receivers`). On the
way out, raw frames bypass IP where nothing acts on packets between IP and the interface (`mcr.net.ip_bypass`). The
supervisor owns the sockets, so it is told what was found. Relaying does not depend on it: whatever fails here, packets
take the long way.
"""

import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import assert_never

import attrs
import trio

from mcr.actors.mailbox import Reply, ask
from mcr.config.settings import Settings
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.net.filter.suppress import Suppressor
from mcr.net.ip_bypass import UNSURE, Blocker, Blockers, EgressChanges, describe_hidden, find_blockers, kernel_blocker
from mcr.net.local_receivers import LinkChanges, without_local_receivers

log = get_logger(Facility.SUPERVISOR)

_SHARE = 0.05  # of the time, unless the pause would be longer
_PAUSE = 1.0
_RETRY_SECONDS = 5.0


@attrs.frozen
class PauseSuppression:
    """Suppress nothing until local receivers are known. The reply: the interfaces to look at. None: ask again."""

    reply: Reply[frozenset[int] | None]


@attrs.frozen
class SuppressOn:
    """Suppress local delivery on these interfaces; None: it can't be known where. False: ask again."""

    free: frozenset[int] | None
    reply: Reply[bool]


@attrs.frozen
class ReviewRaw:
    """Find out by which interfaces raw frames may leave.

    Attributes:
        found: why by none.
        anew: also what they depend on of each group; otherwise only for interfaces that are new.
    """

    found: Blockers
    anew: bool
    reply: Reply[None]


Review = PauseSuppression | SuppressOn | ReviewRaw

_ReviewRaw = Callable[[Blockers, bool], Awaitable[None]]
"""With what a `ReviewRaw` has."""


class Reviews:
    """Starts the reviews, and has one made when it is due."""

    def __init__(self, egress_changes: EgressChanges | None) -> None:
        """`egress_changes`: of what raw frames depend on; None: there are none."""
        self._egress_changes = egress_changes
        self._suppression, self._suppression_received = trio.open_memory_channel[None](0)
        self._raw, self._raw_received = trio.open_memory_channel[None](0)

    def start(
        self, nursery: trio.Nursery, suppressor: Suppressor | None, owner: trio.MemorySendChannel[Review]
    ) -> None:
        """Start the reviews, whose results go to `owner`."""
        if suppressor:
            nursery.start_soon(_hear_of_changes, suppressor.changes, self._suppression)
            nursery.start_soon(_keep_suppressing, self._suppression_received, owner)
        if self._egress_changes:
            nursery.start_soon(_hear_of_changes, self._egress_changes, self._raw)
            nursery.start_soon(_keep_raw, self._egress_changes, self._raw_received, owner)

    @property
    def follow_routes(self) -> bool:
        """Whether they hear of routes, and have outputs follow them."""
        return self._egress_changes is not None

    async def review_raw(self, review_raw: _ReviewRaw) -> None:
        """Do it now, for an owner that can't wait for the next one. What changes meanwhile is heard of as always."""
        if self._egress_changes is None:
            return
        try:
            unable = await trio.to_thread.run_sync(kernel_blocker)
            found = Blockers(unable) if unable else await trio.to_thread.run_sync(find_blockers)
        except Exception as error:  # noqa: BLE001 - whatever it is, relaying does not depend on it
            found = Blockers(_unseen(error))
        await review_raw(found, True)

    def suppression_is_due(self) -> None:
        """Start to look for local receivers, unless that is going on."""
        with suppress(trio.WouldBlock):
            self._suppression.send_nowait(None)

    def raw_is_due(self) -> None:
        """Start to find out by which interfaces raw frames may leave, unless that is going on."""
        with suppress(trio.WouldBlock):
            self._raw.send_nowait(None)

    def check_raw(self, *, has_new_outputs: bool) -> None:
        """The same, if there are new outputs, or changes that the kernel does not report."""
        if self._egress_changes and (has_new_outputs or self._egress_changes.unheard()):
            self.raw_is_due()


@contextmanager
def open_reviews(settings: Settings) -> Generator[Reviews]:
    """Open what the reviews listen to, and close it at the end."""
    changes = None
    if settings.raw_send:
        try:
            changes = EgressChanges()
        except OSError as error:
            log.info("MCR_RAW_SEND has no effect: %s", describe_hidden(error))
    try:
        yield Reviews(changes)
    finally:
        if changes:
            changes.close()


async def heed_review(command: Review, suppressor: Suppressor | None, review_raw: _ReviewRaw) -> None:
    """Answer one, for the owner of what is reviewed."""
    match command:
        case PauseSuppression(reply):
            with reply:
                is_due = suppressor and suppressor.is_due()
                reply.resolve(await trio.to_thread.run_sync(suppressor.pause) if suppressor and is_due else frozenset())
        case SuppressOn(free, reply):
            with reply:
                reply.resolve(not suppressor or await trio.to_thread.run_sync(suppressor.suppress_on, free))
        case ReviewRaw(found, anew, reply):
            with reply:
                await review_raw(found, anew)
                reply.resolve(None)
        case _:
            assert_never(command)


def _unseen(error: Exception) -> Blocker:
    return Blocker(f"firewall rules and the like cannot be seen: {error}")


async def _hear_of_changes(changes: LinkChanges | EgressChanges, due: trio.MemorySendChannel[None]) -> None:
    """Have a review made at once when something changes."""
    while True:
        await trio.lowlevel.wait_readable(changes)
        await due.send(None)


async def _keep_suppressing(due: trio.MemoryReceiveChannel[None], owner: trio.MemorySendChannel[Review]) -> None:
    """Have local delivery suppressed where only UDP sockets could want packets, and nowhere while that is not known."""
    blind = False
    async for _ in due:
        while (interfaces := await ask(owner, PauseSuppression)) is None:
            pass
        if interfaces:
            free: frozenset[int] | None = None
            try:
                free = await trio.to_thread.run_sync(without_local_receivers, interfaces)
            except Exception as error:  # noqa: BLE001 - whatever it is, relaying does not depend on it
                if not blind:
                    log.warning(
                        "cannot tell whether others want the packets, so local delivery is not suppressed: %s", error
                    )
            blind = free is None
            while not await ask(owner, partial(SuppressOn, free)):
                pass


async def _keep_raw(
    changes: EgressChanges, due: trio.MemoryReceiveChannel[None], owner: trio.MemorySendChannel[Review]
) -> None:
    """Have raw frames sent while nothing acts on packets between IP and the interfaces, as far as can be seen."""
    kernel_is_able = False
    anew = True  # until that has been found out after the last change
    while True:
        begun = trio.current_time()
        anew |= changes.hear().route
        again = math.inf
        try:
            found = Blockers(None if kernel_is_able else await trio.to_thread.run_sync(kernel_blocker))
            if not found.of_all:
                kernel_is_able = True  # it stays so
                found = await trio.to_thread.run_sync(find_blockers)
        except Exception as error:  # noqa: BLE001 - whatever it is, relaying does not depend on it
            found = Blockers(_unseen(error))
            again = trio.current_time() + _RETRY_SECONDS
        await ask(owner, partial(ReviewRaw, found, anew))
        blocker = found.of_all
        anew &= blocker is not None and not blocker.of_kernel_path
        took = trio.current_time() - begun
        with trio.move_on_at(again):
            await due.receive()
        # Where routes change all the time only a share is spent on them. What may block raw frames does so now.
        with trio.move_on_after(min(took / _SHARE, _PAUSE)):
            while True:
                heard = changes.hear()
                anew |= heard.route
                if heard.blocker:
                    await ask(owner, partial(ReviewRaw, Blockers(UNSURE), anew))
                await due.receive()
