"""Rules as most are: from one IPv4 group to others, without options. There may be thousands.

What the classes check one after the other is checked here at once. A rule that may have a fault is left to them, which
say what it is.
"""

from collections.abc import Callable, Iterable
from socket import AF_INET, inet_ntoa, inet_pton
from typing import Any, TypeVar

import attrs

from mcr.errors import InvalidParams
from mcr.model.address import RuleAddress
from mcr.model.flow import Claim, Flow, Input, check_interface_name
from mcr.model.health import Health
from mcr.model.limits import MAX_OUTPUTS_PER_RULE
from mcr.model.rule import AUTO, Output, Rule, check_label, hashed_id

End = tuple[str, str, int]
"""An interface, a group and a port: what an input or output says at least. They may be anything, as a client has it."""

_LAST_PORT = 65_535
_CLASS, _CLASS_D = 0xF0, 0xE0

_T = TypeVar("_T")


def plain_rule(ends: Iterable[End], rule_id: str | None = None, name: str | None = None) -> Rule | None:
    """Make a rule; None: it is another, or has a fault.

    Args:
        ends: of its input and outputs.
        rule_id: None: it has the automatic one.
        name: None: it has none.
    """
    try:
        read = [_read(*end) for end in ends]
        for label in (rule_id, name):
            if label is not None:
                check_label(_text(label), "")
    except (InvalidParams, OSError, ValueError, TypeError):
        return None
    if not 1 < len(read) <= 1 + MAX_OUTPUTS_PER_RULE or len({*read}) < len(read):
        return None
    (interface, group, port), *sent = read
    if rule_id is None:
        rule_id = hashed_id(f"{interface}|{inet_ntoa(group)}|{port}")
    outputs = tuple([_output(*each) for each in sent])
    return _made(Rule, _RULE, (rule_id, _input(interface, group, port), outputs, name, Health.NONE))


def _read(interface: str, group: str, port: int) -> tuple[str, bytes, int]:
    packed = inet_pton(AF_INET, group)
    if packed[0] & _CLASS != _CLASS_D or type(port) is not int or not 1 <= port <= _LAST_PORT:
        raise ValueError
    return check_interface_name(_text(interface), ""), packed, port


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _input(interface: str, group: bytes, port: int) -> Input:
    address = RuleAddress(group)
    flow = Flow(address, port)
    values = interface, address, port, None, (), None, None, (flow,), (Claim(interface, flow),)
    return _made(Input, _INPUT, values)


def _output(interface: str, group: bytes, port: int) -> Output:
    values = RuleAddress(group), port, interface, AUTO, None, None, None, None, None, None, None, True
    return _made(Output, _OUTPUT, values)


def _setters(cls: type, *found_out: str) -> tuple[Callable[[Any, Any], None], ...]:
    """What sets the members of a frozen class, and then those that it finds out later."""
    return tuple(getattr(cls, name).__set__ for name in (*attrs.fields_dict(cls), *found_out))


_INPUT = _setters(Input, "flows", "claims")
_OUTPUT = _setters(Output, "is_plain")
_RULE = _setters(Rule)


def _made(cls: type[_T], setters: Iterable[Callable[[Any, Any], None]], values: Iterable[Any]) -> _T:
    """A value with these members, unchecked."""
    made = object.__new__(cls)
    for each, value in zip(setters, values, strict=True):
        each(made, value)
    return made
