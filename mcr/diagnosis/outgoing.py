"""Judges the way out: from a rule's output to the wire. Pure."""

import errno
from collections.abc import Iterator
from typing import Final

from mcr.diagnosis.incoming import judge_link, turn_ipv6_on
from mcr.diagnosis.present import describe_missing
from mcr.diagnosis.send_errors import explain_error, is_lately, last_errno, newest_error
from mcr.errors import describe_errno
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import IPV4, IPV6, Address, resolution_to
from mcr.model.full_table import MAKE_ROOM, describe_full
from mcr.model.rule import Output, OutputView, RuleState
from mcr.model.stats import OutputStats
from mcr.net.arp import ASKED_TIMES
from mcr.net.links import Link
from mcr.net.routes import Neighbour, Path
from mcr.text.answers import NO_ANSWER

HEADERS: Final = {IPV4: 28, IPV6: 48}
"""Bytes of an IP and a UDP header, by the version of IP."""

_ANSWERS: Final = {Neighbour.REACHABLE, Neighbour.NOARP, Neighbour.PERMANENT}
_CONGESTED: Final = {errno.ENOBUFS, errno.EAGAIN}


def judge_output(
    output: OutputView,
    link: Link | None,
    path: Path | None,
    payload: int | None,
    *,
    before: OutputStats,
    after: OutputStats,
    local_receiver: bool = False,
) -> Iterator[Finding]:
    """Does what the rule takes leave here?

    Args:
        output: the output.
        link: its interface; None: there is none of its name.
        path: how it is reached; None if the interface is missing.
        payload: bytes of the datagrams that the rule takes, if they were seen.
        before: its counters before the look.
        after: and now.
        local_receiver: a program on this machine has joined the group there and listens on the port.
    """
    name = output.interface
    if link is None:
        what, remedy = describe_missing(name, output.reason)
        yield Finding("output_interface", Verdict.FAULT, what, f"ip link show dev {name}", remedy)
        return
    yield from judge_link("output", name, link)
    if output.group.is_multicast:
        if output.source is None:
            yield _judge_source_address(link) if output.group.version == IPV4 else _judge_source_address6(link)
        if local_receiver:
            yield _judge_local_receiver(output, link)
    if path is not None:
        yield from _judge_path(output, link, path)
    if output.state is RuleState.WAITING and NO_ANSWER not in output.reason:  # which was asked anew
        go_on = "the output goes on by itself when that is over"
        yield Finding("output_waits", Verdict.FAULT, output.reason, f"mcrctl list: {output} waiting", go_on)
    yield from _judge_size(output, link, payload, before, after)
    yield _judge_sending(output, before, after)


def _judge_source_address(link: Link) -> Finding:
    see = f"ip -4 address show dev {link.name}"
    if link.address is not None:
        what = f"{link.name} has an IPv4 address, the source of the packets that leave"
        return Finding("source_address", Verdict.OK, what, f"{see}: {link.address}")
    what = (
        f"{link.name} has no IPv4 address: packets leave with another interface's address as their source, or 0.0.0.0"
    )
    return Finding("source_address", Verdict.ADVICE, what, see, f"sudo ip address add ADDRESS/LENGTH dev {link.name}")


def _judge_source_address6(link: Link) -> Finding:
    see = f"ip -6 address show dev {link.name}"
    if link.addresses6:
        what = f"{link.name} has an IPv6 address, from which packets leave"
        shown = ", ".join(str(each.ip) for each in link.addresses6)
        return Finding("source_address", Verdict.OK, what, f"{see}: {shown}")
    what = f"{link.name} has no IPv6 address: packets leave with another interface's address as their source, if at all"
    return Finding("source_address", Verdict.ADVICE, what, see, turn_ipv6_on(link.name))


def _judge_local_receiver(output: Output, link: Link) -> Finding:
    see = f"/proc/net/{'igmp' if output.group.version == IPV4 else 'igmp6'}; ss -lnup 'sport = :{output.port}'"
    what = (
        f"a program on this machine has joined {output.group} on {output.interface} and listens on port {output.port}"
    )
    if link.loopback:
        return Finding("local_receiver", Verdict.OK, f"{what}: it gets what MCR sends there", see)
    return Finding(
        "local_receiver",
        Verdict.ADVICE,
        f"{what}: it does not get what MCR sends there, only other machines do",
        see,
        "have it join the rule's input group on the input interface, where it gets what MCR gets; or join "
        f"{output.group} on lo, with one more output of the rule: "
        f"mcrctl change RULE --add-outputs {output.where}:lo",
    )


def _judge_path(output: Output, link: Link, path: Path) -> Iterator[Finding]:
    host, name = output.group, output.interface
    if path.local:
        what = f"{host} is an address of this machine: what is sent there stays here, and does not leave by {name}"
        see = f"ip route get {host}: local"
        yield Finding("route", Verdict.ADVICE, what, see, "if that is not what you want, name another host")
        return
    if path.broadcast:
        what = f"{host} is a broadcast address: every host on the network of {name} gets what is sent to it"
        yield Finding("route", Verdict.OK, what, f"ip -4 address show dev {name}: brd")
        return
    if output.group.is_multicast:
        if path.gateway is not None:
            yield _judge_gateway_of_group(output, path.gateway)
            yield from _judge_room(output, path)
            yield _judge_neighbour(output, path)
        return
    yield _judge_route(output, link, path)
    if link.arp:
        yield from _judge_room(output, path)
        yield _judge_neighbour(output, path)


def _judge_gateway_of_group(output: Output, gateway: Address) -> Finding:
    what = f"the route to {output.group} leads via {gateway}: frames go to that gateway alone, not to the group"
    see = f"ip route get {output.group} oif {output.interface}: via {gateway}"
    remedy = f"unless that is meant: sudo ip route replace {output.group} dev {output.interface}"
    return Finding("route", Verdict.ADVICE, what, see, remedy)


