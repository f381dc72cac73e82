"""Socket filters: classic BPF (Documentation/networking/filter.rst), and eBPF programs that are loaded already."""

import ctypes
import socket
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mcr.model.flow import Flow
from mcr.net import uapi

_MAX_JUMP = 255

_IGMP_QUERY = 0x11  # RFC 3376, 4

_PORTS_END = 14 + 4  # bytes of a frame that has ports, beside those of its IP header
_WHOLE = 0x40000  # bytes: more than any frame has

_MAX_VLANS = 200  # of a filter: its jumps are short

_GROUP, _PORT = 0, 1  # words of scratch memory


class Instruction(NamedTuple):
    """One ``struct sock_filter``: opcode, jump if true, jump if false, operand."""

    code: int
    jt: int
    jf: int
    k: int


def _return(size: int) -> Instruction:
    return Instruction(0x06, 0, 0, size)


def _load_word(offset: int) -> Instruction:
    return Instruction(0x20, 0, 0, offset)


def _load_half(offset: int) -> Instruction:
    return Instruction(0x28, 0, 0, offset)


def _load_byte(offset: int) -> Instruction:
    return Instruction(0x30, 0, 0, offset)


def _if_equal(value: int, then: int, otherwise: int) -> Instruction:
    return Instruction(0x15, then, otherwise, value)


def _udp(vlans: Iterable[int], *, outgoing: bool = False) -> tuple[Instruction, ...]:
    """Reject all but IPv4 UDP, untagged or of these VLANs, that this machine has sent, or has not.

    A tag of VLAN 0 has only a priority.
    """
    known = sorted({0, *vlans})
    if len(known) > _MAX_VLANS:
        raise OverflowError(f"{len(known)} VLANs")
    choices = [_if_equal(vlan, left, 0) for left, vlan in zip(reversed(range(1, len(known) + 1)), known, strict=True)]
    return (
        _load_half(uapi.SKF_AD_OFF),  # protocol
        _if_equal(uapi.ETH_P_IP, 1, 0),
        _return(0),
        _load_half(uapi.SKF_AD_OFF + 48),  # VLAN tag present
        _if_equal(0, 2 + len(choices) + 1, 0),
        _load_half(uapi.SKF_AD_OFF + 44),  # the tag
        Instruction(0x54, 0, 0, uapi.VLAN_VID_MASK),
        *choices,
        _return(0),  # others are their VLAN's interface's
        _load_half(uapi.SKF_AD_OFF + 4),  # packet type
        _if_equal(uapi.PACKET_OUTGOING, *((0, 2) if outgoing else (2, 0))),
        _load_byte(uapi.SKF_NET_OFF + 9),  # IP protocol
        _if_equal(17, 1, 0),
        _return(0),
    )


REJECT_ALL = (_return(0),)
"""The filter that a socket has until all of its fan-out group is in place."""


def accept_udp(vlans: Iterable[int] = (), *, outgoing: bool = False) -> tuple[Instruction, ...]:
    """Make a filter that lets in all UDP, untagged or of these VLANs. `outgoing`: what this machine has sent."""
    return (*_udp(vlans, outgoing=outgoing), _return(_WHOLE))


def select_udp(wanted: Iterable[Flow], *, invert: bool = False, outgoing: bool = False) -> tuple[Instruction, ...]:
    """Make a filter that lets in the UDP of these flows, and frames whose headers don't tell.

    Args:
        wanted: of them, groups and ports are looked at, in all of their VLANs; the workers look at VLAN and source.
        invert: let in all other UDP instead.
        outgoing: what this machine has sent, and not what it has received.

    Raises:
        OverflowError: it would be too long for the kernel.
    """
    yes, no = (0, _WHOLE) if invert else (_WHOLE, 0)
    ports: defaultdict[int, set[int]] = defaultdict(set)
    vlans = set()
    for each in wanted:
        ports[int(each.group)].add(each.port)
        vlans.add(each.vlan)
    program = [
        *_udp(vlans, outgoing=outgoing),
        _load_half(uapi.SKF_NET_OFF + 6),
        Instruction(0x45, 0, 1, 0x3FFF),  # a fragment
        _return(yes),
        _load_byte(uapi.SKF_NET_OFF),
        Instruction(0x35, 1, 0, 0x45),  # version and header length
        _return(yes),
        Instruction(0x35, 0, 1, 0x50),
        _return(yes),
        Instruction(0xB1, 0, 0, uapi.SKF_NET_OFF),  # X = length of the IP header
        Instruction(0x80, 0, 0, 0),  # length of the frame
        Instruction(0x1C, 0, 0, 0),  # less X
        Instruction(0x35, 1, 0, _PORTS_END),
        _return(yes),  # without ports; to load them would reject
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + 2),  # destination port
        Instruction(0x02, 0, 0, _PORT),
        _load_word(uapi.SKF_NET_OFF + 16),
        Instruction(0x02, 0, 0, _GROUP),
    ]
    for number in sorted(ports):
        program += _select_group(number, sorted(ports[number]), yes, no)
    program.append(_return(no))
    if len(program) > uapi.BPF_MAXINSNS:
        raise OverflowError(f"{len(program)} instructions")
    return tuple(program)


