"""What one should know of a rule when it is added, though nothing is wrong with it."""

from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Final

from mcr.model.flow import IPV4, IPV6, WITH_SOURCE, Address, Input
from mcr.model.rule import Output

_ONE_LINK: Final = (IPv4Network("224.0.0.0/24"), IPv6Network("ff02::/16"))
_WITH_SOURCE6: Final = IPv6Network("ff30::/12")  # ff3x::/32 (RFC 4607, 1)

_EXAMPLES: Final = {IPV4: "IGMP", IPV6: "MLD"}


def advice(source: Input, outputs: tuple[Output, ...]) -> tuple[str, ...]:
    """Sentences about groups that are for something else than what a rule does with them."""
    said = []
    if (named := _with_source(source.group)) and not source.sources:
        said.append(
            f"{source.group} is a group of source-specific multicast ({named}): the rule takes it from any "
            f"source and joins it without one, and routers forward it only to who names the source: --input-source ADDR"
        )
    groups = dict.fromkeys((source.group, *(each.group for each in outputs)))
    said += [
        f"{group} is for control protocols of one network ({network}), such as {_EXAMPLES[group.version]} and routing: "
        "hosts and switches there may act on what is relayed"
        for group in groups
        for network in _ONE_LINK
        if group in network
    ]
    kept = dict.fromkeys(each.interface for each in outputs if each.keeps_source)
    said += [
        f"datagrams by {name} leave with the addresses of their senders: routers and hosts there may drop them unless "
        "their way back to the senders leads by the same network (rp_filter)"
        for name in kept
    ]
    return tuple(said)


def _with_source(group: Address) -> str:
    """The range of source-specific multicast that a group is in; empty: in none."""
    if isinstance(group, IPv6Address):
        return "ff3x::/32" if group in _WITH_SOURCE6 and not group.packed[2] and not group.packed[3] else ""
    return str(WITH_SOURCE) if group in WITH_SOURCE else ""
