"""The methods of the control protocol, in one table: name, parameters, whether it changes anything, handler.

A handler calls one actor and turns its answer into JSON values. An `McrError` travels to the client; anything else is a
bug and passes through.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

import mcr
from mcr.actors.config_files import Application
from mcr.config.effective import effective_views
from mcr.config.settings import Settings
from mcr.control.owners import Diagnosis, Files, Logging, Rules, Statistics, Workers
from mcr.control.rule_text import RuleText, views_text
from mcr.control.structure import structure, unstructure
from mcr.control.wire import MANY, PROTOCOL, Written
from mcr.errors import InvalidParams, MethodNotFound, RuleNotFound
from mcr.model.edit import RuleEdit
from mcr.model.health import Health
from mcr.model.limits import CONFIRM_SECONDS
from mcr.model.log import Facility, Level, LogLevels
from mcr.model.rule import Output, Rule, RuleState, RuleView
from mcr.model.selection import Selection
from mcr.relay.placement import PlacedRule

_TRACE_SECONDS = range(1, 11)
_SEE_RULES = "rule_id and name are shown by: mcrctl list"


@attrs.frozen
class Api:
    """The methods, bound to the actors that answer them."""

    rules: Rules
    workers: Workers
    stats: Statistics
    logging: Logging
    diagnosis: Diagnosis
    settings: Settings
    files: Files
    text: RuleText = attrs.field(factory=RuleText, init=False)
    network: int = attrs.field(factory=lambda: Path("/proc/self/ns/net").stat().st_ino, init=False)
    started: str = attrs.field(factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", init=False)

    async def call(self, method: str, params: dict[str, Any], *, long: bool = False) -> Any:
        """Carry out one request.

        Args:
            method: its name.
            params: by name.
            long: they take long to look through.

        Returns:
            The result, in values that JSON knows; what was asked of rules is JSON already.

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
    idempotent: bool = False


@attrs.frozen
class _ChangeParams:
    rule_id: str | None = None
    name: str | None = None
    outputs: tuple[Output, ...] | None = None
    add_outputs: tuple[Output, ...] = ()
    remove_outputs: tuple[Output, ...] = ()
    new_name: str | None = None
    health: Health | None = None
    wait: bool = False


@attrs.frozen
class _RemoveParams:
    rule_id: str | None = None
    name: str | None = None
    rule_ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    all: bool = False


@attrs.frozen
class _WhichParams:
    rule: str | None = None


@attrs.frozen
class _ApplyParams:
    confirm: int | None = None
    reload: bool = False


@attrs.frozen
class _WhyParams:
    rule: str


@attrs.frozen
class _EventsParams:
    after: int = 0


@attrs.frozen
class _TraceParams:
    interface: str
    seconds: int = 2


@attrs.frozen
class _SetLevelParams:
    level: Level
    facility: Facility | None = None


async def _written(rules: Sequence[RuleView | PlacedRule], write: Callable[[], Written]) -> Written:
    """JSON of these rules; if they are many, a thread writes it."""
    if len(rules) + sum(len(rule.outputs) for rule in rules) > MANY:
        return await trio.to_thread.run_sync(write)
    return write()


async def _shown(rules: Sequence[RuleView], more: Mapping[str, Mapping[str, Any]] | None = None) -> Written:
    return await _written(rules, partial(views_text, rules, more))


async def _add(api: Api, params: _AddParams) -> Any:
    if not params.rules:
        raise InvalidParams("No rules to add", "rules is an array of one rule or more")
    if params.idempotent:
        rules, there = await api.rules.ensure(params.rules, wait=params.wait)
        return await _shown(rules, {each.rule_id: {"added": each.rule_id not in there} for each in rules})
    return await _shown(await api.rules.add(params.rules, wait=params.wait))


async def _change(api: Api, params: _ChangeParams) -> Any:
    _check_one(params)
    edit = RuleEdit(params.outputs, params.add_outputs, params.remove_outputs, params.new_name, params.health)
    return unstructure(await api.rules.change(rule_id=params.rule_id, name=params.name, edit=edit, wait=params.wait))


def _check_one(params: _ChangeParams | _RemoveParams) -> None:
    if (params.rule_id is None) == (params.name is None):
        raise InvalidParams("Give either rule_id or name", _SEE_RULES)


async def _remove(api: Api, params: _RemoveParams) -> Any:
    some, one = bool(params.rule_ids or params.names), (params.rule_id, params.name) != (None, None)
    if some + one + params.all > 1:
        raise InvalidParams("Give rule_ids and names, or all, or one rule_id or name", _SEE_RULES)
    if some or params.all:
        return await _shown(await api.rules.remove(Selection(params.rule_ids, params.names, params.all)))
    _check_one(params)
    rule_ids, names = ((each,) if each is not None else () for each in (params.rule_id, params.name))
    (rule,) = await api.rules.remove(Selection(rule_ids, names, literal=True))
    return unstructure(rule)


