"""The descriptors that mcrd leaves to the next mcrd, by name: what a restart must not close.

The service manager keeps a copy of each while mcrd runs, so that they are there after kill -9, too
(https://systemd.io/FILE_DESCRIPTOR_STORE/). Without one they are handed on at `mcrd supervisor --take-over`, and gone
with mcrd otherwise. A name belongs to one descriptor at a time.
"""

import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress

from mcr.process.service import ServiceManager

_NOBODY = ServiceManager("", "", "")


def adopt_socket(descriptor: int) -> socket.socket | None:
    """The socket of a descriptor, which it owns then; None: it is no socket."""
    with suppress(OSError):
        return socket.socket(fileno=descriptor)
    return None


class DescriptorStore:
    """What this mcrd leaves, and what it was left. Descriptors that are left stay their owners'.

    Any thread may use it.
    """

    def __init__(self, manager: ServiceManager = _NOBODY, inherited: Mapping[str, int] | None = None) -> None:
        """Start with what another mcrd has left; it belongs to this store until somebody takes it."""
        self._manager = manager
        self._inherited = dict(inherited or {})
        self._left: dict[str, int] = {}
        self._untold: dict[str, None] = {}  # names of which the service manager does not know how they stand
        self._turn = threading.Lock()

    @property
    def outlives_mcrd(self) -> bool:
        """Whether what is left stays open while no mcrd runs."""
        return self._manager.keeps_descriptors

    def put(self, name: str, descriptor: int) -> None:
        """Leave a descriptor to the next mcrd. `drop` it before it is closed."""
        with self._turn:
            self._left[name] = descriptor
            self._tell(name, told=not self._untold and self._manager.keep(name, descriptor))

    def drop(self, name: str) -> None:
        """Leave it no more."""
        with self._turn:
            self._left.pop(name, None)
            self._tell(name, told=not self._untold and self._manager.forget(name))

    def _tell(self, name: str, *, told: bool) -> None:
        if not told and self._manager.keeps_descriptors:
            self._untold[name] = None

    def catch_up(self) -> bool:
        """Tell the service manager what it could not be told so far, without waiting; whether it knows all then."""
        with self._turn:
            for name in [*self._untold]:
                # It may have what had the name before.
                told = self._manager.forget(name, patient=False)
                if told and name in self._left:
                    told = self._manager.keep(name, self._left[name], patient=False)
                if not told:
                    return False
                del self._untold[name]
            return True

    def all(self) -> dict[str, int]:
        """Every descriptor that the next mcrd is to get."""
        return {**self._inherited, **self._left}

    # What was left by another mcrd.

    def inherited(self, prefix: str) -> list[str]:
        """Names of those that nobody has taken yet and that begin so."""
        return sorted(name for name in self._inherited if name.startswith(prefix))

    def take(self, name: str) -> int | None:
        """Own an inherited descriptor from now on: `put` it, or `refuse` it."""
        return self._inherited.pop(name, None)

    def refuse(self, name: str, descriptor: int) -> None:
        """Close an inherited descriptor that was taken and is of no use."""
        os.close(descriptor)
        self.drop(name)

    def close_inherited(self, prefix: str = "") -> None:
        """Close all of those that nobody has taken."""
        for name in self.inherited(prefix):
            self.refuse(name, self._inherited.pop(name))
