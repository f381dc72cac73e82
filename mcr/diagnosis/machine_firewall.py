"""What the kernel says of firewall rules. It only looks; `machine_findings` judges."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from mcr.errors import describe_errno

_FAMILIES = {1: "inet", 2: "ip"}  # NFPROTO_INET, NFPROTO_IPV4; others never see what leaves or comes in as IPv4
_HOOKS = {0: "prerouting", 1: "input", 3: "output", 4: "postrouting"}  # <linux/netfilter.h>
_DROP = 0  # NF_DROP
_IGMP = b"\x02"  # IPPROTO_IGMP


@attrs.frozen
class Chain:
    """A chain of filter rules that the kernel asks about packets (nftables, or iptables-nft).

    Attributes:
        table: family and name.
        hook: where it is asked.
        drops: its policy: what no rule decides is dropped.
        rules: how many it has.
        igmp: a rule somewhere in its table may be about IGMP.
    """

    table: str
    name: str
    hook: str
    drops: bool
    rules: int
    igmp: bool


@attrs.frozen
class Firewall:
    """All of it in a network namespace.

    Attributes:
        chains: those of nftables.
        legacy: names of the tables of legacy iptables that are loaded; their rules can't be seen here.
        hidden: why nftables can't be seen; empty if it can.
    """

    chains: tuple[Chain, ...] = ()
    legacy: tuple[str, ...] = ()
    hidden: str = ""


def look_at_firewall() -> Firewall:
    """Ask the kernel, in the network namespace of the calling thread."""
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - slow to import, seldom needed
    from pyroute2.nftables.main import NFTables  # noqa: PLC0415

    try:
        legacy = tuple(Path("/proc/thread-self/net/ip_tables_names").read_text().split())
    except OSError:  # not in this kernel, or only for root
        legacy = ()
    try:
        with NFTables(nfgen_family=0) as netlink:
            return Firewall(tuple(_chains(netlink.get_chains(), netlink.get_rules())), legacy)
    except NetlinkError as error:
        return Firewall(legacy=legacy, hidden=describe_errno(error.code))


def _chains(chains: Iterable[Any], rules: Iterable[Any]) -> Iterable[Chain]:
    by_table: dict[tuple[int, str], list[Any]] = {}
    for rule in rules:
        by_table.setdefault((rule["nfgen_family"], rule.get_attr("NFTA_RULE_TABLE")), []).append(rule)
    for chain in chains:
        hook, family = chain.get_attr("NFTA_CHAIN_HOOK"), chain["nfgen_family"]
        if hook is None or family not in _FAMILIES or chain.get_attr("NFTA_CHAIN_TYPE") != "filter":
            continue
        if (number := hook.get_attr("NFTA_HOOK_HOOKNUM")) not in _HOOKS:
            continue
        table, name = chain.get_attr("NFTA_CHAIN_TABLE"), chain.get_attr("NFTA_CHAIN_NAME")
        siblings = by_table.get((family, table), [])
        yield Chain(
            table=f"{_FAMILIES[family]} {table}",
            name=name,
            hook=_HOOKS[number],
            drops=chain.get_attr("NFTA_CHAIN_POLICY") == _DROP,
            rules=sum(rule.get_attr("NFTA_RULE_CHAIN") == name for rule in siblings),
            igmp=any(map(_may_be_about_igmp, siblings)),
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
