"""A service manager that keeps descriptors, as systemd does (https://systemd.io/FILE_DESCRIPTOR_STORE/)."""

import array
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from lab import Namespace
from mcr_process import Mcr
from topology import MakeMcr

_INT = array.array("i").itemsize
_STARTER = """
import fcntl, os, sys
names, numbers, *command = sys.argv[1:]
passed = [fcntl.fcntl(int(each), fcntl.F_DUPFD_CLOEXEC, 1000) for each in numbers.split(":")]
for place, each in enumerate(passed, 3):
    os.dup2(each, place)
os.closerange(3 + len(passed), 1000)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(passed)), "LISTEN_FDNAMES": names}
os.execvp(command[0], command)
"""


class StoringManager:
    """Keeps what mcrd asks it to, and passes it to the next one.

    A context manager: leaving it closes all of that, and demands that each name was one descriptor's at a time.
    """

    def __init__(self, directory: Path) -> None:
        self.kept: dict[str, int] = {}
        self._replaced: list[str] = []
        self._address = directory / "notify"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener.bind(str(self._address))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        self.forget_all()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self._address))
        self._thread.join()
        self._listener.close()
        assert kind or not self._replaced, f"stored under a name that had another descriptor: {self._replaced}"

    def forget_all(self) -> None:
        """As after `systemctl stop`."""
        for name in [*self.kept]:
            self.forget(name)

    def forget(self, name: str) -> None:
        """Lose one."""
        os.close(self.kept.pop(name))

    def _serve(self) -> None:
        while True:
            message, ancillary, _, _ = self._listener.recvmsg(4096, socket.CMSG_SPACE(16 * _INT))
            if not message:
                return
            said = dict(line.split("=", 1) for line in message.decode().splitlines())
            received = array.array("i")
            for _, _, data in ancillary:
                received.frombytes(data)
            name = said.get("FDNAME", "")
            if "FDSTOREREMOVE" in said and name in self.kept:
                self.forget(name)
            if "FDSTORE" in said:
                (descriptor,) = received
                if name in self.kept:
                    if not os.path.sameopenfile(self.kept[name], descriptor):
                        self._replaced.append(name)  # systemd would keep both
                    os.close(descriptor)
                else:
                    self.kept[name] = descriptor

    def begin(
        self, make_mcr: MakeMcr, namespace: Namespace, *options: str, workers: int = 1, prefix: Sequence[str] = ()
    ) -> Mcr:
        """Only start mcrd, with what is kept; a prefix is one with which it is forked all the same."""
        settings = {"NOTIFY_SOCKET": str(self._address), "FDSTORE": "1000"}
        mcr = make_mcr(namespace, prefix=("env", *map("=".join, settings.items()), *prefix), kept=dict(self.kept))
        mcr.leaves_workers = True
        mcr.begin(workers, *options)
        return mcr

    def execute(self, make_mcr: MakeMcr, namespace: Namespace) -> Mcr:
        """Start mcrd as a service manager does: its program is executed, with what is kept. Wait until it answers."""
        environment = os.environ | {"NOTIFY_SOCKET": str(self._address), "FDSTORE": "1000"}
        kept = dict(self.kept)
        starter = (sys.executable, "-c", _STARTER, ":".join(kept), ":".join(map(str, kept.values())))
        mcr = make_mcr(namespace, prefix=starter, env=environment, pass_fds=tuple(kept.values()))
        mcr.leaves_workers = True
        return mcr.start()

    def start(
        self, make_mcr: MakeMcr, namespace: Namespace, *options: str, workers: int = 1, prefix: Sequence[str] = ()
    ) -> Mcr:
        """Start mcrd with what is kept, and wait until it answers."""
        mcr = self.begin(make_mcr, namespace, *options, workers=workers, prefix=prefix)
        mcr.wait_until_it_answers(30.0)
        return mcr
