"""What an operator may ask of the datagrams that leave by an output: their TTL, DSCP and sender."""

import enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

from mcr.errors import InvalidParams
from mcr.model.flow import Address, parse_address

KEEP: Final = "keep"
"""As the datagram came with it."""

DECREMENT: Final = "dec"
"""Of a TTL: one less than the datagram came with."""

Source = Address | Literal["keep"] | None
"""What an operator may say of the source of datagrams."""


class Sockets(enum.StrEnum):
    """Which sockets datagrams need that leave through IP."""

    UDP = "udp"
    """Those of UDP."""

    RAW = "raw"
    """Such as send from any port of the relay's addresses."""

    FOREIGN = "foreign"
    """Such as send from any address and port."""


_MAX_TTL: Final = 255
_MAX_DSCP: Final = 63
_MAX_PORT: Final = 65_535
_SERVICES: Final = {  # classes of service by name (RFC 2474, 2597, 3246, 5865)
    **{f"CS{number}": 8 * number for number in range(8)},
    **{f"AF{number}{drop}": 8 * number + 2 * drop for number in range(1, 5) for drop in range(1, 4)},
    "EF": 46,
    "VA": 44,
}


def check_ttl(ttl: int | str | None) -> None:
    """Raise `InvalidParams` unless datagrams may leave with this TTL."""
    _check_number(ttl, 1, _MAX_TTL, "ttl", KEEP, DECREMENT)


def check_dscp(dscp: int | str | None) -> None:
    """Raise `InvalidParams` unless datagrams may leave with this DSCP (RFC 2474)."""
    named = _SERVICES.get(dscp.upper()) if isinstance(dscp, str) else None
    if named is not None:
        raise InvalidParams(f"Invalid dscp: {dscp!r}", f"write its number: dscp={named}")
    _check_number(dscp, 0, _MAX_DSCP, "dscp", KEEP)


def parse_source(text: str) -> Source:
    """An address, or ``keep``.

    Raises:
        InvalidParams: it is neither.
    """
    return "keep" if text == KEEP else parse_address(text, "output source")


def check_source_port(port: int | str | None, source: Source) -> None:
    """Raise `InvalidParams` unless datagrams may come from this port of a source."""
    _check_number(port, 1, _MAX_PORT, "source-port", KEEP)
    if port == KEEP and source is None:
        raise InvalidParams(
            "Invalid source-port: 'keep' needs a source, which the checksum of datagrams depends on",
            "source=keep, or source=ADDR with an address of this machine: ip address show",
        )


def check_source(source: object, to: Address) -> None:
    """Raise `InvalidParams` unless datagrams to an address may come from this one, if the relay has it."""
    if source is None or source == KEEP:
        return
    if not isinstance(source, IPv4Address | IPv6Address):
        raise InvalidParams(f"Invalid source: {source!r}", "an address of this machine, or keep")
    if source.version != to.version:
        raise InvalidParams(
            f"Invalid source: {str(source)!r} is of another family than {to}, where the datagrams go",
            f"an IPv{to.version} address of this machine: ip -{to.version} address show",
        )
    if source.is_unspecified or source.is_loopback or source.is_multicast or source.is_reserved:
        raise InvalidParams(
            f"Invalid source: {str(source)!r} is no address that packets can come from",
            "an address of this machine: ip address show",
        )


def _check_number(value: object, least: int, most: int, what: str, *words: str) -> None:
    if value is None or value in words or (type(value) is int and least <= value <= most):
        return
    raise InvalidParams(f"Invalid {what}: {value!r}", ", or ".join((f"a number from {least} to {most}", *words)))
