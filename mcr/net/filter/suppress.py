"""Suppresses local delivery of packets that a rule takes and no UDP socket here waits for (native/bpf/load.h).

Otherwise the kernel allocates a route for each packet of a joined group, finds no socket, and throws both away.
"""

import errno
import os
import socket

from mcr._native import lib
from mcr.errors import check_result, describe_errno
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.net.local_receivers import LinkChanges
from mcr.net.patience import close_after_exit

log = get_logger(Facility.NETWORK)

_AT_ONCE = 8  # links made or closed before others have their turn: some 15 ms each


class Suppressor:
    """A program at the ingress of each captured interface that has no local receivers (`mcr.net.local_receivers`).

    Making and closing its links waits for the kernel's lock of the network's configuration.

    Args:
        wanted: the map of admitted flows; stays the caller's.

    Attributes:
        changes: of interfaces, and so perhaps of local receivers.

    Raises:
        OSError: this process may not, or this kernel can't.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._interfaces: dict[int, int] = {}
        self._links: dict[int, int] = {}
        self._told: set[int] = set()
        self._asked: dict[int, int] = {}  # those that are looked for, by capture
        os.close(check_result(lib.mcr_bpf_load_absorber(wanted, 0)))
        self.changes = LinkChanges()
        self._stale = False
        self._useless = False

    def add(self, capture: int, interface: int) -> None:
        """Suppress on an interface, by index, once it is known to have no local receivers."""
        self._interfaces[capture] = interface
        self._stale = True

    def forget(self, capture: int) -> None:
        """Suppress no more."""
        self._interfaces.pop(capture, None)
        self._told.discard(capture)
        self._unlink(capture)

    @property
    def is_stale(self) -> bool:
        """Whether there are new captures, or local receivers have to be looked for again; links may have changed."""
        return self._stale and not self._useless

    def is_due(self) -> bool:
        """Whether there are new captures, or local receivers may have changed: then `pause`. Hears what changed."""
        if self.changes.heard():
            self._stale = True
        return self.is_stale

    def pause(self) -> frozenset[int] | None:
        """Suppress nothing until local receivers are known.

        Returns:
            The interfaces whose local receivers have to be looked for; then call `suppress_on`. None: call again, for
            it takes long, and others may have their turn.
        """
        for capture in [*self._links][:_AT_ONCE]:
            self._unlink(capture)
        if self._links:
            return None
        self._stale = False
        self._asked = dict(self._interfaces)
        return frozenset(self._asked.values())

    def suppress_on(self, free: frozenset[int] | None) -> bool:
        """After `pause`: suppress on these interfaces, by index. None: it can't be known now. False: call again."""
        # What was seen may be no more. Of what changes from the first link on, `changes` tells once all are made.
        if free is None or (not self._links and self.changes.heard()):
            self._stale = True
            return True
        for capture, index in [*self._asked.items()][:_AT_ONCE]:
            del self._asked[capture]
            if self._interfaces.get(capture) != index:  # it has gone meanwhile
                continue
            if index in free:
                self._link(capture, index)
            elif _exists(index):
                self._tell(
                    capture, f"local delivery on {_name(index)} goes on: a bridge or multicast routing may want it"
                )
        return not self._asked

    def close(self) -> None:
        """Suppress nothing more, soon after the process has ended."""
        close_after_exit([*self._links.values()])
        self.changes.close()

    def _link(self, capture: int, index: int) -> None:
        try:
            program = check_result(lib.mcr_bpf_load_absorber(self._wanted, capture))
            try:
                self._links[capture] = check_result(lib.mcr_bpf_link_ingress(program, index))
            finally:
                os.close(program)  # the link keeps it
        except OSError as error:
            self._useless |= error.errno == errno.EINVAL  # a kernel without tcx
            self._stale |= error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
            self._tell(capture, f"MCR_ABSORB has no effect on {_name(index)}: {describe_errno(error.errno or 0)}")
        else:
            self._told.discard(capture)

    def _tell(self, capture: int, what: str) -> None:
        if capture not in self._told:
            self._told.add(capture)
            log.info("%s", what)

    def _unlink(self, capture: int) -> None:
        if capture in self._links:
            os.close(self._links.pop(capture))


def _exists(index: int) -> bool:
    try:
        return bool(socket.if_indextoname(index))
    except OSError:
        return False


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"
