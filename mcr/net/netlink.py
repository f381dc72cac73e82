"""Netlink for several modules: look up interfaces by index, and note that something has changed."""

import errno
import os
import socket
from collections.abc import Callable, Collection
from typing import Any

_MESSAGE_BYTES = 65_536


def _anything(_: bytes) -> bool:
    return True


def _nothing() -> None:
    pass


def drain(
    news: socket.socket, matters: Callable[[bytes], bool] = _anything, missed: Callable[[], None] = _nothing
) -> bool:
    """Read all that has come to a netlink socket that does not block; whether there was something that matters.

    `missed` is called where something has come that can't be read.
    """
    heard = False
    while True:
        try:
            heard |= matters(news.recv(_MESSAGE_BYTES))
        except BlockingIOError:
            return heard
        except OSError:  # ENOBUFS: there were more than it could hold; whatever else, something has happened
            missed()
            return True


def look_at_links(interfaces: Collection[int]) -> list[tuple[int, Any]]:
    """Those of these interfaces, by index, that are there, each with pyroute2's message of it.

    Raises:
        OSError: no netlink socket could be opened, or the kernel refuses to tell.
    """
    from pyroute2 import IPRoute, NetlinkError  # noqa: PLC0415 - slow to import; mcrd's start does not wait for it

    found = []
    with IPRoute() as netlink:
        for index in interfaces:
            try:
                (link,) = netlink.link("get", index=index)
            except NetlinkError as error:
                if error.code != errno.ENODEV:
                    raise OSError(error.code, os.strerror(error.code)) from None
                continue
            found.append((index, link))
    return found
