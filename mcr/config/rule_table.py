"""A rule as a configuration file has it: a table, checked key by key."""

import difflib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import attrs

from mcr.config.document import Document, Path
from mcr.config.output_text import parse_output
from mcr.errors import InvalidParams, McrError
from mcr.model.flow import Address, Input, check_interface_name, check_port, check_source, parse_address
from mcr.model.health import Health
from mcr.model.output_options import parse_source
from mcr.model.rule import Output, Rule, automatic_rule_id, check_label, check_outputs
from mcr.text.ranges import PORTS, taken_apart

_MAX_TEXT: Final = 1_000  # characters; no value needs as many
_WHOLE: Final = range(-(1 << 63), 1 << 63)  # numbers that TOML has
_TYPES: Final[dict[type, str]] = {
    dict: "a table",
    list: "an array",
    str: "a string",
    int: "a whole number",
    float: "a fraction",
    bool: "true or false",
}
_OF_A_VIEW: Final = frozenset({"state", "reason"})  # of an output: how it stands
_EXAMPLE: Final = 'for example: outputs = ["239.2.2.2:6000:eth1", "192.0.2.7:6000:eth2:gso=8"]'

_T = TypeVar("_T")
_Check = tuple[tuple[type, ...], Callable[[Any, str], Any]]
"""Types that a value may have, and what makes of it what the rule has, or raises an `McrError`."""

_ENDPOINT: Final[dict[str, _Check]] = {
    "interface": ((str,), check_interface_name),
    "group": ((str,), parse_address),
    "port": ((int,), check_port),
}
_RANGE: Final[dict[str, _Check]] = {
    "prefix": ((int,), lambda value, _: value),
    "last_port": ((int,), lambda value, _: value),
}


def _addresses(values: list[object], what: str) -> tuple[Address, ...]:
    """Each one may be anything."""
    for value in values:
        if type(value) is not str:
            raise InvalidParams(f"{what} must be strings, not {_TYPES.get(type(value), 'dates or times')}")
    return tuple(check_source(parse_address(str(value), what), what) for value in values)


_INPUT: Final[dict[str, _Check]] = {
    **_ENDPOINT,
    "vlan": ((int,), lambda value, _: value),
    "sources": ((list,), _addresses),
    **_RANGE,
}
_OPTIONS: Final[dict[str, _Check]] = {
    "gso": ((str, int), lambda value, _: str(value)),
    "ttl": ((int, str), lambda value, _: value),
    "dscp": ((int, str), lambda value, _: value),
    "source": ((str,), lambda value, _: parse_source(value)),
    "source_port": ((int, str), lambda value, _: value),
    "vlan": ((int,), lambda value, _: value),
}
_OUTPUT: Final[dict[str, _Check]] = _ENDPOINT | _OPTIONS | _RANGE
_LABELS: Final[dict[str, _Check]] = {"name": ((str,), check_label), "rule_id": ((str,), check_label)}
_CHOICES: Final[dict[str, _Check]] = {"health": ((str,), Health.parse)}
_RULE: Final = (*_LABELS, "input", "outputs", *_CHOICES)
_EXAMPLES: Final[Mapping[str | int, str]] = {
    "input": 'for example: input = { interface = "eth0", group = "239.1.1.1", port = 5000 }',
    "outputs": _EXAMPLE,
}
_BELONG: Final = (
    (frozenset(_INPUT) - frozenset(_OPTIONS), _EXAMPLES["input"].replace("for example", "it belongs to the input")),
    (frozenset(_OPTIONS), 'it belongs to an output: outputs = ["239.2.2.2:6000:eth1:ttl=8"]'),
)
"""Keys that stand in a rule's table where they mean nothing, with where they belong."""


@attrs.frozen(order=True)
class FileFault:
    """Something that is wrong in a file. `line` counts from 1; 0: the file as a whole."""

    file: str
    line: int
    message: str
    hints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{place_text(self.file, self.line)}: {self.message}"


def place_text(file: str, line: int) -> str:
    """A place as compilers write it."""
    return f"{file}:{line}" if line else file


