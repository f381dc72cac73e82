"""Tells workers who is refused: at once, and again before they forget it."""

from collections.abc import Callable, Mapping

import trio

from mcr.actors.refused import Refused
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.errors import ShuttingDown, SystemFault
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.model.loop import REFUSED_SECONDS
from mcr.stats.meter import Meter

log = get_logger(Facility.NETWORK)


class Teller:
    """Of all who are refused.

    Attributes:
        due: set it when that has changed.
        ended: places in which workers count until they are told of it.
    """

    def __init__(
        self,
        workers: WorkerSupervisor,
        meter: Meter,
        refused: Mapping[tuple[int, bytes], Refused],
        put_off: Callable[[Refused, str], None],
    ) -> None:
        """`refused`: who is; others change it. `put_off`: is called with who cannot be refused, and why."""
        self._workers, self._meter, self._refused, self._put_off = workers, meter, refused, put_off
        self.ended = set[int]()
        self.due = trio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing that workers are to be told."""
        return not self._refused and not self.ended

    async def run(self) -> None:
        """Tell them until cancelled."""
        told = float("-inf")
        while True:
            with trio.move_on_at(float("inf") if self.is_idle else told + REFUSED_SECONDS / 4):
                await self.due.wait()
            self.due, told = trio.Event(), trio.current_time()
            await self._tell()

    async def _tell(self) -> None:
        asked, ended, now = [*self._refused.values()], [*self.ended], trio.current_time()
        try:
            await self._workers.refuse(tuple(each.refusal for each in asked))
        except SystemFault as error:
            for each in asked:  # it is tried again, and workers go on with those that they were told of, for a while
                there = self._refused.get((each.placed.tag, each.origin.address)) is each
                if there and now >= each.told + REFUSED_SECONDS:
                    self._put_off(each, f"it cannot be refused: {error}")
        except ShuttingDown:
            log.debug("nobody is refused any more: mcrd ends")
        else:
            self.ended.difference_update(ended)
            for each in asked:
                each.told = now
                if each.fall:
                    count, matched = self._meter.refused(each.refusal.place), self._meter.matched(each.placed)
                    each.fall.begin(trio.current_time(), count, matched)
