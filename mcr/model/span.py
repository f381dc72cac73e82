"""Groups and ports that follow one another: a prefix, a range of ports, or both. What inputs and outputs may name."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import product
from typing import NamedTuple, Self

from mcr.errors import InvalidParams

Address = IPv4Address | IPv6Address


class Span(NamedTuple):
    """All of `ports` ports at each of `groups` addresses.

    Attributes:
        first: address, as the number that it is.
        version: of IP.
    """

    first: int
    version: int
    groups: int
    port: int
    ports: int

    @classmethod
    def of(cls, group: Address, port: int, prefix: int | None, last_port: int | None) -> Self:
        """As an input or output has it; None: one group, one port."""
        groups = 1 if prefix is None else 1 << (group.max_prefixlen - prefix)
        return cls(int(group), group.version, groups, port, 1 if last_port is None else last_port - port + 1)

    @property
    def size(self) -> int:
        """How many groups and ports."""
        return self.groups * self.ports

    def has_group(self, group: Address) -> bool:
        """Whether this is one of the groups."""
        return self.version == group.version and 0 <= int(group) - self.first < self.groups

    def has_port(self, port: int | None) -> bool:
        """Whether this is one of the ports."""
        return port is not None and 0 <= port - self.port < self.ports

    def has(self, group: Address, port: int | None) -> bool:
        """Whether both are."""
        return self.has_port(port) and self.has_group(group)

    def meets(self, other: "Span") -> bool:
        """Whether some are in both."""
        return (
            self.version == other.version
            and self.first < other.first + other.groups
            and other.first < self.first + self.groups
            and self.port < other.port + other.ports
            and other.port < self.port + self.ports
        )

    def each(self) -> Iterator[tuple[Address, int]]:
        """All of its addresses, each with each port."""
        return product(self.addresses(), range(self.port, self.port + self.ports))

    def addresses(self) -> tuple[Address, ...]:
        """All of its addresses."""
        kind = IPv4Address if self.version == 4 else IPv6Address  # noqa: PLR2004
        return tuple(map(kind, range(self.first, self.first + self.groups)))


def check_span(group: Address, port: int, prefix: int | None, last_port: int | None, what: str) -> None:
    """Raise `InvalidParams` unless these are several groups, or several ports, or both. `what`: "input" or "output"."""
    if prefix is not None:
        _check_prefix(group, prefix, what)
    if last_port is not None and (type(last_port) is not int or not port < last_port <= 65_535):  # noqa: PLR2004
        raise InvalidParams(
            f"Invalid {what} port: {port}-{last_port} is not a range of ports",
            "the lower one first, as in 5000-5009; ports go to 65535",
        )


def _check_prefix(group: Address, prefix: int, what: str) -> None:
    bits = group.max_prefixlen
    if type(prefix) is not int or not 1 <= prefix < bits:
        raise InvalidParams(
            f"Invalid {what} group: /{prefix} is not the length of a prefix of several groups",
            f"a number below {bits}, as in 239.1.0.0/24 or ff15::100/120; one group is written without",
        )
    if not group.is_multicast:
        raise InvalidParams(
            f"Invalid {what} group: {group}/{prefix} are not groups, and hosts are named one by one",
            "write a rule, or an output, for each; a range of ports may be to a host",
        )
    size = 1 << (bits - prefix)
    first = int(group) & ~(size - 1)
    kind = type(group)
    if first != int(group):
        raise InvalidParams(
            f"Invalid {what} group: {group}/{prefix} does not begin with {group}",
            f"write {kind(first)}/{prefix} for all of its groups, or {group} for this one",
        )
    if not kind(first + size - 1).is_multicast:
        raise InvalidParams(
            f"Invalid {what} group: {group}/{prefix} is more than groups", "a longer prefix, as in 239.1.0.0/24"
        )