def _judge_route(output: Output, link: Link, path: Path) -> Finding:
    host, name = output.group, output.interface
    if path.refusal is None:
        way = "on the link" if path.gateway is None else f"via {path.gateway}"
        see = f"ip route get {host} oif {name}: {way}"
        return Finding("route", Verdict.OK, f"a route to {host} leads through {name}", see)
    see = f"ip route get fibmatch {host} oif {name}: {describe_errno(path.refusal)}"
    if not link.arp:
        what = f"{name} is a point-to-point link: what is sent to {host} leaves by it without a route"
        return Finding("route", Verdict.OK, what, f"ip link show dev {name}: NOARP or POINTOPOINT")
    remedy = f"sudo ip route add {host} via GATEWAY dev {name}"
    if link.address is None:  # the kernel refuses a gateway that it has no network for
        see += f"; ip -4 address show dev {link.name}: none"
        remedy = f"sudo ip address add ADDRESS/LENGTH dev {link.name}; then, if {host} is not in its network, {remedy}"
    if path.elsewhere is not None and path.elsewhere != name:
        see += f"; its route leads through {path.elsewhere}"
        remedy += f", or name {path.elsewhere} in the output"
    answers = path.answered or (path.neighbour in _ANSWERS and not path.dead)
    what = f"no route to {host} leads through {name}"
    what += ", but somebody there answers for it" if answers else ", and nobody there has answered for it"
    return Finding("route", Verdict.ADVICE if answers else Verdict.FAULT, what, see, remedy)


def _judge_room(output: Output, path: Path) -> Iterator[Finding]:
    """Whether IP can have an entry for the neighbour. It may answer all the same, and nothing may be sent to it now."""
    if path.full:
        name, hop = output.interface, path.gateway or output.group
        see = f"ip neigh show {hop} dev {name}: nothing"
        yield Finding("neighbour", Verdict.ADVICE, describe_full(output.group, name, hop, path.full), see, MAKE_ROOM)


def _judge_neighbour(output: Output, path: Path) -> Finding:
    name, hop = output.interface, path.gateway or output.group
    who = f"the gateway {hop}" if path.gateway else f"the host {hop}"
    see = f"ip neigh show {hop} dev {name}: {path.neighbour.name}"
    lost = "what is sent there is lost, though it counts as sent"
    by = resolution_to(hop)
    test = f"sudo arping -I {name} {hop}" if hop.version == IPV4 else f"ping -I {name} {hop}"
    remedy = f"is it up, on this network, and its address right? {test}"
    if path.answered:
        return Finding("neighbour", Verdict.OK, f"{who} answers on {name}", see)
    if path.answered is False:
        see += f", and no answer to {ASKED_TIMES} ARP requests"
        if path.neighbour is Neighbour.REACHABLE:  # it was there a moment ago
            what = f"{who} does not answer {by} on {name} just now: if that lasts, {lost}"
            return Finding("neighbour", Verdict.ADVICE, what, see, remedy)
    if path.dead:
        return Finding("neighbour", Verdict.FAULT, f"{who} does not answer {by} on {name}: {lost}", see, remedy)
    if path.neighbour in _ANSWERS:
        return Finding("neighbour", Verdict.OK, f"{who} answers on {name}", see)
    return Finding("neighbour", Verdict.OK, f"whether {who} answers on {name} is not known", see)


def _judge_size(
    output: Output, link: Link, payload: int | None, before: OutputStats, after: OutputStats
) -> Iterator[Finding]:
    if payload is None:
        return
    size = payload + HEADERS[output.group.version]
    see = f"a packet of {size:,} bytes, an MTU of {link.mtu:,}: ip link show dev {link.name}"
    if size <= link.mtu:
        yield Finding("mtu", Verdict.OK, f"what was seen fits the MTU of {link.name}", see)
        return
    remedy = (
        f"sudo ip link set dev {link.name} mtu {size}, all along its network; or have the source send smaller datagrams"
    )
    if after.errors > before.errors and last_errno(after) == errno.EMSGSIZE:
        what = f"{output} gets nothing: what comes is too large for {link.name}"
        yield Finding("mtu", Verdict.FAULT, what, f"{see}; {describe_errno(errno.EMSGSIZE)}", remedy)
    else:
        what = f"what comes is too large for {link.name} and leaves in fragments, which not every receiver takes"
        yield Finding("mtu", Verdict.ADVICE, what, see, remedy)


def _judge_sending(output: Output, before: OutputStats, after: OutputStats) -> Finding:
    grown, sent = after.errors - before.errors, after.sent - before.sent
    see = f"mcrctl stats: sent {after.sent:,} (+{sent:,}), errors {after.errors:,} (+{grown:,})"
    see += newest_error([after])
    remedy = _remedy(output, last_errno(after))
    if grown > 0:
        what = f"sending to {output} fails" + (" in part" if sent > 0 else "")
        return Finding("sent", Verdict.FAULT, what, see, remedy)
    if after.errors and last_errno(after) in _CONGESTED and is_lately(after):
        what = f"{output} is sent, but some of it was lost here before"
        return Finding("sent", Verdict.ADVICE, what, see, remedy)
    if sent > 0:
        return Finding("sent", Verdict.OK, f"{output} is sent", see)
    return Finding("sent", Verdict.OK, f"nothing was due to {output} meanwhile", see)


def _remedy(output: Output, number: int | None) -> str:
    explained = explain_error(number, output.interface, output.group)
    return ": ".join(explained) if explained else "see the log of mcrd"
