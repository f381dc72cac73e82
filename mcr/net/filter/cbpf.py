"""Socket filters: classic BPF (Documentation/networking/filter.rst), and eBPF programs that are loaded already."""

import ctypes
import socket
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import NamedTuple

from mcr.model.flow import IPV4, IPV6, Address, Flow, Input
from mcr.net import uapi

_MAX_JUMP = 255
_IGMP_QUERY = 0x11  # RFC 3376, 4
_WHOLE = 0x40000  # bytes: more than any frame has
_MAX_VLANS = 200  # of a filter: its jumps are short
_MAX_LEFT = 1_000  # sources that a filter leaves out: it has 4,096 instructions at most

_Ports = Mapping[Address, Mapping[int, set[Address | None]]]  # with sources, by group; None: any
_GROUP, _PORT = 0, 1  # words of scratch memory
_ANY_PORT = 0  # of fragments

_UDP = 17
_IPV6_BYTES = 40
_EXTENSIONS = (socket.IPPROTO_HOPOPTS, socket.IPPROTO_ROUTING, socket.IPPROTO_FRAGMENT, socket.IPPROTO_DSTOPTS)


class Instruction(NamedTuple):
    """One ``struct sock_filter``: opcode, jump if true, jump if false, operand."""

    code: int
    jt: int
    jf: int
    k: int


def _return(size: int) -> Instruction:
    return Instruction(0x06, 0, 0, size)


def load_word(offset: int) -> Instruction:
    """Four bytes into the accumulator."""
    return Instruction(0x20, 0, 0, offset)


def load_half(offset: int) -> Instruction:
    """Two bytes into the accumulator."""
    return Instruction(0x28, 0, 0, offset)


def _load_byte(offset: int) -> Instruction:
    return Instruction(0x30, 0, 0, offset)


def if_equal(value: int, then: int, otherwise: int) -> Instruction:
    """How many instructions to skip."""
    return Instruction(0x15, then, otherwise, value)


def _ip(vlans: Iterable[int], *, outgoing: bool = False) -> tuple[Instruction, ...]:
    """Reject all but IP, untagged or of these VLANs, that this machine has sent, or has not.

    A tag of VLAN 0 has only a priority.
    """
    known = sorted({0, *vlans})
    if len(known) > _MAX_VLANS:
        raise OverflowError(f"{len(known)} VLANs")
    choices = [if_equal(vlan, left, 0) for left, vlan in zip(reversed(range(1, len(known) + 1)), known, strict=True)]
    return (
        load_half(uapi.SKF_AD_OFF),  # protocol
        if_equal(uapi.ETH_P_IP, 2, 0),
        if_equal(uapi.ETH_P_IPV6, 1, 0),
        _return(0),
        load_half(uapi.SKF_AD_OFF + 48),  # VLAN tag present
        if_equal(0, 2 + len(choices) + 1, 0),
        load_half(uapi.SKF_AD_OFF + 44),  # the tag
        Instruction(0x54, 0, 0, uapi.VLAN_VID_MASK),
        *choices,
        _return(0),  # others are their VLAN's interface's
        load_half(uapi.SKF_AD_OFF + 4),  # packet type
        if_equal(uapi.PACKET_OUTGOING, *((1, 0) if outgoing else (0, 1))),
        _return(0),
    )