@attrs.frozen
class FileFaults:
    """Collects the faults of one file."""

    file: str
    document: Document
    found: list[FileFault] = attrs.field(factory=list)

    def add(self, path: Path, message: str, *hints: str) -> None:
        """Note a fault of a value, or of what lacks one."""
        self.found.append(FileFault(self.file, self.document.line(path), message, hints))

    def check(self, path: Path, call: Callable[..., _T], *arguments: Any) -> _T | None:
        """What a function makes of a value; None if it raises an `McrError`, which is noted."""
        try:
            return call(*arguments)
        except McrError as error:
            self.add(path, error.message, *error.hints)
            return None

    def has_type(self, path: Path, value: object, types: tuple[type, ...], what: str) -> bool:
        """Whether a value is of one of these types; else it is noted."""
        if type(value) not in types:  # isinstance would let true pass for 1
            allowed = " or ".join(_TYPES[each] for each in types)
            hints = [_EXAMPLES[path[-1]]] if path and path[-1] in _EXAMPLES else []
            self.add(path, f"{what} must be {allowed}, not {_TYPES.get(type(value), 'a date or time')}", *hints)
        elif isinstance(value, str) and len(value) > _MAX_TEXT:
            self.add(path, f"{what} is longer than {_MAX_TEXT:,} characters")
        elif isinstance(value, int) and value not in _WHOLE:
            self.add(path, f"{what} is out of range")
        else:
            return True
        return False

    def unknown(self, path: Path, name: str, known: Collection[str], what: str) -> None:
        """Note a key that means nothing."""
        shown = name if len(name) < _MAX_TEXT else f"{name[:_MAX_TEXT]}…"
        spelt = shown.removeprefix("MCR_").replace("-", "_").lower()  # as a variable or an option, perhaps
        nearest = difflib.get_close_matches(spelt, known, n=1)
        parts = [hint for those, hint in _BELONG if what == "a rule" and spelt in those]
        self.add(
            (*path, name),
            f"Unknown key {shown!r} in {what}",
            *(parts or [f"did you mean {each}?" for each in nearest]),
            f"keys of {what}: {', '.join(known)}",
        )


@attrs.frozen
class RuleTable:
    """What a table says. Parts that are missing or wrong are None.

    Attributes:
        rule: None if anything is wrong.
    """

    path: Path
    rule: Rule | None
    input: Input | None = None
    rule_id: str | None = None
    name: str | None = None


def read_rule(value: object, path: Path, faults: FileFaults, *, cut: bool = False) -> RuleTable:
    """Read a rule's table.

    Args:
        value: as the file has it; a rule as the control protocol shows it, without how it stands, is one, too.
        path: of the table.
        faults: takes what is wrong.
        cut: something of it could not be read, so that nothing is missing for sure.
    """
    before = len(faults.found)
    table = _members(value, path, faults, known=_RULE, what="a rule", needed=() if cut else ("input", "outputs"))
    labels = _checked(table, path, faults, _LABELS | _CHOICES, "rule")
    source = _input(table["input"], (*path, "input"), faults, cut=cut) if "input" in table else None
    before_outputs = len(faults.found)
    outputs = _outputs(table["outputs"], (*path, "outputs"), faults, cut=cut) if "outputs" in table else ()
    all_read = "outputs" in table and len(faults.found) == before_outputs
    rule, name, rule_id = None, labels.get("name"), labels.get("rule_id")
    health = labels.get("health", Health.NONE)
    if source and rule_id is None:
        rule_id = automatic_rule_id(source)
    if source and rule_id and len(faults.found) == before and (outputs or not cut):
        rule = faults.check((*path, "outputs"), Rule, rule_id, source, outputs, name, health)
    elif outputs or (all_read and not cut):
        faults.check((*path, "outputs"), check_outputs, outputs, lambda: "The rule")
    return RuleTable(path, rule, source, rule_id, name)


def _input(value: object, path: Path, faults: FileFaults, *, cut: bool) -> Input | None:
    parts = _endpoint(value, path, faults, _INPUT, "an input", cut=cut)
    if not parts:
        return None
    options = {name: parts.pop(name) for name in ("vlan", "sources") if name in parts}
    source = faults.check((*path, "group"), _made, Input, parts)
    if source is None:
        return None
    sound = [faults.check((*path, name), _made, Input, parts | {name: options[name]}) for name in options]
    return attrs.evolve(source, **options) if all(sound) else None


