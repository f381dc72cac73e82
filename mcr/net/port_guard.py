"""Holds UDP ports of this machine's addresses, so that IP does not tell senders that nobody listens there.

A rule takes what is sent there off the wire. IP gets it as well, and without a socket it answers with ICMP port
unreachable, at which senders give up. So there is one, whose filter drops everything. Where another program has the
port there is no need: it gets the datagrams, too. One that has it on another interface alone does not get them: then
the port is held on the interfaces of the inputs.
"""

import errno
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import Any, NamedTuple

from mcr._native import lib
from mcr.errors import describe_errno, errno_of
from mcr.logs.logger import get_logger
from mcr.model.flow import IPV4, IPV6, Address
from mcr.model.log import Facility
from mcr.net import uapi
from mcr.net.filter.cbpf import REJECT_ALL, attach_filter
from mcr.process.descriptor_store import DescriptorStore, adopt_socket

log = get_logger(Facility.NETWORK)

_NAME = "port."  # begins the names of the sockets, in the store of descriptors
_FAMILIES = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}
_LOOKS = 5  # that find a port free before it is held again: a program that restarts is to get it
_PASSING = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENODEV)  # another program's; tentative; no interface any more


class GuardedPort(NamedTuple):
    """A port of an address.

    Attributes:
        scope: index of the interface of a link-local address of IPv6; 0: of none.
        interface: index of that where datagrams come in; 0: of any.
    """

    address: Address
    port: int
    scope: int = 0
    interface: int = 0

    @property
    def anywhere(self) -> "GuardedPort":
        """It, on all interfaces."""
        return self._replace(interface=0)

    @property
    def name(self) -> str:
        """In the store of descriptors."""
        where = f".{self.interface}" if self.interface else ""
        return f"{_NAME}{self.port}.{self.address.packed.hex()}.{self.scope}{where}"

    @property
    def endpoint(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """As sockets are bound to it."""
        plain = str(self.address), self.port
        return plain if self.address.version == IPV4 else (*plain, 0, self.scope)


class PortGuards:
    """All of them. Those of the mcrd before this one go on, until `leave_former`."""

    def __init__(self, store: DescriptorStore) -> None:
        self._store = store
        self._held: dict[GuardedPort, socket.socket] = {}
        self._missing: dict[GuardedPort, int] = {}  # how often it was found free since another program had it
        self._told: set[GuardedPort] = set()

    def hold(self, ports: Collection[GuardedPort]) -> None:
        """Hold these and no others, as far as they can be had now."""
        for port in self._held.keys() - ports - {each.anywhere for each in ports}:
            self._store.drop(port.name)
            self._held.pop(port).close()
        self._missing = {port: looks for port, looks in self._missing.items() if port in ports}
        self._told &= {*ports}
        for port in ports - self._held.keys() - self._missing.keys():
            self._try(port)

    def look_again(self) -> None:
        """Hold what could not be had, if it has been free for some calls: to be called once per second."""
        for port, looks in [*self._missing.items()]:
            if looks + 1 >= _LOOKS or port.anywhere in self._held:
                self._try(port)
            else:
                self._missing[port] = looks + 1 if _is_free(port) else 0

    def leave_former(self) -> None:
        """Let go of those of the mcrd before this one that no rule of this one has."""
        self._store.close_inherited(_NAME)

    def close(self) -> None:
        """Let go of all."""
        for each in self._held.values():
            each.close()

    def _try(self, port: GuardedPort) -> None:
        if port.anywhere in self._held:
            self._missing.pop(port, None)
            return
        try:
            where, held = self._have(port)
        except OSError as error:
            self._missing[port] = 0 if error.errno == errno.EADDRINUSE else _LOOKS
            if error.errno not in _PASSING and port not in self._told:
                self._told.add(port)
                log.warning(
                    "port %d of %s can't be held: %s; senders may be told that it is unreachable",
                    port.port,
                    port.address,
                    describe_errno(errno_of(error)),
                )
            return
        self._missing.pop(port, None)
        self._held[where] = held
        self._store.put(where.name, held.fileno())

    def _have(self, port: GuardedPort) -> tuple[GuardedPort, socket.socket]:
        """On all interfaces, or else on its own. Raises OSError: it can't be had."""
        for each in (port.anywhere, port):
            if former := self._adopt(each):
                return each, former
        return _open_best(port)

    def _adopt(self, port: GuardedPort) -> socket.socket | None:
        fd = self._store.take(port.name)
        if fd is None:
            return None
        former = adopt_socket(fd)
        bound = port.endpoint, port.interface or port.scope
        if former and former.type == socket.SOCK_DGRAM and _bound(former) == bound:
            return former
        self._store.refuse(port.name, former.detach() if former else fd)
        return None


def _bound(opened: socket.socket) -> tuple[Any, int]:
    """Its address, and the index of its interface; 0: of any."""
    return opened.getsockname(), opened.getsockopt(socket.SOL_SOCKET, uapi.SO_BINDTOIFINDEX)


def _open_best(port: GuardedPort) -> tuple[GuardedPort, socket.socket]:
    """On all interfaces; if another program has it on some, on its own. Raises OSError: it can't be had."""
    try:
        return port.anywhere, _open(port.anywhere)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not port.interface:
            raise
    return port, _open(port)


def _open(port: GuardedPort) -> socket.socket:
    """Raises OSError: it can't be had."""
    opened = socket.socket(_FAMILIES[port.address.version], socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        attach_filter(opened, REJECT_ALL)
        with suppress(PermissionError):  # who may not, may load no program either that would look for the mark
            opened.setsockopt(socket.SOL_SOCKET, uapi.SO_MARK, lib.MCR_BPF_GUARD)
        if port.interface:
            opened.setsockopt(socket.SOL_SOCKET, uapi.SO_BINDTOIFINDEX, port.interface)
        opened.bind(port.endpoint)
    except OSError:
        opened.close()
        raise
    return opened


def _is_free(port: GuardedPort) -> bool:
    try:
        _open_best(port)[1].close()
    except OSError:
        return False
    return True