def _by_family(ipv4: Sequence[Instruction], ipv6: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Run one of two programs, each of which ends by itself."""
    past_ipv4 = Instruction(0x05, 0, 0, len(ipv4))  # a conditional jump is a short one
    return (load_half(uapi.SKF_AD_OFF), if_equal(uapi.ETH_P_IP, 1, 0), past_ipv4, *ipv4, *ipv6)


_UDP_OVER_IPV4 = (
    _load_byte(uapi.SKF_NET_OFF + 9),  # IP protocol
    if_equal(_UDP, 1, 0),
    _return(0),
)


def _room(size: int, link: int, otherwise: int) -> tuple[Instruction, ...]:
    """Accept so many bytes if the frame ends less than `size` bytes behind X. `link`: bytes before its IP header."""
    return (
        Instruction(0x80, 0, 0, 0),  # length of the frame
        Instruction(0x1C, 0, 0, 0),  # less X
        Instruction(0x35, 1, 0, link + size),
        _return(otherwise),
    )


def _udp_over_ipv6(yes: int) -> tuple[Instruction, ...]:
    """Go on with UDP, with the offset of its header in X. What stands behind extension headers is let in."""
    return (
        _load_byte(uapi.SKF_NET_OFF),
        Instruction(0x54, 0, 0, 0xF0),
        if_equal(0x60, 0, 6),  # the version
        _load_byte(uapi.SKF_NET_OFF + 6),  # protocol of what follows
        if_equal(_UDP, 6, 0),
        *(if_equal(each, left, 0) for left, each in zip((4, 3, 2, 1), _EXTENSIONS, strict=True)),
        _return(0),
        _return(yes),
        Instruction(0x01, 0, 0, _IPV6_BYTES),
    )


REJECT_ALL = (_return(0),)
"""The filter that a socket has until all of its fan-out group is in place."""


def accept_udp(vlans: Iterable[int] = (), *, outgoing: bool = False) -> tuple[Instruction, ...]:
    """Make a filter that lets in all UDP, untagged or of these VLANs. `outgoing`: what this machine has sent."""
    accept = _return(_WHOLE)
    by_family = _by_family((*_UDP_OVER_IPV4, accept), (*_udp_over_ipv6(_WHOLE), accept))
    return (*_ip(vlans, outgoing=outgoing), *by_family)


def select_udp(
    wanted: Iterable[Flow], link: int, *, invert: bool = False, outgoing: bool = False, by_source: bool = False
) -> tuple[Instruction, ...]:
    """Make a filter that lets in the UDP of these flows, fragments to their groups, and what headers don't tell.

    Args:
        wanted: of them, groups and ports are looked at, in all of their VLANs; the workers look at VLAN and source.
        link: bytes of the link layer's header that frames begin with (`mcr.net.interfaces.link_header`).
        invert: let in all other UDP instead.
        outgoing: what this machine has sent, and not what it has received.
        by_source: look at sources, too.

    Raises:
        OverflowError: it would be too long for the kernel.
    """
    yes, no = (0, _WHOLE) if invert else (_WHOLE, 0)
    ports: defaultdict[Address, defaultdict[int, set[Address | None]]] = defaultdict(lambda: defaultdict(set))
    vlans = set()
    for each in wanted:
        ports[each.group][each.port].add(each.source if by_source else None)
        vlans.add(each.vlan)
    by_family = _by_family(_select_ipv4(ports, link, yes, no), _select_ipv6(ports, link, yes, no))
    program = (*_ip(vlans, outgoing=outgoing), *by_family)
    if len(program) > uapi.BPF_MAXINSNS:
        raise OverflowError(f"{len(program)} instructions")
    return program


def _select_ipv4(ports: _Ports, link: int, yes: int, no: int) -> list[Instruction]:
    program = [
        *_UDP_OVER_IPV4,
        _load_byte(uapi.SKF_NET_OFF),
        Instruction(0x35, 1, 0, 0x45),  # version and header length
        _return(yes),
        Instruction(0x35, 0, 1, 0x50),
        _return(yes),
        load_half(uapi.SKF_NET_OFF + 6),
        Instruction(0x45, 0, 2, 0x3FFF),
        Instruction(0x00, 0, 0, _ANY_PORT),  # a fragment
        Instruction(0x05, 0, 0, 6),  # to where the port is put
        Instruction(0xB1, 0, 0, uapi.SKF_NET_OFF),  # X = length of the IP header
        *_room(4, link, yes),  # without ports; to load them would reject
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + 2),  # destination port
        Instruction(0x02, 0, 0, _PORT),
        load_word(uapi.SKF_NET_OFF + 16),
        Instruction(0x02, 0, 0, _GROUP),
    ]
    for number in sorted(int(group) for group in ports if group.version == IPV4):
        program += _select_group(number, ports[IPv4Address(number)], yes, no)
    return [*program, _return(no)]


def _select_ipv6(ports: _Ports, link: int, yes: int, no: int) -> list[Instruction]:
    program = [
        *_udp_over_ipv6(yes),
        *_room(4, link, yes),
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + 2),  # destination port
        Instruction(0x02, 0, 0, _PORT),
    ]
    for number in sorted(int(group) for group in ports if group.version == IPV6):
        block = _select_port6(ports[IPv6Address(number)], yes, no)
        for word in (3, 2, 1, 0):  # from the last: most groups differ at their end, which is compared first
            if len(block) > _MAX_JUMP:
                raise OverflowError(f"{len(ports)} ports of one group")
            offset = uapi.SKF_NET_OFF + 36 - 4 * word  # in the destination
            block = [load_word(offset), if_equal(number >> 32 * word & 0xFFFFFFFF, 0, len(block)), *block]
        program += block
    return [*program, _return(no)]


def select_groups(program: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Make a filter that lets in the frames that another lets in, if they are sent to a group."""
    return (
        load_half(uapi.SKF_AD_OFF),  # what is no IP the other rejects
        if_equal(uapi.ETH_P_IPV6, 0, 3),
        _load_byte(uapi.SKF_NET_OFF + 24),  # the destination
        if_equal(0xFF, 5, 0),
        _return(0),
        load_word(uapi.SKF_NET_OFF + 16),
        Instruction(0x54, 0, 0, 0xF0000000),
        if_equal(0xE0000000, 1, 0),
        _return(0),
        *program,
    )


def _select_group(group: int, ports: Mapping[int, set[Address | None]], yes: int, no: int) -> list[Instruction]:
    by_source = [(port, _select_source(ports[port], yes, no)) for port in sorted(ports) if None not in ports[port]]
    steps = [step for port, choice in by_source for step in (if_equal(port, 0, len(choice)), *choice)]
    known = (_ANY_PORT, *(port for port in sorted(ports) if None in ports[port]))
    far = reversed(range(len(steps) + 1, len(steps) + len(known) + 1))
    choices = [if_equal(port, left, 0) for left, port in zip(far, known, strict=True)]
    block = [Instruction(0x60, 0, 0, _PORT), *choices, *steps, _return(no), _return(yes)]
    if len(block) > _MAX_JUMP:
        raise OverflowError(f"{len(ports)} ports of one group")
    return [if_equal(group, 0, len(block)), *block]


def _select_source(sources: Iterable[Address | None], yes: int, no: int) -> list[Instruction]:
    choices = [step for each in sources if each for step in (if_equal(int(each), 0, 1), _return(yes))]
    return [load_word(uapi.SKF_NET_OFF + 12), *choices, _return(no)]


def _select_port6(ports: Mapping[int, set[Address | None]], yes: int, no: int) -> list[Instruction]:
    choices: list[Instruction] = []
    for port in sorted(ports):
        choice = [_return(yes)] if None in ports[port] else _select_source6(ports[port], yes, no)
        choices += if_equal(port, 0, len(choice)), *choice
    return [Instruction(0x60, 0, 0, _PORT), *choices, _return(no)]


def _select_source6(sources: Iterable[Address | None], yes: int, no: int) -> list[Instruction]:
    choices: list[Instruction] = []
    for number in sorted(int(each) for each in sources if each):
        block = [_return(yes)]
        for word in (3, 2, 1, 0):  # from the last
            offset = uapi.SKF_NET_OFF + 20 - 4 * word
            block = [load_word(offset), if_equal(number >> 32 * word & 0xFFFFFFFF, 0, len(block)), *block]
        choices += block
    return [*choices, _return(no)]


IGMP_QUERIES = (
    Instruction(0xB1, 0, 0, 0),  # X = length of the IP header
    Instruction(0x50, 0, 0, 0),  # IGMP type
    if_equal(_IGMP_QUERY, 0, 1),
    _return(_WHOLE),
    _return(0),
)
"""For a raw IGMP socket, whose data begins at the IP header: lets in queries."""


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
    group_alone = (if_equal(int(flow.group), 1, 0), _return(0))
    group_or_port = (
        if_equal(int(flow.group), 0, 1),
        _return(size),
        Instruction(0x54, 0, 0, 0xF0000000),
        if_equal(0xE0000000, 1, 0),  # a group
        _return(0),
    )
    # Of what this machine sends, the other groups and ports are the relay's own output.
    own_alone = (
        load_half(uapi.SKF_AD_OFF + 4),  # packet type
        if_equal(uapi.PACKET_OUTGOING, 0, 2 + len(destination)),
        *destination,
        if_equal(int(flow.group), 1 + len(destination) + len(group_or_port), 0),
        _return(0),
    )
    udp = (
        *(() if strictly else own_alone),
        *destination,
        *((*group_alone, *_from_alone(sources, left)) if strictly else group_or_port),
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + 6),
        Instruction(0x45, 0, 1, 0x1FFF),  # a fragment without a port
        _return(0),
        *skip_ip_header,
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + 2),  # destination port
        *_if_port(flow),
        _return(size),
        _return(0),
    )
    return (
        load_half(uapi.SKF_AD_OFF),  # protocol
        Instruction(0x01, 0, 0, 0),  # X = 0
        if_equal(uapi.ETH_P_IP, 7, 0),
        if_equal(uapi.ETH_P_8021Q, 2, 0),
        if_equal(uapi.ETH_P_8021AD, 1, 0),
        _return(0),
        load_half(uapi.SKF_NET_OFF + 2),  # protocol after the second tag
        if_equal(uapi.ETH_P_IP, 1, 0),
        _return(0),
        Instruction(0x01, 0, 0, 4),
        Instruction(0x50, 0, 0, uapi.SKF_NET_OFF + 9),  # IP protocol
        if_equal(socket.IPPROTO_IGMP, 2, 0),
        if_equal(socket.IPPROTO_UDP, 1 + len(skip_ip_header) + 4, 0),
        _return(0),
        *skip_ip_header,
        Instruction(0x50, 0, 0, uapi.SKF_NET_OFF),  # IGMP type
        if_equal(_IGMP_QUERY, 0, 1),
        _return(size),
        _return(0),
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
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + _IPV6_BYTES + 2),
        *_if_port(flow),
        _return(size),
        _return(0),
    )
    query = (  # to all nodes, with a router alert
        next_header,
        if_equal(socket.IPPROTO_HOPOPTS, 0, 5),
        Instruction(0x40, 0, 0, uapi.SKF_NET_OFF + 24),
        if_equal(0xFF020000, 0, 3),
        Instruction(0x40, 0, 0, uapi.SKF_NET_OFF + 36),
        if_equal(1, 0, 1),
        _return(size),
    )
    to_group: tuple[Instruction, ...] = (_return(size),)
    if strictly:  # what extension headers hide passes
        to_group = (next_header, if_equal(_UDP, 1, 0), _return(size), *is_to_port)
    to_port = (
        load_half(uapi.SKF_AD_OFF + 4),  # of what this machine sends, the others are the relay's own output
        if_equal(uapi.PACKET_OUTGOING, 0, 1),
        _return(0),
        Instruction(0x50, 0, 0, uapi.SKF_NET_OFF + 24),
        if_equal(0xFF, 1, 0),  # a group
        _return(0),
        next_header,
        if_equal(_UDP, 1, 0),
        _return(0),
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
        _return(0),
        load_half(uapi.SKF_NET_OFF + 2),  # protocol after the second tag
        if_equal(uapi.ETH_P_IPV6, 1, 0),
        _return(0),
        Instruction(0x01, 0, 0, 4),
        *query,
        *same_group,
        *to_group,
        *((_return(0),) if strictly else to_port),
    )


def _from_alone(sources: Collection[Address], left: Collection[Address]) -> Iterable[Instruction]:
    """Reject what comes from elsewhere than these sources, if there are any, or from one of those left."""
    yield Instruction(0x40, 0, 0, uapi.SKF_NET_OFF + 12)  # source
    for after, each in zip(reversed(range(len(sources))), sources, strict=True):
        yield if_equal(int(each), 1 + after, 0)
        if not after:
            yield _return(0)
    for each in islice(left, _MAX_LEFT):
        yield if_equal(int(each), 0, 1)
        yield _return(0)


def attach_filter(target: socket.socket, program: Sequence[Instruction]) -> None:
    """Put `program` in the place of the socket's filter, between two packets.

    Raises:
        OSError: from setsockopt(2).
    """
    set_program(target, socket.SOL_SOCKET, uapi.SO_ATTACH_FILTER, program)


def set_program(target: socket.socket, level: int, option: int, program: Sequence[Instruction]) -> None:
    """Set an option to a program.

    Raises:
        OSError: from setsockopt(2).
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    # struct sock_fprog: a count and a pointer, aligned as the compiler would.
    target.setsockopt(level, option, struct.pack("@HP", len(program), ctypes.addressof(code)))
