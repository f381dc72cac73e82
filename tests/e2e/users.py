"""Users other than root: files put over /etc/passwd and /etc/group name them, for the processes of a test alone."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forked import User
from mcr_process import BIN
from stage import set_up

STAGE = Path(__file__).with_name("stage.py")
MCR, ALICE, ADMIN = 64_901, 64_902, 64_903
PASSWD = f"""root:x:0:0::/root:/bin/sh
mcr:x:{MCR}:{MCR}::/nonexistent:/usr/sbin/nologin
alice:x:{ALICE}:{ALICE}::/nonexistent:/bin/sh
"""
GROUP = f"root:x:0:\nmcr:x:{MCR}:\nalice:x:{ALICE}:\nmcr-admin:x:{ADMIN}:\n"


class Stage:
    """Runs programs as somebody: prefixes of those that are executed, users of those that are forked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.chmod(0o755)
        (directory / "passwd").write_text(PASSWD)
        (directory / "group").write_text(GROUP)
        self.over: list[tuple[Path, str | Path]] = [
            (directory / "passwd", "/etc/passwd"),
            (directory / "group", "/etc/group"),
        ]
        self._reach = (Path(sys.base_prefix), BIN.parents[1], directory)
        self._made: dict[tuple[tuple[str, str], ...], int] = {}

    def run_as(self, uid: int, *groups: int, options: tuple[str, ...] = ()) -> list[str]:
        """Be a user, with the rights that `options` of setpriv(1) leave."""
        words = [sys.executable, "-IS", str(STAGE)]
        for file, target in self.over:
            words += ["--over", str(file), str(target)]
        for path in self._reach:
            words += ["--reach", str(path)]
        listed = ",".join(map(str, groups))
        words += ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={listed}" if groups else "--clear-groups"]
        return [*words, *options, "--"]

    def user(self, uid: int, *groups: int, ambient: tuple[str, ...] = ()) -> User:
        """The same for what is forked; with root's rights if it is root, otherwise with those that are ambient."""
        over = tuple((str(file), str(target)) for file, target in self.over)
        if over not in self._made:
            with ThreadPoolExecutor(1) as thread:  # which is elsewhere for good
                self._made[over] = thread.submit(self._elsewhere, over).result()
        return User(uid, self._made[over], groups, ambient)

    def _elsewhere(self, over: tuple[tuple[str, str], ...]) -> int:
        """Descriptor of a mount namespace in which the calling thread is from now on."""
        set_up(over, map(Path.resolve, self._reach))
        return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        for descriptor in self._made.values():
            os.close(descriptor)
        self._made.clear()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def socket_directory(stage: Stage, owner: int) -> Path:
    made = stage.directory / "run"
    made.mkdir()
    os.chown(made, owner, owner)
    return made
