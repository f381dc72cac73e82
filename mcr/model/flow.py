"""What a rule matches: the one definition of it. `mcr.shm.flows` turns it into the bytes that are compared."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property, lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, ip_address
from itertools import product
from typing import Final, NamedTuple

import attrs

from mcr.errors import InvalidParams
from mcr.model.address import RuleAddress
from mcr.model.limits import MAX_FLOWS, MAX_SOURCES
from mcr.model.span import Span, check_span
from mcr.text.addresses import bracketed, groups_text, span_text, with_port

Address = IPv4Address | IPv6Address

IPV4: Final = 4
"""Version of an address."""

IPV6: Final = 6

_IPV6_GROUPS = IPv6Address("ff00::")  # no group itself (RFC 4291, 2.7)
_SCOPE = 0x0F  # of the second byte of an IPv6 group
_INTERFACE_LOCAL, _LINK_LOCAL, _RESERVED_SCOPES = 1, 2, (0, 15)

_MAX_VLAN = 4094
_THIS_NETWORK = IPv4Network("0.0.0.0/8")

LIMITED_BROADCAST = IPv4Address("255.255.255.255")
"""To all on the link, whatever its network is (RFC 919). That of one network is its directed broadcast address."""

LOOPBACK: Final = "lo"
"""The loopback interface, as the kernel names it."""

_LEAST_HOST_BITS = 0b11  # of a network that has a broadcast address: these are all 1 in it

WITH_SOURCE = IPv4Network("232.0.0.0/8")
"""Groups of source-specific multicast (RFC 4607): routers forward them to those alone who name the source."""
_INTERFACE_NAME_MAX = 15  # IFNAMSIZ without the terminating NUL


def sent_for(address: Address) -> Address:
    """Whom the sockets are for that an output with this address is sent by: all IPv6 groups have common ones."""
    return _IPV6_GROUPS if address.version == IPV6 and address.is_multicast else address


def may_be_broadcast(address: Address) -> bool:
    """Whether an address is, or with the right network can be, one that all on the link listen to."""
    is_plain = address.version == IPV4 and not address.is_multicast
    return is_plain and int(address) & _LEAST_HOST_BITS == _LEAST_HOST_BITS


def resolution_to(neighbour: Address) -> str:
    """What asks for the link address of a neighbour (RFC 826, RFC 4861)."""
    return "ARP" if neighbour.version == IPV4 else "neighbour discovery"


def parse_address(text: str, what: str) -> Address:
    """Turn text into an address.

    Args:
        text: the address as the operator wrote it.
        what: what the address is for, to name it in the error ("input group").
    """
    try:
        return RuleAddress(socket.inet_pton(socket.AF_INET, text))  # thrice as fast as in Python
    except (OSError, ValueError):
        pass
    try:
        address = ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") and ":" in text else text)
    except (AddressValueError, ValueError):
        raise InvalidParams(f"Invalid {what}: {text!r} is not an IP address", _example(text, what)) from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        plain = str(address).partition("%")[0]
        raise InvalidParams(f"Invalid {what}: {text!r} names a zone", f"its interface says that already: {plain}")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise InvalidParams(f"Invalid {what}: {text!r} stands for an IPv4 address", f"write {address.ipv4_mapped}")
    return address


def _example(text: str, what: str) -> str:
    """An address that may stand there: no group is a source."""
    if "source" not in what:
        return "an address such as 239.1.1.1 or ff15::1"
    host = text.partition("/")[0].strip("[]")
    with suppress(ValueError):
        if host != text.strip("[]") and not ip_address(host).is_multicast:
            return f"a host's address, without a prefix: {host}"
    return "a host's address such as 192.0.2.5 or 2001:db8::5"


def check_scope(group: Address, what: str) -> None:
    """Raise `InvalidParams` for an IPv6 group that no network forwards (RFC 7346)."""
    scope = group.packed[1] & _SCOPE if group.version == IPV6 else _LINK_LOCAL
    if scope == _INTERFACE_LOCAL:
        raise InvalidParams(
            f"Invalid {what}: {str(group)!r} is a group of one machine alone (interface-local scope)",
            "groups that networks forward have a scope from 2 (link) to e (global), such as ff15::1, whose scope is 5",
        )
    if scope in _RESERVED_SCOPES:
        raise InvalidParams(
            f"Invalid {what}: {str(group)!r} has the reserved scope {scope:x}",
            "scopes go from 2 (link) to e (global), such as that of ff15::1, which is 5",
        )


def check_port(port: int, what: str) -> int:
    """Return `port` if it is a UDP port number (1 to 65535)."""
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65_535:  # noqa: PLR2004
        raise InvalidParams(f"Invalid {what}: {port!r} is not a port", "a number from 1 to 65535")
    return port


@lru_cache(maxsize=1_024)
def check_interface_name(name: str, what: str) -> str:
    """Return `name` if the kernel could have an interface of that name; whether it has one is another matter."""
    # isprintable comes first: it also refuses lone surrogates, which cannot be encoded and would raise below.
    if (
        not name.isprintable()
        or not 1 <= len(name.encode()) <= _INTERFACE_NAME_MAX
        or name in {".", ".."}
        or any(c in "/: " for c in name)
    ):
        raise InvalidParams(
            f"Invalid {what}: {name!r} is not an interface name",
            f"1 to {_INTERFACE_NAME_MAX} bytes without '/', ':' or white space; see: ip link show",
        )
    if any(c in "*?[" for c in name):  # the kernel would take it, but nobody means it
        raise InvalidParams(
            f"Invalid {what}: {name!r} is a pattern, and a rule takes one interface by its name",
            "write a rule for each input interface, and an output for each output interface; see: ip link show",
        )
    return name


def check_vlan(vlan: int | None, what: str) -> None:
    """Raise `InvalidParams` unless frames may bear this tag (IEEE 802.1Q, 9.6)."""
    if vlan is not None and (type(vlan) is not int or not 1 <= vlan <= _MAX_VLAN):
        raise InvalidParams(
            f"Invalid {what}: {vlan!r} is not the id of a VLAN",
            f"a number from 1 to {_MAX_VLAN}; none for frames without a tag",
        )


def check_source(source: Address, what: str) -> Address:
    """Return `source` if a datagram of a network can come from it: an address of one host."""
    nobody = source.is_multicast or source.is_unspecified or source.is_loopback or source.is_reserved
    if nobody or (isinstance(source, IPv4Address) and source in _THIS_NETWORK):
        raise InvalidParams(
            f"Invalid {what}: {str(source)!r} is not the address of a host", "the address that the sender sends from"
        )
    return source


def _check_destination(address: Address, interface: str) -> None:
    """Raise `InvalidParams` for what is no group, and can't be an address of this machine, or of all on the link."""
    reserved = isinstance(address, IPv4Address) and (address.is_reserved or address in _THIS_NETWORK)
    if address.is_unspecified or (reserved and address != LIMITED_BROADCAST):
        raise InvalidParams(
            f"Invalid input group: {str(address)!r} is not an address that datagrams are sent to",
            "a group such as 239.1.1.1 or ff15::1, an address of this machine, or a broadcast address",
        )
    if address.is_loopback and interface != LOOPBACK:
        raise InvalidParams(
            f"Invalid input group: what is sent to {address} stays on this machine, and never comes in by {interface}",
            f"name an address of {interface}, or the interface {LOOPBACK}",
        )


