"""Spares this machine's IP stack what a rule takes and nobody else here waits for (native/bpf.h).

Otherwise the kernel allocates a route for each packet of a joined group, finds no socket, and throws both away.
"""

import os
import socket

from mcr._native import lib
from mcr.errors import describe_errno
from mcr.logs import get_logger
from mcr.model import Facility
from mcr.net.bystanders import LinkChanges

log = get_logger(Facility.NETWORK)


class Absorber:
    """A program at the ingress of each captured interface, where only UDP sockets could want the same packets.

    Args:
        wanted: the map of what rules want; stays the caller's.

    Raises:
        OSError: this process may not, or this kernel can't.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._interfaces: dict[int, int] = {}
        self._links: dict[int, int] = {}
        os.close(_open(lib.mcr_bpf_load_absorber(wanted, 0)))
        self._changes = LinkChanges()
        self._stale = False

    def add(self, capture: int, interface: str) -> None:
        """Mean to absorb, once it is known that nobody minds."""
        self._interfaces[capture] = socket.if_nametoindex(interface)
        self._stale = True

    def forget(self, capture: int) -> None:
        """Absorb no more."""
        self._interfaces.pop(capture, None)
        if capture in self._links:
            os.close(self._links.pop(capture))

    def due(self) -> frozenset[int]:
        """Interfaces whose bystanders have to be looked for, since something has changed; then call `absorb_on`."""
        if self._changes.heard():
            self._stale = True
        if not self._stale:
            return frozenset()
        self._stale = False
        return frozenset(self._interfaces.values())

    def absorb_on(self, free: frozenset[int]) -> None:
        """Absorb on these interfaces, by index, as far as they are captured; on others no more."""
        for capture, index in self._interfaces.items():
            if index not in free:
                if capture in self._links:
                    os.close(self._links.pop(capture))
                    log.info("absorbing ends on %s: its packets may be wanted by others", _name(index))
            elif capture not in self._links:
                self._link(capture, index)

    def close(self) -> None:
        """Absorb nothing more."""
        for link in self._links.values():
            os.close(link)
        self._links.clear()
        self._changes.close()

    def _link(self, capture: int, index: int) -> None:
        try:
            program = _open(lib.mcr_bpf_load_absorber(self._wanted, capture))
            try:
                self._links[capture] = _open(lib.mcr_bpf_link_ingress(program, index))
            finally:
                os.close(program)  # the link keeps it
        except OSError as error:
            log.info("MCR_ABSORB has no effect on %s: %s", _name(index), describe_errno(error.errno or 0))


def _open(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"
