"""Judges the way in: from the wire to the rule. Pure."""

import shlex
from collections.abc import Collection, Iterator
from ipaddress import IPv4Network
from typing import Final

import attrs

from mcr.diagnosis import parse_errors
from mcr.diagnosis.present import describe_missing
from mcr.diagnosis.queriers import Queriers, judge_querier_of_a_flow, judge_querier_without_a_flow
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import Address, Flow, Input
from mcr.model.rule import RuleState, RuleView
from mcr.model.stats import Stats
from mcr.model.worker import WorkerState, WorkerView
from mcr.net.links import Link
from mcr.net.uapi import ETH_P_8021AD
from mcr.tap.sighting import Look, Sighting, Tag

_NOBODY_JOINS: Final = IPv4Network("224.0.0.0/24")  # forwarded on a link without being asked for (RFC 4541, 2.1.2)
_NAMED = 5  # sightings in one finding, at most
_INTERFACE_NAME_MAX = 15

# What makes a sighting another than the flow, the likeliest cause first.
_VLAN, _INTERFACE, _LOCAL, _PORT, _FRAGMENTS, _GROUP = (
    "vlan_tag",
    "arrival_interface",
    "local_source",
    "port",
    "fragments",
    "group",
)


@attrs.frozen
class Entrance:
    """What the kernel knows of a rule's input interface.

    Attributes:
        link: None if there is none of its name.
        captured: indices of the interfaces that mcrd captures.
        joined: interface index and group of every membership.
        unroutable: packets that the reverse-path filter has dropped so far, on any interface.
    """

    link: Link | None
    captured: Collection[int] = ()
    joined: Collection[tuple[int, Address]] = ()
    unroutable: int = 0


