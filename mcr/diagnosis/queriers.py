"""Judges the queriers of an input interface (IGMP, MLD): without queries snooping switches stop forwarding. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from mcr.actors.querier_watch import Hearing
from mcr.model.finding import Finding, Verdict
from mcr.net.firewall import Firewall
from mcr.text.plurals import counted

IGMP: Final = "IGMP"
MLD: Final = "MLD"

_NOT_SENT_HERE: Final = "does a program on this machine send it, and out of the loopback interface?"
_NOT_TUNNELLED: Final = (
    "does the source send? does the other end of the tunnel send the group into it (a multicast route), and does its "
    "TTL reach here?"
)
_QUERY_SECONDS: Final = 125  # between two queries, by default (RFC 3376, 8.2)


@attrs.frozen
class Queriers:
    """Observations of the queriers on an input interface.

    Attributes:
        heard: queries that the IP stack took, and so answers.
        unheard: queries that were seen on the wire while it took none.
        firewall: of this machine, looked at where a query is missing.
        unroutable: packets that the reverse-path filter dropped during the look.
        loopback: it is the loopback interface, or what is taken is no group: nobody has to ask.
        tunnel: it is a point-to-point link, where no switch is.
        protocol: that they speak: IGMP, or of IPv6 MLD.
    """

    heard: Hearing
    unheard: int = 0
    firewall: Firewall = attrs.field(factory=Firewall)
    unroutable: int = 0
    loopback: bool = False
    tunnel: bool = False
    protocol: str = IGMP


def judge_querier_of_a_flow(name: str, queriers: Queriers) -> Iterator[Finding]:
    """A flow arrives: whether it will go on."""
    heard, protocol = queriers.heard, queriers.protocol
    if queriers.loopback:
        return
    if queriers.unheard:
        what, see, remedy = _dropped_queries(name, queriers)
        what += ": a switch there that snoops will stop forwarding"
        yield Finding("querier", Verdict.ADVICE, what, see, remedy)
    elif heard.lately:
        yield Finding("querier", Verdict.OK, f"an {protocol} querier is on {name}", _last_query(queriers))
    elif queriers.tunnel:
        return
    elif heard.listening is not None and heard.listening >= heard.holds:
        see = _last_query(queriers)
        if queriers.firewall.closed_to_queries:
            what, more, remedy = _closed_firewall(queriers)
            what = (
                f"no {protocol} query is heard on {name}, and {what}: a switch there that snoops will stop forwarding"
            )
            yield Finding("querier", Verdict.ADVICE, what, f"{see}; {more}", remedy)
        elif heard.ago is None:
            what = f"no {protocol} querier is on {name}: a switch there that snoops would stop forwarding"
            yield Finding("querier", Verdict.ADVICE, what, see, "if there is such a switch, enable its querier")
        else:
            yield _gone(name, queriers)


def judge_gone(heard: Mapping[str, Hearing]) -> Iterator[Finding]:
    """Queriers that were heard on input interfaces, by their names, and that a switch has given up by now."""
    for name, each in heard.items():
        if each.listening is not None and each.ago is not None and not each.lately:
            yield _gone(name, Queriers(each))


def _gone(name: str, queriers: Queriers) -> Finding:
    heard, protocol = queriers.heard, queriers.protocol
    what = f"the {protocol} querier on {name} has gone silent: a switch there that snoops will stop forwarding"
    remedy = f"see what became of {heard.querier}, or enable the querier of another switch or router"
    return Finding("querier", Verdict.ADVICE, what, _last_query(queriers), remedy)


def judge_querier_without_a_flow(name: str, queriers: Queriers, what: str, see: str) -> Finding:
    """Nothing of the flow arrives: whether a missing querier is the reason.

    Args:
        name: of the input interface.
        queriers: of the input interface.
        what: what is missing.
        see: how that was seen.
    """
    heard, protocol = queriers.heard, queriers.protocol
    if queriers.unheard:
        cause, more, remedy = _dropped_queries(name, queriers)
        return Finding("querier", Verdict.FAULT, f"{what}; {cause}", f"{see}; {more}", remedy)
    if queriers.loopback or queriers.tunnel:
        return Finding(
            "flow_arrives", Verdict.FAULT, what, see, _NOT_SENT_HERE if queriers.loopback else _NOT_TUNNELLED
        )
    if heard.listening is None:
        return _not_sent(what, f"{see}; mcrd could not listen for queriers: see its log")
    if queriers.firewall.closed_to_queries and (heard.overdue or not heard.lately):
        cause, more, remedy = _closed_firewall(queriers)
        what += f", and no {protocol} query is heard: {cause}, so the switch may not know that the group is wanted"
        return Finding("querier", Verdict.FAULT, what, f"{see}; {_last_query(queriers)}; {more}", remedy)
    early = heard.ago is None and heard.listening <= _QUERY_SECONDS  # the next one may still be to come
    if heard.lately or early:
        return _not_sent(what, see if early else f"{see}; {_last_query(queriers)}")
    if heard.ago is None:
        what += f", and no {protocol} querier is heard: a switch that snoops forgets who asked"
        remedy = f"enable the {protocol} querier of the switch or router, or turn snooping off"
    else:
        what += f", and the {protocol} querier has gone silent: a switch that snoops forgets who asked"
        another = f"enable the {protocol} querier of another switch or router, or turn snooping off"
        remedy = f"see what became of {heard.querier}, {another}"
    remedy = f"does the source send? if it does, and a switch on the way snoops, {remedy}"
    return Finding("querier", Verdict.FAULT, what, f"{see}; {_last_query(queriers)}", remedy)


def _not_sent(what: str, see: str) -> Finding:
    remedy = "does the source send? does its TTL reach here? does the switch, or a firewall on the way, let it pass?"
    return Finding("flow_arrives", Verdict.FAULT, what, see, remedy)


def _dropped_queries(name: str, queriers: Queriers) -> tuple[str, str, str]:
    """Queries arrive and the IP stack takes none: what is wrong, where to see it, what to do."""
    protocol = queriers.protocol
    number = f"an {protocol} query" if queriers.unheard == 1 else f"{queriers.unheard:,} {protocol} queries"
    what = f"{protocol} queries reach {name}, but this machine drops them, so its groups are not reported to the switch"
    see = f"{number} came in, and the IP stack took none"
    reverse_path = f"sudo sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{name}.rp_filter=0"
    if queriers.firewall.closed_to_queries:
        cause, more, remedy = _closed_firewall(queriers)
        return f"{what}: {cause}", f"{see}; {more}", remedy
    if queriers.unroutable:
        see += f"; nstat -az TcpExtIPReversePathFilter: +{queriers.unroutable:,}"
        return f"{what}: the reverse-path filter finds no route back to the querier", see, reverse_path
    if chains := queriers.firewall.at("prerouting", "input"):
        see += "; " + "; ".join(
            f"table {each.table}, chain {each.name} has {counted(each.rules, 'rule')}" for each in chains
        )
    elif queriers.firewall.legacy:
        see += "; iptables rules are loaded"
    elif queriers.firewall.hidden:
        see += f"; nftables rules cannot be seen: {queriers.firewall.hidden}"
    if protocol == MLD:
        remedy = "let the firewall accept MLD: sudo nft list ruleset; sudo ip6tables-save"
        return f"{what}: a firewall rule", see, remedy
    remedy = f"let the firewall accept IGMP: sudo nft list ruleset; sudo iptables-save; or: {reverse_path}"
    return f"{what}: a firewall rule or the reverse-path filter", see, remedy


def _closed_firewall(queriers: Queriers) -> tuple[str, str, str]:
    chain, is_mld = queriers.firewall.closed_to_queries[0], queriers.protocol == MLD
    queries = "icmpv6 type mld-listener-query" if is_mld else "ip protocol igmp"
    return (
        f"the firewall of this machine has no rule that accepts {queriers.protocol}",
        f"sudo nft list chain {chain.table} {chain.name}: policy drop",
        f"sudo nft insert rule {chain.table} {chain.name} {queries} accept",
    )


def _last_query(queriers: Queriers) -> str:
    heard = queriers.heard
    if heard.ago is None or heard.querier is None:
        text = f"no {queriers.protocol} query since mcrd began to listen {_time(heard.listening or 0.0)} ago"
        early = heard.listening is not None and heard.listening <= _QUERY_SECONDS
        return f"{text}; by default there is one every {_QUERY_SECONDS} s" if early else text
    text = f"the last {queriers.protocol} query came from {heard.querier} {_time(heard.ago)} ago"
    return text if heard.interval is None else f"{text}; they came every {_time(heard.interval)}"


def _time(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 1 else "less than 1 s"
