"""Users and groups, as the hints of errors name them: a file's owner, and this process's user."""

import grp
import os
import pwd
import stat
from typing import Final

SERVICE: Final = "mcr"
"""Name of the user and the group that the packages make for the relay."""

_NOBODY = 65_534


def describe_owner(path: str | os.PathLike[str]) -> str:
    """Such as ``root:mcr, mode 0660``. Raises `OSError` if the file cannot be looked at."""
    status = os.stat(path)  # noqa: PTH116  # pathlib would cost mcrctl several milliseconds
    return f"{user_name(status.st_uid)}:{_group(status.st_gid)}, mode {stat.S_IMODE(status.st_mode):04o}"


def own_user() -> str:
    """The user this process acts as."""
    return user_name(os.geteuid())


def own_group() -> str:
    """The group this process acts as."""
    return _group(os.getegid())


def unprivileged_user() -> tuple[int, int]:
    """User and group id for processes that need no rights: those of `mcr` if there is such a user, or of nobody."""
    try:
        entry = pwd.getpwnam(SERVICE)
    except KeyError:
        return _NOBODY, _NOBODY
    return entry.pw_uid, entry.pw_gid


def user_name(number: int) -> str:
    """Name of a user id; the number itself if it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
