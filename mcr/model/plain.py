"""Rules as most are: from one IPv4 group to others, without options. There may be thousands.

What the classes check one after the other is checked here at once, for all of them. A rule that may have a fault is
left to the classes, which say what it is. A few are made one by one: columns of them would take three times as long.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, islice, repeat
from socket import AF_INET, inet_ntoa, inet_pton

import attrs

from mcr.errors import InvalidParams
from mcr.model.address import RuleAddress, group_addresses
from mcr.model.columns import FEW, in_pieces, make_all, make_one, setters_of
from mcr.model.flow import Claim, Flow, Input, check_interface_name
from mcr.model.health import Health
from mcr.model.limits import MAX_OUTPUTS_PER_RULE
from mcr.model.rule import AUTO, Output, Rule, check_label, hashed_id

End = tuple[str, str, int]
"""An interface, a group and a port: what an input or output says at least. They may be anything, as a client has it."""

Plain = tuple[Sequence[End], str | None, str | None]
"""Ends of a rule's input and outputs, its id, or None for the automatic one, and its name, or None."""

_LAST_PORT = 65_535
_CLASS, _CLASS_D = 0xF0, 0xE0
_PIECE = 500  # rules, so that others have their turn
_PARTS = 8  # of what has a fault somewhere
_FAULTS = (InvalidParams, OSError, ValueError, TypeError)


def plain_rule(ends: Sequence[End], rule_id: str | None = None, name: str | None = None) -> Rule | None:
    """Make a rule; None: it is another, or has a fault."""
    try:
        read = [_read(*end) for end in ends]
        for label in (rule_id, name):
            if label is not None:
                check_label(_text(label), "")
    except _FAULTS:
        return None
    if not 1 < len(read) <= 1 + MAX_OUTPUTS_PER_RULE or len({*read}) < len(read):
        return None
    (interface, group, port), *sent = read
    if rule_id is None:
        rule_id = hashed_id(f"{interface}|{inet_ntoa(group)}|{port}")
    outputs = tuple([_output(*each) for each in sent])
    return make_one(Rule, _RULE, rule_id, _input(interface, group, port), outputs, name, Health.NONE)


def plain_rules(several: Sequence[Plain]) -> list[Rule | None]:
    """Make rules; None: one is another, or has a fault."""
    return [*chain.from_iterable(map(_make_some, in_pieces(several, _PIECE)))]


def _make_some(several: Sequence[Plain]) -> list[Rule | None]:
    if len(several) <= FEW:
        return [plain_rule(*each) for each in several]
    try:
        return [*_made(several)]
    except _FAULTS:
        size = -(-len(several) // _PARTS)
        return [*chain.from_iterable(map(_make_some, in_pieces(several, size)))]


def _read(interface: str, group: str, port: int) -> tuple[str, bytes, int]:
    packed = inet_pton(AF_INET, group)
    if packed[0] & _CLASS != _CLASS_D or type(port) is not int or not 1 <= port <= _LAST_PORT:
        raise ValueError("no group, or no port")
    return check_interface_name(_text(interface), ""), packed, port


def _input(interface: str, group: bytes, port: int) -> Input:
    address = RuleAddress(group)
    flow = Flow(address, port)
    found_out = (flow,), (Claim(interface, flow),)
    return make_one(Input, _INPUT, interface, address, port, None, (), None, None, *found_out)


def _output(interface: str, group: bytes, port: int) -> Output:
    options = None, None, None, None, None, None, None
    return make_one(Output, _OUTPUT, RuleAddress(group), port, interface, AUTO, *options, True)


def _made(several: Sequence[Plain]) -> list[Rule]:
    ends, given, names = zip(*several, strict=True)
    for label in (*given, *names):
        if label is not None:
            check_label(_text(label), "")
    counts = [len(each) - 1 for each in ends]
    if not 0 < min(counts) <= max(counts) <= MAX_OUTPUTS_PER_RULE or [len({*each}) - 1 for each in ends] != counts:
        raise ValueError("no outputs, too many, or one twice")  # of an address there is one text that is read below
    interfaces, groups, ports = zip(*[each[0] for each in ends], strict=True)
    inputs = _inputs(interfaces, groups, ports)
    outputs = iter(_outputs(*zip(*chain.from_iterable([each[1:] for each in ends]), strict=True)))
    sent = [tuple(islice(outputs, count)) for count in counts]
    texts = map("|".join, zip(interfaces, groups, map(str, ports), strict=True))
    ids = [hashed_id(text) if rule_id is None else rule_id for rule_id, text in zip(given, texts, strict=True)]
    return make_all(Rule, _RULE, len(ends), ids, inputs, sent, names, repeat(Health.NONE))


def _addresses(interfaces: Iterable[str], groups: Iterable[str], ports: Sequence[int]) -> list[RuleAddress]:
    """Of ends, which are checked."""
    for interface in {*interfaces}:
        check_interface_name(_text(interface), "")
    if {*map(type, ports)} != {int} or not 1 <= min(ports) <= max(ports) <= _LAST_PORT:
        raise ValueError("no port")
    return group_addresses([*map(inet_pton, repeat(AF_INET), groups)])


def _inputs(interfaces: Sequence[str], groups: Sequence[str], ports: Sequence[int]) -> list[Input]:
    nothing, count = repeat(None), len(ports)
    addresses = _addresses(interfaces, groups, ports)
    flows = make_all(Flow, _FLOW, count, addresses, ports, repeat(0), nothing, nothing)
    claims = map(tuple.__new__, repeat(Claim), zip(interfaces, flows, repeat(False)))
    found_out = zip(flows, strict=True), zip(claims, strict=True)
    columns = interfaces, addresses, ports, nothing, repeat(()), nothing, nothing, *found_out
    return make_all(Input, _INPUT, count, *columns)


def _outputs(interfaces: Sequence[str], groups: Sequence[str], ports: Sequence[int]) -> list[Output]:
    addresses, options = _addresses(interfaces, groups, ports), repeat(repeat(None), 7)
    return make_all(Output, _OUTPUT, len(ports), addresses, ports, interfaces, repeat(AUTO), *options, repeat(True))


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError
    return value


_FLOW = setters_of(Flow, *attrs.fields_dict(Flow), "_attrs_cached_hash")
_INPUT = setters_of(Input, *attrs.fields_dict(Input), "flows", "claims")
_OUTPUT = setters_of(Output, *attrs.fields_dict(Output), "is_plain")
_RULE = setters_of(Rule, *attrs.fields_dict(Rule))
