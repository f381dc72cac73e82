"""What an operator is told when rules can't be saved, and what to do then. Pure."""

import errno
from pathlib import Path
from typing import Final

from mcr.errors import McrError, SystemFault

_GOES_ON: Final = "nothing was changed, and the rules that run go on"
_TAKE_DOWN: Final = "take them down first: mcrctl config export > rules.toml"


def another_file(path: Path) -> McrError:
    """Somebody put a file in the place of the one that mcrd has open."""
    return McrError(
        f"{path} is another file than the one that mcrd has opened: rules can't be saved",
        _GOES_ON,
        "move it away, then try again: mcrd makes its own there; or restart mcrd, which then goes by that one",
    )


def link_to_nothing(path: Path) -> McrError:
    """A file is not made again beside a link, where a restart might not look for it, nor at its end."""
    return McrError(
        f"{path} is a symbolic link, and the file that it leads to was deleted or renamed: rules can't be saved",
        _GOES_ON,
        _TAKE_DOWN,
        "remove the link, then try again: mcrd saves all rules in a file in its place",
    )


def not_made_again(path: Path, number: int) -> SystemFault:
    """Why there is no file where mcrd had one."""
    room = "make room on its disk, and " if number == errno.ENOSPC else ""
    remedy = f"{room}make {path.parent} again, for mcrd's user alone, then try again: mcrd saves all rules there"
    if number == errno.EROFS:  # so it is for the service, whose unit lets it write in that directory alone
        remedy = (
            "of the service: put them in /etc/mcr/rules.d, then: systemctl restart mcrd, which makes"
            f" {path.parent} again; otherwise mount the disk writable, then try again"
        )
    return SystemFault(f"{path} was deleted or renamed, and can't be made again", number, _GOES_ON, _TAKE_DOWN, remedy)


def not_saved(directory: Path, number: int, *more: str) -> SystemFault:
    """Why a change can't be saved."""
    return SystemFault(
        f"Rules can't be saved in {directory}",
        number,
        _GOES_ON,
        *more,
        f"make room or mend the disk (df {directory}), then try again",
    )


def unusable(directory: Path, number: int) -> SystemFault:
    """Why a directory can't be used."""
    return SystemFault(f"State directory {directory}", number, "give another: --state-dir DIR, or none: --no-state")
