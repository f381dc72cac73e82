"""Denies system calls to a program that it becomes: seccomp.py NAME[,NAME...] COMMAND..."""

import ctypes
import errno as numbers
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ERRNO, ALLOW = 0x00050000, 0x7FFF0000
INSTRUCTION_BYTES = 8
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data

CALLS = {
    "epoll_create1": (291, 20),
    "eventfd2": (290, 19),
    "getpriority": (140, 141),
    "memfd_create": (319, 279),
    "pidfd_open": (434, 434),
    "prlimit64": (302, 261),
    "sched_getaffinity": (204, 123),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "setpriority": (141, 140),
    "socketpair": (53, 199),
}
"""Numbers on x86_64 and aarch64."""


def become(command: Sequence[str], *, without: int, argument: int | None = None, errno: int) -> NoReturn:
    """Execute a command to which a system call, or only it with this first argument, is denied with an errno."""
    execute(command, denial(without=without, argument=argument, errno=errno))


def denial(*, without: int, argument: int | None = None, errno: int) -> bytes:
    """The program of a filter that does so: instructions of classic BPF."""
    checks = [(NUMBER, without)] + ([] if argument is None else [(FIRST_ARGUMENT, argument)])
    program = []
    for left, (offset, value) in zip(range(len(checks) - 1, -1, -1), checks, strict=True):
        program += [(LOAD, 0, 0, offset), (JUMP_IF_EQUAL, 0, 2 * left + 1, value)]
    return _packed([*program, (RETURN, 0, 0, ERRNO | errno), (RETURN, 0, 0, ALLOW)])


def become_without(command: Sequence[str], *names: str) -> NoReturn:
    """Execute a command to which all of these are not permitted."""
    machine = ("x86_64", "aarch64").index(os.uname().machine)
    program = [(LOAD, 0, 0, NUMBER)]
    for name in names:
        program += [(JUMP_IF_EQUAL, 0, 1, CALLS[name][machine]), (RETURN, 0, 0, ERRNO | numbers.EPERM)]
    execute(command, _packed([*program, (RETURN, 0, 0, ALLOW)]))


def _packed(program: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def execute(command: Sequence[str], program: bytes) -> NoReturn:
    """Execute a command of whose system calls a filter denies some."""
    code = ctypes.create_string_buffer(program)
    filter_program = struct.pack("@HP", len(program) // INSTRUCTION_BYTES, ctypes.addressof(code))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execvp(command[0], [*command])  # noqa: S606


DENIES_IO_URING = denial(without=425, errno=numbers.EPERM)
WITHOUT_IO_URING = (sys.executable, Path(__file__).with_name("without_io_uring.py"))
"""A command that runs another one to which io_uring_setup(2) is forbidden."""


if __name__ == "__main__":
    become_without(sys.argv[2:], *sys.argv[1].split(","))
