"""Judges what arrives on the wire: the flow that a rule takes, or what comes instead. Pure."""

import shlex
from collections.abc import Collection, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import attrs

from mcr.diagnosis.matching import matched
from mcr.diagnosis.outgoing import HEADERS
from mcr.diagnosis.queriers import Queriers, judge_querier_of_a_flow, judge_querier_without_a_flow
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import Claim, Flow, Input
from mcr.model.rule import RuleView
from mcr.model.stats import Stats
from mcr.net.uapi import ETH_P_8021AD
from mcr.tap.sighting import Look, Sighting, Tag, Wanted
from mcr.text.addresses import ports_text, with_port
from mcr.text.plurals import counted

# Forwarded on a link without being asked for (RFC 4541, 2.1.2 and 3). Of IPv6 that is only the group of all nodes.
_NOBODY_JOINS: Final = (IPv4Network("224.0.0.0/24"), IPv6Network("ff02::1/128"))
_NAMED = 5  # sightings in one finding, at most
_INTERFACE_NAME_MAX = 15

# What makes a sighting another than the flow, the likeliest cause first.
_VLAN, _INTERFACE, _LOCAL, _SOURCE, _PORT, _FRAGMENTS, _GROUP = (
    "vlan_tag",
    "arrival_interface",
    "local_source",
    "source",
    "port",
    "fragments",
    "group",
)


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
    wanted = Wanted.of(source, (each.input for each in others))
    frames = wanted.count(look.frames)
    seconds = _length(look)
    grown = matched(rule, after) - matched(rule, before)
    if not frames and grown <= 0:
        for absence in _judge_absence(wanted, look, matched(rule, after), others, queriers):
            yield _with_dropped(absence, source.interface, dropped, mtu)
        return
    see = f"{seconds}: {counted(frames, 'frame')}"
    if look.payload is not None:
        see += f" with {look.payload:,} bytes of payload"
    elif grown > 0:
        see = f"mcrctl stats: matched grew by {grown:,} {seconds}"
    yield Finding("flow_arrives", Verdict.OK, f"{_flow(source)} arrives{source.in_vlan} on {source.interface}", see)
    fragments = sum(count for each, count in look.frames.items() if _is_cut(each, wanted))
    if fragments:
        yield _judge_fragments(source, f"{seconds}: {counted(fragments, 'frame')}")
    yield from judge_querier_of_a_flow(source.interface, queriers)


def _is_cut(sighting: Sighting, wanted: Wanted) -> bool:
    whole = attrs.evolve(sighting, port=sighting.port or wanted.input.port, fragment=False)
    return sighting.fragment and whole in wanted


def _judge_fragments(source: Input, see: str) -> Finding:
    what = f"a part of {source.named_groups} arrives in fragments, which are put together"
    return Finding(_FRAGMENTS, Verdict.OK, what, see)


def _with_dropped(absence: Finding, name: str, dropped: int, mtu: int) -> Finding:
    """What is longer than the MTU is dropped before anybody sees it."""
    if dropped <= 0:
        return absence
    evidence = f"{absence.evidence}; {name} dropped {counted(dropped, 'frame')} meanwhile: ip -s link show dev {name}"
    remedy = f"{absence.remedy}; are its frames longer than the MTU of {name}, {mtu:,}?"
    return attrs.evolve(absence, evidence=evidence, remedy=remedy)


def _judge_absence(
    wanted: Wanted, look: Look, so_far: int, others: Collection[RuleView], queriers: Queriers
) -> Iterator[Finding]:
    source = wanted.input
    astray = _astray(wanted, look, others)
    if astray:
        yield _judge_astray(source, look, astray)
        return
    name = source.interface
    see = f"{_length(look)}: no frame of it; matched so far: {so_far:,}"
    taken = _taken_by_others(source, look, others)
    if name in {each.interface for each in taken}:
        yield _judge_taken(source, look, taken, see)
        return
    what = f"nothing of {source.named_groups} arrives{source.whence}{source.in_vlan} on {name}"
    if taken:
        what += f", only elsewhere: {_list_taken(taken)}"
    if any(source.group in each for each in _NOBODY_JOINS):
        remedy = f"does the source send, on the network of {name} itself? no router or relay passes such a group on"
        yield Finding("flow_arrives", Verdict.FAULT, what, see, remedy)
        return
    if not source.group.is_multicast:
        remedy = f"does {_sender(source)} send to {source.group}, and does the way there end on the network of {name}?"
        yield Finding("flow_arrives", Verdict.FAULT, what, see, f"{remedy} ip route get {source.group}, on its side")
        return
    yield judge_querier_without_a_flow(name, queriers, what, see)


