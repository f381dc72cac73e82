"""Reads firewall rules from the kernel. It only looks; others judge."""

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from mcr.errors import describe_errno
from mcr.net import uapi

_IP_HOOKS = {
    uapi.NF_INET_PRE_ROUTING: "prerouting",
    uapi.NF_INET_LOCAL_IN: "input",
    uapi.NF_INET_LOCAL_OUT: "output",
    uapi.NF_INET_POST_ROUTING: "postrouting",
}
_FAMILIES = {  # with their hooks; others never see what leaves or comes in as IPv4
    uapi.NFPROTO_INET: ("inet", _IP_HOOKS | {uapi.NF_INET_INGRESS: "ingress"}),
    uapi.NFPROTO_IPV4: ("ip", _IP_HOOKS),
    uapi.NFPROTO_NETDEV: ("netdev", {uapi.NF_NETDEV_INGRESS: "ingress", uapi.NF_NETDEV_EGRESS: "egress"}),
}
_IGMP = b"\x02"  # IPPROTO_IGMP
_ABSENT = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)  # a kernel without nftables, or without netfilter


LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")
"""Names of the tables of legacy iptables that are loaded, in the network namespace of who opens it."""


@attrs.frozen
class Chain:
    """A chain of filter rules that the kernel asks about packets (nftables, or iptables-nft).

    Attributes:
        table: family and name.
        hook: where it is asked.
        drops: its policy: what no rule decides is dropped.
        rules: how many it has.
        igmp: a rule somewhere in its table may be about IGMP.
        kind: of chain: ``filter``, ``nat`` or ``route``.
    """

    table: str
    name: str
    hook: str
    drops: bool
    rules: int
    igmp: bool
    kind: str = "filter"

    @property
    def decides(self) -> bool:
        """Whether it could make any difference."""
        return self.drops or self.rules > 0


@attrs.frozen
class Firewall:
    """The firewall of a network namespace.

    Attributes:
        chains: those of nftables.
        legacy: names of the tables of legacy iptables that are loaded; their rules can't be seen here.
        hidden: why nftables can't be seen; empty if it can.
        legacy_hidden: whether legacy iptables is loaded can't be seen.
    """

    chains: tuple[Chain, ...] = ()
    legacy: tuple[str, ...] = ()
    hidden: str = ""
    legacy_hidden: bool = False

    def at(self, *hooks: str) -> tuple[Chain, ...]:
        """Its chains at these hooks that could make a difference."""
        return tuple(each for each in self.chains if each.kind == "filter" and each.hook in hooks and each.decides)

    @property
    def closed_to_queries(self) -> tuple[Chain, ...]:
        """Chains that drop IGMP queries unless a rule lets in what it does not name: drop by default, none for IGMP."""
        return tuple(each for each in self.at("prerouting", "input") if each.drops and not each.igmp)


def look_at_firewall() -> Firewall:
    """Ask the kernel, in the network namespace of the calling thread."""
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - slow to import, seldom needed
    from pyroute2.nftables.main import NFTables  # noqa: PLC0415

    legacy = legacy_tables()
    found = Firewall(legacy=legacy or (), legacy_hidden=legacy is None)
    try:
        with NFTables(nfgen_family=0) as netlink:
            return attrs.evolve(found, chains=tuple(_chains(netlink.get_chains(), netlink.get_rules())))
    except NetlinkError as error:
        code = error.code
    except OSError as error:
        code = error.errno or 0
    return found if code in _ABSENT else attrs.evolve(found, hidden=describe_errno(code))


def legacy_tables() -> tuple[str, ...] | None:
    """Names of the tables of legacy iptables that are loaded; None if only root may know."""
    try:
        return tuple(LEGACY_TABLES.read_text().split())
    except FileNotFoundError:  # not in this kernel
        return ()
    except OSError:
        return None


def _chains(chains: Iterable[Any], rules: Iterable[Any]) -> Iterable[Chain]:
    by_table: dict[tuple[int, str], list[Any]] = {}
    for rule in rules:
        by_table.setdefault((rule["nfgen_family"], rule.get_attr("NFTA_RULE_TABLE")), []).append(rule)
    for chain in chains:
        hook, family = chain.get_attr("NFTA_CHAIN_HOOK"), chain["nfgen_family"]
        if hook is None or family not in _FAMILIES:
            continue
        family_name, hooks = _FAMILIES[family]
        if (number := hook.get_attr("NFTA_HOOK_HOOKNUM")) not in hooks:
            continue
        table, name = chain.get_attr("NFTA_CHAIN_TABLE"), chain.get_attr("NFTA_CHAIN_NAME")
        siblings = by_table.get((family, table), [])
        yield Chain(
            table=f"{family_name} {table}",
            name=name,
            hook=hooks[number],
            drops=chain.get_attr("NFTA_CHAIN_POLICY") == uapi.NF_DROP,
            rules=sum(rule.get_attr("NFTA_RULE_CHAIN") == name for rule in siblings),
            igmp=any(map(_may_be_about_igmp, siblings)),
            kind=chain.get_attr("NFTA_CHAIN_TYPE"),
        )


def _may_be_about_igmp(rule: Any) -> bool:
    """Whether it compares a single byte with the number of IGMP, as a test for the protocol does; or looks in a set."""
    for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ():
        kind = expression.get_attr("NFTA_EXPR_NAME")
        if kind == "lookup":
            return True
        if kind == "cmp":
            data = expression.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_CMP_DATA")
            if data is not None and data.get_attr("NFTA_DATA_VALUE") == _IGMP:
                return True
    return False
