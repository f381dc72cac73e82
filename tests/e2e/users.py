"""Users other than root: files put over /etc/passwd and /etc/group name them, for the processes of a test alone."""

import os
import sys
from pathlib import Path

import pytest

from mcr_process import BIN

STAGE = Path(__file__).with_name("stage.py")
MCR, ALICE, ADMIN = 64_901, 64_902, 64_903
PASSWD = f"""root:x:0:0::/root:/bin/sh
mcr:x:{MCR}:{MCR}::/nonexistent:/usr/sbin/nologin
alice:x:{ALICE}:{ALICE}::/nonexistent:/bin/sh
"""
GROUP = f"root:x:0:\nmcr:x:{MCR}:\nalice:x:{ALICE}:\nmcr-admin:x:{ADMIN}:\n"


class Stage:
    """Prefixes that run a program as somebody."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.chmod(0o755)
        (directory / "passwd").write_text(PASSWD)
        (directory / "group").write_text(GROUP)
        self.over: list[tuple[Path, str | Path]] = [
            (directory / "passwd", "/etc/passwd"),
            (directory / "group", "/etc/group"),
        ]

    def run_as(self, uid: int, *groups: int, options: tuple[str, ...] = ()) -> list[str]:
        """Be a user, with the rights that `options` of setpriv(1) leave."""
        words = [sys.executable, "-IS", str(STAGE)]
        for file, target in self.over:
            words += ["--over", str(file), str(target)]
        for path in (sys.base_prefix, str(BIN.parents[1]), str(self.directory)):
            words += ["--reach", path]
        listed = ",".join(map(str, groups))
        words += ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={listed}" if groups else "--clear-groups"]
        return [*words, *options, "--"]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def socket_directory(stage: Stage, owner: int) -> Path:
    made = stage.directory / "run"
    made.mkdir()
    os.chown(made, owner, owner)
    return made
