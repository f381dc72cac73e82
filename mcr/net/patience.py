"""Calls that may wait in the kernel: for its readers (RCU), or for its lock of the network's configuration.

Python's own ``setsockopt`` keeps the interpreter's lock while it waits, so nothing else of the process would run, in
whichever thread it is called. And each wait for the kernel's readers takes some 15 ms, but those of several threads
end together.
"""

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from threading import Thread, get_native_id
from typing import Any, TypeVar

from mcr._native import ffi, lib

_THREADS = 32
_NICE = 10  # of these threads: memory for a ring is zeroed first, and what so many do at a time nobody else does

R = TypeVar("R")
T = TypeVar("T")


def set_option(target: socket.socket, level: int, option: int, value: bytes) -> None:
    """Set a socket's option; other threads run meanwhile.

    Raises:
        OSError: from setsockopt(2).
    """
    if lib.setsockopt(target.fileno(), level, option, value, len(value)):
        raise OSError(ffi.errno, os.strerror(ffi.errno))


def before_packets(work: Callable[[T], R], argument: T) -> R:
    """Do a little work before the kernel deals with more packets, if that is permitted.

    It does so for ever where packets circle: what ends that has to get a processor. By nice -10 it got a tenth of one.
    """
    thread = get_native_id()
    with ExitStack() as undo:
        with suppress(OSError):
            before = os.sched_getscheduler(thread), os.sched_getparam(thread)
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))
            undo.callback(_set_scheduler, thread, *before)  # as nice as before, too
        return work(argument)


def _set_scheduler(thread: int, policy: int, param: os.sched_param) -> None:
    with suppress(OSError):
        os.sched_setscheduler(thread, policy, param)


def close_after_exit(descriptors: Sequence[int]) -> None:
    """Close descriptors that take the kernel long: if possible after this process has ended, so nothing waits."""
    if descriptors and lib.mcr_close_after_exit(descriptors, len(descriptors)):
        for descriptor in descriptors:
            os.close(descriptor)


def in_parallel(work: Callable[[T], Any], items: Sequence[T]) -> None:
    """Do work on each item, on several at the same time, and wait until all is done. Workers and event loop go first.

    Raises:
        Exception: one that `work` raised.
    """
    waiting, failures = deque(items), deque[Exception]()

    def take() -> None:
        with suppress(IndexError):
            while True:
                _try(work, waiting.popleft(), failures)

    def take_last() -> None:
        with suppress(OSError):  # a sandbox may deny it
            os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICE)
        take()

    started = []
    if len(items) > 1:
        with suppress(RuntimeError):  # no more threads can be started
            for _ in range(min(len(items), _THREADS)):
                thread = Thread(target=take_last)
                thread.start()
                started.append(thread)
    if not started:
        take()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]


def _try(work: Callable[[T], Any], item: T, failures: deque[Exception]) -> None:
    try:
        work(item)
    except Exception as failure:  # noqa: BLE001 - raised by who waits for all
        failures.append(failure)


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Close sockets. For those of AF_PACKET the kernel waits, so not on the event loop."""
    in_parallel(socket.socket.close, sockets)
