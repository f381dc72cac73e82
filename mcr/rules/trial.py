"""A trial: rules of configuration files that are in force, and are taken back unless they are confirmed in time. Pure.

It outlasts mcrd, and the machine: its text is kept beside the saved rules. After one was taken back the text stays, so
that what nobody confirmed is not in force again after the next start, though it still stands in the files.

Time is counted by the clock that nobody sets, as long as the machine runs. After it was started again there is only the
clock of the day, which may be wrong: at worst a trial ends at once, or lasts its full time anew.
"""

import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import attrs

from mcr.config.file import FileRule, FormerPlace
from mcr.config.rule_table import rule_of_table
from mcr.config.writing import table_of
from mcr.errors import McrError, UnconfirmedApply
from mcr.model.rule import Rule

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


@attrs.frozen
class Moment:
    """A time by two clocks.

    Attributes:
        day: seconds since 1970.
        uptime: seconds since the machine was started.
        boot: which start that was.
    """

    day: float
    uptime: float
    boot: str


def this_moment() -> Moment:
    """Now."""
    return Moment(time.time(), time.monotonic(), _BOOT.read_text().strip())


Clock = Callable[[], Moment]


@attrs.frozen
class Trial:
    """Rules on trial.

    Attributes:
        before: what the files had said, which is in force again after the trial.
        after: what they say.
        begun: when the trial did.
        seconds: that it lasts.
        taken_back: nobody confirmed it.
    """

    before: tuple[Rule, ...]
    after: tuple[Rule, ...]
    begun: Moment
    seconds: int
    taken_back: bool = False

    @property
    def waits(self) -> bool:
        """Whether it can be confirmed."""
        return not self.taken_back

    def left(self, now: Moment) -> float:
        """Seconds until it is taken back."""
        same = now.boot == self.begun.boot
        passed = now.uptime - self.begun.uptime if same else now.day - self.begun.day
        return min(max(self.seconds - passed, 0.0), self.seconds)

    def deadline(self, now: Moment) -> str:
        """When it is taken back, or was, for people."""
        return utc(self.begun.day + self.seconds if self.taken_back else now.day + self.left(now))

    @property
    def rules_before(self) -> tuple[FileRule, ...]:
        """Those that are in force again after the trial."""
        place = FormerPlace(utc(self.begun.day))
        return tuple(FileRule(rule, place) for rule in self.before)

    @cached_property
    def differing(self) -> frozenset[str]:
        """Ids of the rules on trial."""
        return frozenset(rule.rule_id for rule in {*self.after} - {*self.before})

    def text(self) -> str:
        """To be kept."""
        value = attrs.asdict(self, recurse=False)
        value |= {name: [table_of(rule) for rule in value[name]] for name in ("before", "after")}
        return json.dumps(value | {"begun": attrs.asdict(self.begun)})

    @classmethod
    def of_text(cls, text: str) -> Self:
        """What was kept.

        Raises:
            ValueError, TypeError, KeyError: it is none.
        """
        value = json.loads(text)
        rules = {name: tuple(map(rule_of_table, value[name])) for name in ("before", "after")}
        begun = Moment(**value["begun"])
        return cls(**value | rules | {"begun": begun, "seconds": int(value["seconds"])})


def utc(day: float) -> str:
    """A time of the day, for people."""
    return f"{datetime.fromtimestamp(day, UTC):%Y-%m-%dT%H:%M:%SZ}"


def are_same(some: Iterable[Rule], others: Iterable[Rule]) -> bool:
    """Whether these are the same rules, in whatever order."""
    return {*some} == {*others}


def kept_trial(text: str) -> Trial | None:
    """What was kept of one; None: there is none, or it can't be read.

    It may be another version's, and damage is told by others.
    """
    try:
        return Trial.of_text(text) if text else None
    except (ValueError, TypeError, KeyError, AttributeError, McrError):
        return None


def after_start(trial: Trial | None, stated: tuple[Rule, ...], now: Moment) -> Trial | None:
    """What becomes of a trial when mcrd starts, and the files say this.

    Whoever changed the files after it was taken back means them to be used. A change before that, while mcrd did not
    run, is on trial for the time that was left; if none was, the rules of before are used, as they are known to work.
    """
    if trial is None or are_same(stated, trial.before):
        return None
    if trial.waits:
        return attrs.evolve(trial, after=stated, taken_back=not trial.left(now))
    return trial if are_same(stated, trial.after) else None


def after_apply(
    trial: Trial | None,
    in_force: tuple[Rule, ...],
    stated: tuple[Rule, ...],
    seconds: int | None,
    now: Moment,
    *,
    reload: bool = False,
) -> Trial | None:
    """What becomes of a trial when the files are applied, and say this.

    Args:
        trial: until now.
        in_force: of the files.
        stated: in the files.
        seconds: that there are to confirm it; None: it needs not be.
        now: the time.
        reload: whoever has them applied does not decide on a trial.

    Raises:
        UnconfirmedApply: one waits, and another one can't replace it: nobody has confirmed that one either; or this is
            a reload, and they say what was taken back.
    """
    if reload and trial and trial.taken_back and are_same(stated, trial.after):
        raise UnconfirmedApply(
            "Nobody has confirmed what the configuration files say, so it was taken back, and a reload does not use it",
            "change the files",
            "or try again: mcrctl config apply --confirm SECONDS",
            "or use it at once: mcrctl config apply",
        )
    if trial and trial.waits:
        if are_same(stated, trial.before):
            return None
        if seconds is None:
            raise waiting(trial, now)
        return Trial(trial.before, stated, now, seconds)
    if seconds is None or are_same(stated, in_force):
        return None
    return Trial(in_force, stated, now, seconds)


def waiting(trial: Trial, now: Moment) -> McrError:
    """Why nothing else can be applied."""
    return UnconfirmedApply(
        f"An apply waits for confirmation, for another {trial.left(now):.0f} s",
        "keep it: mcrctl confirm",
        "or try something else: mcrctl config apply --confirm SECONDS",
        "or give it up: change the files back, then: mcrctl config apply",
    )
