"""What every listener to the kernel's news does with them, where it matters only that there are some."""

import socket

_MESSAGE_BYTES = 65_536


def drain(news: socket.socket) -> bool:
    """Read all that has come to a netlink socket that does not block; whether there was something."""
    heard = False
    while True:
        try:
            news.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return heard
        except OSError:  # ENOBUFS: there were more than it could hold; whatever else, something has happened
            return True
        heard = True
