"""Where a server listens."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import attrs

UNIX = "unix:"

NOWHERE = "none"


@attrs.frozen
class TcpEndpoint:
    """An address of this machine, and a port."""

    address: IPv4Address | IPv6Address
    port: int

    @property
    def is_private(self) -> bool:
        """Whether only programs of this machine can reach it."""
        return self.address.is_loopback

    def __str__(self) -> str:
        return f"{self.address}:{self.port}" if self.address.version == 4 else f"[{self.address}]:{self.port}"  # noqa: PLR2004


@attrs.frozen
class UnixEndpoint:
    """A unix socket."""

    path: str

    def __str__(self) -> str:
        return UNIX + self.path


Endpoint = TcpEndpoint | UnixEndpoint


def parse_endpoint(text: str) -> Endpoint:
    """Read ``ADDR:PORT``, with an IPv6 address in brackets, or ``unix:PATH``.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX)
        if not path or "\0" in path:
            raise ValueError(text)
        return UnixEndpoint(path)
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) not in range(1, 1 << 16):
        raise ValueError(text)
    bracketed = host.startswith("[") and host.endswith("]")
    address = ip_address(host[1:-1] if bracketed else host)
    if bracketed != isinstance(address, IPv6Address):
        raise ValueError(text)
    return TcpEndpoint(address, int(port))
