"""Classic filters for probes: what is like a rule's, and is not."""

import socket
from collections.abc import Collection, Iterable
from itertools import islice

from mcr.model.flow import IPV6, Address, Input
from mcr.net import uapi
from mcr.net.filter.cbpf import IGMP_QUERY, IPV6_BYTES, UDP, Instruction, give, if_equal, load_half

_MAX_LEFT = 1_000  # sources that a filter leaves out: it has 4,096 instructions at most


def select_kin(
    flow: Input, size: int, *, strictly: bool = False, sources: Collection[Address] = (), left: Collection[Address] = ()
) -> tuple[Instruction, ...]:
    """Make a filter for a probe of frames like a rule's, tagged or not: UDP to its groups, or its ports of any group.

    IGMP queries come in, too. Of what this machine sends, only the very flow. The kernel has taken the outermost VLAN
    tag out of the frame; a second one is skipped.

    Args:
        flow: the groups and ports.
        size: bytes of a frame that are kept.
        strictly: only UDP to this very group and port, and queries.
        sources: with `strictly`, only what comes from these; none: from anywhere.
        left: with `strictly`, not what comes from these, as far as they fit.
    """
    if flow.group.version == IPV6:
        return _select_kin6(flow, size, strictly=strictly)
    # X is where the IP header begins, counted from the network header; after that, where it ends.
    skip_ip_header = (
        Instruction(0x50, 0, 0, uapi.SKF_NET_OFF),
        Instruction(0x54, 0, 0, 0x0F),  # words of the IP header
        Instruction(0x64, 0, 0, 2),
        Instruction(0x0C, 0, 0, 0),
        Instruction(0x07, 0, 0, 0),
    )
    destination = (Instruction(0x40, 0, 0, uapi.SKF_NET_OFF + 16), *_masked(flow))
    group_alone = (if_equal(int(flow.group), 1, 0), give(0))
    group_or_port = (
        if_equal(int(flow.group), 0, 1),
        give(size),
        Instruction(0x54, 0, 0, 0xF0000000),
        if_equal(0xE0000000, 1, 0),  # a group
        give(0),
    )
    # Of what this machine sends, the other groups and ports are the relay's own output.
    own_alone = (
        load_half(uapi.SKF_AD_OFF + 4),  # packet type
        if_equal(uapi.PACKET_OUTGOING, 0, 2 + len(destination)),
        *destination,
        if_equal(int(flow.group), 1 + len(destination) + len(group_or_port), 0),
        give(0),
    )
    udp = (
        *(() if strictly else own_alone),
        *destination,
        *((*group_alone, *_from_alone(sources, left)) if strictly else group_or_port),
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + 6),
        Instruction(0x45, 0, 1, 0x1FFF),  # a fragment without a port
        give(0),
        *skip_ip_header,
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + 2),  # destination port
        *_if_port(flow),
        give(size),
        give(0),
    )
    return (
        load_half(uapi.SKF_AD_OFF),  # protocol
        Instruction(0x01, 0, 0, 0),  # X = 0
        if_equal(uapi.ETH_P_IP, 7, 0),
        if_equal(uapi.ETH_P_8021Q, 2, 0),
        if_equal(uapi.ETH_P_8021AD, 1, 0),
        give(0),
        load_half(uapi.SKF_NET_OFF + 2),  # protocol after the second tag
        if_equal(uapi.ETH_P_IP, 1, 0),
        give(0),
        Instruction(0x01, 0, 0, 4),
        Instruction(0x50, 0, 0, uapi.SKF_NET_OFF + 9),  # IP protocol
        if_equal(socket.IPPROTO_IGMP, 2, 0),
        if_equal(socket.IPPROTO_UDP, 1 + len(skip_ip_header) + 4, 0),
        give(0),
        *skip_ip_header,
        Instruction(0x50, 0, 0, uapi.SKF_NET_OFF),  # IGMP type
        if_equal(IGMP_QUERY, 0, 1),
        give(size),
        give(0),
        *udp,
    )


