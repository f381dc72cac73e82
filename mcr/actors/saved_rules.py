"""What the rule store keeps on disk: the rules of run time, and a text beside them."""

from collections.abc import Iterable, Sequence
from copy import copy

import trio

from mcr.errors import InvalidParams, McrError
from mcr.logs.logger import get_logger
from mcr.model.log import Facility, Level
from mcr.model.rule import Rule
from mcr.rules.handed_over import add_handed_over
from mcr.rules.rule_table import Change, Keep, Put
from mcr.rules.store import OWED, RuleFile
from mcr.text.plurals import counted

log = get_logger(Facility.RULES)


class SavedRules:
    """The file of the rules, which one thread at a time uses. Without a file nothing is kept."""

    def __init__(self, file: RuleFile | None) -> None:
        self._file = file
        self._thread = trio.CapacityLimiter(1)
        self._read: tuple[Rule, ...] = ()

    async def read(self, handed_over: Sequence[Rule] = ()) -> tuple[Rule, ...]:
        """The rules that were there at the start, and those that another mcrd has handed over, which are saved, too.

        What an operator should know of it is logged.
        """
        for notice in self._file.notices if self._file else ():
            log.error("%s", notice)
        saved = self._file.rules if self._file else ()
        fresh = tuple(add_handed_over(saved, handed_over))
        if fresh and self._file and not await self.save(map(Put, fresh)):
            log.notice("%s of the mcrd before this one saved in %s", counted(len(fresh), "rule"), self._file.path)
        self._read = (*saved, *fresh)
        return self._read

    @property
    def where(self) -> str:
        """Where they are, for people."""
        return f"is saved in {self._file.path}" if self._file else "was added at run time"

    def log_loaded(self, loaded: int) -> None:
        """Tell which file is used, and how many of its rules are in use."""
        if self._file and self._read:
            log.notice("%d of %d saved rules are loaded from %s", loaded, len(self._read), self._file.path)
        elif self._file:
            log.notice("no rules are saved so far; they will be in %s", self._file.path)

    @property
    def kept(self) -> str:
        """The text that is kept beside the rules; empty: none."""
        return self._file.kept if self._file else ""

    async def keep(self, text: str) -> McrError | None:
        """Have this text on the disk when this returns; or the reason why it is not."""
        if text == self.kept and not (self._file and self._file.owes_text):
            return None
        if not self._file:
            return InvalidParams(
                "mcrd keeps no state, so nothing could be taken back after a restart",
                "leave out --confirm, or start mcrd with a state directory: mcrctl doctor says why there is none",
            )
        return await self.save([Keep(text)])

    async def save(self, changes: Iterable[Change]) -> McrError | None:
        """Have changes on the disk when this returns; or the reason why they are not. A thread goes through them."""
        if not self._file:
            return None
        try:
            await trio.to_thread.run_sync(self._file.write, changes, limiter=self._thread)
        except McrError as error:
            log.log(Level.ERROR, "%s", error.message)
            return error
        return None

    async def put_back(self, changes: Iterable[Change], refusal: McrError) -> McrError:
        """Take back what was saved of a change that was then refused, now or with what is saved next.

        Returns:
            The refusal, which says so if it is still saved.
        """
        lasting = [*changes]
        fault = await self.save(lasting)
        if not fault or not self._file:
            return refusal
        self._file.owe(lasting)
        log.log(Level.ERROR, "%s", OWED)
        told = copy(refusal)
        told.hints = (*refusal.hints, f"{OWED} ({fault.message})")
        return told
