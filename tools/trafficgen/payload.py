"""The payload of a test datagram: its sender, its number, when it was due, and a checksum over all of it.

Layout, in network order::

    0 magic "MCRT"   4 version   6 length   8 flow id   12 sequence   20 due (ns)   28 CRC-32   32 filler

The due time is CLOCK_MONOTONIC, which all namespaces of a machine share. The CRC runs over the filler first
and the header second, so that a sender, whose filler never changes, works out only the header's part.
"""

import struct
import zlib
from typing import NamedTuple

DEFAULT_SIZE = 1316
"""Bytes: seven MPEG-TS packets, as television sends them."""

_MAGIC = b"MCRT"
_VERSION = 1
_FIELDS = struct.Struct("!4sBxHIQQ")
_CRC = struct.Struct("!I")
_HEADER = struct.Struct("!4sBxHIQQI")
_FILLER_PATTERN = bytes(range(256))

MIN_SIZE = _HEADER.size
"""Bytes of the smallest payload: header, no filler."""

MAX_SIZE = 65_507
"""Bytes of the largest: what a UDP datagram over IPv4 holds."""


def flow_id(name: str) -> int:
    """Return the 32-bit number that stands for a flow's name in its payloads."""
    return zlib.crc32(name.encode())


def filler(size: int) -> bytes:
    """Return what follows the header in a payload of `size` bytes; no two neighbours in it are alike."""
    length = size - MIN_SIZE
    return (_FILLER_PATTERN * (length // len(_FILLER_PATTERN) + 1))[:length]


def header(size: int, flow: int, sequence: int, due_ns: int, filler_crc: int) -> bytes:
    """Return the header of a payload.

    Args:
        size: bytes of the whole payload.
        flow: the flow's number, see `flow_id`.
        sequence: 0 for the first of the flow.
        due_ns: when it is to be sent, in nanoseconds of CLOCK_MONOTONIC.
        filler_crc: CRC-32 of the payload's filler.
    """
    fields = _FIELDS.pack(_MAGIC, _VERSION, size, flow, sequence, due_ns)
    return fields + _CRC.pack(zlib.crc32(fields, filler_crc))


class Stamp(NamedTuple):
    """What an intact payload says. One is made for every packet, and a tuple is the quickest to make."""

    flow: int
    sequence: int
    due_ns: int


def read(payload: memoryview) -> Stamp | None:
    """Return what a payload says, or None if it is not exactly as some sender made it."""
    size = len(payload)
    if size < MIN_SIZE:
        return None
    magic, version, length, flow, sequence, due_ns, crc = _HEADER.unpack_from(payload)
    if magic != _MAGIC or version != _VERSION or length != size:
        return None
    if zlib.crc32(payload[: _FIELDS.size], zlib.crc32(payload[MIN_SIZE:])) != crc:
        return None
    return Stamp(flow, sequence, due_ns)
