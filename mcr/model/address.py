"""IPv4 addresses that rules name, of which there may be thousands: ipaddress finds everything out anew each time."""

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from itertools import repeat
from socket import inet_ntoa
from typing import Final, Literal

from mcr.model.columns import make_all, setters_of

_BYTES: Final = 4
_CLASS: Final = 0xF0
_CLASS_D: Final = 0xE0
_GROUPS: Final = 0xE000_0000, 0xEFFF_FFFF


class RuleAddress(IPv4Address):
    """An IPv4 address, equal to that of ipaddress, with its hash: what it is, is found out once."""

    __slots__ = ("_hash", "is_multicast", "packed")

    is_multicast: bool
    packed: bytes
    version: Literal[4] = 4

    def __init__(self, address: object) -> None:
        """As ipaddress has it: text, number or bytes; these are the fastest."""
        if type(address) is bytes and len(address) == _BYTES:
            self._ip = int.from_bytes(address, "big")
            self.packed = address
        else:
            super().__init__(address)
            self.packed = self._ip.to_bytes(_BYTES, "big")
        self.is_multicast = self.packed[0] & _CLASS == _CLASS_D
        self._hash = hash(hex(self._ip))  # as ipaddress has it: they are equal

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return inet_ntoa(self.packed)


_MEMBERS: Final = setters_of(RuleAddress, "_ip", "packed", "is_multicast", "_hash")


def group_addresses(packed: Sequence[bytes]) -> list[RuleAddress]:
    """Make groups of their bytes.

    Raises:
        ValueError: one is no group.
    """
    numbers = struct.unpack(f"!{len(packed)}I", b"".join(packed))
    if not _GROUPS[0] <= min(numbers) <= max(numbers) <= _GROUPS[1]:
        raise ValueError("no group of IPv4")
    return make_all(RuleAddress, _MEMBERS, len(packed), numbers, packed, repeat(True), map(hash, map(hex, numbers)))
