"""A flow as the workers and the eBPF programs compare it: ``struct mcr_flow`` of ``native/flow.h``."""

import socket
import struct
from typing import Any

from mcr._native import ffi
from mcr.model.flow import Address, Flow

_ADDRESS_WORDS = struct.Struct("=4I")
_FAMILIES = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}


def make_flow(flow: Flow, slot: int) -> Any:
    """A flow that comes in by the interface of this slot. What is not used is zero."""
    made = ffi.new("struct mcr_flow *")
    made.interface = slot
    made.vlan = flow.vlan
    made.family = family_of(flow.group)
    made.port = socket.htons(flow.port)
    made.group, *made.group_rest = address_words(flow.group)
    if flow.source:
        made.source, *made.source_rest = address_words(flow.source)
    return made


def family_of(address: Address) -> int:
    """Of an address: AF_INET or AF_INET6."""
    return _FAMILIES[address.version]


def address_words(address: Address) -> tuple[int, ...]:
    """Four words, in network byte order; of IPv4, all but the first are 0."""
    return _ADDRESS_WORDS.unpack(address.packed.ljust(_ADDRESS_WORDS.size, b"\0"))
