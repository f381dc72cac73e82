"""Reads firewall rules from the kernel. It only looks; others judge."""

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from mcr.errors import describe_errno, errno_of
from mcr.model.flow import IPV4, IPV6
from mcr.net import uapi
from mcr.net.netlink import PATIENCE_SECONDS, error_of
from mcr.net.rtnetlink import first_of

_IP_HOOKS = {
    uapi.NF_INET_PRE_ROUTING: "prerouting",
    uapi.NF_INET_LOCAL_IN: "input",
    uapi.NF_INET_LOCAL_OUT: "output",
    uapi.NF_INET_POST_ROUTING: "postrouting",
}
_OF_BOTH = {
    uapi.NFPROTO_INET: ("inet", _IP_HOOKS | {uapi.NF_INET_INGRESS: "ingress"}),
    uapi.NFPROTO_NETDEV: ("netdev", {uapi.NF_NETDEV_INGRESS: "ingress", uapi.NF_NETDEV_EGRESS: "egress"}),
}
_FAMILIES = {  # with their hooks, by version of IP; others never see what leaves or comes in as that
    IPV4: _OF_BOTH | {uapi.NFPROTO_IPV4: ("ip", _IP_HOOKS)},
    IPV6: _OF_BOTH | {uapi.NFPROTO_IPV6: ("ip6", _IP_HOOKS)},
}
_QUERIES = {IPV4: b"\x02", IPV6: b"\x3a"}  # by IPPROTO_IGMP, and IPPROTO_ICMPV6
_ABSENT = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)  # a kernel without nftables, or without netfilter

_MESSAGE_BYTES = 65_536

LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")
"""Names of the tables of legacy iptables that are loaded, in the network namespace of who opens it."""

LEGACY_TABLES6 = Path("/proc/thread-self/net/ip6_tables_names")


@attrs.frozen
class Chain:
    """A chain of filter rules that the kernel asks about packets (nftables, or iptables-nft).

    Attributes:
        table: family and name.
        hook: where it is asked.
        drops: its policy: what no rule decides is dropped.
        rules: how many it has.
        igmp: a rule somewhere in its table may be about IGMP; of IPv6, about ICMPv6, with which MLD comes.
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


def look_at_firewall(version: int = IPV4) -> Firewall:
    """Ask the kernel, in the network namespace of the calling thread, what acts on packets of this version of IP."""
    legacy = legacy_tables(version)
    found = Firewall(legacy=legacy or (), legacy_hidden=legacy is None)
    try:
        return attrs.evolve(found, chains=_look_at_chains(version)) if _has_chains() else found
    except OSError as error:
        code = errno_of(error)
    return found if code in _ABSENT else attrs.evolve(found, hidden=describe_errno(code))


def _has_chains() -> bool:
    """Whether nftables has any chain: most relays have none, and then pyroute2 need not be imported, which takes 0.2 s.

    Raises:
        OSError: the kernel does not tell.
    """
    kind = uapi.NFNL_SUBSYS_NFTABLES << 8 | uapi.NFT_MSG_GETCHAIN
    size = uapi.NLMSGHDR.size + uapi.NFGENMSG.size
    request = uapi.NLMSGHDR.pack(size, kind, uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP, 1, 0) + bytes(uapi.NFGENMSG.size)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, uapi.NETLINK_NETFILTER) as netlink:
        netlink.settimeout(PATIENCE_SECONDS)
        netlink.send(request)
        first = first_of(netlink.recv(_MESSAGE_BYTES))
    if first.kind in (uapi.NLMSG_ERROR, uapi.NLMSG_DONE) and (code := error_of(first)):
        raise OSError(code, os.strerror(code))
    return first.kind != uapi.NLMSG_DONE or bool(first.flags & uapi.NLM_F_DUMP_INTR)


def _look_at_chains(version: int) -> tuple[Chain, ...]:
    """Those of nftables.

    Raises:
        OSError: the kernel does not tell.
    """
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - slow to import, seldom needed
    from pyroute2.nftables.main import NFTables  # noqa: PLC0415

    try:
        with NFTables(nfgen_family=0) as netlink:
            return tuple(_chains(netlink.get_chains(), netlink.get_rules(), version))
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None


def legacy_tables(version: int = IPV4) -> tuple[str, ...] | None:
    """Names of the tables of legacy iptables that are loaded; None if only root may know."""
    try:
        return tuple((LEGACY_TABLES if version == IPV4 else LEGACY_TABLES6).read_text().split())
    except FileNotFoundError:  # not in this kernel
        return ()
    except OSError:
        return None


def _chains(chains: Iterable[Any], rules: Iterable[Any], version: int) -> Iterable[Chain]:
    by_table: dict[tuple[int, str], list[Any]] = {}
    for rule in rules:
        by_table.setdefault((rule["nfgen_family"], rule.get_attr("NFTA_RULE_TABLE")), []).append(rule)
    for chain in chains:
        hook, family = chain.get_attr("NFTA_CHAIN_HOOK"), chain["nfgen_family"]
        if hook is None or family not in _FAMILIES[version]:
            continue
        family_name, hooks = _FAMILIES[version][family]
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
            igmp=any(_may_be_about(_QUERIES[version], each) for each in siblings),
            kind=chain.get_attr("NFTA_CHAIN_TYPE"),
        )


def _may_be_about(protocol: bytes, rule: Any) -> bool:
    """Whether it compares a single byte with the protocol's number, as a test for it does; or looks in a set."""
    for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ():
        kind = expression.get_attr("NFTA_EXPR_NAME")
        if kind == "lookup":
            return True
        if kind == "cmp":
            data = expression.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_CMP_DATA")
            if data is not None and data.get_attr("NFTA_DATA_VALUE") == protocol:
                return True
    return False
