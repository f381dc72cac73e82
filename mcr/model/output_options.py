"""What an operator may ask of the datagrams that leave by an output: their TTL, DSCP and sender."""

from typing import Final

from mcr.errors import InvalidParams
from mcr.model.flow import Address

KEEP: Final = "keep"
"""As the datagram came with it."""

DECREMENT: Final = "dec"
"""Of a TTL: one less than the datagram came with."""

_MAX_TTL: Final = 255
_MAX_DSCP: Final = 63
_MAX_PORT: Final = 65_535


def check_ttl(ttl: int | str | None) -> None:
    """Raise `InvalidParams` unless datagrams may leave with this TTL."""
    _check_number(ttl, 1, _MAX_TTL, "ttl", KEEP, DECREMENT)


def check_dscp(dscp: int | str | None) -> None:
    """Raise `InvalidParams` unless datagrams may leave with this DSCP (RFC 2474)."""
    _check_number(dscp, 0, _MAX_DSCP, "dscp", KEEP)


def check_source_port(port: int | None) -> None:
    """Raise `InvalidParams` unless datagrams may come from this port."""
    _check_number(port, 1, _MAX_PORT, "source-port")


def check_source(source: Address | None, to: Address) -> None:
    """Raise `InvalidParams` unless datagrams to an address may come from this one, if the relay has it."""
    if source and source.version != to.version:
        raise InvalidParams(
            f"Invalid source: {str(source)!r} is of another family than {to}, where the datagrams go",
            f"an IPv{to.version} address of this machine: ip -{to.version} address show",
        )
    if source and (source.is_unspecified or source.is_loopback or source.is_multicast or source.is_reserved):
        raise InvalidParams(
            f"Invalid source: {str(source)!r} is no address that packets can come from",
            "an address of this machine: ip address show",
        )


def _check_number(value: object, least: int, most: int, what: str, *words: str) -> None:
    if value is None or value in words or (type(value) is int and least <= value <= most):
        return
    raise InvalidParams(f"Invalid {what}: {value!r}", ", or ".join((f"a number from {least} to {most}", *words)))
