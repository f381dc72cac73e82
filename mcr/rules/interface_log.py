"""Words for the log: what happens to the interfaces of rules. One that changes all the time is logged less often."""

from collections.abc import Mapping
from typing import Final

import attrs

from mcr.model.log import Level
from mcr.model.rule import RuleState
from mcr.rules.conditions import WELL, Condition
from mcr.text.plurals import counted

_BURST: Final = 5  # lines about an interface, before it is told seldom
_RESERVE: Final = 5  # more lines for what has lasted: how it is in the end is not held back for long
_LASTING: Final = 1.0  # seconds without a change
_APART: Final = 10.0  # seconds between two lines when they are used up
_BADNESS: Final = (RuleState.ACTIVE, RuleState.DEGRADED, RuleState.WAITING)


@attrs.frozen
class Users:
    """How many rules read from an interface, and how many outputs leave by it."""

    rules: int = 0
    outputs: int = 0

    def __str__(self) -> str:
        return " and ".join(counted(*each) for each in ((self.rules, "rule"), (self.outputs, "output")) if each[0])

    def verb(self, one: str, many: str) -> str:
        """The verb in the number of these."""
        return one if self.rules + self.outputs == 1 else many


@attrs.define
class _Told:
    """What was said of an interface last, how it is now, and the worst it was since."""

    said: Condition = WELL
    now: Condition = WELL
    worst: RuleState = RuleState.ACTIVE
    changes: int = 0
    passing: bool = False  # it is about to be used
    counted: int = 0  # changes, when it was looked at last
    changed_at: float = 0.0
    lines: float = _BURST + _RESERVE
    at: float = 0.0

    def may_be_said(self, time: float) -> bool:
        """Whether there is something to be said, and it is not too much."""
        self.lines = min(_BURST + _RESERVE, self.lines + (time - self.at) / _APART)
        self.at = time
        if self.changes != self.counted:
            self.counted, self.changed_at = self.changes, time
        lasts = time - self.changed_at >= _LASTING
        return self.changes > 0 and self.lines >= (1 if lasts else _RESERVE + 1)

    def be_said(self) -> None:
        """It was."""
        self.lines -= 1
        self.said, self.worst, self.changes, self.counted = self.now, self.now.state, 0, 0


class InterfaceLog:
    """The lines that are due; one for each change."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    @property
    def holds_back(self) -> bool:
        """Whether there is something to be said, now or later."""
        return any(told.changes for told in self._told.values())

    def note(self, conditions: Mapping[str, Condition]) -> None:
        """Take in the state of the interfaces of all rules; those that no rule names any more are forgotten."""
        for name in self._told.keys() - conditions.keys():
            del self._told[name]
        for name, condition in conditions.items():
            told = self._told.setdefault(name, _Told())
            told.worst = max(told.worst, condition.state, key=_BADNESS.index)
            if not condition.passing and (condition != told.now or told.passing):
                told.now = condition
                told.changes += 1
            told.passing = condition.passing

    def lines(self, users: Mapping[str, Users], time: float) -> list[tuple[Level, str]]:
        """The lines that are due now. `time` in seconds, of a clock that is not set."""
        found = []
        for name, told in self._told.items():
            if told.may_be_said(time):
                found.append(_line(name, told, users.get(name, Users())))
                told.be_said()
        return found


def _line(name: str, told: _Told, users: Users) -> tuple[Level, str]:
    often = f" ({told.changes} changes since the last such line)" if told.changes > 1 else ""
    if told.now.state is RuleState.WAITING:
        return Level.WARNING, f"{told.now.reason}: {users} {users.verb('waits', 'wait')}{often}"
    if told.now.state is RuleState.DEGRADED:
        return Level.WARNING, f"{told.now.reason}; {users} {users.verb('is', 'are')} concerned{often}"
    if told.worst is RuleState.DEGRADED:
        return Level.NOTICE, f"{name} can be used as before: {users}{often}"
    return Level.NOTICE, f"{name} is up: {users} {users.verb('goes', 'go')} on{often}"
