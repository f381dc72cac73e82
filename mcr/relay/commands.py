"""Commands to workers: placed rules, captures and egress sockets as records."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from socket import AF_INET6

from mcr._native import lib
from mcr.model.columns import in_pieces
from mcr.model.flow import IPV4, Address
from mcr.model.limits import DEFAULT_TRAIN
from mcr.model.rule import Output
from mcr.net.egress import hosts_ttl
from mcr.relay.captures import Capture
from mcr.relay.marks import keeps_of, shifts_of
from mcr.relay.neighbours import Common, Neighbour
from mcr.relay.outputs import Egress
from mcr.relay.placement import Key, OutputSlot, PlacedRule, Way
from mcr.shm import records
from mcr.shm.flows import flow_bytes
from mcr.shm.records import Command, OutputPlace

_PIECE = 500  # rules that are packed together, so that others have their turn


def attach_capture(capture: Capture) -> Command:
    """Read from it."""
    group = capture.group
    ring = group.frame_size, group.frame_count
    return records.capture_put(capture.slot, capture.serial, ring, group.sockets, offloads=group.offloads)


def detach_capture(capture: Capture) -> Command:
    """Read the packets that wait in it, then detach it."""
    return records.capture_drop(capture.slot)


def attach_egress(egress: Egress) -> tuple[Command, ...]:
    """Send by it, and raw frames, too, if they may leave."""
    udp = records.egress_put(egress.slot, egress.interface.mtu, egress.sockets)
    return (udp, change_raw(egress)) if egress.raw or egress.doubted else (udp,)


def detach_egress(egress: Egress) -> Command:
    """Send by it no more."""
    return records.egress_drop(egress.slot)


def change_raw(egress: Egress) -> Command:
    """Send raw frames by it as they may leave now, or send none."""
    if link := egress.raw or egress.doubted:
        only = egress.raw is None
        return records.raw_put(egress.slot, link.mtu, link.mac, egress.raw_sockets, tagged_only=only)
    return records.raw_drop(egress.slot)


def attach_neighbour(neighbour: Neighbour | Common) -> Command:
    """Send by its sockets; to a neighbour by the common ones, while they have room."""
    slot, mtu, sockets = neighbour.egress_slot, neighbour.interface.mtu, neighbour.sockets
    common = (
        neighbour.common.egress_slot if isinstance(neighbour, Neighbour) and neighbour.common else lib.MCR_NO_EGRESS
    )
    ipv6 = any(each.family == AF_INET6 for each in sockets)
    return records.egress_put(slot, mtu, sockets, common, ipv6=ipv6)


def detach_neighbour(neighbour: Neighbour | Common) -> Command:
    """Send by its sockets no more."""
    return records.egress_drop(neighbour.egress_slot)


def attach_rule(placed: PlacedRule, capture: int, egress: Iterable[int], carriers: Iterable[bool]) -> Command:
    """Forward by it.

    Args:
        placed: the rule; one that stands in its slot already is replaced.
        capture: slot of what it reads from.
        egress: slots of what its outputs leave by, in the rule's order.
        carriers: whether they leave, in the same order: their interfaces have carrier, and sockets could be opened.
    """
    rule, source, ways = placed.rule, placed.rule.input, zip(placed.ways, placed.neighbours, strict=True)
    several = zip(rule.outputs, placed.outputs, egress, ways, strict=True)
    return records.rule_put(
        tag=placed.tag,
        rule=placed.slot,
        capture=capture,
        flows=placed.flows,
        first_port=source.port,
        groups=1 if source.prefix is None else source.span.groups,
        outputs=[_place(*each, carrier=leaves) for each, leaves in zip(several, carriers, strict=True)],
    )


def is_plain(placed: PlacedRule) -> bool:
    """Whether it takes one flow, and all of its outputs are groups of IPv4 on the link, without options."""
    source = placed.rule.input
    if source.is_range or source.sources or any(placed.neighbours):
        return False
    for output in placed.rule.outputs:
        if not (output.is_plain and output.group.is_multicast and output.group.version == IPV4):
            return False
    return True


def attach_plain(
    those: Sequence[PlacedRule], captures: Mapping[str, int], egress: Mapping[str, tuple[int, bool]]
) -> list[Command]:
    """As `attach_rule`, for thousands of rules that are plain.

    Args:
        those: the rules.
        captures: slots of what they read from, by the interface's name.
        egress: slots of what they leave by, likewise, and whether that has carrier.
    """
    made = list[Command]()
    for some in in_pieces(those, _PIECE):
        made += _attach_plain(some, captures, egress)
    return made


def _attach_plain(
    those: Sequence[PlacedRule], captures: Mapping[str, int], egress: Mapping[str, tuple[int, bool]]
) -> list[Command]:
    sources = [placed.rule.input for placed in those]
    sent = [*chain.from_iterable([placed.rule.outputs for placed in those])]
    ways = chain.from_iterable([placed.ways for placed in those])
    outputs = records.plain_outputs(
        [*chain.from_iterable([placed.outputs for placed in those])],
        [egress[each.interface] for each in sent],
        [(each.group.packed, each.port) for each in sent],
        [way.source.packed if way and not way.hop else b"" for way in ways],
    )
    return records.plain_rules_put(
        [(placed.slot, placed.tag) for placed in those],
        [flow_bytes(each.flows[0], captures[each.interface]) for each in sources],
        [each.port for each in sources],
        [[*islice(outputs, len(placed.outputs))] for placed in those],
    )


def _place(
    output: Output, place: OutputSlot, leaves_by: int, leads: tuple[Way | None, Key | None], *, carrier: bool
) -> OutputPlace | bytes:
    group, is_plain, (way, neighbour) = output.group, output.is_plain, leads
    if is_plain and neighbour is None and group.is_multicast and group.version == IPV4:  # as thousands are
        source = way.source.packed if way and not way.hop else b""
        return records.plain_output(place, leaves_by, group.packed, output.port, source, carrier=carrier)
    raw_source, ttl = _raw_source(output, way, neighbour), _ttl(output, way, neighbour)
    if is_plain:
        return OutputPlace(*place, leaves_by, group, output.port, DEFAULT_TRAIN, raw_source, carrier, ttl)
    return OutputPlace(
        *place,
        leaves_by,
        group,
        output.port,
        output.max_train,
        raw_source,
        carrier,
        ttl,
        dscp=_number(output.dscp),
        keeps=keeps_of(output) | shifts_of(output),
        asked_source=output.own_source,
        vlan=output.vlan or 0,
        source_port=output.own_port,
    )


def _raw_source(output: Output, way: Way | None, neighbour: Key | None) -> Address | None:
    """Raw frames wait for no neighbour; in a VLAN there is none."""
    return way.source if way and (output.vlan or not (way.hop or neighbour)) else None


def _ttl(output: Output, way: Way | None, neighbour: Key | None) -> int:
    """What the socket has not: a neighbour's has the TTL of hosts, an output interface's that of groups.

    Raw frames have a group's: to a broadcast address they are told the hosts'.
    """
    if output.ttl is not None:
        return _number(output.ttl)
    if output.group.is_multicast:
        return 1 if neighbour else 0
    if way and not way.hop:
        return way.ttl
    return 0 if neighbour else hosts_ttl()


def _number(option: int | str | None) -> int:
    return option if isinstance(option, int) else 0


def detach_rule(placed: PlacedRule) -> Command:
    """Forward by it no more."""
    return records.rule_drop(placed.slot)
