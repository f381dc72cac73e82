"""Hostile clients of a control socket that may only look: ``lookers.py SOCKET UID HOW NUMBER``, until it is killed.

HOW ``pings``: NUMBER connections that write long pings over and over and read what is answered, or come again.
HOW ``lists``: NUMBER at a time connect, ask for all rules and hang up.
"""

import json
import os
import select
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

PAUSE = 0.005  # seconds: what is hostile is what they ask, not that they take processors

UNKNOWN = {f"p{number:04}": 1 for number in range(6_000)}
PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": UNKNOWN}).encode() + b"\n"
LIST = b'{"jsonrpc":"2.0","id":1,"method":"list"}\n'


def connect(path: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        connection.connect(path)
    except OSError:  # there is a queue
        connection.close()
        return None
    return connection


def keep_pinging(path: str, number: int) -> NoReturn:
    rest: dict[socket.socket, bytes] = {}
    while True:
        time.sleep(PAUSE)
        while len(rest) < number and (connection := connect(path)):
            rest[connection] = PING
        readable, writable, _ = select.select([*rest], [*rest], [], 0.05)
        for connection in readable:
            with suppress(BlockingIOError):
                if not received(connection):
                    del rest[connection]
                    connection.close()
        for connection in writable:
            if connection in rest:
                with suppress(OSError):
                    sent = connection.send(rest[connection])
                    rest[connection] = rest[connection][sent:] or PING


def received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except ConnectionError:
        return b""


def keep_leaving(path: str, number: int) -> NoReturn:
    while True:
        time.sleep(PAUSE)
        connections = [connection for _ in range(number) if (connection := connect(path))]
        for connection in connections:
            with suppress(OSError):
                connection.send(LIST)
            connection.close()


def main() -> None:
    path, uid, how, number = sys.argv[1:]
    os.chdir(Path(path).parent)  # as root: others may not come this way
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
    (keep_pinging if how == "pings" else keep_leaving)(Path(path).name, int(number))


if __name__ == "__main__":
    main()
