"""Finds the interfaces that rules name."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from mcr.errors import MAX_FAULTS, InterfaceNotFound, LimitReached, McrError, together
from mcr.net.interfaces import Interface, find_interface, is_there, wait_for_interface
from mcr.relay.inputs import InputInterfaces
from mcr.relay.outputs import OutputInterfaces
from mcr.relay.placement import Placement

_NAMED = 5  # rules in a hint
_PLACES = 10  # rules that lack an interface


def find_interfaces(
    named: Sequence[Collection[str]],
    inputs: InputInterfaces,
    outputs: OutputInterfaces,
    placement: Placement,
    *,
    wait: bool,
) -> dict[str, Interface]:
    """By the names that rules have for them.

    Args:
        named: their names, of each rule.
        inputs: the input interfaces that are in use.
        outputs: the output interfaces that are.
        placement: of the rules that are there.
        wait: for those that are not there, instead of raising.

    Raises:
        InterfaceNotFound, SystemFault: one is not there.
        LimitReached: one was made again, and could not be opened again so far.
    """
    found: dict[str, Interface] = {}
    faults: dict[str, McrError] = {}
    wanting: defaultdict[str, list[int]] = defaultdict(list)
    for index, names in enumerate(named):
        for name in dict.fromkeys(names):
            if name in faults:
                wanting[name].append(index)
            elif name not in found:
                try:
                    if not wait:
                        _check_usable(name, inputs, outputs, placement)
                    found[name] = _find(name, wait=wait)
                except McrError as error:
                    faults[name] = error
                    wanting[name].append(index)
        if len(faults) > MAX_FAULTS:
            break
    if faults:
        raise together([each.at(_places(wanting[name])) if len(named) > 1 else each for name, each in faults.items()])
    return found


def _places(indexes: Sequence[int]) -> str:
    """Of the rules that lack it."""
    first, *others = (f"rules[{index}]" for index in indexes[:_PLACES])
    more = f" and {len(indexes) - _PLACES:,} more" if len(indexes) > _PLACES else ""
    return f"{first}; also {', '.join(others)}{more}" if others else first


def _find(name: str, *, wait: bool) -> Interface:
    try:
        return find_interface(name)
    except InterfaceNotFound:
        if not wait:
            raise
        return wait_for_interface(name)


def _check_usable(name: str, inputs: InputInterfaces, outputs: OutputInterfaces, placement: Placement) -> None:
    for known in (inputs.get(name), outputs.get(name)):
        if known and known.attachment.lost and is_there(name):
            raise LimitReached(
                f"Interface {name} was made again, and could not be opened again so far: {known.fault}",
                f"rules that name it: {_list_some(placement.naming(name))}",
            )


def _list_some(rule_ids: Iterable[str]) -> str:
    named = list(rule_ids)
    more = f" and {len(named) - _NAMED:,} more (mcrctl list)" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more
