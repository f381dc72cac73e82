"""What arrives on one interface that no rule takes, flow by flow, with rates.

Its own packet socket looks for a few seconds at most, and at few frames of each flow: one whose rate is known is left
out by the socket's filter. The capture filters, and so the rules that forward, are not touched.
"""

import socket
import time
from collections import Counter
from collections.abc import Collection, Iterable

import attrs

from mcr.errors import SystemFault, errno_of
from mcr.model.flow import WITH_SOURCE, Address, Flow, Input
from mcr.net import uapi
from mcr.net.filter.cbpf import REJECT_ALL, Instruction, attach_filter, select_groups, select_udp
from mcr.net.interfaces import not_found
from mcr.tap.sighting import Datagram, identify

_FRAMES = 4_000  # then those that were seen are known well enough
_ROUNDS = 5
_SNAP = 128  # bytes of a frame: IP header and UDP header
_NO_HEADER = 0  # of the link layer: SOCK_DGRAM
_BUFFER = 1 << 20  # bytes of frames that wait


@attrs.frozen
class UnmatchedFlow:
    """A group and port that no rule takes; `bps`: of payload. `source`: where a rule would have to name it."""

    group: Address
    port: int
    frames: int
    pps: float
    bps: float
    source: Address | None = None


@attrs.frozen
class RefusedFlow:
    """What a rule would take, and refuses: its source returns what others send. `vlan`: 0: none."""

    group: Address
    port: int
    source: Address
    rule_id: str
    vlan: int | None = None


@attrs.frozen
class Unmatched:
    """What was seen.

    Attributes:
        interface: its own name.
        seconds: how long it was looked at.
        flows: the one with most packets per second first.
        whole: there was not more than one look can count.
        refused: what rules refuse on the interface, seen or not.
    """

    interface: str
    seconds: float
    flows: tuple[UnmatchedFlow, ...]
    whole: bool
    refused: tuple[RefusedFlow, ...] = ()


def real_name(interface: str) -> str:
    """The name that an interface has, of which this may be an altname.

    Raises:
        InterfaceNotFound: there is none.
    """
    try:
        return socket.if_indextoname(socket.if_nametoindex(interface))
    except OSError:
        raise not_found(interface) from None


def look_for_unmatched(interface: str, rules: Iterable[Input], seconds: float) -> Unmatched:
    """Look at untagged UDP to groups, in the network namespace of the calling thread.

    Args:
        interface: its own name.
        rules: inputs of all rules, by the interfaces' own names.
        seconds: how long, at most.

    Raises:
        SystemFault: no packet socket could be opened.
    """
    taken = {flow for each in rules if each.interface == interface and not each.vlan for flow in each.flows}
    try:
        with _open(interface, taken) as tap:
            return _look(tap, interface, taken, seconds)
    except OSError as error:
        raise SystemFault(f"Cannot look at {interface}", errno_of(error)) from None


def _open(interface: str, taken: set[Flow]) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
    try:
        attach_filter(tap, REJECT_ALL)
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        attach_filter(tap, _all_but(taken) or _to_groups(()))
        tap.bind((interface, uapi.ETH_P_ALL))
    except OSError:
        tap.close()
        raise
    return tap


def _look(tap: socket.socket, interface: str, taken: set[Flow], seconds: float) -> Unmatched:
    frames: Counter[Flow] = Counter()
    sizes: Counter[Flow] = Counter()
    spans: dict[Flow, float] = {}  # of those that are known well enough
    by_source = {(each.group, each.port) for each in taken if each.source}
    begun, rounds, left = time.monotonic(), 0, _FRAMES
    while rounds < _ROUNDS and (time_left := begun + seconds - time.monotonic()) > 0:
        tap.settimeout(time_left)
        try:
            data, address = tap.recvfrom(_SNAP)
        except TimeoutError:
            break
        left -= 1
        flow, size = _flow_of(data, interface, address[1], by_source)
        if flow and flow not in taken and flow not in spans and Flow(flow.group, flow.port) not in taken:
            frames[flow] += 1
            sizes[flow] += size
        if not left:
            rounds, left = rounds + 1, _FRAMES
            spans |= {each: time.monotonic() - begun for each in frames if each not in spans}
            program = _all_but(taken | spans.keys())
            if program is None:
                break
            attach_filter(tap, program)
    whole = time.monotonic() - begun
    found = (
        UnmatchedFlow(
            each.group, each.port, count, round(count / span, 1), round(8 * sizes[each] / span, 1), each.source
        )
        for each, count in frames.items()
        for span in [spans.get(each, whole)]
    )
    ended_early = whole < seconds
    return Unmatched(interface, round(whole, 1), tuple(sorted(found, key=lambda each: -each.pps)), not ended_early)


def _flow_of(
    data: bytes, interface: str, protocol: int, by_source: Collection[tuple[Address, int]]
) -> tuple[Flow | None, int]:
    """A flow that a rule could take, with its source where rules name one, or should; and bytes of payload."""
    match identify(data, interface, protocol, None):
        case Datagram(sighting, size, source) if sighting.port is not None and not sighting.tags:
            named = sighting.group in WITH_SOURCE or (sighting.group, sighting.port) in by_source
            return Flow(sighting.group, sighting.port, source=source if named else None), size
        case _:
            return None, 0


def _all_but(flows: set[Flow]) -> tuple[Instruction, ...] | None:
    """A filter for all UDP to groups but these; None: they are too many for one."""
    try:
        return _to_groups(flows)
    except OverflowError:
        return None


def _to_groups(but: Iterable[Flow]) -> tuple[Instruction, ...]:
    return select_groups(select_udp(but, _NO_HEADER, invert=True, by_source=True))