def select_groups(program: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Make a filter that lets in the frames that another lets in, if they are sent to a group."""
    return (
        _load_word(uapi.SKF_NET_OFF + 16),  # IPv4 destination; what is no IPv4 the other rejects
        Instruction(0x54, 0, 0, 0xF0000000),
        _if_equal(0xE0000000, 1, 0),
        _return(0),
        *program,
    )


def _select_group(group: int, ports: Sequence[int], yes: int, no: int) -> list[Instruction]:
    choices = [step for port in ports for step in (_if_equal(port, 0, 1), _return(yes))]
    block = [Instruction(0x60, 0, 0, _PORT), *choices, _return(no)]
    if len(block) > _MAX_JUMP:
        raise OverflowError(f"{len(ports)} ports of one group")
    return [_if_equal(group, 0, len(block)), *block]


IGMP_QUERIES = (
    Instruction(0xB1, 0, 0, 0),  # X = length of the IP header
    Instruction(0x50, 0, 0, 0),  # IGMP type
    _if_equal(_IGMP_QUERY, 0, 1),
    _return(_WHOLE),
    _return(0),
)
"""For a raw IGMP socket, whose data begins at the IP header: lets in queries."""


def select_kin(flow: Flow, size: int, *, strictly: bool = False) -> tuple[Instruction, ...]:
    """Make a filter for a probe of frames like a flow, tagged or not: UDP to its group, or to its port of any group.

    IGMP queries come in, too. Of what this machine sends, only the very flow. The kernel has taken the outermost VLAN
    tag out of the frame; a second one is skipped.

    Args:
        flow: the group and port.
        size: bytes of a frame that are kept.
        strictly: only UDP to this very group and port, and queries.
    """
    # X is where the IP header begins, counted from the network header; after that, where it ends.
    skip_ip_header = (
        Instruction(0x50, 0, 0, uapi.SKF_NET_OFF),
        Instruction(0x54, 0, 0, 0x0F),  # words of the IP header
        Instruction(0x64, 0, 0, 2),
        Instruction(0x0C, 0, 0, 0),
        Instruction(0x07, 0, 0, 0),
    )
    group_alone = (_if_equal(int(flow.group), 1, 0), _return(0))
    group_or_port = (
        _if_equal(int(flow.group), 0, 1),
        _return(size),
        Instruction(0x54, 0, 0, 0xF0000000),
        _if_equal(0xE0000000, 1, 0),  # a group
        _return(0),
    )
    # Of what this machine sends, the other groups and ports are the relay's own output.
    own_alone = (
        _load_half(uapi.SKF_AD_OFF + 4),  # packet type
        _if_equal(uapi.PACKET_OUTGOING, 0, 3),
        Instruction(0x40, 0, 0, uapi.SKF_NET_OFF + 16),
        _if_equal(int(flow.group), 2 + len(group_or_port), 0),
        _return(0),
    )
    udp = (
        *(() if strictly else own_alone),
        Instruction(0x40, 0, 0, uapi.SKF_NET_OFF + 16),  # destination
        *(group_alone if strictly else group_or_port),
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + 6),
        Instruction(0x45, 0, 1, 0x1FFF),  # a fragment without a port
        _return(0),
        *skip_ip_header,
        Instruction(0x48, 0, 0, uapi.SKF_NET_OFF + 2),  # destination port
        _if_equal(flow.port, 0, 1),
        _return(size),
        _return(0),
    )
    return (
        _load_half(uapi.SKF_AD_OFF),  # protocol
        Instruction(0x01, 0, 0, 0),  # X = 0
        _if_equal(uapi.ETH_P_IP, 7, 0),
        _if_equal(uapi.ETH_P_8021Q, 2, 0),
        _if_equal(uapi.ETH_P_8021AD, 1, 0),
        _return(0),
        _load_half(uapi.SKF_NET_OFF + 2),  # protocol after the second tag
        _if_equal(uapi.ETH_P_IP, 1, 0),
        _return(0),
        Instruction(0x01, 0, 0, 4),
        Instruction(0x50, 0, 0, uapi.SKF_NET_OFF + 9),  # IP protocol
        _if_equal(socket.IPPROTO_IGMP, 2, 0),
        _if_equal(socket.IPPROTO_UDP, 1 + len(skip_ip_header) + 4, 0),
        _return(0),
        *skip_ip_header,
        Instruction(0x50, 0, 0, uapi.SKF_NET_OFF),  # IGMP type
        _if_equal(_IGMP_QUERY, 0, 1),
        _return(size),
        _return(0),
        *udp,
    )


def attach_filter(target: socket.socket, program: Sequence[Instruction]) -> None:
    """Put `program` in the place of the socket's filter, between two packets.

    Raises:
        OSError: from setsockopt(2).
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    # struct sock_fprog: a count and a pointer, aligned as the compiler would.
    argument = struct.pack("@HP", len(program), ctypes.addressof(code))
    target.setsockopt(socket.SOL_SOCKET, uapi.SO_ATTACH_FILTER, argument)


def attach_program(target: socket.socket, program: int) -> None:
    """Put an eBPF program in the place of the socket's filter, between two packets.

    Raises:
        OSError: from setsockopt(2).
    """
    target.setsockopt(socket.SOL_SOCKET, uapi.SO_ATTACH_BPF, program)
