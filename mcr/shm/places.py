"""Which rule has which slot of the counters: a table in a memfd, so that the next mcrd puts rules where they were.

A rule, and likewise an output, is known by a digest of what makes it what it is. An entry is written before workers
hear of the slot, and cleared when the slot is let go.
"""

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Self

from mcr._native import lib

_HEAD: Final = struct.Struct("=8sII8xQ")  # magic, numbers of both kinds of slots, newest tag
_MAGIC: Final = b"mcrplac1"
_TAG: Final = struct.Struct("=Q")
_TAG_AT: Final = _HEAD.size - 8
_ENTRY: Final = struct.Struct("=16sQ")
_RULES_AT: Final = 4096
_OUTPUTS_AT: Final = _RULES_AT + lib.MCR_MAX_RULES * _ENTRY.size
_SIZE: Final = _OUTPUTS_AT + lib.MCR_MAX_OUTPUTS * _ENTRY.size
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Place(NamedTuple):
    """A slot, and the tag that its counters bear."""

    slot: int
    tag: int


class Places:
    """The table. Belongs to the relay."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)
        self._newest: int = _HEAD.unpack_from(self._memory)[3]  # nobody else writes it

    @classmethod
    def make(cls) -> Self:
        """An empty one."""
        fd = os.memfd_create("mcr-places", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _SIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        made = cls(fd)
        _HEAD.pack_into(made._memory, 0, _MAGIC, lib.MCR_MAX_RULES, lib.MCR_MAX_OUTPUTS, 0)
        return made

    @classmethod
    def adopt(cls, fd: int) -> Self:
        """One that another mcrd has left.

        Raises:
            ValueError: it is none.
        """
        if os.fstat(fd).st_size != _SIZE or fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("the table of places has another size")
        made = cls(fd)
        if _HEAD.unpack_from(made._memory)[:3] != (_MAGIC, lib.MCR_MAX_RULES, lib.MCR_MAX_OUTPUTS):
            made._memory.close()
            raise ValueError("the table of places has another layout")
        return made

    def close(self) -> None:
        """Unmap and close it."""
        self._memory.close()
        os.close(self.fd)

    def new_tags(self, count: int) -> Iterator[int]:
        """Tags that no slot has borne."""
        first, self._newest = self._newest + 1, self._newest + count
        _TAG.pack_into(self._memory, _TAG_AT, self._newest)
        return iter(range(first, self._newest + 1))

    def rules(self) -> dict[bytes, Place]:
        """Rules that have a slot."""
        return self._read(_RULES_AT, lib.MCR_MAX_RULES)

    def outputs(self) -> dict[bytes, Place]:
        """Outputs that have one."""
        return self._read(_OUTPUTS_AT, lib.MCR_MAX_OUTPUTS)

    def put_rules(self, digests: Iterable[bytes], places: Iterable[Place]) -> None:
        """Rules have slots from now on."""
        self._put(_RULES_AT, digests, places)

    def put_outputs(self, digests: Iterable[bytes], places: Iterable[Place]) -> None:
        """Outputs have slots from now on."""
        self._put(_OUTPUTS_AT, digests, places)

    def drop_rule(self, slot: int) -> None:
        """Nobody has it any more."""
        _ENTRY.pack_into(self._memory, _RULES_AT + slot * _ENTRY.size, b"", 0)

    def drop_output(self, slot: int) -> None:
        """Nobody has it any more."""
        _ENTRY.pack_into(self._memory, _OUTPUTS_AT + slot * _ENTRY.size, b"", 0)

    def _put(self, at: int, digests: Iterable[bytes], places: Iterable[Place]) -> None:
        put, memory, size = _ENTRY.pack_into, self._memory, _ENTRY.size
        for key, (slot, tag) in zip(digests, places, strict=True):
            put(memory, at + slot * size, key, tag)

    def _read(self, at: int, count: int) -> dict[bytes, Place]:
        newest = self._newest
        if not newest:  # nothing was ever put in
            return {}
        table = _ENTRY.iter_unpack(self._memory[at : at + count * _ENTRY.size])
        return {digest: Place(slot, tag) for slot, (digest, tag) in enumerate(table) if 0 < tag <= newest}


def digest(identity: str) -> bytes:
    """What tells a rule, or an output, from every other."""
    return hashlib.blake2b(identity.encode(), digest_size=16).digest()
