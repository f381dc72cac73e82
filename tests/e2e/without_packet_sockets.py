"""Runs a program to which AF_PACKET sockets are denied, as a security module would: its arguments."""

import errno
import os
import socket
import sys

from seccomp import become

NUMBER = {"x86_64": 41, "aarch64": 198}[os.uname().machine]  # of socket(2)

become(sys.argv[1:], without=NUMBER, argument=socket.AF_PACKET, errno=errno.EACCES)
