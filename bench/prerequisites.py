"""The programs that the benchmark needs besides MCR: installed if we may, or named."""

import os
import shutil
import subprocess
from pathlib import Path

from mcr.errors import UsageError

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_INSTALL_TIMEOUT_S = 300
_PACKAGES = {"smcrouted": "smcroute", "socat": "socat", "taskset": "util-linux", "cc": "gcc", "make": "make"}


def check(build: Path) -> None:
    """Install missing packages, and build the C programs.

    Raises:
        UsageError: naming what is missing, and the command that installs it.
    """
    if len(os.sched_getaffinity(0)) < 2:  # noqa: PLR2004
        raise UsageError("The benchmark needs two processors", "one for the generator, one for the relay")
    if _missing():
        _install()
    done = subprocess.run(
        ["make", "-s", "-C", Path(__file__).parent, f"OUT={build}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UsageError("The benchmark's C programs don't compile", *done.stderr.splitlines()[:10])


def _missing() -> list[str]:
    return sorted({package for program, package in _PACKAGES.items() if not shutil.which(program, path=_PATH)})


def _install() -> None:
    packages = _missing()
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
        for command in (install, ["apt-get", "update", "-q"], install):
            if _missing():
                subprocess.run(command, env=environment, capture_output=True, check=False, timeout=_INSTALL_TIMEOUT_S)
    if missing := _missing():
        hint = f"sudo apt-get install -y --no-install-recommends {' '.join(missing)}"
        raise UsageError(f"Programs are missing, of packages: {', '.join(missing)}", hint)
