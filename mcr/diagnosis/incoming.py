"""Judges a rule and its input interface: whether packets can come in. Pure."""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

import attrs

from mcr.diagnosis.present import describe_missing
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import IPV6, WITH_SOURCE, Address, Input
from mcr.model.rule import RuleState, RuleView
from mcr.model.worker import WorkerState, WorkerView
from mcr.net.links import Link
from mcr.text.plurals import counted


@attrs.frozen
class Entrance:
    """What the kernel knows of a rule's input interface.

    Attributes:
        link: None if there is none of its name.
        captured: indices of the interfaces that mcrd captures.
        joined: interface index and group of every membership.
        unroutable: packets that the reverse-path filter has dropped so far, on any interface.
        sources: group and source of what is joined from one source, by interface index; of one that is missing the
            kernel does not tell.
        igmp: version that is spoken on the interface, as the kernel writes it: V1, V2 or V3; empty: it does not matter.
    """

    link: Link | None
    captured: Collection[int] = ()
    joined: Collection[tuple[int, Address]] = ()
    unroutable: int = 0
    sources: Mapping[int, Collection[tuple[Address, Address]]] = attrs.field(factory=dict)
    igmp: str = ""


_IN_FORCE: Final = {
    RuleState.ACTIVE: ("is active", Verdict.OK),
    RuleState.DEGRADED: ("is in force in part", Verdict.ADVICE),
    RuleState.WAITING: ("waits", Verdict.ADVICE),
}


def judge_rule(rule: RuleView, workers: Collection[WorkerView]) -> Iterator[Finding]:
    """Is it in force, and does anybody forward?"""
    states = ", ".join(f"worker {each.worker_id} {each.state}" for each in workers)
    running = [each for each in workers if each.state is WorkerState.RUNNING]
    see = f"mcrctl list-workers: {states}"
    if rule.state is RuleState.PENDING:
        remedy = "see the log of mcrd for what delays the workers"
        yield Finding("rule_active", Verdict.FAULT, "not every worker has acknowledged the rule yet", see, remedy)
        return
    how, verdict = _IN_FORCE[rule.state]
    yield Finding(
        "rule_active",
        verdict,
        f"the rule {how}: {rule.input} to {counted(len(rule.outputs), 'output')}",
        f"mcrctl list: {rule.rule_id} {rule.state}" + (f", {rule.reason}" if rule.reason else ""),
    )
    if not running:
        remedy = "see the log of mcrd for why they end"
        yield Finding("workers_running", Verdict.FAULT, "no worker is running", see, remedy)
    elif len(running) < len(workers):
        what = f"{len(running)} of {len(workers)} workers run: packets of the others wait"
        yield Finding("workers_running", Verdict.ADVICE, what, see, "see the log of mcrd for why they end")
    else:
        what = "the worker runs" if len(workers) == 1 else f"all {len(workers)} workers run"
        yield Finding("workers_running", Verdict.OK, what, see)


def judge_entrance(source: Input, entrance: Entrance, reason: str = "", *, waits: bool = False) -> Iterator[Finding]:
    """Is the input interface there, up and connected, and is the group joined on it, or the address this machine's?

    Args:
        source: what the rule takes.
        entrance: what the kernel knows of its interface.
        reason: that the rule gives for its state.
        waits: its input can't be served.
    """
    name, link = source.interface, entrance.link
    again = "mcrd uses one of that name again by itself"
    if link is None:
        what, remedy = describe_missing(name, reason)
        yield Finding("input_interface", Verdict.FAULT, what, f"ip link show dev {name}", remedy)
        return
    if link.index not in entrance.captured:
        what = f"{name} is another interface than before, and mcrd does not capture it"
        see = f"/proc/net/packet: no socket of mcrd is bound to interface {link.index}"
        yield Finding("input_interface", Verdict.FAULT, what, see, f"{again}; why not: mcrctl list, and its log")
        return
    see = f"/proc/net/packet: a socket of mcrd is bound to interface {link.index}"
    yield Finding("input_interface", Verdict.OK, f"{name} exists and is captured", see)
    yield from judge_link("input", name, link)
    if link.bridge:
        yield judge_bridge(name, link.bridge, Verdict.ADVICE)
    if not source.group.is_multicast:
        yield _judge_own(source, reason if waits else "")
        return
    is_ipv6 = source.group.version == IPV6
    if not link.loopback:
        yield _judge_input_address6(name, link) if is_ipv6 else judge_input_address(name, link)
    protocol = "MLD" if is_ipv6 else "IGMP"
    see = f"/proc/net/{'igmp6' if is_ipv6 else 'igmp'}, interface {link.index}"
    missing = next((each for each in source.groups if (link.index, each) not in entrance.joined), None)
    if missing is None:
        yield Finding("group_joined", Verdict.OK, f"{source.named_groups} is joined on {name}", see)
    else:
        what = f"{missing} is not joined on {name}: a switch that snoops {protocol} keeps it back"
        yield Finding("group_joined", Verdict.FAULT, what, f"{see}: not listed", "remove the rule and add it again")
        return
    yield from _judge_sources(source, link, entrance)