def _outputs(value: object, path: Path, faults: FileFaults, *, cut: bool) -> tuple[Output, ...]:
    if not faults.has_type(path, value, (list,), "outputs"):
        return ()
    assert isinstance(value, list)
    read = (_output(each, (*path, index), faults, cut=cut) for index, each in enumerate(value))
    return tuple(output for output in read if output)


def _output(value: object, path: Path, faults: FileFaults, *, cut: bool) -> Output | None:
    if isinstance(value, str):
        if not faults.has_type(path, value, (str,), "an output"):
            return None
        value = faults.check(path, _parsed, value)
        if value is None:
            return None
    elif not faults.has_type(path, value, (dict, str), "an output"):
        return None
    parts = _endpoint(value, path, faults, _OUTPUT, "an output", cut=cut)
    if not parts:
        return None
    options = {name: parts.pop(name) for name in _OPTIONS if name in parts}
    output = faults.check((*path, "group"), _made, Output, parts)
    if output is None:
        return None
    sound = True
    for name, each in options.items():  # what it depends on stands before it
        with_it = faults.check((*path, name), _made, partial(attrs.evolve, output), {name: each})
        sound, output = sound and with_it is not None, with_it or output
    return output if sound else None


def _parsed(text: str) -> dict[str, Any]:
    try:
        return parse_output(text)
    except McrError as error:
        raise InvalidParams(error.message, *error.hints, _EXAMPLE) from None


def _made(cls: Callable[..., _T], parts: Mapping[str, Any]) -> _T:
    return cls(**parts)


def _endpoint(
    value: object, path: Path, faults: FileFaults, checks: Mapping[str, _Check], what: str, *, cut: bool
) -> dict[str, Any] | None:
    """Its parts; None if something is wrong with one of them or is missing."""
    before = len(faults.found)
    value = taken_apart(value)
    if isinstance(value, dict) and _is_no_port(value.get("port")) and "last_port" not in value:
        noun = what.split()[1]
        faults.add((*path, "port"), f"Invalid {noun} port: {value['port']!r} is not a port", PORTS)
        value = value | {"port": 1}  # it is said
    table = _members(value, path, faults, known=tuple(checks), what=what, needed=() if cut else tuple(_ENDPOINT))
    parts = _checked(table, path, faults, checks, what.split()[1])
    return parts if len(faults.found) == before and parts.keys() >= _ENDPOINT.keys() else None


def _is_no_port(port: object) -> bool:
    """Whether it is a text that is neither a range of ports nor the number of one."""
    return isinstance(port, str) and len(port) <= _MAX_TEXT


def _members(
    value: object, path: Path, faults: FileFaults, *, known: Collection[str], what: str, needed: Collection[str]
) -> dict[str, Any]:
    """The table, once it is known to be one; empty otherwise."""
    if not faults.has_type(path, value, (dict,), what):
        return {}
    assert isinstance(value, dict)
    if not value.keys() <= set(known):
        for name in value:
            if name not in known:
                faults.unknown(path, name, known, what)
    if missing := [name for name in needed if name not in value]:
        faults.add(path, f"{what} lacks {' and '.join(missing)}")
    return value


def _checked(
    table: Mapping[str, Any], path: Path, faults: FileFaults, checks: Mapping[str, _Check], what: str
) -> dict[str, Any]:
    """Those of a table's values that are sound, as a rule has them."""
    sound = {}
    for name, (types, check) in checks.items():
        if name in table and faults.has_type((*path, name), table[name], types, f"{what} {name}"):
            value = faults.check((*path, name), check, table[name], f"{what} {name}".replace("_", " "))
            if value is not None:
                sound[name] = value
    return sound


def rule_of_table(table: Mapping[str, Any]) -> Rule:
    """A rule as `table_of` wrote it.

    Raises:
        ValueError: it is none.
    """
    faults = FileFaults("", Document("", {}))
    rule = read_rule(table, (), faults).rule
    if rule is None:
        raise ValueError(faults.found)
    return rule


def rule_of(view: Mapping[str, Any]) -> Rule:
    """A rule as the control protocol shows it.

    Raises:
        ValueError: it is none.
    """
    table: dict[str, Any] = {name: view[name] for name in _RULE if view.get(name) is not None}
    table["input"] = {name: value for name, value in view["input"].items() if value is not None}
    table["outputs"] = [
        {name: value for name, value in output.items() if name not in _OF_A_VIEW and value is not None}
        for output in view["outputs"]
    ]
    return rule_of_table(table)
