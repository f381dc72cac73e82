"""Strays: flows that arrive on input interfaces and no rule takes. A short probe of all of them; others judge.

Unlike the look of `why` it changes nothing: only groups that somebody has joined, or a switch floods, are seen.
"""

import selectors
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Final, cast

import attrs

from mcr.model.flow import Flow, Input
from mcr.net import uapi
from mcr.net.filter.cbpf import REJECT_ALL, Instruction, attach_filter, select_groups, select_udp
from mcr.net.links import Link
from mcr.tap.sighting import Datagram, Sighting, identify

LOOK_SECONDS: Final = 0.5

_FRAMES = 4_000  # then enough was seen
_SNAP = 128
_NO_HEADER = 0  # of the link layer: SOCK_DGRAM


def look_for_strays(links: Iterable[Link], rules: Iterable[Input]) -> Counter[Sighting]:
    """Look for UDP to groups that no rule takes, in the network namespace of the calling thread.

    Args:
        links: where to look.
        rules: inputs of all rules, by the interfaces' own names.

    Raises:
        OSError: no packet socket could be opened.
    """
    wanted: defaultdict[str, list[Flow]] = defaultdict(list)
    for source in rules:
        wanted[source.interface] += source.flows
    seen: Counter[Sighting] = Counter()
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.PollSelector())
        for link in links:
            tap = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0))
            attach_filter(tap, REJECT_ALL)
            attach_filter(tap, _unwanted(wanted[link.name]))
            tap.bind((link.name, uapi.ETH_P_ALL))
            selector.register(tap, selectors.EVENT_READ, link.name)
        deadline = time.monotonic() + LOOK_SECONDS
        taken = 0
        while taken < _FRAMES and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                data, address = cast("socket.socket", key.fileobj).recvfrom(_SNAP)
                taken += 1
                match identify(data, key.data, address[1], None):
                    case Datagram(sighting, _, sender) if sighting.port is not None and not sighting.fragment:
                        seen[attrs.evolve(sighting, source=sender)] += 1
    return _without_taken(seen, wanted)


def _without_taken(seen: Mapping[Sighting, int], wanted: Mapping[str, Iterable[Flow]]) -> Counter[Sighting]:
    """Those that no rule takes; sources are told apart where some rule names one."""
    taken = {(name, each.group, each.port, each.source) for name, flows in wanted.items() for each in flows}
    by_source = {each[:3] for each in taken if each[3]}
    strays: Counter[Sighting] = Counter()
    for sighting, count in seen.items():
        flow = sighting.interface, sighting.group, sighting.port
        if (*flow, None) not in taken and (*flow, sighting.source) not in taken:
            strays[sighting if flow in by_source else attrs.evolve(sighting, source=None)] += count
    return strays


def _unwanted(wanted: list[Flow]) -> tuple[Instruction, ...]:
    """A filter for UDP to groups that is not wanted; for all to groups, if there are too many rules for one."""
    try:
        return select_groups(select_udp(wanted, _NO_HEADER, invert=True, by_source=True))
    except OverflowError:
        return select_groups(select_udp((), _NO_HEADER, invert=True))
