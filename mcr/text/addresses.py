"""Addresses with their ports, as operators write them."""

import socket
from collections.abc import Mapping
from typing import Any

_IPV4_BYTES = 4


def plain(address: object) -> str:
    """As `str`; an IPv4 address in a fifth of the time: there may be thousands."""
    packed: bytes = getattr(address, "packed", b"")  # of ipaddress, which is slow to import, and seldom needed here
    return socket.inet_ntoa(packed) if len(packed) == _IPV4_BYTES else str(address)


def with_port(address: object, port: object) -> str:
    """``239.1.1.1:5000``, ``[ff15::1]:5000`` (RFC 5952, 6)."""
    return f"{bracketed(address)}:{port}"


def groups_text(group: object, prefix: object = None) -> str:
    """``239.1.1.1``, ``239.1.0.0/24``."""
    return plain(group) if prefix is None else f"{group}/{prefix}"


def ports_text(port: object, last_port: object = None) -> str:
    """``5000``, ``5000-5009``."""
    return str(port) if last_port is None else f"{port}-{last_port}"


def span_text(group: object, port: object, prefix: object = None, last_port: object = None) -> str:
    """``239.1.0.0/24:5000-5009``, ``[ff15::100/120]:5000``."""
    return with_port(groups_text(group, prefix), ports_text(port, last_port))


def end_text(end: Mapping[str, Any]) -> str:
    """The same of an input or output, as the control protocol shows it."""
    return span_text(end["group"], end["port"], end.get("prefix"), end.get("last_port"))


def bracketed(address: object) -> str:
    """What may stand beside a colon."""
    text = plain(address)
    return f"[{text}]" if ":" in text else text
