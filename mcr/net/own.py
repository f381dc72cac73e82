"""The sources that this machine sends with: its addresses, and the MACs of the interfaces that rules use.

A datagram that arrives with one of them as its source has come back: a loop (native/own.h).
"""

from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv6Address

from mcr._native import ffi, lib
from mcr.net.network import Network
from mcr.shm.flows import address_words
from mcr.shm.records import network_address

_MAC_BYTES = 6
_NO_BROADCAST = 31  # bits of the prefix of a network so small that it has none
_SHARED_MAC = ("ipvlan", "ipvtap")  # their neighbours on this machine have the same


def own_keys(network: Network, used: Collection[int]) -> bytes:
    """Addresses of all interfaces, and MACs of those in use, by index, as `mcr.shm.records.own` takes them.

    With the addresses, the directed broadcasts of their networks, from which nothing can come. No more than fit, those
    of loops first.
    """
    causes: dict[int, int] = {}
    for key, cause in _keys(network, used):
        causes.setdefault(key, cause)
    kept = [*causes.items()][: lib.MCR_MAX_OWN]
    return bytes(ffi.buffer(ffi.new("struct mcr_rec_own_key[]", kept)))


class OwnKeys:
    """Those that were told last, and what they were made of."""

    def __init__(self) -> None:
        self._made_of: tuple[object, ...] = ()
        self._told = b""

    def news(self, network: Network, used: Collection[int]) -> bytes | None:
        """What is to be told now; None: nothing has changed."""
        made_of = network.links, network.addresses, network.addresses6, used
        if made_of == self._made_of:
            return None
        self._made_of = made_of
        keys = own_keys(network, used)
        if keys == self._told:
            return None
        self._told = keys
        return keys


def _keys(network: Network, used: Collection[int]) -> Iterator[tuple[int, int]]:
    for index in sorted(used):
        link = network.links.get(index)
        if link and len(link.mac) == _MAC_BYTES and any(link.mac) and link.kind not in _SHARED_MAC:
            yield lib.mcr_own_mac(link.mac), lib.MCR_CAUSE_LOOP
    addresses = [each for index in sorted(network.addresses) for each in network.addresses[index]]
    for each in addresses:  # whatever else they are
        yield _key(each.ip), lib.MCR_CAUSE_LOOP
    for index in sorted(network.addresses6):
        yield from ((_key6(each.ip), lib.MCR_CAUSE_LOOP) for each in network.addresses6[index])
    for each in addresses:
        if each.network.prefixlen < _NO_BROADCAST:
            yield _key(each.network.broadcast_address), lib.MCR_CAUSE_SOURCE


def _key(address: IPv4Address) -> int:
    return int(lib.mcr_own_address(network_address(address)))


def _key6(address: IPv6Address) -> int:
    return int(lib.mcr_own_address6(address_words(address)))
