"""Spreads the frames of an interface over the sockets of its workers, by a classic filter."""

import socket
from collections.abc import Sequence

from mcr.net import uapi
from mcr.net.filter.cbpf import Instruction, if_equal, load_half, load_word, set_program

SOURCE_AND_GROUP = (
    load_half(uapi.SKF_AD_OFF),  # protocol
    if_equal(uapi.ETH_P_IPV6, 4, 0),
    load_word(uapi.SKF_NET_OFF + 12),  # IPv4 source
    Instruction(0x07, 0, 0, 0),  # X = A
    load_word(uapi.SKF_NET_OFF + 16),  # IPv4 destination
    Instruction(0x05, 0, 0, 3),
    load_word(uapi.SKF_NET_OFF + 20),  # last word of the IPv6 source
    Instruction(0x07, 0, 0, 0),
    load_word(uapi.SKF_NET_OFF + 36),  # last word of the IPv6 destination
    Instruction(0x24, 0, 0, 0x9E3779B1),
    Instruction(0xAC, 0, 0, 0),  # exclusive or X
    Instruction(0x24, 0, 0, 0x9E3779B1),
    Instruction(0x74, 0, 0, 24),  # the upper bits, which have something of all
    Instruction(0x16, 0, 0, 0),
)
"""Chooses a socket of a fan-out group. Ports are left out: of a datagram in fragments only the first one has them, and
the others, and whole datagrams of the same flow, have to go the same way."""


def spread_by(member: socket.socket, program: Sequence[Instruction]) -> None:
    """Have a program choose who of a fan-out group gets a frame (PACKET_FANOUT_CBPF).

    Raises:
        OSError: from setsockopt(2).
    """
    set_program(member, uapi.SOL_PACKET, uapi.PACKET_FANOUT_DATA, program)
