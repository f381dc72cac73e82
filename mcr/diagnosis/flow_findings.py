"""Judges the flows of the rules, and whether hosts are there to receive them. Pure: from observations to findings."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import attrs

from mcr.model.finding import Finding, Verdict
from mcr.model.flow import IPV4, Address, Input, resolution_to
from mcr.model.full_table import MAKE_ROOM, describe_full
from mcr.model.stats import RuleStats, Stats
from mcr.net.routes import Neighbour, Path
from mcr.stats.activity import SILENT_SECONDS
from mcr.tap.sighting import Sighting
from mcr.text.addresses import with_port
from mcr.text.plurals import counted, were

IDLE_SECONDS: Final = SILENT_SECONDS
"""Seconds. A rule that has matched nothing for longer is worth a finding."""

_FEW_PPS: Final = 10.0
"""Datagrams per second that no rule takes: more are worth a finding."""

_NAMED = 3  # things of a kind in one finding, at most


@attrs.frozen
class Idle:
    """A rule that matches nothing.

    Attributes:
        source: its input, by the interface's own name.
        seconds: for how long, at least.
    """

    rule: RuleStats
    source: Input
    seconds: float


def find_idle(stats: Stats, sources: Mapping[str, Input], idle: Mapping[str, float]) -> tuple[Idle, ...]:
    """Rules that have matched nothing so far, or for a while.

    Args:
        stats: the counters.
        sources: inputs of the rules, by id.
        idle: seconds for which each has matched nothing.
    """
    return tuple(
        Idle(rule, sources[rule.rule_id], idle.get(rule.rule_id, 0.0))
        for rule in stats.rules
        if rule.rule_id in sources and (not rule.matched or idle.get(rule.rule_id, 0.0) >= IDLE_SECONDS)
    )


def judge_matches(stats: Stats, idle: Collection[Idle], strays: Mapping[Sighting, int]) -> Iterator[Finding]:
    """Whether every rule gets something, and what arrives instead.

    Args:
        stats: the counters.
        idle: the rules that get nothing.
        strays: frames of flows that arrive and no rule takes.
    """
    ingress = stats.ingress
    evidence = f"mcrctl stats: recv={ingress.recv} matched={ingress.matched} no_match={ingress.no_match}"
    if not stats.rules:
        yield Finding("matched", Verdict.OK, "No rules yet", evidence)
        return
    astray = [(each, kin) for each in idle if (kin := _kin(each.source, strays))]
    for each, kin in astray[:_NAMED]:
        yield _judge_astray(each, kin, strays)
    left = [each for each in idle if each not in {each for each, _ in astray[:_NAMED]}]
    never = [each for each in left if not each.rule.matched]
    silent = [each for each in left if each.rule.matched]
    if never:
        yield _judge_never(never, stats, evidence)
    if silent:
        yield _judge_silent(silent, len(stats.rules))
    if not idle:
        yield Finding("matched", Verdict.OK, "Every rule has matched packets", evidence)


def judge_unmatched(stats: Stats) -> Finding:
    """Whether much arrives that no rule takes, as the alert `McrNoRule` has it."""
    ingress = stats.ingress
    evidence = f"mcrctl stats: no_match={ingress.no_match}"
    if ingress.no_match_pps <= _FEW_PPS:
        return Finding("no_match", Verdict.OK, "Hardly anything arrives now that no rule takes", evidence)
    there = sorted((each for each in stats.interfaces if each.no_match), key=lambda each: -each.no_match)
    look = "; ".join(f"sudo mcrctl trace --unmatched {each.interface}" for each in there[:_NAMED])
    return Finding(
        "no_match",
        Verdict.ADVICE,
        f"{ingress.no_match_pps:,.0f} datagrams per second arrive that no rule takes",
        evidence,
        f"is a rule missing, or has it another port? {look} shows what they are",
    )


def _kin(source: Input, strays: Mapping[Sighting, int]) -> list[Sighting]:
    """Strays like the rule's flow: its group with another port, or its port with another group; most frames first."""
    here = [each for each in strays if each.interface == source.interface]
    here = [each for each in here if each.group.version == source.group.version]
    span = source.span
    kin = [each for each in here if span.has_group(each.group)] or [each for each in here if span.has_port(each.port)]
    return sorted(kin, key=lambda each: -strays[each])


def _judge_astray(idle: Idle, kin: list[Sighting], strays: Mapping[Sighting, int]) -> Finding:
    source, rule = idle.source, idle.rule
    names = ", ".join(map(_flow, kin[:_NAMED]))
    names += f" and {len(kin) - _NAMED:,} more" if len(kin) > _NAMED else ""
    names += " does" if len(kin) == 1 else " do"
    since = f"for {idle.seconds:,.0f} s" if rule.matched else "so far"
    return Finding(
        "matched",
        Verdict.ADVICE,
        f"Rule {_name(rule)} has matched nothing {since}: {source.where} does not arrive"
        f"{source.whence}{source.in_vlan} on {source.interface}, but {names}, which no rule takes",
        f"{counted(sum(strays[each] for each in kin), 'frame')} of it within half a second",
        f"mcrctl why {rule.rule_id}",
    )