_IN_FORCE: Final = {
    RuleState.ACTIVE: ("is active", Verdict.OK),
    RuleState.DEGRADED: ("is in force in part", Verdict.OK),
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
        f"the rule {how}: {rule.input} to {_count(len(rule.outputs), 'output')}",
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


def judge_entrance(source: Input, entrance: Entrance, reason: str = "") -> Iterator[Finding]:
    """Is the input interface there, up and connected, and is the group joined on it?

    Args:
        source: what the rule takes.
        entrance: what the kernel knows of its interface.
        reason: that the rule gives for its state.
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
    yield _judge_input_address(name, link)
    see = f"/proc/net/igmp, interface {link.index}"
    if (link.index, source.group) in entrance.joined:
        yield Finding("group_joined", Verdict.OK, f"{source.group} is joined on {name}", see)
    else:
        what = f"{source.group} is not joined on {name}: a switch that snoops IGMP keeps it back"
        yield Finding("group_joined", Verdict.FAULT, what, f"{see}: not listed", "remove the rule and add it again")


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


def _judge_input_address(name: str, link: Link) -> Finding:
    see = f"ip -4 address show dev {name}"
    if link.address is not None:
        return Finding("input_address", Verdict.OK, f"{name} has an IPv4 address", f"{see}: {link.address}")
    # IGMPv3 reports come from 0.0.0.0, those of version 2 from an address of another interface.
    what = f"{name} has no IPv4 address: its IGMP reports come from none of that network, and some switches ignore them"
    if link.rp_filter:
        what += "; and the reverse-path check keeps it from answering queriers that have an address"
        see += f"; the greater of net/ipv4/conf/{{all,{name}}}/rp_filter: {link.rp_filter}"
    return Finding("input_address", Verdict.ADVICE, what, see, f"sudo ip address add ADDRESS/LENGTH dev {name}")


def judge_arrival(
    rule: RuleView,
    look: Look,
    before: Stats,
    after: Stats,
    *,
    others: Collection[RuleView],
    queriers: Queriers,
    dropped: int = 0,
    mtu: int = 1500,
) -> Iterator[Finding]:
    """Does the flow come in, and if not, what comes instead?

    Args:
        rule: this one.
        look: at the wire.
        before: statistics before the look.
        after: and after it.
        others: the other rules: what these take, and send, is not this rule's gone astray.
        queriers: of the input interface.
        dropped: frames that the interface has dropped during the look.
        mtu: of the interface.
    """
    source = rule.input
    expected = Sighting.of(source)
    seconds = _length(look)
    grown = matched(rule, after) - matched(rule, before)
    if expected not in look.frames and grown <= 0:
        for absence in _judge_absence(source, look, matched(rule, after), others, queriers):
            yield _with_dropped(absence, source.interface, dropped, mtu)
        return
    see = f"{seconds}: {_count(look.frames.get(expected, 0), 'frame')}"
    if look.payload is not None:
        see += f" with {look.payload:,} bytes of payload"
    elif grown > 0:
        see = f"mcrctl stats: matched grew by {grown:,} {seconds}"
    yield Finding("flow_arrives", Verdict.OK, f"{_flow(source)} arrives on {source.interface}", see)
    cut = attrs.evolve(expected, fragment=True), attrs.evolve(expected, port=None, fragment=True)
    fragments = sum(look.frames.get(each, 0) for each in cut)
    if fragments:
        what, remedy = f"a part of {source.group} arrives in fragments, which are dropped", _remedy_for_fragments()
        yield Finding(_FRAGMENTS, Verdict.ADVICE, what, f"{seconds}: {_count(fragments, 'frame')}", remedy)
    yield from judge_querier_of_a_flow(source.interface, queriers)


def _with_dropped(absence: Finding, name: str, dropped: int, mtu: int) -> Finding:
    """What is longer than the MTU is dropped before anybody sees it."""
    if dropped <= 0:
        return absence
    evidence = f"{absence.evidence}; {name} dropped {_count(dropped, 'frame')} meanwhile: ip -s link show dev {name}"
    remedy = f"{absence.remedy}; are its frames longer than the MTU of {name}, {mtu:,}?"
    return attrs.evolve(absence, evidence=evidence, remedy=remedy)


def _judge_absence(
    source: Input, look: Look, so_far: int, others: Collection[RuleView], queriers: Queriers
) -> Iterator[Finding]:
    astray = _astray(source, look, others)
    if astray:
        yield _judge_astray(source, look, astray)
        return
    name = source.interface
    see = f"{_length(look)}: no frame of it; matched so far: {so_far:,}"
    taken = _taken_by_others(source, look, others)
    if name in {each.interface for each in taken}:
        yield _judge_taken(source, look, taken, see)
        return
    what = f"nothing of {source.group} arrives on {name}"
    if taken:
        what += f", only elsewhere: {_list_taken(taken)}"
    if source.group in _NOBODY_JOINS:
        remedy = f"does the source send, on the network of {name} itself? no router or relay passes such a group on"
        yield Finding("flow_arrives", Verdict.FAULT, what, see, remedy)
        return
    yield judge_querier_without_a_flow(name, queriers, what, see)


def _astray(source: Input, look: Look, others: Collection[RuleView]) -> dict[Sighting, tuple[str, ...]]:
    """The sighting that is most like the flow, and how it differs."""
    found = {}
    inputs = {(each.input.interface, each.input.flow) for each in others}
    outputs = {(each.interface, Flow(each.group, each.port)) for rule in others for each in rule.outputs}
    for sighting in look.frames:
        differs = tuple(_differences(source, sighting))
        if _GROUP in differs and differs != (_GROUP,):
            continue  # it has nothing in common with the flow but the port
        known = outputs if sighting.outgoing else inputs
        if (sighting.interface, sighting.flow) in known:
            continue
        found[sighting] = differs
    ranks = [_VLAN, _INTERFACE, _LOCAL, _PORT, _FRAGMENTS, _GROUP]
    nearest = min(
        found.values(), key=lambda differs: (len(differs), [ranks.index(each) for each in differs]), default=()
    )
    return {sighting: differs for sighting, differs in found.items() if differs == nearest}


def _taken_by_others(source: Input, look: Look, others: Collection[RuleView]) -> dict[Sighting, str]:
    """What came in of the group and other rules take, by which rule; what is on the flow's own interface first."""
    takers: dict[tuple[str, Flow | None], str] = {
        (each.input.interface, each.input.flow): each.name or each.rule_id for each in others
    }
    seen = [each for each in look.frames if each.group == source.group and not each.outgoing]
    seen.sort(key=lambda each: (each.interface != source.interface, -look.frames[each]))
    return {each: takers[each.interface, each.flow] for each in seen if (each.interface, each.flow) in takers}


def _list_taken(taken: dict[Sighting, str]) -> str:
    return _list([f"{_describe(each)}, which rule {rule} takes" for each, rule in taken.items()], "; ")


def _judge_taken(source: Input, look: Look, taken: dict[Sighting, str], see: str) -> Finding:
    """The group arrives, so neither the way nor a querier is to blame."""
    frames = _count(sum(look.frames[each] for each in taken), "frame")
    return Finding(
        "flow_arrives",
        Verdict.FAULT,
        f"{_flow(source)} does not arrive on {source.interface}; of its group this does: {_list_taken(taken)}",
        f"{see}, {frames} for other rules",
        f"does the source send to port {source.port}? what another rule takes already can have more outputs there: "
        f"mcrctl change {shlex.quote(next(iter(taken.values())))} --add-outputs GROUP:PORT:INTERFACE",
    )


def _list(texts: list[str], between: str = ", ") -> str:
    return between.join(texts[:_NAMED]) + (f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else "")


def _differences(source: Input, sighting: Sighting) -> Iterator[str]:
    if sighting.outgoing:
        yield _LOCAL  # by which interface is then of no account
        return
    if sighting.tags != Sighting.of(source).tags:
        yield _VLAN
    if sighting.interface != source.interface:
        yield _INTERFACE
    if sighting.port not in {source.port, None}:
        yield _PORT
    if sighting.fragment:
        yield _FRAGMENTS
    if sighting.group != source.group:
        yield _GROUP


def _judge_astray(source: Input, look: Look, astray: dict[Sighting, tuple[str, ...]]) -> Finding:
    differs = next(iter(astray.values()))
    if differs == (_LOCAL,):
        return _judge_local(source, look, max(astray, key=lambda each: look.frames[each]))
    names = [_describe(each) for each in sorted(astray, key=lambda each: -look.frames[each])]
    wanted = "whole " if _FRAGMENTS in differs else ""
    if _VLAN in differs:
        wanted = "untagged " if source.vlan is None else f"in VLAN {source.vlan} "
    frames = _count(sum(look.frames[each] for each in astray), "frame")
    first = max(astray, key=lambda each: look.frames[each])
    untagged = [
        each.interface
        for each in look.frames
        if not each.tags and each.interface != source.interface and (each.group, each.port) == (first.group, first.port)
    ]
    return Finding(
        differs[0],
        Verdict.FAULT,
        f"{_flow(source)} does not arrive {wanted}on {source.interface}, but this does: {_list(names)}",
        f"{_length(look)}: {frames}",
        "; ".join(filter(None, (_remedy(each, source, first, untagged) for each in differs))),
    )


def _judge_local(source: Input, look: Look, seen: Sighting) -> Finding:
    return Finding(
        _LOCAL,
        Verdict.FAULT,
        f"this machine itself sends {_flow(source)}, out of {seen.interface}; MCR relays only what comes in",
        f"{_length(look)}: {_count(look.frames[seen], 'outgoing frame')}, none that came in",
        "send it from another machine; or through a veth pair: sudo ip link add to-mcr type veth peer name from-host; "
        "set both up, have the program send out of from-host, and add the rule with --input-interface to-mcr",
    )


def _describe(sighting: Sighting) -> str:
    text = f"{sighting.group}" if sighting.port is None else f"{sighting.group}:{sighting.port}"
    text += f" on {sighting.interface}"
    for tag in sighting.tags:
        text += f" with VLAN tag {tag.vlan}"
    return text + (" in fragments" if sighting.fragment else "")


def _remedy(difference: str, source: Input, seen: Sighting, untagged: list[str]) -> str:
    if difference == _VLAN:
        return _remedy_for_tags(seen, untagged if source.vlan is None else [])
    if difference == _INTERFACE:
        # Behind a tag, the remedy for that has named the interface.
        return "" if seen.tags else f"add the rule with --input-interface {seen.interface}, or connect the right cable"
    if difference == _PORT:
        return f"add the rule with --input-port {seen.port}, or have the source send to port {source.port}"
    if difference == _FRAGMENTS:
        return _remedy_for_fragments()
    return (
        f"add the rule with --input-group {seen.group}, if that is the one; "
        f"otherwise check that {source.group} is sent, and that the switch forwards it"
    )


def _remedy_for_tags(seen: Sighting, untagged: list[str]) -> str:
    if untagged:
        return f"add the rule with --input-interface {untagged[0]}, where it comes without the tag"
    if not seen.tags:
        return "add the rule without --input-vlan"
    if seen.flow:
        return f"add the rule with --input-interface {seen.interface} --input-vlan {seen.flow.vlan}"
    below, steps = seen.interface, []
    for tag in seen.tags:
        name = _vlan_interface(below, tag)
        kind = " proto 802.1ad" if tag.protocol == ETH_P_8021AD else ""
        steps += [
            f"sudo ip link add link {below} name {name} type vlan{kind} id {tag.vlan}",
            f"sudo ip link set dev {name} up",
        ]
        below = name
    return f"{' && '.join(steps)}, and add the rule with --input-interface {below}"


def _vlan_interface(below: str, tag: Tag) -> str:
    name = f"{below}.{tag.vlan}"
    return name if len(name.encode()) <= _INTERFACE_NAME_MAX else f"vlan{tag.vlan}"


def _remedy_for_fragments() -> str:
    return "have the source send datagrams that fit the MTU of its network: with 1500, 1,472 bytes of payload at most"


def judge_taking(
    rule: RuleView, look: Look, before: Stats, after: Stats, others: Collection[RuleView]
) -> Iterator[Finding]:
    """What arrives, is it what this relay sent, and is it taken by the rule?"""
    for each in after.interfaces:
        if each.interface == rule.input.interface and parse_errors.loops_now(each):
            returns = _is_sent_here(rule, others) or (
                matched(rule, after) <= matched(rule, before) and _loops(rule, after) > _loops(rule, before)
            )
            yield parse_errors.judge_loop(each, concerned=returns)
    yield judge_match(rule, look, before, after)


def judge_path(rule: RuleView) -> Finding:
    """Who forwards it. Either does."""
    what = "a worker forwards it" if rule.path_reason else "the kernel forwards it, without a worker"
    return Finding("path", Verdict.OK, what, rule.path_reason or "mcrctl list --json: path")


def _is_sent_here(rule: RuleView, others: Collection[RuleView]) -> bool:
    """Whether an output of any rule sends to the group and port that the rule takes."""
    flow = rule.input.group, rule.input.port
    return any((each.group, each.port) == flow for one in (rule, *others) for each in one.outputs)


def _loops(rule: RuleView, stats: Stats) -> int:
    return sum(each.parse_errors.loop for each in stats.interfaces if each.interface == rule.input.interface)


def judge_match(rule: RuleView, look: Look, before: Stats, after: Stats) -> Finding:
    """What arrives, is it taken by the rule?"""
    source = rule.input
    now, grown = matched(rule, after), matched(rule, after) - matched(rule, before)
    if grown > 0:
        see = f"mcrctl stats: matched {now:,}, {grown:,} of them since this began"
        return Finding("matched", Verdict.OK, "the rule takes it", see)
    lost = {
        "kernel_drops": _dropped(source, after) - _dropped(source, before),
        "parse_err": after.ingress.parse_err - before.ingress.parse_err,
        "buf_exhaust": after.ingress.buf_exhaust - before.ingress.buf_exhaust,
    }
    causes = parse_errors.grown(before.ingress.parse_errors, after.ingress.parse_errors)
    remedies = {
        "kernel_drops": "the workers are too slow, or their rings too small: see mcrd supervisor --help",
        "parse_err": "; ".join(
            f"{count:,} {parse_errors.CAUSES[cause][0]}: {parse_errors.CAUSES[cause][1]}"
            for cause, count in causes.items()
        ),
        "buf_exhaust": f"super-frames came faster than they were fetched: sudo ethtool -K {source.interface} gro off",
    }
    frames = look.frames.get(Sighting.of(source), 0)
    see = f"mcrctl stats: matched stays {now:,} with {_count(frames, 'frame')} on the wire; " + ", ".join(
        f"{each} +{count:,}" for each, count in lost.items()
    )
    if remedy := next((remedies[each] for each, count in lost.items() if count > 0), ""):
        return Finding("matched", Verdict.FAULT, "it arrives, but the rule does not get it", see, remedy)
    what = "it arrives, but no worker has taken it: a worker is stopped, or does not get the CPU"
    remedy = "ask again: mcrd replaces a worker that takes nothing within seconds, and its log says so"
    return Finding("matched", Verdict.FAULT, what, see, remedy)


def matched(rule: RuleView, stats: Stats) -> int:
    """Packets that a rule has matched so far."""
    return sum(each.matched for each in stats.rules if each.rule_id == rule.rule_id)


def _dropped(source: Input, stats: Stats) -> int:
    return sum(each.kernel_drops for each in stats.interfaces if each.interface == source.interface)


def _flow(source: Input) -> str:
    return f"{source.group}:{source.port}"


def _length(look: Look) -> str:
    return f"within {look.seconds:.1f} s" if look.seconds >= 1 else f"within {look.seconds * 1000:.0f} ms"


def _count(number: int, noun: str) -> str:
    return (
        f"{number:,} {noun}"
        if number == 1
        else f"{number:,} {noun}s"
        if noun[-1] != "y"
        else f"{number:,} {noun[:-1]}ies"
    )
