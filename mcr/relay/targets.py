"""What the kernel path can make of a rule's outputs, and why it can make nothing of them."""

from collections.abc import Callable
from typing import Final

from mcr._native import lib
from mcr.model.flow import IPV4, IPV6, Flow, Input
from mcr.model.output_options import Sockets
from mcr.model.rule import AUTO, Output
from mcr.net.filter.path import MAX_OUTPUTS, Target, group_mac
from mcr.relay.marks import keeps_of
from mcr.relay.next_hops import NextHop, NextHops
from mcr.relay.outputs import Egress
from mcr.relay.placement import Key, PlacedRule, Way

_NONE: Final[frozenset[NextHop]] = frozenset()

EgressOf = Callable[[str], Egress]
PortOf = Callable[[Key], int | None]
"""The port that a neighbour's sockets send from; None: it has none."""


def hops_of(placed: PlacedRule, egress_of: EgressOf) -> frozenset[NextHop]:
    """Hosts and gateways that a rule's datagrams go to."""
    several = zip(placed.rule.outputs, placed.ways, strict=True)
    found = [_hop(egress_of(output.interface), output, way) for output, way in several if way and way.hop]
    return frozenset(filter(None, found)) if found else _NONE


def _hop(egress: Egress, output: Output, way: Way | None) -> NextHop | None:
    hop = way.hop if way else None
    return (egress.interface.index, hop) if hop and hop.version == output.group.version else None


def has_path_mtu(placed: PlacedRule) -> bool:
    """Whether routers may tell that some of its datagrams are too long: those by a gateway, or to a group of IPv6.

    Of groups of IPv4 they tell nobody (RFC 1112, section 7.2); of those of IPv6 they do (RFC 4443, section 2.4 (e.3)).
    """
    for output, way in zip(placed.rule.outputs, placed.ways, strict=True):
        if _is_told_of(output, way, placed.rule.input):
            return True
    return False


def _is_told_of(output: Output, way: Way | None, source: Input) -> bool:
    if output.group.version == IPV6 and output.group.is_multicast:
        return source.group.version == IPV6  # else the rule is the workers'
    return way is not None and way.hop is not None and way.hop != output.group


def why_not(placed: PlacedRule, egress_of: EgressOf, port_of: PortOf, hops: NextHops) -> str:
    """Why the kernel path can't forward by a rule; empty: it can."""
    version = placed.rule.input.group.version
    for output in placed.rule.outputs:
        if output.group.version != version:
            now = output.group.version
            return f"{output} is sent to by IPv{now}: the kernel path sends by what came in, IPv{version}"
    for output, neighbour in zip(placed.rule.outputs, placed.neighbours, strict=True):
        if neighbour and port_of(neighbour) is None:  # the port that they would reserve may be another's
            return f"the sockets of {output} could not be opened"
    if len(placed.outputs) > MAX_OUTPUTS:
        return f"it has {len(placed.outputs)} outputs: the kernel path takes {MAX_OUTPUTS}"
    for output, way in zip(placed.rule.outputs, placed.ways, strict=True):
        if reason := _why_not_to(output, egress_of(output.interface), way, hops):
            return reason
    return ""


def _why_not_to(output: Output, egress: Egress, way: Way | None, hops: NextHops) -> str:
    if output.gso != AUTO:
        return f"{output} has gso={output.gso}"
    if egress.raw is None:
        return f"frames cannot leave by {output.interface} without IP: {egress.why_not_raw}"
    if not egress.raw.up:
        return f"{output.interface} is down"
    if way is None:
        return f"IP would do more for {output} than add headers: see the routes to {output.group}"
    if (hop := _hop(egress, output, way)) and not hops.mac(hop):
        who = f"{way.hop}" if way.hop == output.group else f"the gateway {way.hop} to {output.group}"
        answered = "does not answer" if hops.is_silent(hop) else "has not answered"
        asked = "neighbour solicitations" if output.group.version == IPV6 else "ARP"
        return f"{who} {answered} {asked} on {output.interface}"
    return ""


def find_targets(placed: PlacedRule, egress_of: EgressOf, port_of: PortOf, hops: NextHops) -> tuple[Target, ...]:
    """Where the kernel path sends the datagrams of a rule that it can forward by."""
    targets = []
    each = zip(placed.rule.outputs, placed.outputs, placed.ways, placed.neighbours, strict=True)
    for output, place, way, neighbour in each:
        egress = egress_of(output.interface)
        assert egress.raw
        assert way
        hop = _hop(egress, output, way)
        port = egress.port
        if neighbour and neighbour.kind is Sockets.UDP:  # a worker sends by its sockets
            port = port_of(neighbour) or port
        target = Target(
            slot=place.slot,
            interface=egress.interface.index if egress.carrier else 0,
            macs=(hops.mac(hop) if hop else group_mac(output.group)) + egress.raw.mac,
            mtu=egress.raw.mtu,
            source=(way.source, output.own_port or port),
            group=output.group,
            port=output.port,
            ttl=output.ttl if isinstance(output.ttl, int) else way.ttl,
        )
        targets.append(target if output.is_plain else _with_options(target, output))
    return tuple(targets)


def plain_targets(placed: PlacedRule, egress_of: EgressOf) -> tuple[Target, ...] | None:
    """The same of a rule that sends to groups of IPv4 on the link, without options; None: it is another, or can't.

    Thousands are like that: of these nothing else has to be asked.
    """
    targets = []
    each = zip(placed.rule.outputs, placed.outputs, placed.ways, placed.neighbours, strict=True)
    for output, place, way, neighbour in each:
        egress, group = egress_of(output.interface), output.group
        if not (way and egress.raw and egress.raw.up) or way.hop or neighbour:
            return None
        if not (output.is_plain and group.is_multicast and group.version == IPV4):
            return None
        index, link = egress.interface.index if egress.carrier else 0, egress.raw
        source, macs = (way.source, egress.port), group_mac(group) + link.mac
        targets.append(Target(place.slot, index, macs, link.mtu, source, group, output.port, way.ttl))
    is_served = placed.rule.input.group.version == IPV4 and len(targets) <= MAX_OUTPUTS
    return tuple(targets) if is_served else None


def _with_options(target: Target, output: Output) -> Target:
    return target._replace(
        dscp=output.dscp if isinstance(output.dscp, int) else 0,
        keeps=keeps_of(output) | (lib.MCR_MAY_BE_CUT if output.own_port else 0),
        vlan=output.vlan or 0,
        by_group=output.prefix is not None,
        by_port=output.last_port is not None,
    )


def targets_of(flow: Flow, source: Input, targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """Where the datagrams of one flow of a rule go: of a range, to the groups and ports that have its place."""
    if not source.is_range:
        return targets
    group, port = int(flow.group) - int(source.group), flow.port - source.port
    return tuple(_moved(each, group * each.by_group, port * each.by_port) for each in targets)


def _moved(target: Target, groups: int, ports: int) -> Target:
    macs = target.macs
    group = type(target.group)(int(target.group) + groups)
    if groups and macs.startswith(group_mac(target.group)):  # else they go by a gateway
        macs = group_mac(group) + macs[len(group_mac(group)) :]
    return target._replace(group=group, port=target.port + ports, macs=macs)
