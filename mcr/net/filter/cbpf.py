"""Socket filters: classic BPF (Documentation/networking/filter.rst), and eBPF programs that are loaded already."""

import ctypes
import socket
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mcr.model.flow import IPV4, IPV6, Address, Flow
from mcr.net import uapi

_MAX_JUMP = 255
IGMP_QUERY = 0x11  # RFC 3376, 4
_WHOLE = 0x40000  # bytes: more than any frame has
_MAX_VLANS = 200  # of a filter: its jumps are short

_Ports = Mapping[Address, Mapping[int, set[Address | None]]]  # with sources, by group; None: any
_GROUP, _PORT = 0, 1  # words of scratch memory
_ANY_PORT = 0  # of fragments

UDP = 17
IPV6_BYTES = 40
_EXTENSIONS = (
    socket.IPPROTO_HOPOPTS,
    socket.IPPROTO_ROUTING,
    socket.IPPROTO_FRAGMENT,
    socket.IPPROTO_DSTOPTS,
    socket.IPPROTO_AH,
)


class Instruction(NamedTuple):
    """One ``struct sock_filter``: opcode, jump if true, jump if false, operand."""

    code: int
    jt: int
    jf: int
    k: int


def give(size: int) -> Instruction:
    """So many bytes of the frame to the socket; 0: none of it."""
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
        give(0),
        load_half(uapi.SKF_AD_OFF + 48),  # VLAN tag present
        if_equal(0, 2 + len(choices) + 1, 0),
        load_half(uapi.SKF_AD_OFF + 44),  # the tag
        Instruction(0x54, 0, 0, uapi.VLAN_VID_MASK),
        *choices,
        give(0),  # others are their VLAN's interface's
        load_half(uapi.SKF_AD_OFF + 4),  # packet type
        if_equal(uapi.PACKET_OUTGOING, *((1, 0) if outgoing else (0, 1))),
        give(0),
    )