def _masked(flow: Input) -> tuple[Instruction, ...]:
    """Of the last word of a group, leave what those of a prefix have in common. None where there is one group."""
    return () if flow.prefix is None else (Instruction(0x54, 0, 0, 0x1_0000_0000 - flow.span.groups),)


def _if_port(flow: Input) -> tuple[Instruction, ...]:
    """Skip the next instruction unless it is one of its ports."""
    return Instruction(0x35, 0, 2, flow.port), Instruction(0x25, 1, 0, flow.last_port or flow.port)


def _select_kin6(flow: Input, size: int, *, strictly: bool) -> tuple[Instruction, ...]:
    """Make the same for IPv6, and MLD queries. X is where the IP header begins, counted from the network header."""
    next_header = Instruction(0x50, 0, 0, uapi.SKF_NET_OFF + 6)
    is_to_port = (
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + IPV6_BYTES + 2),
        *_if_port(flow),
        give(size),
        give(0),
    )
    query = (  # to all nodes, with a router alert
        next_header,
        if_equal(socket.IPPROTO_HOPOPTS, 0, 5),
        Instruction(0x40, 0, 0, uapi.SKF_NET_OFF + 24),
        if_equal(0xFF020000, 0, 3),
        Instruction(0x40, 0, 0, uapi.SKF_NET_OFF + 36),
        if_equal(1, 0, 1),
        give(size),
    )
    to_group: tuple[Instruction, ...] = (give(size),)
    if strictly:  # what extension headers hide passes
        to_group = (next_header, if_equal(UDP, 1, 0), give(size), *is_to_port)
    to_port = (
        load_half(uapi.SKF_AD_OFF + 4),  # of what this machine sends, the others are the relay's own output
        if_equal(uapi.PACKET_OUTGOING, 0, 1),
        give(0),
        Instruction(0x50, 0, 0, uapi.SKF_NET_OFF + 24),
        if_equal(0xFF, 1, 0),  # a group
        give(0),
        next_header,
        if_equal(UDP, 1, 0),
        give(0),
        *is_to_port,
    )
    same_group: list[Instruction] = []
    for at, masked in enumerate(((), (), (), _masked(flow))):
        word = int(flow.group) >> 32 * (3 - at) & 0xFFFFFFFF
        otherwise = 2 * (3 - at) + len(to_group) + (0 if masked else len(_masked(flow)))
        same_group += (Instruction(0x40, 0, 0, uapi.SKF_NET_OFF + 24 + 4 * at), *masked, if_equal(word, 0, otherwise))
    return (
        load_half(uapi.SKF_AD_OFF),  # protocol
        Instruction(0x01, 0, 0, 0),  # X = 0
        if_equal(uapi.ETH_P_IPV6, 7, 0),
        if_equal(uapi.ETH_P_8021Q, 2, 0),
        if_equal(uapi.ETH_P_8021AD, 1, 0),
        give(0),
        load_half(uapi.SKF_NET_OFF + 2),  # protocol after the second tag
        if_equal(uapi.ETH_P_IPV6, 1, 0),
        give(0),
        Instruction(0x01, 0, 0, 4),
        *query,
        *same_group,
        *to_group,
        *((give(0),) if strictly else to_port),
    )


def _from_alone(sources: Collection[Address], left: Collection[Address]) -> Iterable[Instruction]:
    """Reject what comes from elsewhere than these sources, if there are any, or from one of those left."""
    yield Instruction(0x40, 0, 0, uapi.SKF_NET_OFF + 12)  # source
    for after, each in zip(reversed(range(len(sources))), sources, strict=True):
        yield if_equal(int(each), 1 + after, 0)
        if not after:
            yield give(0)
    for each in islice(left, _MAX_LEFT):
        yield if_equal(int(each), 0, 1)
        yield give(0)
