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

REFUSING_SHARE: Final = 0.1
"""Share of the daemon's time for accepting while clients are refused: whoever repeats that costs little."""

LONGEST_REST: Final = 0.003
"""Seconds. Whoever is let in waits for a place in the queue meanwhile, or behind those who are refused."""

_ACCEPTED_AT_ONCE = 32
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE = 0.1  # seconds; descriptors come back when a client leaves, and nothing tells us when

_log = get_logger(Facility.CONTROL)


class Door:
    """A listener's."""

    def __init__(self) -> None:
        self._next_warning = -math.inf

    async def accept(self, listener: socket.socket, welcome: Callable[[socket.socket], bool]) -> NoReturn:
        """Accept every client that comes. `welcome` owns the connection, and says whether the client was let in."""
        while True:
            await trio.lowlevel.wait_readable(listener)
            started = trio.current_time()
            all_let_in = True
            try:
                for _ in range(_ACCEPTED_AT_ONCE):
                    all_let_in &= welcome(listener.accept()[0])
            except BlockingIOError:
                if all_let_in:
                    continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self.warn_seldom("Cannot accept a client: %s", describe_errno(error.errno))
                await trio.sleep(_EXHAUSTED_PAUSE)
                continue
            worked = trio.current_time() - started
            await trio.sleep(worked if all_let_in else min(worked * (1 / REFUSING_SHARE - 1), LONGEST_REST))

    def warn_seldom(self, message: str, *arguments: object) -> None:
        """Log a warning, unless there was one a moment ago."""
        if trio.current_time() >= self._next_warning:
            self._next_warning = trio.current_time() + WARNING_INTERVAL
            _log.warning(message, *arguments)