def _by_family(ipv4: Sequence[Instruction], ipv6: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Run one of two programs, each of which ends by itself."""
    past_ipv4 = Instruction(0x05, 0, 0, len(ipv4))  # a conditional jump is a short one
    return (load_half(uapi.SKF_AD_OFF), if_equal(uapi.ETH_P_IP, 1, 0), past_ipv4, *ipv4, *ipv6)


_UDP_OVER_IPV4 = (
    _load_byte(uapi.SKF_NET_OFF + 9),  # IP protocol
    if_equal(UDP, 1, 0),
    give(0),
)


def _room(size: int, link: int, otherwise: int) -> tuple[Instruction, ...]:
    """Accept so many bytes if the frame ends less than `size` bytes behind X. `link`: bytes before its IP header."""
    return (
        Instruction(0x80, 0, 0, 0),  # length of the frame
        Instruction(0x1C, 0, 0, 0),  # less X
        Instruction(0x35, 1, 0, link + size),
        give(otherwise),
    )


def _udp_over_ipv6(yes: int, cut: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Go on with UDP, with the offset of its header in X. What stands behind extension headers is let in.

    Args:
        yes: bytes of a frame that is let in.
        cut: what is done first if a fragment header is next.
    """
    udp = len(_EXTENSIONS) + 2 + len(cut)
    far = (0 if each == socket.IPPROTO_FRAGMENT and cut else len(cut) for each in _EXTENSIONS)
    left = reversed(range(1, len(_EXTENSIONS) + 1))
    return (
        _load_byte(uapi.SKF_NET_OFF),
        Instruction(0x54, 0, 0, 0xF0),
        if_equal(0x60, 0, 6),  # the version
        _load_byte(uapi.SKF_NET_OFF + 6),  # protocol of what follows
        if_equal(UDP, udp, 0),
        *(if_equal(each, at + more, 0) for at, more, each in zip(left, far, _EXTENSIONS, strict=True)),
        give(0),
        *cut,
        give(yes),
        Instruction(0x01, 0, 0, IPV6_BYTES),
    )


def _select_part6(link: int, yes: int) -> tuple[Instruction, ...]:
    """Of a fragment the group alone is looked at; what has the header of one and is whole is let in."""
    may_be_udp = (UDP, *_EXTENSIONS)
    return (
        Instruction(0x01, 0, 0, IPV6_BYTES),
        *_room(8, link, yes),
        load_half(uapi.SKF_NET_OFF + IPV6_BYTES + 2),
        Instruction(0x45, 0, 4 + len(may_be_udp), 0xFFF9),  # offset and more-fragments flag
        _load_byte(uapi.SKF_NET_OFF + IPV6_BYTES),
        *(
            if_equal(each, left, 0)
            for left, each in zip(reversed(range(1, len(may_be_udp) + 1)), may_be_udp, strict=True)
        ),
        give(0),
        Instruction(0x00, 0, 0, _ANY_PORT),
        Instruction(0x05, 0, 0, 7),  # to where the port is put
    )


REJECT_ALL = (give(0),)
"""The filter that a socket has until all of its fan-out group is in place."""


def accept_udp(vlans: Iterable[int] = (), *, outgoing: bool = False) -> tuple[Instruction, ...]:
    """Make a filter that lets in all UDP, untagged or of these VLANs. `outgoing`: what this machine has sent."""
    accept = give(_WHOLE)
    by_family = _by_family((*_UDP_OVER_IPV4, accept), (*_udp_over_ipv6(_WHOLE, ()), accept))
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
        give(yes),
        Instruction(0x35, 0, 1, 0x50),
        give(yes),
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
    return [*program, give(no)]


def _select_ipv6(ports: _Ports, link: int, yes: int, no: int) -> list[Instruction]:
    program = [
        *_udp_over_ipv6(yes, _select_part6(link, yes)),
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
    return [*program, give(no)]


def select_groups(program: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Make a filter that lets in the frames that another lets in, if they are sent to a group."""
    return (
        load_half(uapi.SKF_AD_OFF),  # what is no IP the other rejects
        if_equal(uapi.ETH_P_IPV6, 0, 3),
        _load_byte(uapi.SKF_NET_OFF + 24),  # the destination
        if_equal(0xFF, 5, 0),
        give(0),
        load_word(uapi.SKF_NET_OFF + 16),
        Instruction(0x54, 0, 0, 0xF0000000),
        if_equal(0xE0000000, 1, 0),
        give(0),
        *program,
    )


def _select_group(group: int, ports: Mapping[int, set[Address | None]], yes: int, no: int) -> list[Instruction]:
    by_source = [(port, _select_source(ports[port], yes, no)) for port in sorted(ports) if None not in ports[port]]
    steps = [step for port, choice in by_source for step in (if_equal(port, 0, len(choice)), *choice)]
    known = (_ANY_PORT, *(port for port in sorted(ports) if None in ports[port]))
    far = reversed(range(len(steps) + 1, len(steps) + len(known) + 1))
    choices = [if_equal(port, left, 0) for left, port in zip(far, known, strict=True)]
    block = [Instruction(0x60, 0, 0, _PORT), *choices, *steps, give(no), give(yes)]
    if len(block) > _MAX_JUMP:
        raise OverflowError(f"{len(ports)} ports of one group")
    return [if_equal(group, 0, len(block)), *block]


def _select_source(sources: Iterable[Address | None], yes: int, no: int) -> list[Instruction]:
    choices = [step for each in sources if each for step in (if_equal(int(each), 0, 1), give(yes))]
    return [load_word(uapi.SKF_NET_OFF + 12), *choices, give(no)]


def _select_port6(ports: Mapping[int, set[Address | None]], yes: int, no: int) -> list[Instruction]:
    choices = [if_equal(_ANY_PORT, 0, 1), give(yes)]
    for port in sorted(ports):
        choice = [give(yes)] if None in ports[port] else _select_source6(ports[port], yes, no)
        choices += if_equal(port, 0, len(choice)), *choice
    return [Instruction(0x60, 0, 0, _PORT), *choices, give(no)]


def _select_source6(sources: Iterable[Address | None], yes: int, no: int) -> list[Instruction]:
    choices: list[Instruction] = []
    for number in sorted(int(each) for each in sources if each):
        block = [give(yes)]
        for word in (3, 2, 1, 0):  # from the last
            offset = uapi.SKF_NET_OFF + 20 - 4 * word
            block = [load_word(offset), if_equal(number >> 32 * word & 0xFFFFFFFF, 0, len(block)), *block]
        choices += block
    return [*choices, give(no)]


IGMP_QUERIES = (
    Instruction(0xB1, 0, 0, 0),  # X = length of the IP header
    Instruction(0x50, 0, 0, 0),  # IGMP type
    if_equal(IGMP_QUERY, 0, 1),
    give(_WHOLE),
    give(0),
)
"""For a raw IGMP socket, whose data begins at the IP header: lets in queries."""


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
