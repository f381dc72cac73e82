"""Judges the interfaces of the rules. Pure: from observations to findings."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from mcr.model.finding import Finding, Verdict
from mcr.model.flow import IPV4
from mcr.model.rule import RuleState, RuleView
from mcr.net.links import Link
from mcr.rules.conditions import UNUSABLE, Attachment
from mcr.text.answers import NO_ANSWER
from mcr.text.plurals import counted

_CAUSES = 5
"""Of one kind that are named."""

_MANY = 10_000
"""One frame lost in so many is worth a finding: interfaces drop frames of protocols that nobody here speaks."""

_SOME = 10
"""Fewer lost frames are not, whatever their share: an interface that comes up drops some."""

_PPS_WITHOUT_ROUTE = 20_000
"""Datagrams per second from which a missing route costs half a percent of a core, if they leave one by one."""


def judge_presence(
    names: frozenset[str], links: Mapping[str, Link], used: Mapping[str, Attachment], renamed: Mapping[str, str]
) -> tuple[Finding, ...]:
    """Whether the interfaces that rules name are there, the same as ever, up and connected.

    Args:
        names: that rules name.
        links: those that are there.
        used: those that mcrd has sockets of.
        renamed: what those of them that were renamed are called now.
    """
    if not names:
        return (Finding("interfaces", Verdict.OK, "No rules yet, so no interfaces", "mcrctl list"),)
    judged = (_judge_presence(name, links.get(name), used.get(name), renamed.get(name, "")) for name in sorted(names))
    faults = tuple(fault for fault in judged if fault)
    if faults:
        return faults
    called = [_called(name, links[name]) for name in sorted(names)]
    return (Finding("interfaces", Verdict.OK, f"Up: {', '.join(called)}", "ip link show"),)


def missing_interfaces(
    names: frozenset[str], links: Mapping[str, Link], used: Mapping[str, Attachment]
) -> frozenset[str]:
    """Those of which `judge_presence` has something to say."""
    return frozenset(name for name in names if _judge_presence(name, links.get(name), used.get(name), ""))


def _called(name: str, link: Link) -> str:
    return name if link.name == name else f"{name} (is called {link.name} now)"


def _judge_presence(name: str, link: Link | None, used: Attachment | None, new_name: str) -> Finding | None:
    see = f"ip link show dev {link.name if link else new_name or name}"
    awaited = used is not None and used.is_awaited
    verdict = Verdict.FAULT
    if link is None and used and used.former:
        what = f"Interface {name} {f'is called {new_name} now' if new_name else 'was renamed'}, and rules name {name}"
        remedy = "give it its name back, or name the new one in the rules; mcrd uses one of that name by itself"
    elif link is None:
        what = f"Interface {name} is {'not there' if awaited else 'gone'}, and rules name it"
        remedy = f"mcrd uses one of that name {'' if awaited else 'again '}by itself"
        # Rules wait for it, as whoever added them with --wait, or wrote a file, has meant it.
        verdict = Verdict.ADVICE if awaited else Verdict.FAULT
    elif used and used.lost:
        how = "is there now" if awaited else "is another interface now"
        what = f"Interface {name} {how}, and mcrd does not use it"
        what += f": {used.fault}" if used.fault else ""
        see += f": index {link.index}" + ("" if awaited else f", and mcrd's sockets had {used.index}")
        remedy = "mcrd tries again: see its log"
    elif not link.up:
        what, remedy = f"Interface {name} is down, and rules name it", f"sudo ip link set dev {link.name} up"
    elif not link.running:
        what, remedy = f"Interface {name} has no carrier, and rules name it", "is the cable in, and the far end up?"
        see = f"{see}: NO-CARRIER or LOWERLAYERDOWN"
    else:
        return None
    return Finding("interfaces", verdict, what, see, remedy)


def judge_rules(rules: Iterable[RuleView], missing: Collection[str] = ()) -> tuple[Finding, ...]:
    """What keeps rules from being active, and what is odd about them; each cause once.

    Args:
        rules: all of them. Those that can't be used at all have a finding of their own.
        missing: interfaces of which another finding tells what they lack.
    """
    silent: defaultdict[str, list[str]] = defaultdict(list)
    odd: defaultdict[str, list[str]] = defaultdict(list)
    waits: defaultdict[str, list[str]] = defaultdict(list)
    pending: defaultdict[str, list[str]] = defaultdict(list)
    for rule in rules:
        for output in rule.outputs:
            if NO_ANSWER in output.reason:
                silent[output.reason].append(rule.rule_id)
            elif output.state is RuleState.WAITING and output.interface not in missing and not _is_unusable(rule):
                waits[output.reason].append(rule.rule_id)
        of_outputs = any(each.reason and each.reason in rule.reason for each in rule.outputs)
        if rule.state is RuleState.PENDING:
            pending[f"Rules are not in force yet: {rule.reason}"].append(rule.rule_id)
        elif rule.state is RuleState.DEGRADED and not of_outputs:
            odd[rule.reason].append(rule.rule_id)  # so it is its input
        elif rule.state is RuleState.WAITING and rule.input.interface not in missing and not _is_unusable(rule):
            waits[rule.reason].append(rule.rule_id)
        for warning in rule.warnings:
            odd[warning].append(rule.rule_id)
    arp = "is it up, on this network, and its address right? ip neigh show"
    return (
        *_by_cause("neighbour", Verdict.FAULT, silent, arp),
        *_by_cause("rule_waits", Verdict.FAULT, waits, "it goes on by itself when that is over: mcrctl why RULE"),
        *_by_cause("rule_pending", Verdict.ADVICE, pending, "what delays the workers? mcrctl list-workers"),
        *_by_cause("rule_warnings", Verdict.ADVICE, odd, "change it unless it is meant: mcrctl list"),
    )


def _is_unusable(rule: RuleView) -> bool:
    return rule.reason.startswith(UNUSABLE)


def _by_cause(check: str, verdict: Verdict, causes: Mapping[str, list[str]], remedy: str) -> Iterator[Finding]:
    for cause, rules in islice(causes.items(), _CAUSES):
        more = f" and {len(rules) - 1:,} more" if len(rules) > 1 else ""
        others = f"; and {len(causes) - _CAUSES:,} more like this" if len(causes) > _CAUSES else ""
        yield Finding(check, verdict, cause, f"mcrctl list: {rules[0]}{more}{others}", remedy)


def judge_drops(link: Link) -> tuple[Finding, ...]:
    """Whether the network card or its driver loses frames."""
    name = link.name
    findings = []
    if link.rx_missed:
        findings.append(
            Finding(
                "interface_drops",
                Verdict.ADVICE,
                f"The network card of {name} lost {link.rx_missed:,} of {link.rx_packets + link.rx_missed:,} frames",
                f"ip -s -s link show dev {name}: missed, fifo: {link.rx_missed}",
                f"enlarge its receive ring: ethtool -g {name}; sudo ethtool -G {name} rx N",
            )
        )
    for direction, dropped, passed in (
        ("incoming", link.rx_dropped, link.rx_packets),
        ("outgoing", link.tx_dropped, link.tx_packets),
    ):
        if dropped >= _SOME and dropped * _MANY > passed + dropped:
            findings.append(
                Finding(
                    "interface_drops",
                    Verdict.ADVICE,
                    f"{name} has dropped {dropped:,} of {passed + dropped:,} {direction} frames",
                    f"ip -s link show dev {name}: dropped {dropped} {direction}",
                    f"see which counter: sudo ethtool -S {name}",
                )
            )
    return tuple(findings)


def judge_merging(name: str, merging: tuple[str, ...] | None) -> Finding:
    """Whether frames are merged before they are captured: MCR takes them apart again.

    Args:
        name: of the input interface.
        merging: the features that do so; None: it does not report any.
    """
    if merging is None:
        return Finding("super_frames", Verdict.OK, f"{name} does not report offloads", f"ethtool -k {name}")
    if not merging:
        return Finding("super_frames", Verdict.OK, f"{name} does not merge frames", f"ethtool -k {name}")
    return Finding(
        "super_frames",
        Verdict.OK,
        f"{name} may merge frames, which mcrd takes apart and counts one by one",
        f"ethtool -k {name}: {', '.join(merging)} on",
    )


def judge_reverse_path(link: Link, unroutable: int) -> Finding:
    """Whether the reverse-path filter keeps IGMP queries from this machine.

    Captures come before it. A query from an address that no route leads back to is dropped by it, and then no
    membership is reported. One from 0.0.0.0, as snooping switches send it, always passes.

    Args:
        link: the input interface.
        unroutable: packets that the filter has dropped here, on any interface.
    """
    name = link.name
    evidence = f"net.ipv4.conf.{name}.rp_filter or that of all is {link.rp_filter}"
    if link.rp_filter is None:
        what = f"Whether {name} accepts IGMP queries from any address cannot be seen"
        return Finding("reverse_path", Verdict.OK, what, f"/proc/sys/net/ipv4/conf/{name}/rp_filter can't be read")
    if not link.rp_filter:
        return Finding("reverse_path", Verdict.OK, f"{name} accepts IGMP queries from any address", evidence)
    networks = ", ".join(str(address.network) for address in link.addresses)
    if networks and (link.rp_filter > 1 or not unroutable):
        return Finding(
            "reverse_path",
            Verdict.OK,
            f"{name} accepts IGMP queries from {networks} and wherever routes lead; captures come before the filter",
            evidence,
        )
    dropped = (
        f"; {counted(unroutable, 'packet')} dropped so far: nstat -az TcpExtIPReversePathFilter" if unroutable else ""
    )
    own = f", but for {networks}" if networks else " (it has no IPv4 address)"
    return Finding(
        "reverse_path",
        Verdict.ADVICE,
        f"{name} drops IGMP queries from addresses to which no route leads by {name}{own}, so they stay unanswered; "
        "switches may then stop forwarding its groups (captures are not affected)",
        evidence + dropped,
        f"sudo sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{name}.rp_filter=0",
    )


def judge_igmp_version(link: Link) -> tuple[Finding, ...]:
    """Whether somebody has forced a version of IGMP."""
    name = link.name
    if not link.forced_igmp:
        return ()
    return (
        Finding(
            "igmp_version",
            Verdict.ADVICE,
            f"IGMP version {link.forced_igmp} is forced on {name}: a switch that speaks another may not understand it",
            f"net.ipv4.conf.{name}.force_igmp_version or that of all is {link.forced_igmp}",
            f"unless it is meant: sudo sysctl -w net.ipv4.conf.{name}.force_igmp_version=0",
        ),
    )


def judge_source(link: Link, version: int = IPV4) -> tuple[Finding, ...]:
    """Whether an output interface has an address to send from, of a version of IP."""
    name = link.name
    if link.addresses if version == IPV4 else link.addresses6:
        return ()
    return (
        Finding(
            "source_address",
            Verdict.ADVICE,
            f"{name} has no IPv{version} address: packets that leave by it have another interface's address as their "
            "source",
            f"ip -{version} address show dev {name}",
            f"sudo ip address add ADDRESS/LENGTH dev {name}",
        ),
    )


def judge_route(link: Link, route: str | None, pps: int, *, raw: bool) -> Finding:
    """Whether datagrams to groups that leave by an interface have a route that the kernel may keep.

    Without one (a default route is none) it makes one for each send and throws it away: 280 ns of 1,250 for a
    datagram alone, 14 ns of 390 for one of a GSO batch of 16 (measured on veth, Linux 6.18).

    Args:
        link: the output interface.
        route: what leads to one of its groups by it.
        pps: datagrams to groups that leave by it, a second.
        raw: they leave as raw frames.
    """
    name = link.name
    if raw:
        return Finding(
            "group_route", Verdict.OK, f"{name} does not need a route for its groups", "raw frames do not use routes"
        )
    if route is not None and int(route.rpartition("/")[2]) >= 4:  # noqa: PLR2004 - the kernel keeps no shorter ones
        return Finding("group_route", Verdict.OK, f"{name} has a route for its groups", f"ip route: {route}")
    evidence = f"ip route show dev {name}: none of 224.0.0.0/4"
    if pps < _PPS_WITHOUT_ROUTE:
        return Finding(
            "group_route",
            Verdict.OK,
            f"{name} has no route for its groups, and at this rate does not need one",
            evidence,
        )
    return Finding(
        "group_route",
        Verdict.ADVICE,
        f"{name} has no route for its groups: the kernel makes one for every send, which costs up to 0.3 µs per packet",
        f"{evidence}; {pps:,.0f} packets per second leave by it",
        f"sudo ip route append 224.0.0.0/4 dev {name}",
    )
