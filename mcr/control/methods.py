"""What the control protocol can ask for: method name to parameters to handler.

Rules of the module:

1. A bad parameter is told with its path (`rules[3].outputs[0].port`), the faults of a request in one error.
2. A handler calls one actor and turns its answer into JSON values. An `McrError` travels to the client;
   anything else is a bug and passes through.
"""

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from heapq import nsmallest
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

import attrs
import cattrs
import trio
from cattrs import IterableValidationNote
from cattrs.gen import make_dict_structure_fn, override

import mcr
from mcr.config.effective import effective_views
from mcr.config.settings import Settings
from mcr.control.wire import MANY, PROTOCOL
from mcr.errors import InvalidParams, LimitReached, McrError, MethodNotFound
from mcr.model.finding import Finding
from mcr.model.flow import Input, parse_address
from mcr.model.limits import MAX_OUTPUTS, MAX_OUTPUTS_PER_RULE, MAX_RULES
from mcr.model.log import Facility, Level, LogLevels, LogLine
from mcr.model.rule import Output, Rule, RuleView, automatic_rule_id
from mcr.model.stats import RuleStats, Stats
from mcr.model.worker import WorkerView

_MAX_FAULTS = 3  # told in one error; nobody looks for many more
_MANY_MEMBERS = 50  # of an object; none has as many
_MAX_TEXT = 1_000  # characters; no parameter needs as many
_MOST: Final[dict[type, tuple[int, str]]] = {
    Rule: (MAX_RULES, f"a relay holds at most {MAX_RULES:,} rules"),
    Output: (MAX_OUTPUTS_PER_RULE, f"a rule has at most {MAX_OUTPUTS_PER_RULE} outputs"),
}
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

    @staticmethod
    def examines(method: str) -> bool:
        """Whether a method takes long, and is mostly waited for."""
        return method in _EXAMINING

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
            params_type, handler = _METHODS[method]
        except KeyError:
            raise MethodNotFound(f"Unknown method: {method!r}", "methods: " + ", ".join(_METHODS)) from None
        if long:
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


async def _json_values(value: object, rules: Sequence[RuleView | RuleStats]) -> Any:
    """Turn a value that has to do with these rules into what JSON knows."""
    if len(rules) + sum(len(rule.outputs) for rule in rules) > MANY:
        return await trio.to_thread.run_sync(_converter.unstructure, value)
    return _converter.unstructure(value)


async def _add(api: Api, params: _AddParams) -> Any:
    if not params.rules:
        raise InvalidParams("No rules to add", "rules is an array of one rule or more")
    added = await api.rules.add(params.rules)
    return await _json_values(added, added)


async def _remove(api: Api, params: _RemoveParams) -> Any:
    if (params.rule_id is None) == (params.name is None):
        raise InvalidParams("Give either rule_id or name", "rule_id and name are shown by: mcrctl list")
    return _converter.unstructure(await api.rules.remove(rule_id=params.rule_id, name=params.name))


async def _list(api: Api, _: _NoParams) -> Any:
    rules = await api.rules.list()
    return await _json_values(rules, rules)


async def _stats(api: Api, _: _NoParams) -> Any:
    stats = await api.stats.read()
    return await _json_values(stats, stats.rules)


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

_EXAMINING: Final = frozenset({"why", "doctor"})

_CHANGING: Final = frozenset({"add", "remove", "log_level.set"})


# JSON to values. cattrs on its own would turn "5" into 5 and a string into a tuple of its characters; here a
# JSON type is the one asked for, or a fault.


class _WrongTypeError(Exception):
    def __init__(self, expected: type, value: object) -> None:
        super().__init__(f"must be {_JSON_NAMES[expected]}, not {_JSON_NAMES[type(value)]}")


class _TooLongError(Exception):
    def __str__(self) -> str:
        return f"is longer than {_MAX_TEXT:,} characters"


def _expect(value: object, expected: type[_T]) -> _T:
    if type(value) is not expected:  # isinstance would let true pass for 1
        raise _WrongTypeError(expected, value)
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        raise _TooLongError
    return value