@attrs.frozen(cache_hash=True)  # tables know thousands of rules by it
class Flow:
    """Datagrams that one rule takes of an interface.

    Attributes:
        group: where they are sent to.
        port: likewise.
        vlan: id of their tag; 0: none.
        source: where they come from; None: anywhere.
    """

    group: Address
    port: int
    vlan: int = 0
    source: Address | None = None


class Claim(NamedTuple):
    """A flow of one interface: what two rules can't both take, unless one of them takes it as part of a range."""

    interface: str
    flow: Flow
    of_range: bool = False

    def __str__(self) -> str:
        group, port, vlan, source = attrs.astuple(self.flow, recurse=False)
        tag = f" in VLAN {vlan}" if vlan else ""
        return f"{with_port(group, port)} on {self.interface}{tag}" + (f" from {source}" if source else "")


def without_source(claim: Claim) -> Claim:
    """The flow that also takes what this one takes, unless that is there; as of no range."""
    flow = attrs.evolve(claim.flow, source=None) if claim.flow.source else claim.flow
    return Claim(claim.interface, flow)


def _in_order(sources: Iterable[Address]) -> tuple[Address, ...]:
    """Each once: in whatever order they were given, it is the same input."""
    several = {*sources}
    return tuple(sorted(several, key=lambda each: (each.version, int(each)))) if several else ()


