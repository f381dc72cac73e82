"""What can be seen of the disk that rules are saved on, without writing to it."""

import os
from pathlib import Path


def free_bytes(path: str) -> int | None:
    """What the disk of a file has room for, whatever links lead there; None: that is not to be seen."""
    try:
        disk = os.statvfs(Path(os.path.realpath(path)).parent)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def is_writable(path: str) -> bool:
    """Whether this process may write a file and make others beside it, as SQLite does, on a disk mounted writable."""
    beside = Path(os.path.realpath(path)).parent
    return os.access(path, os.W_OK) and os.access(beside, os.W_OK | os.X_OK)


def is_read_only(directory: Path) -> bool:
    """Whether the disk is mounted read-only; raises OSError if that is not to be seen."""
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
