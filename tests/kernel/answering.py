"""A process at the other end of a control socket that answers as it likes."""

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from mcr.cli.client import Client


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """A socket at whose other end `answer` is called with the first connection."""
    with tempfile.TemporaryDirectory(prefix="mcr") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = f"{directory}/s"
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join()


def replying(*replies: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        for reply in replies:
            connection.recv(65_536)
            connection.sendall(reply)

    return answer


def call(path: str) -> Any:
    with Client(path, "the default") as daemon:
        return daemon.call("ping")