@attrs.frozen
class Input:
    """What a rule matches: datagrams to a group and port, or several, that arrive on one interface. A rule's identity.

    Attributes:
        group: or an address of this machine, or a broadcast address: whether it is one, changes with the machine's.
        vlan: that they are tagged with; None: they are not.
        sources: that they come from, in order; none: they come from anywhere, but for what other rules take by source.
        prefix: bits that the groups from `group` on have in common; None: it is this group alone.
        last_port: of the ports from `port` on; None: it is this port alone.
    """

    interface: str = attrs.field()
    group: Address = attrs.field()
    port: int = attrs.field()
    vlan: int | None = None
    sources: tuple[Address, ...] = attrs.field(default=(), converter=_in_order)
    prefix: int | None = None
    last_port: int | None = None

    def __attrs_post_init__(self) -> None:
        check_interface_name(self.interface, "input interface")
        if self.group.is_multicast:
            check_scope(self.group, "input group")
        else:
            _check_destination(self.group, self.interface)
        check_port(self.port, "input port")
        check_vlan(self.vlan, "input VLAN")
        for source in self.sources:
            check_source(source, "input source")
            if source.version != self.group.version:
                raise InvalidParams(
                    f"Invalid input source: {str(source)!r} is of another family than {self.group}",
                    "the address that the sender sends from",
                )
        if len(self.sources) > MAX_SOURCES:
            raise InvalidParams(f"{self} has {len(self.sources)} sources", f"at most {MAX_SOURCES} a rule")
        if self.is_range:
            self._check_range()

    def _check_range(self) -> None:
        check_span(self.group, self.port, self.prefix, self.last_port, "input")
        flows = self.span.size * max(len(self.sources), 1)
        if flows > MAX_FLOWS:
            raise InvalidParams(
                f"{self} is {flows:,} flows",
                f"a rule takes at most {MAX_FLOWS:,}: groups times ports, times sources if it names some",
            )

    def __str__(self) -> str:
        if self.prefix is None and self.last_port is None and self.vlan is None and not self.sources:  # as thousands do
            return f"{bracketed(self.group)}:{self.port} on {self.interface}"
        return f"{self.where} on {self.interface}{self.in_vlan}{self.whence}"

    @property
    def in_vlan(self) -> str:
        """``" in VLAN 7"``; empty: it takes frames without a tag."""
        return "" if self.vlan is None else f" in VLAN {self.vlan}"

    @property
    def where(self) -> str:
        """Its groups and ports: ``239.1.1.1:5000``, ``239.1.0.0/24:5000-5009``."""
        return span_text(self.group, self.port, self.prefix, self.last_port)

    @property
    def named_groups(self) -> str:
        """``239.1.1.1``, ``239.1.0.0/24``."""
        return groups_text(self.group, self.prefix)

    @property
    def is_range(self) -> bool:
        """Whether it takes several groups or ports."""
        return self.prefix is not None or self.last_port is not None

    @property
    def span(self) -> Span:
        """Its groups and ports."""
        return Span.of(self.group, self.port, self.prefix, self.last_port)

    def covers(self, flow: Flow) -> bool:
        """Whether a flow is one of its own, but for the source."""
        return flow.vlan == (self.vlan or 0) and self.span.has(flow.group, flow.port)

    @property
    def whence(self) -> str:
        """Its sources, to be said of its group: " from A or B"; empty: any."""
        return f" from {' or '.join(map(str, self.sources))}" if self.sources else ""

    @property
    def is_own(self) -> bool:
        """It takes what is sent to an address of this machine, or to the broadcast address of one of its networks."""
        return not self.group.is_multicast and self.group != LIMITED_BROADCAST

    @cached_property
    def flows(self) -> tuple[Flow, ...]:
        """What it matches of its interface: of each group and port a flow from each source, or one from any."""
        if self.is_range:
            return _flows_of_range(self)
        return tuple(Flow(self.group, self.port, self.vlan or 0, source) for source in self.sources or (None,))

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """Its flows, with the interface."""
        of_range = self.is_range
        return tuple(Claim(self.interface, flow, of_range) for flow in self.flows)

    @property
    def groups(self) -> tuple[Address, ...]:
        """All of its groups."""
        return (self.group,) if self.prefix is None else self.span.addresses()

    @property
    def joins(self) -> tuple[tuple[Address, Address | None], ...]:
        """The groups that have to be joined for it, each from a source, or from any (None)."""
        groups = self.groups if self.group.is_multicast else ()
        return tuple((group, source) for group in groups for source in self.sources or (None,))


def _flows_of_range(source: Input) -> tuple[Flow, ...]:
    ports = range(source.port, (source.last_port or source.port) + 1)
    each = product(source.groups, ports, source.sources or (None,))
    return tuple(Flow(group, port, source.vlan or 0, sender) for group, port, sender in each)
