"""Words for calls that the system refused, and that only a sandbox or a limit refuses."""

import linecache
import traceback
from typing import Final

from mcr.errors import SystemFault, describe_errno, errno_of

_OURS: Final = "/mcr/"


def describe_refusal(error: OSError) -> str:
    """The call and why: ``os.memfd_create: Operation not permitted (os error 1)``."""
    return f"{_call(error)}: {describe_errno(errno_of(error))}"


def refusal(error: OSError) -> SystemFault:
    """The same as an error for operators."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno}" for frame in frames if _OURS in frame.filename]
    return SystemFault(
        f"The system refuses a call that is needed: {_call(error)}",
        errno_of(error),
        "is it in a container or under a filter of system calls (seccomp; systemd's SystemCallFilter=)? allow the call",
        f"it is made at {places[-1] if places else 'an unknown place'}",
    )


def _call(error: OSError) -> str:
    """The call that raised it, as the source has it, without its arguments."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "a call"
    frame = frames[-1]
    # A call may go on on the next line; its name does not.
    line = linecache.getline(frame.filename, frame.lineno or 0).encode()
    end = frame.end_colno if frame.end_lineno == frame.lineno else None
    name = line[frame.colno or 0 : end].decode(errors="replace").partition("(")[0].strip()
    return name.split()[-1] if name else frame.name
