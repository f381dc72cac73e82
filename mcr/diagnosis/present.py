"""Names interfaces as they are called now, since other programs and people know them by these names."""

import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress

import attrs

from mcr.model.rule import RuleView
from mcr.model.stats import Stats
from mcr.rules.conditions import Attachment


def present_names(attachments: Iterable[Attachment]) -> dict[str, str]:
    """Present names of the interfaces that mcrd has sockets of, by the names that rules have for them."""
    names = {}
    for each in attachments:
        with suppress(OSError):  # it has just gone
            if not each.lost:
                names[each.name] = socket.if_indextoname(each.index)
    return names


def new_names(attachments: Iterable[Attachment]) -> dict[str, str]:
    """What interfaces that were renamed are called now, by the names that rules have for them."""
    names = {}
    for each in attachments:
        with suppress(OSError):  # it has gone
            if each.lost and each.former:
                names[each.name] = socket.if_indextoname(each.former)
    return names


def describe_missing(name: str, reason: str) -> tuple[str, str]:
    """An interface that is not there, and what to do; by the reason that its rule or output waits for, if it says."""
    if not reason.startswith(f"there is no interface {name} "):
        return f"there is no interface {name}", "bring it back: mcrd uses one of that name again by itself"
    if not reason.endswith(" now"):
        return reason, "bring it back: mcrd uses one of that name again by itself"
    return reason, "give it its name back, or name the new one in the rule; mcrd uses one of that name by itself"


def present_view(view: RuleView, names: Mapping[str, str]) -> RuleView:
    """A rule that speaks of interfaces by their present names."""
    source = attrs.evolve(view.input, interface=names.get(view.input.interface, view.input.interface))
    outputs = tuple(attrs.evolve(each, interface=names.get(each.interface, each.interface)) for each in view.outputs)
    return attrs.evolve(view, input=source, outputs=outputs)


def present_stats(stats: Stats, names: Mapping[str, str]) -> Stats:
    """Statistics that speak of input interfaces by their present names."""
    if not names:
        return stats
    interfaces = (attrs.evolve(each, interface=names.get(each.interface, each.interface)) for each in stats.interfaces)
    return attrs.evolve(stats, interfaces=tuple(interfaces))
