"""A note to the next mcrd: a JSON value in a memfd, whole at whatever instruction mcrd is killed.

The file has room for two values. A new one is written beside the one that counts; then a head of a few bytes, which is
written at once, says where it is.
"""

import json
import os
import struct
import zlib
from typing import Any, Final, Self

_HEAD: Final = struct.Struct("=8sIIII")  # magic, which room, bytes, their CRC, the head's own
_MAGIC: Final = b"mcrmemo1"
_HEAD_BYTES: Final = 4096
_ROOM: Final = 16 << 20  # bytes; memory is taken for what is written alone


class Memo:
    """One note. Has one writer."""

    def __init__(self, fd: int) -> None:
        """Own the descriptor of a file that is empty or holds a note."""
        self.fd = fd
        self._room = 0
        self._data = b""  # that was written last

    @classmethod
    def make(cls, name: str) -> Self:
        """A new one, without a value."""
        return cls(os.memfd_create(name, os.MFD_CLOEXEC))

    def write(self, value: Any) -> None:
        """Have it say this. One that is too long leaves it as it is."""
        data = json.dumps(value, separators=(",", ":")).encode()
        if data == self._data or len(data) > _ROOM:
            return
        room = 1 - self._room
        os.pwrite(self.fd, data, _HEAD_BYTES + room * _ROOM)
        fields = room, len(data), zlib.crc32(data)
        os.pwrite(self.fd, _HEAD.pack(_MAGIC, *fields, zlib.crc32(repr(fields).encode())), 0)
        self._room, self._data = room, data

    def read(self) -> Any:
        """What it says.

        Raises:
            ValueError, OSError: it says nothing, or is no note.
        """
        magic, *fields, check = _HEAD.unpack(os.pread(self.fd, _HEAD.size, 0).ljust(_HEAD.size, b"\0"))
        if magic != _MAGIC or check != zlib.crc32(repr((*fields,)).encode()):
            raise ValueError("it is no note of mcrd's")
        room, size, checksum = fields
        if room > 1 or size > _ROOM:
            raise ValueError("it is no note of mcrd's")
        data = os.pread(self.fd, size, _HEAD_BYTES + room * _ROOM)
        if len(data) != size or zlib.crc32(data) != checksum:
            raise ValueError("it is damaged")
        self._room = room
        return json.loads(data)

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)
