"""Judges the way out: from a rule's output to the wire. Pure."""

import errno
import re
from collections.abc import Iterator
from typing import Final

from mcr.diagnosis.incoming import judge_link
from mcr.diagnosis.links import Link
from mcr.diagnosis.routes import Neighbour, Path
from mcr.errors import describe_errno
from mcr.findings import Finding, Verdict
from mcr.model import Output, OutputStats

_HEADERS = 28  # bytes of an IPv4 and a UDP header
_ERRNO = re.compile(r"\(os error (\d+)\)")
_ANSWERS: Final = {
    Neighbour.REACHABLE,
    Neighbour.STALE,
    Neighbour.DELAY,
    Neighbour.PROBE,
    Neighbour.NOARP,
    Neighbour.PERMANENT,
}
_SILENT: Final = {Neighbour.INCOMPLETE, Neighbour.FAILED}
_CONGESTED: Final = {errno.ENOBUFS, errno.EAGAIN}


def judge_output(
    output: Output,
    link: Link | None,
    path: Path | None,
    payload: int | None,
    *,
    before: OutputStats,
    after: OutputStats,
) -> Iterator[Finding]:
    """Does what the rule takes leave here?

    Args:
        output: the output.
        link: its interface; None: there is none of its name.
        path: how its host is reached; None if it is a group, or the interface is missing.
        payload: bytes of the datagrams that the rule takes, if they were seen.
        before: its counters before the look.
        after: and now.
    """
    name = output.interface
    if link is None:
        remedy = f"bring it back; remove the rules that name {name}, then add them again: mcrctl list"
        what, see = f"there is no interface {name}", f"ip link show dev {name}"
        yield Finding("output_interface", Verdict.FAULT, what, see, remedy)
        return
    yield from judge_link("output", name, link)
    if output.group.is_multicast:
        yield _judge_source_address(link)
    elif path is not None:
        yield from _judge_path(output, path)
    yield from _judge_size(output, link, payload, before, after)
    yield _judge_sending(output, before, after)


def _judge_source_address(link: Link) -> Finding:
    see = f"ip -4 address show dev {link.name}"
    if link.address is not None:
        what = f"{link.name} has an IPv4 address, the source of what leaves"
        return Finding("source_address", Verdict.OK, what, f"{see}: {link.address}")
    what = f"{link.name} has no IPv4 address: what leaves bears another interface's as its source, or 0.0.0.0"
    return Finding("source_address", Verdict.ADVICE, what, see, f"ip address add ADDRESS/LENGTH dev {link.name}")


def _judge_path(output: Output, path: Path) -> Iterator[Finding]:
    host, name = output.group, output.interface
    answers = path.neighbour in _ANSWERS
    if path.local:
        what = f"{host} is an address of this machine: what is sent there stays here, and does not leave by {name}"
        see = f"ip route get {host}: local"
        yield Finding("route", Verdict.ADVICE, what, see, "if that is not what you want, name another host")
        return
    if path.refusal is not None:
        see = f"ip route get fibmatch {host} oif {name}: {describe_errno(path.refusal)}"
        remedy = f"ip route add {host} via GATEWAY dev {name}"
        if path.elsewhere is not None and path.elsewhere != name:
            see += f"; its route leads through {path.elsewhere}"
            remedy += f", or name {path.elsewhere} in the output"
        what = f"no route to {host} leads through {name}"
        what += ", but somebody there answers for it" if answers else ", and nobody there has answered for it"
        yield Finding("route", Verdict.ADVICE if answers else Verdict.FAULT, what, see, remedy)
    else:
        way = "on the link" if path.gateway is None else f"via {path.gateway}"
        see = f"ip route get {host} oif {name}: {way}"
        yield Finding("route", Verdict.OK, f"a route to {host} leads through {name}", see)
    who = f"the gateway {path.gateway}" if path.gateway else f"the host {host}"
    hop = path.gateway or host
    see = f"ip neigh show {hop} dev {name}: {path.neighbour.name}"
    if path.neighbour in _SILENT:
        what = f"{who} does not answer ARP on {name}: what is sent there is lost, though it counts as sent"
        remedy = f"is it up, on this network, and its address right? arping -I {name} {hop}"
        yield Finding("neighbour", Verdict.FAULT, what, see, remedy)
    elif answers:
        yield Finding("neighbour", Verdict.OK, f"{who} answers on {name}", see)
    else:
        yield Finding("neighbour", Verdict.OK, f"{who} has not been asked for on {name} yet", see)


def _judge_size(
    output: Output, link: Link, payload: int | None, before: OutputStats, after: OutputStats
) -> Iterator[Finding]:
    if payload is None:
        return
    size = payload + _HEADERS
    see = f"a packet of {size:,} bytes, an MTU of {link.mtu:,}: ip link show dev {link.name}"
    if size <= link.mtu:
        yield Finding("mtu", Verdict.OK, f"what was seen fits the MTU of {link.name}", see)
        return
    remedy = f"ip link set dev {link.name} mtu {size}, all along its network; or have the source send smaller datagrams"
    if after.errors > before.errors and _last_errno(after) == errno.EMSGSIZE:
        what = f"{output} gets nothing: what comes is too large for {link.name}"
        yield Finding("mtu", Verdict.FAULT, what, f"{see}; {after.last_error}", remedy)
    else:
        what = f"what comes is too large for {link.name} and leaves in fragments, which not every receiver takes"
        yield Finding("mtu", Verdict.ADVICE, what, see, remedy)


def _judge_sending(output: Output, before: OutputStats, after: OutputStats) -> Finding:
    grown, sent = after.errors - before.errors, after.sent - before.sent
    see = f"mcrctl stats: sent {after.sent:,} (+{sent:,}), errors {after.errors:,} (+{grown:,})"
    if after.last_error:
        see += f", the last of them: {after.last_error}"
    remedy = _remedy(output, _last_errno(after))
    if grown > 0:
        what = f"sending to {output} fails" + (" in part" if sent > 0 else "")
        return Finding("sent", Verdict.FAULT, what, see, remedy)
    if after.errors and _last_errno(after) in _CONGESTED:
        what = f"{output} is sent, but some of it was lost here before"
        return Finding("sent", Verdict.ADVICE, what, see, remedy)
    if sent > 0:
        return Finding("sent", Verdict.OK, f"{output} is sent", see)
    return Finding("sent", Verdict.OK, f"nothing was due to {output} meanwhile", see)


def _last_errno(stats: OutputStats) -> int | None:
    found = _ERRNO.search(stats.last_error or "")
    return int(found[1]) if found else None


def _remedy(output: Output, number: int | None) -> str:
    name = output.interface
    remedies = {
        errno.ENETDOWN: f"did it go down? ip link show dev {name}",
        errno.ENODEV: f"{name} was deleted and made again: remove the rules that name it, then add them again",
        errno.ENETUNREACH: f"did it go down? ip link show dev {name}",
        errno.EHOSTUNREACH: f"ip route get {output.group} oif {name}",
        errno.EPERM: "a firewall of this machine refuses it: nft list ruleset",
        errno.EACCES: f"{output.group} is a broadcast address, to which MCR does not send: name a host or a group",
        errno.EMSGSIZE: f"it is too large: ip link show dev {name}; have the source send smaller datagrams",
    }
    if number in _CONGESTED:
        return f"is {name} slower than its inputs? ip -s link show dev {name}; for bursts, raise MCR_SOCKET_SNDBUF"
    return remedies.get(number or 0, "see the log of mcrd")
