"""Reports to the service manager that started mcrd: systemd's notification protocol (sd_notify(3)).

Each message is one datagram of ``NAME=value`` lines. Nothing is sent if no service manager asked for it.
"""

import array
import os
import socket
import time
from contextlib import suppress
from typing import Self

from mcr.text.visible import visible

_PATIENCE_SECONDS = 1.0
_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START


def passed_descriptors() -> dict[str, int]:
    """Descriptors that the service manager has kept for this process (sd_listen_fds(3)), by their names.

    Takes the variables away.
    """
    pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    passed: dict[str, int] = {}
    for number, name in zip(range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)), names.split(":"), strict=False):
        with suppress(OSError):  # it is none
            os.set_inheritable(number, False)
            if name in passed:
                os.close(passed[name])
            passed[name] = number
    return passed


class ServiceManager:
    """The service manager, if there is one. A report to it never fails and never waits."""

    def __init__(self, address: str, watchdog_usec: str, watchdog_pid: str, fdstore: str = "") -> None:
        """Take what the environment says.

        Args:
            address: of the socket, a path or ``@`` and an abstract name; empty if there is no service manager.
            watchdog_usec: microseconds after which it takes silence for a hang; empty: never.
            watchdog_pid: the process that this is about; empty: any.
            fdstore: how many descriptors it keeps for this service; empty: none.
        """
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address
        mine = watchdog_pid in ("", str(os.getpid()))
        self.watchdog_seconds = int(watchdog_usec) / 1e6 if mine and watchdog_usec.isdecimal() else None
        """Seconds between two signs of life, at most; None if none is wanted."""
        self.keeps_descriptors = bool(address) and fdstore.isdecimal() and int(fdstore) > 0
        """Whether it keeps descriptors while no mcrd runs."""

    @classmethod
    def from_environment(cls) -> Self:
        """Whoever started this process. Takes the variables away, so that workers don't speak for it."""
        names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE")
        return cls(*(os.environ.pop(name, "") for name in names))

    def ready(self, status: str) -> None:
        """The daemon serves, after a start or a reload."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon is about to end."""
        self._tell("STOPPING=1", "STATUS=stopping: what has arrived is still sent")

    def alive(self) -> None:
        """A sign of life."""
        self._tell("WATCHDOG=1")

    def keep(self, name: str, descriptor: int, *, patient: bool = True) -> bool:
        """Keep a descriptor for the next process of the service, by this name. Whether it has been asked to."""
        # FDPOLL=0: a socket is not dropped because its interface is down for a moment.
        return self._ask("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptor=descriptor, patient=patient)

    def forget(self, name: str, *, patient: bool = True) -> bool:
        """Close the descriptors of this name. Whether it has been asked to."""
        return self._ask("FDSTOREREMOVE=1", f"FDNAME={name}", patient=patient)

    def _ask(self, *lines: str, descriptor: int | None = None, patient: bool) -> bool:
        """Send something that must not get lost. `patient`: where the manager is behind, wait a moment for it."""
        if not self.keeps_descriptors:
            return False
        rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_PATIENCE_SECONDS if patient else 0.0)
                sender.sendmsg(["\n".join(lines).encode()], rights, 0, self._address)
        except OSError:
            return False
        return True

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with suppress(OSError), socket.socket(socket.AF_UNIX, flags) as sender:
            sender.sendto("\n".join(map(visible, lines)).encode(), self._address)
