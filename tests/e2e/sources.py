"""Sources of packets that the traffic generator does not send."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from scapy.packet import Packet

from lab import Namespace
from trafficgen.interface import open_interface


@contextmanager
def sending(namespace: Namespace, interface: str, *frames: Packet, every: float = 0.005) -> Iterator[None]:
    """A source: all of the frames, every so many seconds."""
    with namespace.entered():
        sock = open_interface(interface)
    data = [bytes(each) for each in frames]
    with sock, repeating(lambda: [sock.send(each) for each in data], every):
        yield


@contextmanager
def repeating(action: Callable[[], Any], every: float = 0.005) -> Iterator[None]:
    """In a thread, every so many seconds."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every):
            action()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
