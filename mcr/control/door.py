"""Lets clients in, a few at a time, whatever they do and however many descriptors are left."""

import errno
import math
import socket
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from mcr.errors import describe_errno
from mcr.logs.logger import get_logger
from mcr.model.log import Facility

WARNING_INTERVAL: Final = 60
"""Seconds between two warnings about clients, at least."""

_ACCEPTED_AT_ONCE = 32
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE = 0.1  # seconds; descriptors come back when a client leaves, and nothing tells us when

_log = get_logger(Facility.CONTROL)


class Door:
    """A listener's."""

    def __init__(self) -> None:
        self._next_warning = -math.inf

    async def accept(self, listener: socket.socket, welcome: Callable[[socket.socket], None]) -> NoReturn:
        """Let every client in that comes. `welcome` owns the connection."""
        while True:
            await trio.lowlevel.wait_readable(listener)
            started = trio.current_time()
            try:
                for _ in range(_ACCEPTED_AT_ONCE):
                    welcome(listener.accept()[0])
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self.warn_seldom("Cannot accept a client: %s", describe_errno(error.errno))
                await trio.sleep(_EXHAUSTED_PAUSE)
                continue
            await trio.sleep(trio.current_time() - started)  # however many more wait

    def warn_seldom(self, message: str, *arguments: object) -> None:
        """Log a warning, unless there was one a moment ago."""
        if trio.current_time() >= self._next_warning:
            self._next_warning = trio.current_time() + WARNING_INTERVAL
            _log.warning(message, *arguments)