async def _list(api: Api, params: _WhichParams) -> Any:
    rules = await api.rules.list() if params.rule is None else (await api.rules.find(params.rule),)
    refused = {rule_id: {"refused": [*map(str, sources)]} for rule_id, sources in api.diagnosis.refused().items()}
    marked = api.files.mark(rules)
    return await _written(marked, partial(api.text.listed, marked, refused))


async def _stats(api: Api, params: _WhichParams) -> Any:
    only = None if params.rule is None else (await api.rules.find(params.rule)).rule_id
    moment = await api.stats.moment()
    if only is not None:
        moment = moment.only(only)
    rules = await _written(moment.rules, lambda: api.text.stats(moment.columns, moment.health()))
    return unstructure(moment.stats) | {"rules": rules}


async def _events(api: Api, params: _EventsParams) -> Any:
    return {"events": unstructure(await api.stats.events(params.after))}


async def _list_workers(api: Api, _: _NoParams) -> Any:
    return unstructure(await api.workers.describe())


async def _why(api: Api, params: _WhyParams) -> Any:
    return unstructure(await api.diagnosis.why(params.rule))


async def _doctor(api: Api, _: _NoParams) -> Any:
    return unstructure(await api.diagnosis.doctor())


async def _trace(api: Api, params: _TraceParams) -> Any:
    if params.seconds not in _TRACE_SECONDS:
        what = f"a number of seconds from {_TRACE_SECONDS[0]} to {_TRACE_SECONDS[-1]}"
        raise InvalidParams(f"Invalid seconds: {params.seconds}", what)
    return unstructure(await api.diagnosis.trace(params.interface, params.seconds))


async def _settings(api: Api, _: _NoParams) -> Any:
    views = await trio.to_thread.run_sync(effective_views, api.settings, api.logging.levels)
    return unstructure((api.files.setting(), *views))


async def _diff_config(api: Api, _: _NoParams) -> Any:
    return await trio.to_thread.run_sync(unstructure, await api.files.apply(dry_run=True))


async def _apply_config(api: Api, params: _ApplyParams) -> Any:
    if params.confirm is not None and params.confirm not in CONFIRM_SECONDS:
        raise InvalidParams(
            f"Invalid confirm: {params.confirm}",
            f"a number of seconds from {CONFIRM_SECONDS[0]} to {CONFIRM_SECONDS[-1]:,}",
        )
    applied = await api.files.apply(confirm=params.confirm, reload=params.reload)
    values = await trio.to_thread.run_sync(unstructure, applied)
    return values | {"not_active": await _not_active(api, applied)}


async def _not_active(api: Api, applied: Application) -> list[dict[str, Any]]:
    """The rules that were added or changed and that are not active, each with the reason."""
    those = [each.rule_id for each in applied.differences if each.change != "removed"]
    views: list[RuleView] = []
    if len(those) > MANY:
        known = {each.rule_id: each for each in await api.rules.list()}
        views = [known[rule_id] for rule_id in those if rule_id in known]
    else:
        for rule_id in those:
            with suppress(RuleNotFound):  # the files have been applied again
                views.append(await api.rules.find(rule_id))
    return [
        {"rule_id": each.rule_id, "name": each.name, "state": each.state, "reason": each.reason}
        for each in views
        if each.state is not RuleState.ACTIVE
    ]


async def _confirm(api: Api, _: _NoParams) -> Any:
    await api.files.confirm()
    return {"confirmed": True}


async def _ping(_api: Api, _: _NoParams) -> Any:
    return {"pong": True}


async def _version(api: Api, _: _NoParams) -> Any:
    return {
        "version": mcr.__version__,
        "protocol": PROTOCOL,
        "pid": os.getpid(),
        "started": api.started,
        "network_namespace": api.network,
    }


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
        Method("change", _ChangeParams, _change, changes=True),
        Method("remove", _RemoveParams, _remove, changes=True),
        Method("list", _WhichParams, _list),
        Method("stats", _WhichParams, _stats),
        Method("events", _EventsParams, _events),
        Method("list_workers", _NoParams, _list_workers),
        Method("why", _WhyParams, _why, examines=True),
        Method("doctor", _NoParams, _doctor, examines=True),
        Method("trace", _TraceParams, _trace, examines=True),
        Method("settings", _NoParams, _settings),
        Method("config.diff", _NoParams, _diff_config, examines=True),
        Method("config.apply", _ApplyParams, _apply_config, changes=True),
        Method("confirm", _NoParams, _confirm, changes=True),
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