def _astray(wanted: Wanted, look: Look, others: Collection[RuleView]) -> dict[Sighting, tuple[str, ...]]:
    """The sighting that is most like the flow, and how it differs."""
    found = {}
    groups = {each.group for each in look.frames}  # there may be thousands of rules for others
    inputs = {
        Claim(each.input.interface, flow)
        for each in others
        if each.input.is_range or each.input.group in groups
        for flow in each.input.flows
    }
    outputs = {
        Claim(each.interface, Flow(group, port))
        for rule in others
        for each in rule.outputs
        if each.is_range or each.group in groups
        for group, port in (each.span.each() if each.is_range else ((each.group, each.port),))
    }
    for sighting in look.frames:
        if sighting.group.version != wanted.input.group.version:
            continue  # another group, for who has chosen this version of IP
        differs = tuple(_differences(wanted, sighting))
        if _GROUP in differs and differs != (_GROUP,):
            continue  # it has nothing in common with the flow but the port
        known: Collection[Claim] = outputs if sighting.outgoing else inputs
        if any(claim in known for claim in _claims_of(sighting)):
            continue
        found[sighting] = differs
    ranks = [_VLAN, _INTERFACE, _LOCAL, _SOURCE, _PORT, _FRAGMENTS, _GROUP]
    nearest = min(
        found.values(), key=lambda differs: (len(differs), [ranks.index(each) for each in differs]), default=()
    )
    return {sighting: differs for sighting, differs in found.items() if differs == nearest}


def _taken_by_others(source: Input, look: Look, others: Collection[RuleView]) -> dict[Sighting, str]:
    """What came in of the group and other rules take, by which rule; what is on the flow's own interface first."""
    near = (each for each in others if each.input.is_range or source.span.has_group(each.input.group))
    takers: dict[Claim, str] = {
        Claim(each.input.interface, flow): each.name or each.rule_id
        for each in sorted(near, key=lambda each: not each.input.is_range)  # the others go before ranges
        for flow in each.input.flows
    }
    seen = [each for each in look.frames if source.span.has_group(each.group) and not each.outgoing]
    seen.sort(key=lambda each: (each.interface != source.interface, -look.frames[each]))
    taken = {each: next((takers[claim] for claim in _claims_of(each) if claim in takers), "") for each in seen}
    return {each: rule for each, rule in taken.items() if rule}


def _claims_of(sighting: Sighting) -> Iterator[Claim]:
    """What a rule would take it by: first the one that names its source."""
    if sighting.flow:
        yield Claim(sighting.interface, sighting.flow)
        yield Claim(sighting.interface, attrs.evolve(sighting.flow, source=None))


def _list_taken(taken: dict[Sighting, str]) -> str:
    return _list([f"{_describe(each)}, which rule {rule} takes" for each, rule in taken.items()], "; ")


def _judge_taken(source: Input, look: Look, taken: dict[Sighting, str], see: str) -> Finding:
    """The group arrives, so neither the way nor a querier is to blame."""
    frames = counted(sum(look.frames[each] for each in taken), "frame")
    tags = _tags_of(source)
    retagged = {
        each: rule
        for each, rule in taken.items()
        if each.tags != tags and attrs.evolve(each, tags=tags) in Wanted(source)
    }
    what, ask = "of its group this does", f"does {_sender(source)} send to port {_ports(source)}?"
    if retagged:
        other = "with another tag" if source.vlan else "with a tag"
        what = f"{other if any(each.tags for each in retagged) else 'without a tag'} it does"
        how = "without a tag" if source.vlan is None else f"with the tag of VLAN {source.vlan}"
        ask = f"does {_sender(source)} send it {how}, and does no switch change that?"
    return Finding(
        "flow_arrives",
        Verdict.FAULT,
        f"{_flow(source)} does not arrive{source.whence}{source.in_vlan} on {source.interface}; {what}: "
        f"{_list_taken(retagged or taken)}",
        f"{see}, {frames} for other rules",
        f"{ask} what another rule takes already can have more outputs "
        f"there: mcrctl change {shlex.quote(next(iter(taken.values())))} --add-outputs GROUP:PORT:INTERFACE",
    )


