"""Turns JSON into values, and values into JSON.

What a client has written becomes values, or one error with its faults, each with its path: `rules[3].outputs[0].port`.
cattrs on its own would turn "5" into 5 and a string into a tuple of its characters; here a JSON type is the one asked
for, or a fault.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import nsmallest
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from operator import itemgetter
from typing import Any, Final, TypeVar

import attrs
import cattrs
from cattrs import IterableValidationNote
from cattrs.fns import identity
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from mcr.config.difference import RuleDifference, RunTimeDifference
from mcr.errors import MAX_FAULTS, InvalidParams, LimitReached, McrError, describe_errno, together
from mcr.model.flow import Address, Input, parse_address
from mcr.model.health import Health
from mcr.model.limits import MAX_OUTPUTS, MAX_OUTPUTS_PER_RULE, MAX_RULES, MAX_SOURCES
from mcr.model.log import Facility, Level
from mcr.model.output_options import Source, parse_source
from mcr.model.plain import Plain, plain_rules
from mcr.model.rule import Output, OutputView, Rule, automatic_rule_id
from mcr.model.stats import OutputStats
from mcr.text.addresses import plain

_MANY_MEMBERS = 50  # of an object; none has as many
_MAX_TEXT = 1_000  # characters; no parameter needs as many
_MAX_TARGET = 100  # characters of an output, in a message about it
_IN_OUTPUT = re.compile(r"(?:rules\[(\d+)\]\.)?((?:add_|remove_)?outputs)\[(\d+)\]")  # a path
_MOST: Final[dict[object, tuple[int, str]]] = {
    Rule: (MAX_RULES, f"a relay holds at most {MAX_RULES:,} rules"),
    str: (MAX_RULES, f"a relay holds at most {MAX_RULES:,} rules"),
    Output: (MAX_OUTPUTS_PER_RULE, f"a rule has at most {MAX_OUTPUTS_PER_RULE} outputs"),
    Address: (MAX_SOURCES, f"a rule has at most {MAX_SOURCES} sources"),
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


def structure(params: dict[str, Any], cls: type[_T]) -> _T:
    """Make a value of a class of parameters.

    Raises:
        InvalidParams: the parameters have faults.
        LimitReached: they are sound, but too many.
    """
    rules = params.get("rules")
    _check_outputs(rules)
    try:
        return _converter.structure(params, cls)
    except cattrs.BaseValidationError as error:
        several_rules = isinstance(rules, list) and len(rules) > 1
        named = partial(_place, params, several_rules=several_rules)
        faults = list(islice(_faults(error, named=named), MAX_FAULTS + 1))
    raise faults[0] if isinstance(faults[0], LimitReached) else together(faults)


def unstructure(value: object) -> Any:
    """Turn a value into JSON values."""
    return _converter.unstructure(value)


@attrs.frozen
class RuleParams:
    """A rule as a client writes it: without an id, it gets the automatic one."""

    input: Input
    outputs: tuple[Output, ...]
    rule_id: str | None = None
    name: str | None = None
    health: Health = Health.NONE

    def rule(self) -> Rule:
        """The rule, checked."""
        rule_id = automatic_rule_id(self.input) if self.rule_id is None else self.rule_id
        return Rule(rule_id, self.input, self.outputs, self.name, self.health)


@attrs.frozen
class _Rules:
    rules: tuple[Rule, ...]


_RULE_OR_MORE = {"input", "outputs", "rule_id", "name"}
_END = itemgetter("interface", "group", "port")
_GROUP = itemgetter("group")
_END_MEMBERS = 3
_LONGEST_GROUP = len("239.255.255.255")


def _plain_rules(values: Sequence[Any]) -> list[Rule | None]:
    """Rules that say what every rule says, perhaps an id and a name, and have no faults; None: one is another.

    Thousands are like that, and cattrs, which notes where faults may be, takes many times as long for them.
    """
    read = [*map(_read_plain, values)]
    made = iter(plain_rules([*filter(None, read)]))
    return [next(made) if each else None for each in read]


def _read_plain(value: Any) -> Plain | None:
    if type(value) is not dict or not value.keys() <= _RULE_OR_MORE:
        return None
    source, outputs = value.get("input"), value.get("outputs")
    if type(outputs) is not list or len(outputs) > MAX_OUTPUTS_PER_RULE:
        return None
    ends = [source, *outputs]
    try:
        groups = [*map(_GROUP, ends)]
        if {*map(len, ends)} != {_END_MEMBERS} or max(map(len, groups)) > _LONGEST_GROUP:
            return None
        if ":" in (text := "".join(groups)) or "/" in text:  # IPv6, a range
            return None
        return [*map(_END, ends)], value.get("rule_id"), value.get("name")
    except (KeyError, TypeError):  # one is no object, or a group no text
        return None


def check_rules(rules: list[Any]) -> tuple[Rule, ...]:
    """The rules, if these are some as a client writes them; whether they can be had is for mcrd to say.

    Raises:
        McrError: as `structure`.
    """
    return structure({"rules": rules}, _Rules).rules


class _WrongTypeError(Exception):
    def __init__(self, expected: type, value: object) -> None:
        super().__init__(f"must be {_JSON_NAMES[expected]}, not {_JSON_NAMES[type(value)]}")


class _TooLongError(Exception):
    def __str__(self) -> str:
        return f"is longer than {_MAX_TEXT:,} characters"


def _expect(value: object, expected: type[_T]) -> _T:
    if type(value) is not expected:  # isinstance would let true pass for 1
        raise _WrongTypeError(expected, value)
    if expected is str and isinstance(value, str) and len(value) > _MAX_TEXT:
        raise _TooLongError
    return value


def _structure_class(cls: type[_T]) -> Callable[[Any, Any], _T]:
    return _only_from_object(make_dict_structure_fn(cls, _converter, _cattrs_forbid_extra_keys=True))


def _structure_endpoint(cls: type[_T], what: str) -> Callable[[Any, Any], _T]:
    """Structure an input or output; errors name its address for what it is."""
    address = override(struct_hook=lambda value, _: parse_address(_expect(value, str), what))
    return _only_from_object(make_dict_structure_fn(cls, _converter, _cattrs_forbid_extra_keys=True, group=address))


def _structure_number_or_word(value: object, _: object) -> int | str | None:
    if value is None or isinstance(value, str):
        return value if value is None else _expect(value, str)
    return _expect(value, int)


def _structure_source(value: object, _: object) -> Source:
    return None if value is None else parse_source(_expect(value, str))


def _only_from_object(structure: Callable[[Any, Any], _T]) -> Callable[[Any, Any], _T]:
    def structure_object(value: object, cls: Any) -> _T:
        members: dict[str, Any] = _expect(value, dict)
        if len(members) > _MANY_MEMBERS:
            known = attrs.fields_dict(cls)
            unknown = set(islice((name for name in members if name not in known), MAX_FAULTS + 1))
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
    """Structure until there are more faults than an error names."""
    structured: list[Any] = _plain_rules(items) if item_type is Rule else [None] * len(items)
    faults: list[Exception] = []
    for index in [index for index, known in enumerate(structured) if known is None]:
        try:
            structured[index] = structure(items[index], item_type)
        except Exception as fault:  # noqa: BLE001 - `_faults` raises what is none
            fault.add_note(IterableValidationNote(f"item {index}", index, item_type))
            faults.append(fault)
            if len(faults) > MAX_FAULTS:
                break
    if faults:
        raise cattrs.IterableValidationError("faults", faults, item_type)
    return structured


_converter = cattrs.Converter()
for _kind in (int | None, float | None, str | None, int | str | None):  # else each value's class would be looked up
    _converter.register_unstructure_hook(_kind, identity)
for _kind in (IPv4Address, IPv6Address, Address):
    _converter.register_unstructure_hook(_kind, plain)
_converter.register_unstructure_hook(Address | None, lambda address: address and plain(address))
_if_given = override(omit_if_default=True)
_unstructure_counters = make_dict_unstructure_fn(
    OutputStats,
    _converter,
    last_error=override(omit=True),
    vlan=_if_given,
    prefix=_if_given,
    last_port=_if_given,
)


def _only_what_is_asked_for(cls: type[Input | OutputView]) -> Callable[[Input | OutputView], dict[str, Any]]:
    """Make JSON of an input or output, without the options that nobody has given."""
    options: dict[str, Any] = {
        each.name: override(omit_if_default=True) for each in attrs.fields(cls) if each.default in (None, ())
    }
    return make_dict_unstructure_fn(cls, _converter, **options)


def _unstructure_output(stats: OutputStats) -> dict[str, Any]:
    """The newest error as text and its age: two members, both null if there was none."""
    error = stats.last_error
    return _unstructure_counters(stats) | {
        "last_error": error and describe_errno(error.errno),
        "last_error_ago": error and error.ago,
    }


_converter.register_structure_hook_factory(attrs.has, _structure_class)
_converter.register_structure_hook_factory(lambda cls: getattr(cls, "__origin__", None) is tuple, _structure_tuple)
_converter.register_structure_hook(str, lambda value, _: _expect(value, str))
_converter.register_structure_hook(int, lambda value, _: _expect(value, int))
_converter.register_structure_hook(bool, lambda value, _: _expect(value, bool))
_converter.register_structure_hook(Level, lambda value, _: Level.parse(_expect(value, str)))
_converter.register_structure_hook(Health, lambda value, _: Health.parse(_expect(value, str)))
_converter.register_structure_hook(Facility, lambda value, _: Facility.parse(_expect(value, str)))
_converter.register_structure_hook(Source, _structure_source)
_converter.register_structure_hook(Address, lambda value, _: parse_address(_expect(value, str), "input source"))
_converter.register_structure_hook(int | str | None, _structure_number_or_word)
_converter.register_structure_hook(Input, _structure_endpoint(Input, "input group"))
_converter.register_structure_hook(Output, _structure_endpoint(Output, "output group"))
_structure_rule = _converter.get_structure_hook(RuleParams)
_converter.register_structure_hook(Rule, lambda value, _: _structure_rule(value, RuleParams).rule())
_converter.register_unstructure_hook(OutputStats, _unstructure_output)
for _endpoint_class in (Input, OutputView):
    _converter.register_unstructure_hook(_endpoint_class, _only_what_is_asked_for(_endpoint_class))
_converter.register_unstructure_hook(Health, str)
for _difference in (RuleDifference, RunTimeDifference):
    _converter.register_unstructure_hook(_difference, lambda difference: difference.json)


def _check_outputs(rules: object) -> None:
    """Refuse more outputs than a relay has before anything is made of them."""
    if not isinstance(rules, list) or len(rules) > MAX_RULES:  # which is refused next
        return
    outputs = [rule.get("outputs") for rule in rules if isinstance(rule, dict)]
    total = sum([len(each) for each in outputs if isinstance(each, list)])
    if total > MAX_OUTPUTS:
        raise LimitReached(f"{total:,} outputs are too many", f"a relay holds at most {MAX_OUTPUTS:,} outputs")


def _place(params: dict[str, Any], path: str, *, several_rules: bool) -> str:
    """Where a bad value is, for its message: its rule and its output, each if it is one of several."""
    if not (found := _IN_OUTPUT.match(path)):
        return f" ({path})" if several_rules else ""
    rule, outputs, index = found.groups()
    among = (params if rule is None else params["rules"][int(rule)])[outputs]
    target = f": {_target(among[int(index)])}" if len(among) > 1 else ""
    if several_rules:
        return f" ({path}{target})"
    return f" ({outputs}[{index}]{target})" if target else ""


def _target(output: dict[str, Any]) -> str:
    """Where an output sends, as its client has written it; there may be anything."""
    group, *ends = (str(output.get(name, "")) for name in ("group", "port", "interface"))
    return ":".join((f"[{group}]" if ":" in group else group, *ends))[:_MAX_TARGET]


def _faults(error: Exception, path: str = "", *, named: Callable[[str], str]) -> Iterator[InvalidParams | LimitReached]:
    """Every fault in what cattrs raised, in words, with its path. `named`: words that name the path of a bad value."""
    match error:
        case cattrs.ClassValidationError() | cattrs.IterableValidationError():
            inside, here = error.group_exceptions()
            for child, note in inside:
                step = f"[{note.index}]" if isinstance(note, IterableValidationNote) else f".{note.name}"
                yield from _faults(child, (path + step).removeprefix("."), named=named)
            for child in here:
                yield from _faults(child, path, named=named)
        case KeyError():
            yield InvalidParams(f"Missing parameter: {path}")
        case cattrs.ForbiddenExtraKeysError():
            known = ", ".join(attrs.fields_dict(error.cl)) or "none"
            for name in nsmallest(MAX_FAULTS + 1, error.extra_fields):
                yield InvalidParams(
                    f"Unknown parameter: {path}.{name}".replace(": .", ": "),
                    f"parameters{f' of {path}' if path else ''}: {known}",
                )
        case _WrongTypeError() | _TooLongError():
            yield InvalidParams(f"{path} {error}")
        case LimitReached():
            yield error.at(path)
        case McrError():
            yield InvalidParams(f"{error.message}{named(path)}", *error.hints)
        case _:
            raise error
