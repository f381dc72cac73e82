"""Reads firewall rules from the kernel. It only looks; others judge.

By hand, as `rtnetlink` does: it is asked at each start, and after each change of the network.
"""

import errno
import os
import socket
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from mcr.errors import describe_errno
from mcr.model.flow import IPV4, IPV6
from mcr.net import uapi
from mcr.net.rtnetlink import Message, attributes, split

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
_MESSAGE_BYTES = 65_536
_TRIES = 5  # to see all rules of one moment
_ABSENT = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)  # a kernel without nftables, or without netfilter


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
        chains, rules = _dump(uapi.NFT_MSG_GETCHAIN), _dump(uapi.NFT_MSG_GETRULE)
    except OSError as error:
        hidden = error.errno not in _ABSENT
        return attrs.evolve(found, hidden=describe_errno(error.errno or 0)) if hidden else found
    return attrs.evolve(found, chains=tuple(_chains(chains, rules, version)))


def _dump(kind: int) -> list[bytes]:
    """All of what nftables has of a kind: the messages behind their headers.

    Raises:
        OSError: the kernel refuses to tell.
    """
    size = uapi.NLMSGHDR.size + uapi.NFGENMSG.size
    flags = uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP
    request = uapi.NLMSGHDR.pack(size, uapi.NFNL_SUBSYS_NFTABLES << 8 | kind, flags, 1, 0)
    request += uapi.NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, uapi.NETLINK_NETFILTER) as netlink:
        for _ in range(_TRIES):
            netlink.send(request)
            messages = _answer(netlink)
            if not any(each.flags & uapi.NLM_F_DUMP_INTR for each in messages):
                break
    return [each.body for each in messages[:-1]]


def _answer(netlink: socket.socket) -> list[Message]:
    """What comes up to the message that ends it, and that one."""
    found: list[Message] = []
    while True:
        for message in split(netlink.recv(_MESSAGE_BYTES)):
            if message.kind == uapi.NLMSG_ERROR:
                code = -int.from_bytes(message.body[:4], sys.byteorder, signed=True)
                raise OSError(code, os.strerror(code))
            found.append(message)
            if message.kind == uapi.NLMSG_DONE:
                return found


def legacy_tables(version: int = IPV4) -> tuple[str, ...] | None:
    """Names of the tables of legacy iptables that are loaded; None if only root may know."""
    try:
        return tuple((LEGACY_TABLES if version == IPV4 else LEGACY_TABLES6).read_text().split())
    except FileNotFoundError:  # not in this kernel
        return ()
    except OSError:
        return None


def _chains(chains: Iterable[bytes], rules: Iterable[bytes], version: int) -> Iterable[Chain]:
    by_table: defaultdict[tuple[int, bytes], list[dict[int, bytes]]] = defaultdict(list)
    for body in rules:
        rule = dict(attributes(body, uapi.NFGENMSG.size))
        by_table[body[0], rule[uapi.NFTA_RULE_TABLE]].append(rule)
    for body in chains:
        family, chain = body[0], dict(attributes(body, uapi.NFGENMSG.size))
        if uapi.NFTA_CHAIN_HOOK not in chain or family not in _FAMILIES[version]:
            continue
        family_name, hooks = _FAMILIES[version][family]
        hook = dict(attributes(chain[uapi.NFTA_CHAIN_HOOK], 0))
        if (number := int.from_bytes(hook[uapi.NFTA_HOOK_HOOKNUM])) not in hooks:
            continue
        table, name = chain[uapi.NFTA_CHAIN_TABLE], chain[uapi.NFTA_CHAIN_NAME]
        siblings = by_table[family, table]
        policy = chain.get(uapi.NFTA_CHAIN_POLICY)
        yield Chain(
            table=f"{family_name} {_text(table)}",
            name=_text(name),
            hook=hooks[number],
            drops=policy is not None and int.from_bytes(policy) == uapi.NF_DROP,
            rules=sum(rule[uapi.NFTA_RULE_CHAIN] == name for rule in siblings),
            igmp=any(_may_be_about(_QUERIES[version], each) for each in siblings),
            kind=_text(chain[uapi.NFTA_CHAIN_TYPE]),
        )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def _may_be_about(protocol: bytes, rule: Mapping[int, bytes]) -> bool:
    """Whether it compares a single byte with the protocol's number, as a test for it does; or looks in a set."""
    for _, expression in attributes(rule.get(uapi.NFTA_RULE_EXPRESSIONS, b""), 0):
        parts = dict(attributes(expression, 0))
        kind = _text(parts.get(uapi.NFTA_EXPR_NAME, b""))
        if kind == "lookup":
            return True
        if kind == "cmp" and _within(parts, uapi.NFTA_EXPR_DATA, uapi.NFTA_CMP_DATA, uapi.NFTA_DATA_VALUE) == protocol:
            return True
    return False


def _within(parts: Mapping[int, bytes], *path: int) -> bytes:
    """An attribute of an attribute; empty if there is none."""
    *outer, last = path
    for kind in outer:
        parts = dict(attributes(parts.get(kind, b""), 0))
    return parts.get(last, b"")
