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
