"""A real `mcrd` in a namespace: started, waited for, asked. For tests, benchmarks and the demo."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import LabError, Namespace, Running
from mcr.cli.client import Client

_LOG_LINES = 10


class DaemonProcess:
    """One daemon, and `mcrctl` to talk to it."""

    def __init__(self, namespace: Namespace, programs: Path, socket: Path, log_file: Path) -> None:
        """Nothing runs yet.

        Args:
            namespace: where it relays.
            programs: the directory with mcrd and mcrctl.
            socket: its control socket.
            log_file: where its standard error goes, unless `launch` is told otherwise.
        """
        self.namespace = namespace
        self.socket = socket
        self.log_file = log_file
        self.state = log_file.with_suffix(".state")  # where it saves rules
        self.process: Running | None = None
        self._programs = programs

    def launch(self, *options: str, prefix: Sequence[str | Path] = (), **process_options: Any) -> Running:
        """Only start it; `prefix` is a command that runs it."""
        with self.log_file.open("a", encoding="utf-8") as log:
            process = self.namespace.popen([*prefix, *self._mcrd(options)], **{"stderr": log} | process_options)
        self.process = process
        return process

    def _mcrd(self, options: Sequence[str]) -> list[str | Path]:
        """Its command."""
        return [
            self._programs / "mcrd",
            "supervisor",
            "--control-socket",
            self.socket,
            "--state-dir",
            self.state,
            *options,
        ]

    def wait_until_it_answers(self, seconds: float) -> None:
        """Wait until it answers and all its workers run.

        Raises:
            LabError: it has exited, or takes longer; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not self._answers():
            self.check()
            if time.monotonic() > deadline:
                raise self._failure(f"mcrd does not answer within {seconds:g} s, or a worker does not run")
            time.sleep(0.01)

    def check(self) -> None:
        """See that it has not exited.

        Raises:
            LabError: it has; with the end of its log.
        """
        assert self.process is not None
        if self.process.poll() is not None:
            raise self._failure(f"mcrd exited with status {self.process.returncode}")

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Speak the control protocol: for what is asked often; see `ctl` for what an operator does."""
        with Client(str(self.socket), "the caller") as client:
            return client.call(method, params)

    def ctl(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run mcrctl."""
        return self.namespace.run(self._mcrctl(arguments), check=check, **options)

    def popen_ctl(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Only start mcrctl."""
        return self.namespace.popen(self._mcrctl(arguments), **options)

    def _mcrctl(self, arguments: Sequence[str]) -> list[str | Path]:
        """The command that asks it."""
        return [self._programs / "mcrctl", "--control-socket", self.socket, *arguments]

    def workers(self) -> list[dict[str, Any]]:
        """As `mcrctl list-workers --json` shows them."""
        workers: list[dict[str, Any]] = self.call("list_workers")
        return workers

    def log(self) -> str:
        """Everything it has logged."""
        return self.log_file.read_text(encoding="utf-8")

    def _answers(self) -> bool:
        try:
            return all(worker["state"] == "running" for worker in self.workers())
        except Exception:  # noqa: BLE001 - not there yet; the reason is in the log
            return False

    def _failure(self, what: str) -> LabError:
        return LabError(what, "the end of its log:", *self.log().splitlines()[-_LOG_LINES:])
