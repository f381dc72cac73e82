"""A machine with systemd to install packages on, in namespaces: see machine.sh."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

from lab import Namespace
from mcr.net.filter.path import is_realtime
from mcr_process import SLOWNESS, children_of, wait_until

SCRIPT = Path(__file__).with_name("machine.sh")

# Before 6.12 the kernel's verifier wants CAP_PERFMON for it (docs/decisions/0021-the-kernel-path.md).
RELEASE = [int(each) for each in re.findall(r"\d+", os.uname().release)[:2]]
KERNEL_PATH_IS_FOR_THE_SERVICE = RELEASE >= [6, 12] and not is_realtime()


class Machine:
    """It runs from here until `end`. Takes root."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        """Boot it.

        Args:
            namespace: the network it has.
            directory: an empty one, where its files are mounted; nobody else sees them there.
        """
        self._process = namespace.popen(["unshare", "--mount", "--propagation", "private", SCRIPT, directory])
        self._init = wait_until(lambda: self._first_process(self._process.pid), "systemd runs")
        wait_until(self._has_booted, "it has booted")

    def _has_booted(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).stdout == "running\n"

    def _first_process(self, pid: int) -> int | None:
        assert self._process.poll() is None, "the machine ended while it booted"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return pid
            return next(filter(None, map(self._first_process, children_of(pid))), None)
        return None

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on it."""
        words = ["nsenter", "--target", str(self._init), "--all", "--", *command]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=60 * SLOWNESS,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def ask(self, *command: str) -> str:
        """Run a command on it that has to succeed; return what it printed."""
        return self.run(*command).stdout.strip()

    def service(self, property_: str) -> str:
        """A property of mcrd.service, as ``systemctl show`` gives it."""
        return self.ask("systemctl", "show", "mcrd", "--value", "--property", property_)

    def descriptors(self) -> str:
        """Those of mcrd, as ls shows them; it fails for one that is closed meanwhile."""
        return self.run("ls", "-l", f"/proc/{self.service('MainPID')}/fd", check=False).stdout

    def path(self, absolute: str) -> Path:
        """Where one of its files is, for this process."""
        return Path(f"/proc/{self._init}/root{absolute}")

    def end(self) -> None:
        """Kill it, with all its processes, and wait until it is gone."""
        os.kill(self._init, signal.SIGKILL)
        assert self._process.wait(10) == 0
