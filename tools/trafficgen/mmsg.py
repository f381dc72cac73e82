"""Many datagrams per system call: sendmmsg(2) and recvmmsg(2) on buffers that are set up once."""

import ctypes
import itertools
import os
import socket
from collections.abc import Sequence

MAX_PER_CALL = 1024
"""Messages the kernel takes in one call (UIO_MAXIOV)."""

_libc = ctypes.CDLL(None, use_errno=True)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_IoVec)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", ctypes.c_uint32))


class MessageBuffers:
    """A row of slots, one message each.

    Attributes:
        memory: the slots, one after the other.
        offsets: where in `memory` each begins.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        """Set up one slot for each size, in bytes."""
        self.offsets = [0, *itertools.accumulate(sizes[:-1])]
        self.memory = bytearray(sum(sizes))
        self._slots = [memoryview(self.memory)[at : at + size] for at, size in zip(self.offsets, sizes, strict=True)]
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self._vectors = (_IoVec * len(sizes))(
            *(_IoVec(base + at, size) for at, size in zip(self.offsets, sizes, strict=True))
        )
        self._messages = (_MMsgHdr * len(sizes))()
        for index, message in enumerate(self._messages):
            message.header.vectors = ctypes.pointer(self._vectors[index])
            message.header.vector_count = 1
        words = memoryview(self._messages).cast("B").cast("I")
        self._lengths = words[_MMsgHdr.length.offset // 4 :: ctypes.sizeof(_MMsgHdr) // 4]

    def send(self, sock: socket.socket, first: int, count: int) -> int:
        """Send `count` slots from `first` on; return how many of them the kernel took, in order.

        Raises:
            OSError: it took none.
        """
        start = ctypes.byref(self._messages, first * ctypes.sizeof(_MMsgHdr))
        sent = int(_libc.sendmmsg(sock.fileno(), start, min(count, MAX_PER_CALL), 0))
        if sent < 0:
            raise _last_error()
        return sent

    def receive(self, sock: socket.socket) -> list[memoryview]:
        """Return the datagrams that wait in a socket, at most one a slot. They are valid until the next call.

        Raises:
            BlockingIOError: none waits.
            OSError: the socket has an error to report.
        """
        slots = min(len(self._slots), MAX_PER_CALL)
        count = int(_libc.recvmmsg(sock.fileno(), self._messages, slots, socket.MSG_DONTWAIT, None))
        if count < 0:
            raise _last_error()
        lengths = self._lengths
        return [slot[: lengths[index]] for index, slot in enumerate(self._slots[:count])]


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
