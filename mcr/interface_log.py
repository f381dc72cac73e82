"""Words for the log: what happens to the interfaces of rules. One that comes and goes all the time is told seldom."""

from collections.abc import Mapping
from typing import Final

import attrs

from mcr.conditions import WELL, Condition
from mcr.model import Level, RuleState
from mcr.plurals import counted

_BURST: Final = 5  # lines about an interface, before it is told seldom
_APART: Final = 10.0  # seconds between two lines then


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
    """What was said of an interface last, and how it is now."""

    said: Condition = WELL
    now: Condition = WELL
    changes: int = 0
    lines: float = _BURST
    at: float = 0.0


class InterfaceLog:
    """What there is to be said; of each change once."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def note(self, conditions: Mapping[str, Condition]) -> None:
        """See how it stands with the interfaces of all rules; those that no rule names any more are forgotten."""
        for name in self._told.keys() - conditions.keys():
            del self._told[name]
        for name, condition in conditions.items():
            told = self._told.setdefault(name, _Told())
            if not condition.passing and condition != told.now:
                told.now = condition
                told.changes += 1

    def lines(self, users: Mapping[str, Users], time: float) -> list[tuple[Level, str]]:
        """What is to be said now. `time` in seconds, of a clock that is not set."""
        found = []
        for name, told in self._told.items():
            told.lines = min(_BURST, told.lines + (time - told.at) / _APART)
            told.at = time
            if told.changes and told.lines >= 1:
                found.append(_line(name, told, users.get(name, Users())))
                told.lines -= 1
                told.said, told.changes = told.now, 0
        return found


def _line(name: str, told: _Told, users: Users) -> tuple[Level, str]:
    often = f" ({told.changes} changes since the last such line)" if told.changes > 1 else ""
    if told.now.state is RuleState.WAITING:
        return Level.WARNING, f"{told.now.reason}: {users} {users.verb('waits', 'wait')}{often}"
    if told.now.state is RuleState.DEGRADED:
        return Level.WARNING, f"{told.now.reason}; {users} {users.verb('is', 'are')} concerned{often}"
    if told.said.state is RuleState.ACTIVE and told.now.warnings:
        return Level.NOTICE, f"{told.now.warnings[0]}: {users} {users.verb('stays', 'stay')} with it{often}"
    if told.said.state is RuleState.DEGRADED:
        return Level.NOTICE, f"{name} can be used as before: {users}{often}"
    again = "is up again" if told.said.state is RuleState.WAITING or often else f"is called {name} again"
    return Level.NOTICE, f"{name} {again}: {users} {users.verb('goes', 'go')} on{often}"
