"""Denies a system call to a program that it becomes."""

import ctypes
import os
import struct
from collections.abc import Sequence
from typing import NoReturn

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ERRNO, ALLOW = 0x00050000, 0x7FFF0000
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data


def become(command: Sequence[str], *, without: int, argument: int | None = None, errno: int) -> NoReturn:
    """Execute a command to which a system call, or only it with this first argument, is denied with an errno."""
    checks = [(NUMBER, without)] + ([] if argument is None else [(FIRST_ARGUMENT, argument)])
    program = []
    for left, (offset, value) in zip(range(len(checks) - 1, -1, -1), checks, strict=True):
        program += [(LOAD, 0, 0, offset), (JUMP_IF_EQUAL, 0, 2 * left + 1, value)]
    program += [(RETURN, 0, 0, ERRNO | errno), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    filter_program = struct.pack("@HP", len(program), ctypes.addressof(code))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execvp(command[0], command)  # noqa: S606
