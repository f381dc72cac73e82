"""Who answers what the methods of the control protocol ask."""

from collections.abc import Mapping
from typing import Protocol

from mcr.actors.config_files import Application
from mcr.model.edit import RuleEdit
from mcr.model.event import Event
from mcr.model.finding import Finding
from mcr.model.flow import Address
from mcr.model.log import Facility, Level, LogLevels, LogLine
from mcr.model.rule import Rule, RuleView
from mcr.model.selection import Selection
from mcr.model.setting import SettingView
from mcr.model.worker import WorkerView
from mcr.stats.moment import Moment
from mcr.tap.unmatched import Unmatched


class Rules(Protocol):
    """The owner of the rules."""

    async def add(self, rules: tuple[Rule, ...], *, wait: bool) -> tuple[RuleView, ...]:
        """Add all of them or none; `wait`: also if they name interfaces that are not there."""

    async def ensure(self, rules: tuple[Rule, ...], *, wait: bool) -> tuple[tuple[RuleView, ...], frozenset[str]]:
        """Add those that are not there, or none; all of them, and the ids of those that were there."""

    async def change(self, *, rule_id: str | None, name: str | None, edit: RuleEdit, wait: bool) -> RuleView:
        """Change one in its place."""

    async def remove(self, selection: Selection) -> tuple[RuleView, ...]:
        """Remove all of these or none."""

    async def list(self) -> tuple[RuleView, ...]:
        """Every rule."""

    async def find(self, rule: str) -> RuleView:
        """One, by its id or its name."""


class Workers(Protocol):
    """The owner of the worker processes."""

    async def describe(self) -> tuple[WorkerView, ...]:
        """Every worker."""


class Statistics(Protocol):
    """The owner of totals and rates."""

    async def moment(self) -> Moment:
        """The totals and rates of this moment."""

    async def events(self, after: int) -> tuple[Event, ...]:
        """What has happened to feeds, from the next number on."""


class Logging(Protocol):
    """The owner of the log levels."""

    @property
    def levels(self) -> LogLevels:
        """The levels in force."""

    def recent(self) -> tuple[LogLine, ...]:
        """The newest warnings and errors, oldest first."""

    async def set_global(self, level: Level) -> LogLevels:
        """Set every facility to one level; return the new levels."""

    async def set_facility(self, facility: Facility, level: Level) -> LogLevels:
        """Set one facility; return the new levels."""


class Diagnosis(Protocol):
    """The diagnosis."""

    async def why(self, rule: str) -> tuple[Finding, ...]:
        """Walk a rule, named by its id or name, from wire to wire."""

    async def doctor(self) -> tuple[Finding, ...]:
        """Check the machine and the daemon."""

    async def trace(self, interface: str, seconds: int) -> Unmatched:
        """Look for what arrives there and no rule takes."""

    def refused(self) -> Mapping[str, tuple[Address, ...]]:
        """Sources that rules refuse at present, by the ids of these."""


class Files(Protocol):
    """The owner of the configuration files."""

    async def apply(self, *, dry_run: bool = False, confirm: int | None = None, reload: bool = False) -> Application:
        """Read them again, and go by them.

        `dry_run`: only tell what would differ; `confirm`: for so many seconds; `reload`: not by what was taken back.
        """

    async def confirm(self) -> None:
        """Keep what is on trial."""

    def setting(self) -> SettingView:
        """Which ones mcrd reads."""

    def mark(self, rules: tuple[RuleView, ...]) -> tuple[RuleView, ...]:
        """Warn of rules on trial."""