def _judge_never(never: list[Idle], stats: Stats, evidence: str) -> Finding:
    ingress, first = stats.ingress, max(never, key=lambda each: each.seconds)
    if len(never) == 1:
        which = f"Rule {_name(first.rule)} has matched no packet so far"
    else:
        which = (
            f"{len(never):,} of {len(stats.rules):,} rules, such as {_name(first.rule)}, have matched no packet so far"
        )
    ask = f"mcrctl why {first.rule.rule_id}"
    if not ingress.matched and ingress.no_match:
        return Finding(
            "matched", Verdict.ADVICE, f"Packets arrive, but no rule has matched one: {which}", evidence, ask
        )
    if first.seconds >= IDLE_SECONDS:
        what = f"{which}, in {first.seconds:,.0f} s"
        return Finding("matched", Verdict.ADVICE, what, evidence, f"if its source should send: {ask}")
    return Finding("matched", Verdict.OK, which, evidence, f"if there should be some: {ask}")


def _judge_silent(silent: list[Idle], rules: int) -> Finding:
    first = min(silent, key=lambda each: each.seconds)
    since = f"matched nothing for {first.seconds:,.0f} s"
    if len(silent) == 1:
        what = f"Rule {_name(first.rule)} has {since}"
    else:
        what = f"{len(silent):,} of {rules:,} rules have matched nothing for a minute or more"
        what += f": {_name(first.rule)} has {since}"
    return Finding(
        "matched",
        Verdict.ADVICE,
        what,
        f"mcrctl stats: matched {first.rule.matched:,} before",
        f"if its source should send: mcrctl why {first.rule.rule_id}",
    )


def judge_neighbours(
    paths: Mapping[tuple[Address, str], Path], stats: Stats, left_out: int, waiting: int
) -> Iterator[Finding]:
    """Whether the hosts that outputs send to answer.

    Args:
        paths: how hosts are reached, by address and name of the interface that rules know.
        stats: the counters.
        left_out: hosts that were not asked, as they are too many.
        waiting: hosts that were not asked, as other findings tell what their outputs wait for.
    """
    sent: defaultdict[tuple[Address, str], int] = defaultdict(int)
    for rule in stats.rules:
        for output in rule.outputs:
            sent[output.group, output.interface] += output.sent
    dead: defaultdict[str, list[Address]] = defaultdict(list)
    paths = {key: path for key, path in paths.items() if not path.broadcast}  # which nobody answers for
    for (host, name), path in paths.items():
        if path.dead:
            dead[name].append(host)
    for name, hosts in dead.items():
        packets = sum(sent[host, name] for host in hosts)
        first = paths[hosts[0], name]
        hop = first.gateway or hosts[0]
        is_ipv4 = hop.version == IPV4
        who = f"the gateway {first.gateway} to {hosts[0]}" if first.gateway else f"the host {hosts[0]}"
        who += f" and {len(hosts) - 1:,} more" if len(hosts) > 1 else ""
        lost = f"what is sent there is lost, though it counts as sent ({counted(packets, 'packet')} so far)"
        lately = all(paths[host, name].neighbour is Neighbour.REACHABLE for host in hosts)  # a reply may get lost
        yield Finding(
            "neighbours",
            Verdict.ADVICE if lately else Verdict.FAULT,
            f"On {name} {who} {'do' if len(hosts) > 1 else 'does'} not answer {resolution_to(hop)}: {lost}",
            f"ip neigh show dev {name}{'; no answer to 3 ARP requests' if is_ipv4 else ''}",
            f"is it up, on this network, and its address right? {'sudo arping' if is_ipv4 else 'ping'} -I {name} {hop}",
        )
    roomless = [key for key, path in paths.items() if path.full]
    for host, name in roomless[:1]:
        path = paths[host, name]
        what = describe_full(host, name, path.gateway or host, path.full)
        see = f"ip neigh show dev {name}; so it is with {len(roomless):,} of the hosts that outputs send to"
        yield Finding("neighbours", Verdict.ADVICE, what, see, MAKE_ROOM)
    if paths and not dead:
        see = "ARP requests, and what the kernel knows: ip neigh"
        if left_out:
            see += f"; {left_out:,} {were(left_out)} not asked"
        yield Finding("neighbours", Verdict.OK, _who_answers(left_out, waiting), see)


def _who_answers(left_out: int, waiting: int) -> str:
    if waiting:
        return "The other hosts that outputs send to answer" + (", as far as they were asked" if left_out else "")
    return "Hosts that outputs send to answer" if left_out else "Every host that outputs send to answers"


def _flow(sighting: Sighting) -> str:
    return with_port(sighting.group, sighting.port) + (f" from {sighting.source}" if sighting.source else "")


def _name(rule: RuleStats) -> str:
    return rule.name or rule.rule_id