def _tags_of(source: Input) -> tuple[Tag, ...]:
    return Sighting.of(source).tags


def _list(texts: list[str], between: str = ", ") -> str:
    return between.join(texts[:_NAMED]) + (f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else "")


def _differences(wanted: Wanted, sighting: Sighting) -> Iterator[str]:
    source = wanted.input
    if sighting.outgoing:
        yield _LOCAL  # by which interface is then of no account
        return
    if sighting.tags != _tags_of(source):
        yield _VLAN
    if sighting.interface != source.interface:
        yield _INTERFACE
    if not wanted.takes_from(sighting.source):
        yield _SOURCE
    if sighting.port is not None and not source.span.has_port(sighting.port):
        yield _PORT
    if sighting.fragment:
        yield _FRAGMENTS
    if not source.span.has_group(sighting.group):
        yield _GROUP


def _judge_astray(source: Input, look: Look, astray: dict[Sighting, tuple[str, ...]]) -> Finding:
    differs = next(iter(astray.values()))
    if differs == (_LOCAL,):
        return _judge_local(source, look, max(astray, key=lambda each: look.frames[each]))
    names = [_describe(each) for each in sorted(astray, key=lambda each: -look.frames[each])]
    wanted = "whole " if _FRAGMENTS in differs else ""
    if _VLAN in differs:
        wanted = "untagged " if source.vlan is None else f"in VLAN {source.vlan} "
    frames = counted(sum(look.frames[each] for each in astray), "frame")
    first = max(astray, key=lambda each: look.frames[each])
    untagged = [
        each.interface
        for each in look.frames
        if not each.tags and each.interface != source.interface and (each.group, each.port) == (first.group, first.port)
    ]
    return Finding(
        differs[0],
        Verdict.FAULT,
        f"{_flow(source)} does not arrive{source.whence} {wanted}on {source.interface}, but this does: {_list(names)}",
        f"{_length(look)}: {frames}",
        "; ".join(filter(None, (_remedy(each, source, first, untagged) for each in differs))),
    )


def _judge_local(source: Input, look: Look, seen: Sighting) -> Finding:
    return Finding(
        _LOCAL,
        Verdict.FAULT,
        f"this machine itself sends {_flow(source)}, out of {seen.interface}; MCR relays only what comes in",
        f"{_length(look)}: {counted(look.frames[seen], 'outgoing frame')}, none that came in",
        "send it from another machine; or through a veth pair: sudo ip link add to-mcr type veth peer name from-host; "
        "set both up, have the program send out of from-host, and add the rule with --input-interface to-mcr",
    )


def _describe(sighting: Sighting) -> str:
    text = f"{sighting.group}" if sighting.port is None else with_port(sighting.group, sighting.port)
    text += f" from {sighting.source}" if sighting.source else ""
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
    if difference == _SOURCE:
        return f"add the rule with --input-source {seen.source}, or without any; or have {_sender(source)} send"
    if difference == _PORT:
        return f"add the rule with --input-port {seen.port}, or have the source send to port {_ports(source)}"
    if difference == _FRAGMENTS:
        return _remedy_for_fragments(source)
    return (
        f"add the rule with --input-group {seen.group}, if that is the one; "
        f"otherwise check that {source.named_groups} is sent, and that the switch forwards it"
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


def _remedy_for_fragments(source: Input) -> str:
    most = 1500 - HEADERS[source.group.version]
    return (
        "a datagram is relayed when all of its fragments have come, and mcrctl stats counts the others "
        f"(fragment_…): have the source send what fits the MTU, so that less is lost: with 1500, {most:,} bytes of "
        "payload at most"
    )


def _flow(source: Input) -> str:
    return source.where


def _ports(source: Input) -> str:
    return ports_text(source.port, source.last_port)


def _sender(source: Input) -> str:
    return " or ".join(map(str, source.sources)) or "the source"


def _length(look: Look) -> str:
    return f"within {look.seconds:.1f} s" if look.seconds >= 1 else f"within {look.seconds * 1000:.0f} ms"
