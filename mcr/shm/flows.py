"""A flow as the workers and the eBPF programs compare it: ``struct mcr_flow`` of ``native/flow.h``."""

import socket
import struct
import sys
from typing import Any

from mcr._native import ffi
from mcr.model.flow import Address, Flow

_FLOW = struct.Struct("=4H4s4s12s12s")  # which fills what addresses of IPv4 lack with zeros
_PLAIN = struct.Struct("=4H4s28x")  # of IPv4, from any source, as most are
_FLOW_POINTER = ffi.typeof("struct mcr_flow *")
_WORD_BYTES = 4
_ADDRESS_WORDS = struct.Struct("=4I")
_AF_INET = int(socket.AF_INET)
_FAMILIES = {4: _AF_INET, 6: int(socket.AF_INET6)}


def flow_bytes(flow: Flow, slot: int) -> bytes:
    """A flow that comes in by the interface of this slot. What is not used is zero."""
    group = flow.group.packed
    if flow.source is None and len(group) == _WORD_BYTES:
        return _PLAIN.pack(slot, flow.vlan, _AF_INET, socket.htons(flow.port), group)
    source = flow.source.packed if flow.source else b""
    return _FLOW.pack(
        slot,
        flow.vlan,
        _FAMILIES[flow.group.version],
        socket.htons(flow.port),
        group[:_WORD_BYTES],
        source[:_WORD_BYTES],
        group[_WORD_BYTES:],
        source[_WORD_BYTES:],
    )


def make_flow(flow: Flow, slot: int) -> Any:
    """The same for a call of the native code, which only reads it."""
    return ffi.from_buffer(_FLOW_POINTER, flow_bytes(flow, slot))


def family_of(address: Address) -> int:
    """Of an address: AF_INET or AF_INET6."""
    return _FAMILIES[address.version]


def address_words(address: Address) -> tuple[int, ...]:
    """Four words, in network byte order; of IPv4, all but the first are 0."""
    return _ADDRESS_WORDS.unpack(address.packed.ljust(_ADDRESS_WORDS.size, b"\0"))


def address_parts(address: Address | None) -> tuple[int, bytes]:
    """The first of these words, and the bytes of the others, if they are not 0; None: all are."""
    packed = address.packed if address else b""
    return int.from_bytes(packed[:_WORD_BYTES], sys.byteorder), packed[_WORD_BYTES:]
