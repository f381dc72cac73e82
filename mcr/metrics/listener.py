"""The listener that metrics are served by."""

import errno
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import assert_never

from mcr.config.table import METRICS
from mcr.control.listener import unix_listener
from mcr.errors import SystemFault, errno_of
from mcr.model.endpoint import Endpoint, TcpEndpoint, UnixEndpoint

_BACKLOG = 128
_REMEDY = f"choose another place: {METRICS.option} ADDR:PORT or unix:PATH, or {METRICS.variable}; or none"


def metrics_listener(endpoint: Endpoint) -> AbstractContextManager[socket.socket]:
    """Listen there; at the end close the socket, and remove what was made for it.

    Raises:
        SystemFault: that can't be.
    """
    match endpoint:
        case UnixEndpoint(path):
            return unix_listener(path, _REMEDY)
        case TcpEndpoint():
            return _tcp_listener(endpoint)
        case _:
            assert_never(endpoint)


@contextmanager
def _tcp_listener(endpoint: TcpEndpoint) -> Iterator[socket.socket]:
    address = str(endpoint.address), endpoint.port
    family = socket.AF_INET6 if endpoint.address.version == 6 else socket.AF_INET  # noqa: PLR2004
    try:
        listener = socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        number = errno_of(error)
        raise SystemFault(f"Failed to bind to {endpoint}", number, *_hints(number, endpoint), _REMEDY) from None
    with listener:
        listener.setblocking(False)
        yield listener


def _hints(number: int, endpoint: TcpEndpoint) -> list[str]:
    match number:
        case errno.EADDRINUSE:
            return [f"find who has the port: ss -ltnp 'sport = :{endpoint.port}'"]
        case errno.EADDRNOTAVAIL:
            return [f"{endpoint.address} is no address of this network namespace; see: ip address show"]
        case errno.EACCES | errno.EPERM:
            return ["ports below 1024 take CAP_NET_BIND_SERVICE"]
        case errno.EAFNOSUPPORT:
            return ["there is no IPv6 here; the unit has RestrictAddressFamilies= without AF_INET6"]
    return []