def _structure_class(cls: type[_T]) -> Callable[[Any, Any], _T]:
    return _only_from_object(make_dict_structure_fn(cls, _converter, _cattrs_forbid_extra_keys=True))


def _structure_endpoint(cls: type[_T], what: str) -> Callable[[Any, Any], _T]:
    """Structure an input or output; errors name its address for what it is."""
    address = override(struct_hook=lambda value, _: parse_address(_expect(value, str), what))
    return _only_from_object(make_dict_structure_fn(cls, _converter, _cattrs_forbid_extra_keys=True, group=address))


def _only_from_object(structure: Callable[[Any, Any], _T]) -> Callable[[Any, Any], _T]:
    def structure_object(value: object, cls: Any) -> _T:
        members: dict[str, Any] = _expect(value, dict)
        if len(members) > _MANY_MEMBERS:
            known = attrs.fields_dict(cls)
            unknown = set(islice((name for name in members if name not in known), _MAX_FAULTS + 1))
            raise cattrs.ClassValidationError("", [cattrs.ForbiddenExtraKeysError(None, cls, unknown)], cls)
        return structure(members, cls)

    return structure_object


def _structure_tuple(cls: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    (item_type, *_) = cls.__args__
    structure = _converter.get_structure_hook(item_type)
    most, limit = _MOST[item_type]

    def structure_all(value: object, _: object) -> tuple[Any, ...]:
        items: list[Any] = _expect(value, list)
        if len(items) > most:
            raise LimitReached(f"{len(items):,} are too many", limit)
        return tuple(_structure_each(items, item_type, structure))

    return structure_all


def _structure_each(items: list[Any], item_type: type, structure: Callable[[Any, Any], Any]) -> list[Any]:
    """Structure until there are more faults than are told."""
    structured, faults = [], []
    for index, item in enumerate(items):
        try:
            structured.append(structure(item, item_type))
        except Exception as fault:  # noqa: BLE001 - `_faults` raises what is none
            fault.add_note(IterableValidationNote(f"item {index}", index, item_type))
            faults.append(fault)
            if len(faults) > _MAX_FAULTS:
                break
    if faults:
        raise cattrs.IterableValidationError("faults", faults, item_type)
    return structured


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
    rules = params.get("rules")
    _check_outputs(rules)
    try:
        return _converter.structure(params, cls)
    except cattrs.BaseValidationError as error:
        several_rules = isinstance(rules, list) and len(rules) > 1
        faults = list(islice(_faults(error, several_rules=several_rules), _MAX_FAULTS + 1))
    if isinstance(faults[0], LimitReached):
        raise faults[0]
    messages = [fault.message for fault in faults[:_MAX_FAULTS]]
    if len(faults) > _MAX_FAULTS:
        messages.append("and more faults")
    hints = dict.fromkeys(hint for fault in faults[:_MAX_FAULTS] for hint in fault.hints)
    raise InvalidParams("; ".join(messages), *hints)


def _check_outputs(rules: object) -> None:
    """Refuse more outputs than a relay has before anything is made of them."""
    if not isinstance(rules, list) or len(rules) > MAX_RULES:  # which is refused next
        return
    outputs = (rule.get("outputs") for rule in rules if isinstance(rule, dict))
    total = sum(len(each) for each in outputs if isinstance(each, list))
    if total > MAX_OUTPUTS:
        raise LimitReached(f"{total:,} outputs are too many", f"a relay holds at most {MAX_OUTPUTS:,} outputs")


def _faults(error: Exception, path: str = "", *, several_rules: bool) -> Iterator[InvalidParams | LimitReached]:
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
            for name in nsmallest(_MAX_FAULTS + 1, error.extra_fields):
                yield InvalidParams(
                    f"Unknown parameter: {path}.{name}".replace(": .", ": "),
                    f"parameters{f' of {path}' if path else ''}: {known}",
                )
        case _WrongTypeError() | _TooLongError():
            yield InvalidParams(f"{path} {error}")
        case LimitReached():
            yield error.at(path)
        case McrError():
            yield InvalidParams(f"{error.message} ({path})" if several_rules else error.message, *error.hints)
        case _:
            raise error
