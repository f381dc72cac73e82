"""Runs a program in a mount namespace of its own, where some files are others and some paths can be reached by all.

stage.py [--over FILE TARGET]... [--reach PATH]... COMMAND...

What it changes, nobody else sees, and it is gone with the program. Takes root.
"""

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 1 << 18
MNT_DETACH = 2

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode(), flags, data.encode())
    check(libc.mount(*words), f"mount {source} on {target}")


def unreachable_part(path: Path) -> Path | None:
    """The uppermost directory on the way to a path that not everybody may pass."""
    return next((each for each in reversed(path.parents) if not each.stat().st_mode & 0o001), None)


def let_reach(paths: Iterable[Path]) -> None:
    """Put an empty directory over each that bars the way to a path, and in it only the paths."""
    barred = {path: above for path in paths if (above := unreachable_part(path))}
    kept = {path: os.open(path, os.O_PATH) for path in barred}
    for above in set(barred.values()):
        mount("tmpfs", str(above), "tmpfs", 0, "mode=755")
    for path, descriptor in kept.items():
        path.mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{descriptor}", str(path), "", MS_BIND)
        os.close(descriptor)


def set_up(over: Iterable[tuple[str, str]], reach: Iterable[Path]) -> None:
    """Give the calling thread a mount namespace of its own: files over others, paths that all can reach."""
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    for file, target in over:
        mount(file, target, "", MS_BIND)
    let_reach(reach)


def main(words: list[str]) -> None:
    over: list[tuple[str, str]] = []
    reach: list[Path] = []
    while words[0] in ("--over", "--reach"):
        if words[0] == "--over":
            over.append((words[1], words[2]))
        else:
            reach.append(Path(words[1]).resolve())
        del words[: 3 if words[0] == "--over" else 2]
    set_up(over, reach)
    os.execvp(words[0], words)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