def _judge_own(source: Input, missing: str) -> Finding:
    name, group = source.interface, source.group
    see = f"ip -{group.version} address show"
    if missing:
        remedy = f"name one that it has, or give it this one: sudo ip address add {group}/LENGTH dev {name}"
        return Finding("input_address", Verdict.FAULT, missing, see, remedy)
    what = f"{group} is an address of this machine, or a broadcast address of {name}: nobody has to be asked for it"
    return Finding("input_address", Verdict.OK, what, see)


def _judge_sources(source: Input, link: Link, entrance: Entrance) -> Iterator[Finding]:
    """Does the network hear from which sources the group is wanted?"""
    name, group = source.interface, source.group
    is_ipv6 = group.version == IPV6
    see = f"/proc/net/mcfilter{'6' * is_ipv6}, interface {link.index}"
    told = entrance.sources.get(link.index)
    missing = [] if told is None else [each for each in source.joins if each[1] and each not in told]
    if missing:
        what = f"{missing[0][0]} is not joined from {missing[0][1]} on {name}: routers do not forward it from there"
        yield Finding("source_joined", Verdict.FAULT, what, f"{see}: not listed", "remove the rule and add it again")
    elif source.sources and not is_ipv6 and entrance.igmp in ("V1", "V2"):
        spoken = f"IGMPv{entrance.igmp[1:]}"
        what = f"{name} speaks {spoken}, in which no source can be named: {group} is asked for from any source"
        what += ", which routers do not answer" if group in WITH_SOURCE else ""
        remedy = (
            f"have the querier of that network speak IGMPv3; is another version forced here? "
            f"sysctl net.ipv4.conf.all.force_igmp_version net.ipv4.conf.{name}.force_igmp_version"
        )
        yield Finding("source_joined", Verdict.ADVICE, what, f"/proc/net/igmp: {name} {entrance.igmp}", remedy)
    elif source.sources and told is None:
        what = f"whether {group} is joined from {', '.join(map(str, source.sources))} is not known"
        see += ": Linux lists none of an interface whose newest group has no sources"
        yield Finding("source_joined", Verdict.OK, what, see)
    elif source.sources:
        what = f"{group} is joined from {', '.join(map(str, source.sources))}"
        yield Finding("source_joined", Verdict.OK, what, see)


def judge_bridge(name: str, bridge: str, verdict: Verdict) -> Finding:
    """An input interface that is a bridge's port: IP never sees what comes in by it, so joins are not refreshed."""
    what = f"{name} is a port of bridge {bridge}, which takes IGMP queries: joins on it last one membership interval"
    remedy = f"add the rule with --input-interface {bridge}, or take it out: sudo ip link set dev {name} nomaster"
    return Finding("bridge_port", verdict, what, f"ip -details link show dev {name}: master {bridge}", remedy)


def judge_link(side: str, name: str, link: Link) -> Iterator[Finding]:
    """Is an interface set up, and is there somebody at the other end?"""
    see = f"ip link show dev {name}"
    if not link.up:
        yield Finding(f"{side}_up", Verdict.FAULT, f"{name} is down", see, f"sudo ip link set dev {name} up")
    elif not link.carrier:
        remedy = f"check the cable and the port at its other end: ethtool {name}"
        yield Finding(f"{side}_carrier", Verdict.FAULT, f"{name} has no carrier", f"{see}: NO-CARRIER", remedy)
    else:
        yield Finding(f"{side}_up", Verdict.OK, f"{name} is up and has carrier", see)


def judge_input_address(name: str, link: Link) -> Finding:
    """Has an interface an address for its IGMP reports?"""
    see = f"ip -4 address show dev {name}"
    if link.address is not None:
        return Finding("input_address", Verdict.OK, f"{name} has an IPv4 address", f"{see}: {link.address}")
    # IGMPv3 reports come from 0.0.0.0, those of version 2 from an address of another interface.
    what = f"{name} has no IPv4 address: its IGMP reports come from none of that network, and some switches ignore them"
    if link.rp_filter:
        what += "; and the reverse-path check keeps it from answering queriers that have an address"
        see += f"; the greater of net/ipv4/conf/{{all,{name}}}/rp_filter: {link.rp_filter}"
    return Finding("input_address", Verdict.ADVICE, what, see, f"sudo ip address add ADDRESS/LENGTH dev {name}")


def _judge_input_address6(name: str, link: Link) -> Finding:
    """MLD reports come from a link-local address, or from :: while there is none (RFC 3810, 5.2.13)."""
    see = f"ip -6 address show dev {name}"
    local = next((each for each in link.addresses6 if each.is_link_local), None)
    if local is not None:
        what = f"{name} has a link-local address, from which its MLD reports come"
        return Finding("input_address", Verdict.OK, what, f"{see}: {local.ip}")
    what = f"{name} has no link-local address: its MLD reports come from ::, and switches and routers ignore them"
    return Finding("input_address", Verdict.ADVICE, what, see, turn_ipv6_on(name))


def turn_ipv6_on(name: str) -> str:
    """What gives an interface an IPv6 address: the kernel does so by itself, where it may."""
    off = f"sudo sysctl -w net.ipv6.conf.{name}.disable_ipv6=0 net.ipv6.conf.{name}.addr_gen_mode=0"
    again = f"sudo ip link set dev {name} down && sudo ip link set dev {name} up"
    return f"{off}; then {again}; its MTU has to be 1280 or more"
