"""Writes captured packets as pcapng (draft-ietf-opsawg-pcapng): times in nanoseconds, directions, comments."""

import struct
from collections.abc import Iterable
from typing import BinaryIO, Final

ETHERNET: Final = 1
"""LINKTYPE_ETHERNET."""

RAW_IP: Final = 101
"""LINKTYPE_RAW: packets begin with their IP header."""

INBOUND: Final = 1
OUTBOUND: Final = 2

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6  # types of blocks
_COMMENT = 1  # options of every block
_APPLICATION = 4  # of a section
_NAME, _RESOLUTION = 2, 9  # of an interface
_FLAGS = 2  # of a packet
_RECEIVED, _DROPPED = 4, 5  # of statistics
_NANOSECONDS = b"\x09"
_MAGIC = 0x1A2B3C4D
_WHOLE = 0  # bytes of a packet that are kept: all

_HEADER = struct.Struct("<II")  # type and length
_OPTION = struct.Struct("<HH")


class PcapngWriter:
    """Writes one section.

    Args:
        file: is written to; nothing is held back but by itself.
        application: what writes it.
        comment: on the whole.
    """

    def __init__(self, file: BinaryIO, application: str, comment: str) -> None:
        self._file = file
        body = struct.pack("<IHHq", _MAGIC, 1, 0, -1)
        self._write(_SECTION, body, (_APPLICATION, application.encode()), (_COMMENT, comment.encode()))

    def interface(self, name: str, link_type: int) -> None:
        """Describe an interface. Packets name it by its number: the first is 0."""
        self._write(
            _INTERFACE,
            struct.pack("<HHI", link_type, 0, _WHOLE),
            (_NAME, name.encode()),
            (_RESOLUTION, _NANOSECONDS),
        )

    def packet(self, interface: int, time: int, data: bytes, direction: int, comment: str) -> None:
        """Write a packet. `time`: nanoseconds since 1970; `direction`: `INBOUND` or `OUTBOUND`."""
        body = struct.pack("<IIIII", interface, time >> 32, time & 0xFFFFFFFF, len(data), len(data)) + _padded(data)
        self._write(_PACKET, body, (_COMMENT, comment.encode()), (_FLAGS, struct.pack("<I", direction)))

    def statistics(self, interface: int, time: int, received: int, dropped: int) -> None:
        """Say how many packets there were on an interface, and how many of them are missing here."""
        body = struct.pack("<III", interface, time >> 32, time & 0xFFFFFFFF)
        counts = [(_RECEIVED, struct.pack("<Q", received)), (_DROPPED, struct.pack("<Q", dropped))]
        self._write(_STATISTICS, body, *counts)

    def _write(self, kind: int, body: bytes, *options: tuple[int, bytes]) -> None:
        body += _options(options)
        length = _HEADER.size + len(body) + 4
        self._file.write(_HEADER.pack(kind, length) + body + struct.pack("<I", length))


def _options(options: Iterable[tuple[int, bytes]]) -> bytes:
    written = (_OPTION.pack(code, len(value)) + _padded(value) for code, value in options)
    return b"".join(written) + _OPTION.pack(0, 0)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
