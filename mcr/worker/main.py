"""What runs in a worker process: call mcrd, give up every privilege, run the native loop.

This module is import-light on purpose (no trio, no attrs): its imports are most of what a restart costs.

A process is trusted until its loop begins to read packets. By then it holds what mcrd named for it and nothing else;
above all no way into trio-parallel, which unpickles what it hears. So it never returns there: it exits, and its status
is all that it says.
"""

import array
import contextlib
import os
import socket
import struct
import sys
from errno import EPIPE
from typing import NamedTuple, NoReturn

from mcr._native import ffi, lib
from mcr.process.signals import hold_signals
from mcr.process.streams import ignore_write_errors

RECEPTION = 0
"""Descriptor of the socket on which processes call mcrd: the one that multiprocessing passes on unasked."""

CALL = struct.Struct("=IQii")
"""The call of a process: worker id, incarnation, its pid, how many descriptors come with it."""

FAILED = 255
"""Exit status where there is no errno."""

_OUTPUTS = (1, 2)
_STEP_AT = ffi.offsetof("struct mcr_segment", "header") + ffi.offsetof("struct mcr_header", "step")


class WorkerSpec(NamedTuple):
    """What a worker gets at its start; everything else comes over its channel.

    Attributes:
        worker_id: where it serves.
        incarnation: which process it is there.
        core: the processor to run on.
        uid: the user to become, if this process may.
        gid: that user's group.
    """

    worker_id: int
    incarnation: int
    core: int
    uid: int
    gid: int


def prepare() -> None:
    """Prepare a new process, so that neither a signal to mcrd's process group nor a dead terminal ends it."""
    hold_signals()  # which it has inherited
    ignore_write_errors()


def warm_up() -> None:
    """Be the standby process: wait with everything imported for work, or for mcrd to end it."""


def _held() -> list[int]:
    """Every descriptor of this process beside the standard ones."""
    listed = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - pathlib is slow to import
    held = []
    for descriptor in sorted(listed):
        with contextlib.suppress(OSError):  # that of the list itself
            os.fstat(descriptor)
            held.append(descriptor)
    return [descriptor for descriptor in held if descriptor > max(RECEPTION, *_OUTPUTS)]


def _call_in(spec: WorkerSpec) -> socket.socket:
    """Open the channel to mcrd, and give it every descriptor that this process was started with, to hold until the end.

    Among them are trio-parallel's pipes, at whose end it takes this process for dead.
    """
    surrendered = _held()
    channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, socket.socket(fileno=os.dup(RECEPTION)) as reception:
        sent = [theirs.fileno(), *surrendered]
        call = CALL.pack(spec.worker_id, spec.incarnation, os.getpid(), len(sent))
        socket.send_fds(reception, [call], sent)
    for descriptor in surrendered:
        os.close(descriptor)
    return channel


def _silence(*descriptors: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)


def _receive_descriptors(channel: socket.socket) -> list[int]:
    """Receive the segment, the wake eventfd and the event eventfd, in this order; nothing if mcrd has gone.

    Where there is a kernel path, its map of drains (``native/drain.h``) comes last.
    """
    descriptors = array.array("i")
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4 * descriptors.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data)
    return list(descriptors)


def _enter_step(segment_fd: int, step: int) -> None:
    """Name the step that fails, if it does."""
    os.pwrite(segment_fd, step.to_bytes(4, sys.byteorder), _STEP_AT)


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


def main(spec: WorkerSpec) -> NoReturn:
    """Be a worker until the supervisor stops it, or is gone. The exit status is 0 then, and otherwise an errno.

    Raises:
        OSError: it could not call mcrd.
    """
    channel = _call_in(spec)
    status = FAILED
    try:
        status = _serve(spec, channel)
    except OSError as error:
        status = error.errno or FAILED
    except BaseException:  # noqa: BLE001 - whatever it is, the numbers of trio-parallel's pipes are other files' by now
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _serve(spec: WorkerSpec, channel: socket.socket) -> int:
    _silence(RECEPTION)
    with contextlib.suppress(OSError):  # a core that was taken away since: run where the kernel lets us
        os.sched_setaffinity(0, {spec.core})
    descriptors = _receive_descriptors(channel)
    if not descriptors:
        return 0
    segment_fd, wake_fd, event_fd, drain_fd = [*descriptors, -1][:4]
    _enter_step(segment_fd, lib.MCR_STEP_PRIVILEGES)
    _drop_privileges(spec.uid, spec.gid)
    _enter_step(segment_fd, lib.MCR_STEP_START)
    _silence(*_OUTPUTS)  # what there is to say goes into the event ring
    result: int = lib.mcr_worker_run(segment_fd, channel.detach(), wake_fd, event_fd, drain_fd, True)
    return 0 if result == -EPIPE else -result  # EPIPE: the supervisor is gone, so nobody reads the status
