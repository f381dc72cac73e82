"""What the control protocol can ask for: method name to parameters to handler.

Rules of the module:

1. A bad parameter is told with its path (`rules[3].outputs[0].port`), the faults of a request in one error.
2. A handler calls one actor and turns its answer into JSON values. An `McrError` travels to the client;
   anything else is a bug and passes through.
"""

import os
import types
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Protocol, TypeVar

import attrs
import cattrs
import trio
from cattrs import IterableValidationNote
from cattrs.gen import make_dict_structure_fn, override

import mcr
from mcr.effective import effective_views
from mcr.errors import InvalidParams, McrError, MethodNotFound
from mcr.findings import Finding
from mcr.model import (
    Facility,
    Input,
    Level,
    LogLevels,
    LogLine,
    Output,
    Rule,
    RuleView,
    Stats,
    WorkerView,
    automatic_rule_id,
    parse_address,
)
from mcr.settings import Settings
from mcr.wire import MANY, PROTOCOL

_MAX_FAULTS = 3  # told in one error; the others are counted
_JSON_NAMES: Final[dict[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a whole number",
    float: "a fraction",
    bool: "a boolean",
    type(None): "null",
}

_T = TypeVar("_T")


class Rules(Protocol):
    """Who owns the rules."""

    async def add(self, rules: tuple[Rule, ...]) -> tuple[RuleView, ...]:
        """Add all of them or none."""

    async def remove(self, *, rule_id: str | None, name: str | None) -> RuleView:
        """Remove one, by its id or its name."""

    async def list(self) -> tuple[RuleView, ...]:
        """Every rule."""


class Workers(Protocol):
    """Who owns the worker processes."""

    async def describe(self) -> tuple[WorkerView, ...]:
        """Every worker."""


class Statistics(Protocol):
    """Who owns totals and rates."""

    async def read(self) -> Stats:
        """The totals and rates of this moment."""


class Logging(Protocol):
    """Who owns the log levels."""

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
    """Who finds out what is wrong."""

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

    @staticmethod
    def changes(method: str) -> bool:
        """Whether a method does more than look."""
        return method in _CHANGING

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """Carry out one request.

        Returns:
            The result, in values that JSON knows.

        Raises:
            McrError: what the client must be told.
        """
        try:
            params_type, handler = _METHODS[method]
        except KeyError:
            raise MethodNotFound(f"Unknown method: {method!r}", "methods: " + ", ".join(_METHODS)) from None
        if any(isinstance(value, list) and len(value) > MANY for value in params.values()):
            return await handler(self, await trio.to_thread.run_sync(_structure, params, params_type))
        return await handler(self, _structure(params, params_type))


# Parameters, and the handler of each method.


@attrs.frozen
class _NoParams:
    pass


@attrs.frozen
class _RuleParams:
    """A rule as a client writes it: without an id, it gets the automatic one."""

    input: Input
    outputs: tuple[Output, ...]
    rule_id: str | None = None
    name: str | None = None

    def rule(self) -> Rule:
        rule_id = automatic_rule_id(self.input) if self.rule_id is None else self.rule_id
        return Rule(rule_id, self.input, self.outputs, self.name)


@attrs.frozen
class _AddParams:
    rules: tuple[Rule, ...]


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


async def _json_values(value: object, rules: int) -> Any:
    """Turn a value that has to do with so many rules into what JSON knows."""
    if rules > MANY:
        return await trio.to_thread.run_sync(_converter.unstructure, value)
    return _converter.unstructure(value)


async def _add(api: Api, params: _AddParams) -> Any:
    if not params.rules:
        raise InvalidParams("No rules to add", "rules is an array of one rule or more")
    return await _json_values(await api.rules.add(params.rules), len(params.rules))


async def _remove(api: Api, params: _RemoveParams) -> Any:
    if (params.rule_id is None) == (params.name is None):
        raise InvalidParams("Give either rule_id or name", "rule_id and name are shown by: mcrctl list")
    return _converter.unstructure(await api.rules.remove(rule_id=params.rule_id, name=params.name))


async def _list(api: Api, _: _NoParams) -> Any:
    rules = await api.rules.list()
    return await _json_values(rules, len(rules))


async def _stats(api: Api, _: _NoParams) -> Any:
    stats = await api.stats.read()
    return await _json_values(stats, len(stats.rules))


async def _list_workers(api: Api, _: _NoParams) -> Any:
    return _converter.unstructure(await api.workers.describe())


async def _why(api: Api, params: _WhyParams) -> Any:
    return _converter.unstructure(await api.diagnosis.why(params.rule))


async def _doctor(api: Api, _: _NoParams) -> Any:
    return _converter.unstructure(await api.diagnosis.doctor())


async def _settings(api: Api, _: _NoParams) -> Any:
    return _converter.unstructure(await trio.to_thread.run_sync(effective_views, api.settings, api.logging.levels))


async def _ping(_api: Api, _: _NoParams) -> Any:
    return {"pong": True}


async def _version(_api: Api, _: _NoParams) -> Any:
    return {"version": mcr.__version__, "protocol": PROTOCOL, "pid": os.getpid()}


async def _recent_lines(api: Api, _: _NoParams) -> Any:
    return _converter.unstructure(api.logging.recent())


async def _get_levels(api: Api, _: _NoParams) -> Any:
    return _level_table(api.logging.levels)


async def _set_level(api: Api, params: _SetLevelParams) -> Any:
    if params.facility is None:
        return _level_table(await api.logging.set_global(params.level))
    return _level_table(await api.logging.set_facility(params.facility, params.level))


def _level_table(levels: LogLevels) -> dict[str, str]:
    return {facility.label: levels.of(facility).label for facility in Facility}


_METHODS: Final[dict[str, tuple[type, Callable[[Api, Any], Awaitable[Any]]]]] = {
    "add": (_AddParams, _add),
    "remove": (_RemoveParams, _remove),
    "list": (_NoParams, _list),
    "stats": (_NoParams, _stats),
    "list_workers": (_NoParams, _list_workers),
    "why": (_WhyParams, _why),
    "doctor": (_NoParams, _doctor),
    "settings": (_NoParams, _settings),
    "ping": (_NoParams, _ping),
    "version": (_NoParams, _version),
    "log.recent": (_NoParams, _recent_lines),
    "log_level.get": (_NoParams, _get_levels),
    "log_level.set": (_SetLevelParams, _set_level),
}

_CHANGING: Final = frozenset({"add", "remove", "log_level.set"})


# JSON to values. cattrs on its own would turn "5" into 5 and a string into a tuple of its characters; here a
# JSON type is the one asked for, or a fault.


class _WrongTypeError(Exception):
    def __init__(self, expected: type, value: object) -> None:
        super().__init__(f"must be {_JSON_NAMES[expected]}, not {_JSON_NAMES[type(value)]}")


def _expect(value: object, expected: type[_T]) -> _T:
    if type(value) is not expected:  # isinstance would let true pass for 1
        raise _WrongTypeError(expected, value)
    return value


def _structure_class(cls: type[_T]) -> Callable[[Any, Any], _T]:
    return _only_from_object(make_dict_structure_fn(cls, _converter, _cattrs_forbid_extra_keys=True))


def _structure_endpoint(cls: type[_T], what: str) -> Callable[[Any, Any], _T]:
    """Structure an input or output; errors name its address for what it is."""
    address = override(struct_hook=lambda value, _: parse_address(_expect(value, str), what))
    return _only_from_object(make_dict_structure_fn(cls, _converter, _cattrs_forbid_extra_keys=True, group=address))


def _only_from_object(structure: Callable[[Any, Any], _T]) -> Callable[[Any, Any], _T]:
    return lambda value, cls: structure(_expect(value, dict), cls)


def _structure_tuple(cls: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    items = types.GenericAlias(list, cls.__args__[:1])
    structure = _converter.get_structure_hook(items)
    return lambda value, _: tuple(structure(_expect(value, list), items))


_converter = cattrs.Converter()
_converter.register_structure_hook_factory(attrs.has, _structure_class)
_converter.register_structure_hook_factory(lambda cls: getattr(cls, "__origin__", None) is tuple, _structure_tuple)
_converter.register_structure_hook(str, lambda value, _: _expect(value, str))
_converter.register_structure_hook(int, lambda value, _: _expect(value, int))
_converter.register_structure_hook(Level, lambda value, _: Level.parse(_expect(value, str)))
_converter.register_structure_hook(Facility, lambda value, _: Facility.parse(_expect(value, str)))
_converter.register_structure_hook(Input, _structure_endpoint(Input, "input group"))
_converter.register_structure_hook(Output, _structure_endpoint(Output, "output group"))
_converter.register_structure_hook(Rule, lambda value, _: _converter.structure(value, _RuleParams).rule())
_converter.register_unstructure_hook(IPv4Address, str)
_converter.register_unstructure_hook(IPv6Address, str)


def _structure(params: dict[str, Any], cls: type[_T]) -> _T:
    try:
        return _converter.structure(params, cls)
    except cattrs.BaseValidationError as error:
        rules = params.get("rules")
        faults = list(_faults(error, several_rules=isinstance(rules, list) and len(rules) > 1))
    messages = [fault.message for fault in faults[:_MAX_FAULTS]]
    if len(faults) > _MAX_FAULTS:
        messages.append(f"and {len(faults) - _MAX_FAULTS} more faults")
    hints = dict.fromkeys(hint for fault in faults[:_MAX_FAULTS] for hint in fault.hints)
    raise InvalidParams("; ".join(messages), *hints)


def _faults(error: Exception, path: str = "", *, several_rules: bool) -> Iterator[InvalidParams]:
    """Every fault in what cattrs raised, in words, with its path."""
    match error:
        case cattrs.ClassValidationError() | cattrs.IterableValidationError():
            inside, here = error.group_exceptions()
            for child, note in inside:
                step = f"[{note.index}]" if isinstance(note, IterableValidationNote) else f".{note.name}"
                yield from _faults(child, (path + step).removeprefix("."), several_rules=several_rules)
            for child in here:
                yield from _faults(child, path, several_rules=several_rules)
        case KeyError():
            yield InvalidParams(f"Missing parameter: {path}")
        case cattrs.ForbiddenExtraKeysError():
            known = ", ".join(attrs.fields_dict(error.cl)) or "none"
            for name in sorted(error.extra_fields):
                yield InvalidParams(
                    f"Unknown parameter: {path}.{name}".replace(": .", ": "),
                    f"parameters{f' of {path}' if path else ''}: {known}",
                )
        case _WrongTypeError():
            yield InvalidParams(f"{path} {error}")
        case McrError():
            yield InvalidParams(f"{error.message} ({path})" if several_rules else error.message, *error.hints)
        case _:
            raise error
