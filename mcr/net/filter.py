"""Classic BPF socket filters (Documentation/networking/filter.rst)."""

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

_SO_ATTACH_FILTER = 26


class Instruction(NamedTuple):
    """One ``struct sock_filter``: opcode, jump if true, jump if false, operand."""

    code: int
    jt: int
    jf: int
    k: int


def attach_filter(target: socket.socket, program: Sequence[Instruction]) -> None:
    """Put `program` in the place of the socket's filter, between two packets.

    Raises:
        OSError: from setsockopt(2).
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    # struct sock_fprog: a count and a pointer, aligned as the compiler would.
    target.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
