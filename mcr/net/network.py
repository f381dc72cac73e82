"""This machine's network at one moment: links, addresses, neighbours. Values; `rtnetlink` makes them."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from itertools import chain

import attrs

from mcr.model.flow import IPV4, IPV6, LIMITED_BROADCAST, Address

_LEAST_BROADCAST = 30  # prefix length: longer ones have no broadcast address (RFC 3021)


@attrs.frozen
class Link:
    """A network interface as it is now.

    Attributes:
        name: its present name.
        altnames: others that it goes by (``ip link property``).
        up: somebody has set it up.
        carrier: its driver sees somebody at the other end.
        carrier_ups: how often there has come to be somebody.
        running: the kernel takes it to be able to carry traffic (RFC 2863, ifOperStatus).
        arp: it asks for the link addresses of neighbours; false for tunnels and other point-to-point links.
        loopback: what is sent by it comes back in, on this machine.
        mtu: in bytes.
        mac: its link address.
        master: index of the device that owns it, such as a bridge; 0: none does.
        kind: of device, as ``ip -details link`` says: ``veth``, ``bridge``; empty for a network card.
        tags: of a VLAN's device: the index of the interface whose frames it has, and the VLAN; None: it is none.
    """

    index: int
    name: str
    altnames: tuple[str, ...] = ()
    up: bool = True
    carrier: bool = True
    carrier_ups: int = 0
    running: bool = True
    arp: bool = True
    loopback: bool = False
    mtu: int = 1500
    mac: bytes = b""
    master: int = 0
    kind: str = ""
    tags: tuple[int, int] | None = None


@attrs.frozen
class Neighbour:
    """A host on a link, as the kernel's neighbour table has it.

    Attributes:
        state: as <linux/neighbour.h> has it (NUD_…); 0: the kernel has forgotten it.
        silent: it did not answer when it was last asked, and has not been heard of since.
        mac: its link address, if known.
    """

    state: int
    silent: bool = False
    mac: bytes = b""


@attrs.frozen
class Network:
    """All of it, at one moment.

    Attributes:
        version: grows with every change.
        links: by index.
        addresses: IPv4 addresses with their networks, by the interface's index.
        addresses6: IPv6 addresses likewise.
        lost6: how often an interface, by index, has lost its link-local address, also if it has got it back.
        neighbours: by the interface's index and the host's address.
        routes: grows when a route may have changed: with routes, addresses, and interfaces.
    """

    version: int = 0
    links: Mapping[int, Link] = attrs.field(factory=dict)
    addresses: Mapping[int, tuple[IPv4Interface, ...]] = attrs.field(factory=dict)
    neighbours: Mapping[tuple[int, Address], Neighbour] = attrs.field(factory=dict)
    routes: int = 0
    addresses6: Mapping[int, tuple[IPv6Interface, ...]] = attrs.field(factory=dict)
    lost6: Mapping[int, int] = attrs.field(factory=dict)

    def find(self, name: str) -> Link | None:
        """The interface of a name; by one of its altnames if none has it for its own."""
        links = self.links.values()
        own = next((link for link in links if link.name == name), None)
        return own or next((link for link in links if name in link.altnames), None)

    def own_addresses(self) -> Iterator[Address]:
        """Every address of this machine."""
        held = chain[tuple[IPv4Interface | IPv6Interface, ...]](self.addresses.values(), self.addresses6.values())
        return (each.ip for addresses in held for each in addresses)

    def is_on_a_network(self, address: Address) -> bool:
        """Whether an address is in a network of one of the interfaces."""
        held = chain[tuple[IPv4Interface | IPv6Interface, ...]](self.addresses.values(), self.addresses6.values())
        return any(address in each.network for addresses in held for each in addresses)

    def listens_to(self, address: Address, index: int, vlan: int | None = None) -> bool:
        """Whether IP takes what comes in by an interface, in a VLAN or in none, for an address, which is no group's."""
        if address == LIMITED_BROADCAST:
            return True
        if address.version == IPV6 and address.is_link_local:
            return any(each.ip == address for each in self.addresses6.get(index, ()))
        if (link := self.links.get(index)) and link.loopback and address.version == IPV4:
            networks = (each.network for each in self.addresses.get(index, ()))
            if any(address in each for each in networks):  # there IP takes all of 127.0.0.0/8
                return True
        return address in self.own_addresses() or self.broadcast_network(address, index, vlan) is not None

    def broadcast_network(self, address: Address, index: int, vlan: int | None = None) -> IPv4Network | None:
        """The network of an interface, by index, whose directed broadcast address this is; None: of none.

        In a VLAN also those of its device on the interface.
        """
        devices = (link.index for link in self.links.values() if link.tags == (index, vlan)) if vlan else ()
        networks = (each.network for device in (index, *devices) for each in self.addresses.get(device, ()))
        several = (each for each in networks if each.prefixlen <= _LEAST_BROADCAST)
        return next((each for each in several if each.broadcast_address == address), None)


def has_new_carrier(before: Link | None, now: Link | None) -> bool:
    """Whether an interface that was up all the time has got carrier, also if it had lost it in between only.

    The kernel itself says on the wire what it has joined when an interface is set up, and when a group is joined.
    """
    return bool(
        before
        and now
        and before.up
        and now.up
        and now.carrier
        and (not before.carrier or now.carrier_ups != before.carrier_ups)
    )
