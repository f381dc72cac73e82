"""What runs in a worker process: take the descriptors, give up every privilege, run the native loop.

This module is import-light on purpose (no trio, no attrs): its imports are most of what a restart costs.
"""

import array
import contextlib
import errno
import os
import signal
import socket
from typing import NamedTuple

from mcr._native import ffi, lib


class WorkerSpec(NamedTuple):
    """What a worker is told at its start; everything else comes over its channel.

    Attributes:
        core: the processor to run on.
        channel: name of the abstract unix socket that hands out its descriptors.
        uid: the user to become, if this process may.
        gid: that user's group.
    """

    core: int
    channel: str
    uid: int
    gid: int


class WorkerExit(NamedTuple):
    """How the native loop ended: `errno` 0 after an orderly stop, else what failed in which step."""

    errno: int
    step: str


_served = False


def warm_up() -> None:
    """Wait for something to do, with everything imported, and for mcrd to say when there is nothing any more."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def retire() -> bool:
    """Tell trio-parallel not to reuse a process that was a worker: it has no privileges left to start over with."""
    return _served


def _connect(name: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.connect(f"\0{name}")
    return channel


def _receive_descriptors(channel: socket.socket) -> list[int]:
    """Receive the segment, the wake eventfd and the event eventfd, in this order."""
    descriptors = array.array("i")
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(3 * descriptors.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data)
    return list(descriptors)


def _drop_privileges(uid: int, gid: int) -> None:
    """Become an ordinary user, if this process may, and give up every capability.

    Without CAP_SETUID it stays the user that mcrd is. In a user namespace that maps only root there is no other user to
    become, and a bounding set may forbid it; the capabilities go all the same.
    """
    lib.mcr_shrink_bounding_set()
    # mcrd, if it is not root, may end only processes that could become its user again: this one can't (mcr_confine).
    saved = uid if os.geteuid() == 0 else os.geteuid()
    with contextlib.suppress(OSError):
        os.setgroups([])
    with contextlib.suppress(OSError):
        os.setresgid(gid, gid, gid)
    with contextlib.suppress(OSError):
        os.setresuid(uid, uid, saved)
    result = lib.mcr_drop_capabilities()
    if result < 0:
        raise OSError(-result, "drop capabilities")


def main(spec: WorkerSpec) -> WorkerExit:
    """Be a worker until the supervisor says stop, or is gone."""
    global _served  # noqa: PLW0603 - of this process, which does this once
    _served = True
    # Who stops the daemon may signal its whole control group; it is the daemon that tells its workers to drain.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # a core that was taken away since: run where the kernel lets us
        os.sched_setaffinity(0, {spec.core})
    channel = _connect(spec.channel)
    segment_fd, wake_fd, event_fd = _receive_descriptors(channel)
    _drop_privileges(spec.uid, spec.gid)
    step = ffi.new("const char **")
    result = lib.mcr_worker_run(segment_fd, channel.detach(), wake_fd, event_fd, True, step)
    if result == -errno.EPIPE:  # the supervisor is gone, and with it whoever would take an answer
        os._exit(0)
    return WorkerExit(-result, ffi.string(step[0]).decode())
