"""What an operator may ask of the datagrams that leave by an output: their TTL, DSCP and sender."""

from typing import Final

from mcr.errors import InvalidParams
from mcr.model.flow import Address

_MAX_TTL: Final = 255
_MAX_DSCP: Final = 63
_MAX_PORT: Final = 65_535


def check_ttl(ttl: int | None) -> None:
    """Raise `InvalidParams` unless datagrams may leave with this TTL."""
    _check_number(ttl, 1, _MAX_TTL, "ttl")


def check_dscp(dscp: int | None) -> None:
    """Raise `InvalidParams` unless datagrams may leave with this DSCP (RFC 2474)."""
    _check_number(dscp, 0, _MAX_DSCP, "dscp")


def check_source_port(port: int | None) -> None:
    """Raise `InvalidParams` unless datagrams may come from this port."""
    _check_number(port, 1, _MAX_PORT, "source-port")


def check_source(source: Address | None) -> None:
    """Raise `InvalidParams` unless datagrams may come from this address, if the relay has it."""
    if source and (source.is_unspecified or source.is_loopback or source.is_multicast or source.is_reserved):
        raise InvalidParams(
            f"Invalid source: {str(source)!r} is no address that packets can come from",
            "an address of this machine: ip address show",
        )


def _check_number(value: object, least: int, most: int, what: str) -> None:
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise InvalidParams(f"Invalid {what}: {value!r}", f"a number from {least} to {most}")
