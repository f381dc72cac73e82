"""Runs a program to which io_uring_setup(2) is forbidden, as it is in most containers: its arguments."""

import sys

from seccomp import DENIES_IO_URING, execute

execute(sys.argv[1:], DENIES_IO_URING)
