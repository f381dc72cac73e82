"""Finds the interfaces that rules name."""

from collections.abc import Iterable, Sequence

from mcr.errors import LimitReached, McrError
from mcr.model.rule import Rule
from mcr.net.interfaces import Interface, find_interface, is_there, look_again
from mcr.relay.inputs import InputInterfaces
from mcr.relay.outputs import OutputInterfaces
from mcr.relay.placement import Placement

_NAMED = 5  # rules in a hint


def find_interfaces(
    rules: Sequence[Rule], inputs: InputInterfaces, outputs: OutputInterfaces, placement: Placement
) -> dict[str, Interface]:
    """By the names that rules have for them: those that are in use may be called otherwise now.

    Raises:
        InterfaceNotFound, SystemFault: one is not there.
        LimitReached: one was made again, and could not be opened again so far.
    """
    found: dict[str, Interface] = {}
    for index, rule in enumerate(rules):
        for name in rule.interfaces:
            if name not in found:
                try:
                    found[name] = _find_used(name, inputs, outputs, placement) or find_interface(name)
                except McrError as error:
                    raise error.at(f"rules[{index}]") if len(rules) > 1 else error from None
    return found


def _find_used(name: str, inputs: InputInterfaces, outputs: OutputInterfaces, placement: Placement) -> Interface | None:
    for known in (inputs.get(name), outputs.get(name)):
        if known and not known.attachment.lost:
            return look_again(known.interface)
        if known and is_there(name):
            raise LimitReached(
                f"Interface {name} was made again, and could not be opened again so far: {known.fault}",
                f"rules that name it: {_list_some(placement.naming(name))}",
            )
    return None


def _list_some(rule_ids: Iterable[str]) -> str:
    named = list(rule_ids)
    more = f" and {len(named) - _NAMED:,} more (mcrctl list)" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more
