"""The traffic generator."""

import os
from tempfile import TemporaryFile
from typing import IO

from forked import Forked
from lab import Namespace


class Generator(Forked):
    """``traffic_gen.py`` in a namespace.

    Attributes:
        stdin: where it reads from; None if that is nothing.
        stdout: what it has reported; see `report`.
        stderr: what it says meanwhile; None if that is shown with what the test says.
    """

    stdout: IO[str]

    def __init__(self, namespace: Namespace, *words: str, read_errors: bool = False, write_input: bool = False) -> None:
        self.stdout = TemporaryFile("w+")  # noqa: SIM115 - `lab.end` closes it
        errors = 2
        if read_errors:
            reader, errors = os.pipe()
            self.stderr = open(reader)  # noqa: PTH123, SIM115 - a descriptor, not a path
        if write_input:
            source, writer = os.pipe()
            self.stdin = open(writer, "w")  # noqa: PTH123, SIM115 - as above
        else:
            source = os.open(os.devnull, os.O_RDONLY)
        super().__init__("traffic_gen", ["traffic_gen.py", *words], namespace, (source, self.stdout.fileno(), errors))
        os.close(source)
        if read_errors:
            os.close(errors)

    def report(self, timeout: float) -> str:
        """What it has printed, once it has ended."""
        self.wait(timeout)
        self.stdout.seek(0)
        return self.stdout.read()
