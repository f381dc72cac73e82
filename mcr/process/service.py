"""Reports to the service manager that started mcrd: systemd's notification protocol (sd_notify(3)).

Each message is one datagram of ``NAME=value`` lines. Nothing is sent if no service manager asked for it.
"""

import os
import socket
import time
from contextlib import suppress
from typing import Self

from mcr.text.visible import visible


class ServiceManager:
    """The service manager, if there is one. A report to it never fails and never waits."""

    def __init__(self, address: str, watchdog_usec: str, watchdog_pid: str) -> None:
        """Take what the environment says.

        Args:
            address: of the socket, a path or ``@`` and an abstract name; empty if there is no service manager.
            watchdog_usec: microseconds after which it takes silence for a hang; empty: never.
            watchdog_pid: the process that this is about; empty: any.
        """
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address
        mine = watchdog_pid in ("", str(os.getpid()))
        self.watchdog_seconds = int(watchdog_usec) / 1e6 if mine and watchdog_usec.isdecimal() else None
        """Seconds between two signs of life, at most; None if none is wanted."""

    @classmethod
    def from_environment(cls) -> Self:
        """Whoever started this process. Takes the variables away, so that workers don't speak for it."""
        taken = (os.environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        return cls(*taken)

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

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with suppress(OSError), socket.socket(socket.AF_UNIX, flags) as sender:
            sender.sendto("\n".join(map(visible, lines)).encode(), self._address)
