"""An address with its port, as operators write them."""

import socket

_IPV4_BYTES = 4


def plain(address: object) -> str:
    """As `str`; an IPv4 address in a fifth of the time: there may be thousands."""
    packed: bytes = getattr(address, "packed", b"")  # of ipaddress, which is slow to import, and seldom needed here
    return socket.inet_ntoa(packed) if len(packed) == _IPV4_BYTES else str(address)


def with_port(address: object, port: object) -> str:
    """``239.1.1.1:5000``, ``[ff15::1]:5000`` (RFC 5952, 6)."""
    return f"{bracketed(address)}:{port}"


def bracketed(address: object) -> str:
    """What may stand beside a colon."""
    text = plain(address)
    return f"[{text}]" if ":" in text else text
