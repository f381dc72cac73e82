"""Thins what a socket's filter lets in: of some payloads every datagram, of all others none."""

from collections.abc import Sequence
from typing import Final

from mcr.net import uapi
from mcr.net.filter.cbpf import Instruction, load_half

_START, _END, _SIZE, _HASH = 2, 3, 4, 5  # words of scratch memory: of the payload, in a frame
_WORDS = 8  # that are looked at, at each end of a payload
_BYTES = 3  # of one that is shorter than a word
_RETURN = 0x06
_UDP_HEADER = 8
_IPV6_HEADERS = 48  # bytes, with UDP's
_ODD: Final = 0x9E3779B1  # mixes well by multiplication

_LENGTH_OF_FRAME = Instruction(0x80, 0, 0, 0)
_TO_X = Instruction(0x07, 0, 0, 0)
_WORD, _BYTE = 0x40, 0x50  # loads, at an offset from X


def thin(program: Sequence[Instruction], link: int, share: int, seed: int) -> tuple[Instruction, ...]:
    """Let in one payload of `share`, of what a filter lets in, by a hash of the first and the last 32 bytes.

    Args:
        program: the filter.
        link: bytes of the link layer's header that frames begin with (`mcr.net.interfaces.link_header`).
        share: a power of two.
        seed: which payloads those are; 32 bits.

    Raises:
        OverflowError: it would be too long for the kernel.
    """
    end = len(program)
    chosen = [
        Instruction(0x05, 0, 0, end - at - 1) if step.code == _RETURN and step.k else step
        for at, step in enumerate(program)
    ]
    whole = max((step.k for step in program if step.code == _RETURN), default=0)
    thinned = (
        *chosen,
        *_find_payload(link, seed),
        *(step for at in range(_BYTES) for step in _mix(_BYTE, _START, at, at + 1)),
        *(step for at in range(0, 4 * _WORDS, 4) for step in _mix(_WORD, _START, at, at + 4)),
        *(step for at in range(4, 4 * _WORDS + 1, 4) for step in _mix(_WORD, _END, 2**32 - at, at)),
        Instruction(0x60, 0, 0, _HASH),
        Instruction(0x45, 0, 1, share - 1),
        Instruction(_RETURN, 0, 0, 0),
        Instruction(_RETURN, 0, 0, whole),
    )
    if len(thinned) > uapi.BPF_MAXINSNS:
        raise OverflowError(f"{len(thinned)} instructions")
    return thinned


def _find_payload(link: int, seed: int) -> tuple[Instruction, ...]:
    """Remember where it is. The size of one that cannot be is large, so its load rejects the frame."""
    return (
        Instruction(0x00, 0, 0, seed),
        Instruction(0x02, 0, 0, _HASH),
        load_half(uapi.SKF_AD_OFF),  # protocol
        Instruction(0x15, 0, 2, uapi.ETH_P_IPV6),
        Instruction(0x00, 0, 0, _IPV6_HEADERS),
        Instruction(0x05, 0, 0, 3),
        Instruction(0xB1, 0, 0, uapi.SKF_NET_OFF),  # X = length of the IP header
        Instruction(0x87, 0, 0, 0),
        Instruction(0x04, 0, 0, _UDP_HEADER),
        Instruction(0x04, 0, 0, link),
        Instruction(0x02, 0, 0, _START),
        _TO_X,
        _LENGTH_OF_FRAME,
        Instruction(0x02, 0, 0, _END),
        Instruction(0x1C, 0, 0, 0),  # less X
        Instruction(0x02, 0, 0, _SIZE),
    )


def _mix(load: int, base: int, offset: int, size: int) -> tuple[Instruction, ...]:
    """Mix some bytes of the payload into the hash, if it has that size."""
    return (
        Instruction(0x60, 0, 0, _SIZE),
        Instruction(0x35, 0, 9, size),
        Instruction(0x61, 0, 0, base),
        Instruction(load, 0, 0, offset),
        Instruction(0x61, 0, 0, _HASH),
        Instruction(0xAC, 0, 0, 0),  # A ^= X
        Instruction(0x24, 0, 0, _ODD),
        _TO_X,
        Instruction(0x74, 0, 0, 15),
        Instruction(0xAC, 0, 0, 0),
        Instruction(0x02, 0, 0, _HASH),
    )
