"""The methods of the control protocol, in one table: name, parameters, whether it changes anything, handler.

A handler calls one actor and turns its answer into JSON values. An `McrError` travels to the client; anything else is a
bug and passes through.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import attrs
import trio

import mcr
from mcr.config.effective import effective_views
from mcr.config.settings import Settings
from mcr.control.structure import structure, unstructure
from mcr.control.wire import MANY, PROTOCOL
from mcr.errors import InvalidParams, MethodNotFound
from mcr.model.finding import Finding
from mcr.model.log import Facility, Level, LogLevels, LogLine
from mcr.model.rule import Rule, RuleView
from mcr.model.stats import RuleStats, Stats
from mcr.model.worker import WorkerView


class Rules(Protocol):
    """The owner of the rules."""

    async def add(self, rules: tuple[Rule, ...], *, wait: bool) -> tuple[RuleView, ...]:
        """Add all of them or none; `wait`: also if they name interfaces that are not there."""

    async def remove(self, *, rule_id: str | None, name: str | None) -> RuleView:
        """Remove one, by its id or its name."""

    async def list(self) -> tuple[RuleView, ...]:
        """Every rule."""


class Workers(Protocol):
    """The owner of the worker processes."""

    async def describe(self) -> tuple[WorkerView, ...]:
        """Every worker."""


class Statistics(Protocol):
    """The owner of totals and rates."""

    async def read(self) -> Stats:
        """The totals and rates of this moment."""


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


@attrs.frozen
class Api:
    """The methods, bound to the actors that answer them."""

    rules: Rules
    workers: Workers
    stats: Statistics
    logging: Logging
    diagnosis: Diagnosis
    settings: Settings

    async def call(self, method: str, params: dict[str, Any], *, long: bool = False) -> Any:
        """Carry out one request.

        Args:
            method: its name.
            params: by name.
            long: they take long to look through.

        Returns:
            The result, in values that JSON knows.

        Raises:
            McrError: what the client must be told.
        """
        try:
            row = METHODS[method]
        except KeyError:
            raise MethodNotFound(f"Unknown method: {method!r}", "methods: " + ", ".join(METHODS)) from None
        if long:
            return await row.handler(self, await trio.to_thread.run_sync(structure, params, row.params))
        return await row.handler(self, structure(params, row.params))


# Parameters, and the handler of each method.


@attrs.frozen
class _NoParams:
    pass


@attrs.frozen
class _AddParams:
    rules: tuple[Rule, ...]
    wait: bool = False


@attrs.frozen
class _RemoveParams:
    rule_id: str | None = None
    name: str | None = None


@attrs.frozen
class _WhyParams:
    rule: str


@attrs.frozen
class _SetLevelParams:
    level: Level
    facility: Facility | None = None


async def _json_values(value: object, rules: Sequence[RuleView | RuleStats]) -> Any:
    """Turn a value that concerns these rules into JSON values."""
    if len(rules) + sum(len(rule.outputs) for rule in rules) > MANY:
        return await trio.to_thread.run_sync(unstructure, value)
    return unstructure(value)


async def _add(api: Api, params: _AddParams) -> Any:
    if not params.rules:
        raise InvalidParams("No rules to add", "rules is an array of one rule or more")
    added = await api.rules.add(params.rules, wait=params.wait)
    return await _json_values(added, added)


async def _remove(api: Api, params: _RemoveParams) -> Any:
    if (params.rule_id is None) == (params.name is None):
        raise InvalidParams("Give either rule_id or name", "rule_id and name are shown by: mcrctl list")
    return unstructure(await api.rules.remove(rule_id=params.rule_id, name=params.name))


async def _list(api: Api, _: _NoParams) -> Any:
    rules = await api.rules.list()
    return await _json_values(rules, rules)


async def _stats(api: Api, _: _NoParams) -> Any:
    stats = await api.stats.read()
    return await _json_values(stats, stats.rules)


async def _list_workers(api: Api, _: _NoParams) -> Any:
    return unstructure(await api.workers.describe())


async def _why(api: Api, params: _WhyParams) -> Any:
    return unstructure(await api.diagnosis.why(params.rule))


async def _doctor(api: Api, _: _NoParams) -> Any:
    return unstructure(await api.diagnosis.doctor())


async def _settings(api: Api, _: _NoParams) -> Any:
    return unstructure(await trio.to_thread.run_sync(effective_views, api.settings, api.logging.levels))


async def _ping(_api: Api, _: _NoParams) -> Any:
    return {"pong": True}


async def _version(_api: Api, _: _NoParams) -> Any:
    return {"version": mcr.__version__, "protocol": PROTOCOL, "pid": os.getpid()}


async def _recent_lines(api: Api, _: _NoParams) -> Any:
    return unstructure(api.logging.recent())


async def _get_levels(api: Api, _: _NoParams) -> Any:
    return _level_table(api.logging.levels)


async def _set_level(api: Api, params: _SetLevelParams) -> Any:
    if params.facility is None:
        return _level_table(await api.logging.set_global(params.level))
    return _level_table(await api.logging.set_facility(params.facility, params.level))


def _level_table(levels: LogLevels) -> dict[str, str]:
    return {facility.label: levels.of(facility).label for facility in Facility}


@attrs.frozen
class Method:
    """One row.

    Attributes:
        params: class of its parameters, which are that class's fields.
        handler: what carries it out.
        changes: it does more than read, and needs the right to.
        examines: it takes long, most of it waiting.
    """

    name: str
    params: type
    handler: Callable[[Api, Any], Awaitable[Any]]
    changes: bool = False
    examines: bool = False


METHODS: Final[Mapping[str, Method]] = {
    row.name: row
    for row in (
        Method("add", _AddParams, _add, changes=True),
        Method("remove", _RemoveParams, _remove, changes=True),
        Method("list", _NoParams, _list),
        Method("stats", _NoParams, _stats),
        Method("list_workers", _NoParams, _list_workers),
        Method("why", _WhyParams, _why, examines=True),
        Method("doctor", _NoParams, _doctor, examines=True),
        Method("settings", _NoParams, _settings),
        Method("ping", _NoParams, _ping),
        Method("version", _NoParams, _version),
        Method("log.recent", _NoParams, _recent_lines),
        Method("log_level.get", _NoParams, _get_levels),
        Method("log_level.set", _SetLevelParams, _set_level, changes=True),
    )
}


def changes(method: str) -> bool:
    """Whether a method does more than read; an unknown one does not."""
    return method in METHODS and METHODS[method].changes


def examines(method: str) -> bool:
    """Whether a method takes long, most of it waiting."""
    return method in METHODS and METHODS[method].examines
