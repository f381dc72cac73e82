"""Forks traffic generators, in network namespaces, for `generator.Generator`, whose socket is its standard input."""

import ctypes
import json
import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

import trafficgen.frame
import trafficgen.send
from mcr.cli.failure import run
from traffic_gen import main

assert trafficgen.send  # imported before there is anything to send
assert trafficgen.frame

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_REQUEST_BYTES = 1 << 16
_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the tests'
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    door = socket.socket(fileno=0)
    while True:
        request, descriptors, _, _ = socket.recv_fds(door, _REQUEST_BYTES, 3)
        if not request:
            return
        pid = os.fork()
        if not pid:
            door.close()
            generate(json.loads(request), *descriptors)
        for each in descriptors:
            os.close(each)
        door.send(str(pid).encode())


def generate(words: list[str], network: int, report: int, errors: int) -> NoReturn:
    """Be a traffic generator. Whatever happens, what called this is not returned to."""
    status = 1
    try:
        check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
        check(_libc.setns(network, _CLONE_NEWNET))
        os.dup2(report, _STANDARD_OUTPUT)
        os.dup2(errors, _STANDARD_ERROR)
        for each in (network, report, errors):
            os.close(each)
        for number in (signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        sys.argv[1:] = words
        status = run(main, "traffic_gen.py")
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    serve()
