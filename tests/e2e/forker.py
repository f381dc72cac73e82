"""Forks processes of one program, which it has imported, for `forked.Forked`: ``forker.py PROGRAM DESCRIPTOR``.

DESCRIPTOR is of the socket that requests come from; "door" is one for another such socket. It ends with those who hold
the other ends, and all that it has forked end with it.
"""

import atexit
import ctypes
import errno
import fcntl
import gc
import io
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing import util
from pathlib import Path
from typing import Any, NoReturn

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 1, 4, 8, 24, 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_INSTRUCTION_BYTES = 8
_CAPABILITY_VERSION = 0x20080522  # capget(2), of the third version: two words of 32 bits for each set
_CAPABILITIES = {
    "setgid": 6,
    "setuid": 7,
    "net_bind_service": 10,
    "net_admin": 12,
    "net_raw": 13,
    "sys_admin": 21,
    "bpf": 39,
}
"""Numbers of capabilities(7) that tests name."""
_REQUEST_BYTES = 1 << 17
_DESCRIPTORS = 253  # that one message carries (SCM_MAX_FD)
_FIRST_KEPT = 3  # sd_listen_fds(3)
_STANDARD = 3
_BEYOND = 1000

_libc = ctypes.CDLL(None, use_errno=True)
_main = sys.modules["__main__"]  # kept alive


def mcrd() -> Callable[[], None]:
    """Import it, as bin/mcrd would have it done, and what it imports and makes soon after its start."""
    from multiprocessing import connection, popen_spawn_posix  # noqa: PLC0415

    from pyroute2.nftables import main as nftables  # noqa: PLC0415

    from mcr.cli import failure, mcrd, supervisor  # noqa: PLC0415

    assert all((connection, popen_spawn_posix, nftables, failure, supervisor))
    make_converters()
    sys.modules["__main__"] = mcrd  # which worker processes import as theirs
    return mcrd.main


def make_converters() -> None:
    """Make what turns requests into values, and answers into JSON, as the first of each does otherwise."""
    from mcr.control.methods import METHODS  # noqa: PLC0415
    from mcr.control.structure import _converter  # noqa: PLC0415
    from mcr.model.finding import Finding  # noqa: PLC0415
    from mcr.model.rule import RuleView  # noqa: PLC0415
    from mcr.model.stats import Stats  # noqa: PLC0415
    from mcr.model.worker import WorkerView  # noqa: PLC0415

    for each in METHODS.values():
        _converter.get_structure_hook(each.params)
    for made in (Finding, RuleView, Stats, WorkerView):
        _converter.get_unstructure_hook(made)


def mcrctl() -> Callable[[], None]:
    """Import it, but for what only some commands need."""
    from mcr.cli import mcrctl, start  # noqa: PLC0415

    assert mcrctl
    return start.main


def traffic_gen() -> Callable[[], None]:
    """Import it, with what it needs to send."""
    import trafficgen.frame  # noqa: PLC0415
    import trafficgen.send  # noqa: PLC0415
    from mcr.cli.failure import run  # noqa: PLC0415
    from traffic_gen import main  # noqa: PLC0415

    assert trafficgen.send
    return lambda: sys.exit(run(main, "traffic_gen.py"))


PROGRAMS = {each.__name__: each for each in (mcrd, mcrctl, traffic_gen)}


def serve(door: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork until nobody asks any more. In a process that was forked: what it is to be, and its descriptors."""
    ended, rings = socket.socketpair()
    ended.setblocking(False)
    rings.setblocking(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the tests'
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(rings.fileno())
    reports: dict[int, int] = {}  # by pid: who is told of its end
    doors = [door]
    with selectors.DefaultSelector() as selector:
        for each in (door, ended):
            selector.register(each, selectors.EVENT_READ)
        while doors:
            for key, _ in selector.select():
                asker = key.fileobj
                assert isinstance(asker, socket.socket)
                if asker is ended:
                    ended.recv(_REQUEST_BYTES)
                    report_ends(reports)
                    continue
                request, descriptors = receive(asker)
                if not request:
                    selector.unregister(asker)
                    doors.remove(asker)
                    asker.close()
                    continue
                if request == b"door":
                    if not descriptors:
                        continue  # who asked sees that its other end is closed
                    doors.append(socket.socket(fileno=descriptors[0]))
                    selector.register(doors[-1], selectors.EVENT_READ)
                    continue
                pid = fork(descriptors)
                if not pid:
                    signal.set_wakeup_fd(-1)
                    for descriptor in (
                        *reports.values(),
                        descriptors[0],
                        *(each.detach() for each in (*doors, ended, rings)),
                    ):
                        os.close(descriptor)
                    return json.loads(request), descriptors[1:]
                if pid > 0:
                    reports[pid] = descriptors.pop(0)
                for descriptor in descriptors:
                    os.close(descriptor)
                with suppress(ConnectionError):  # it is gone, as is seen when it is read from next
                    asker.send(str(pid).encode())
    return None


def fork(descriptors: Sequence[int]) -> int:
    """The pid of a new process, 0 in that; negative: why there is none (errno), which costs only who asked for it."""
    if not descriptors:
        return -errno.EMFILE
    try:
        return os.fork()
    except OSError as error:
        return -(error.errno or errno.EAGAIN)


def receive(asker: socket.socket) -> tuple[bytes, list[int]]:
    """A request and its descriptors: none, if there was no room for all; an empty one: the asker is gone."""
    try:
        request, descriptors, flags, _ = socket.recv_fds(asker, _REQUEST_BYTES, _DESCRIPTORS)
    except ConnectionError:  # with an answer that it has not read
        return b"", []
    if flags & socket.MSG_CTRUNC:
        for each in descriptors:
            os.close(each)
        descriptors = []
    return request, descriptors


def report_ends(reports: dict[int, int]) -> None:
    """Tell of those that have ended."""
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        report = reports.pop(pid)
        with suppress(BrokenPipeError):  # who asked for it is gone
            os.write(report, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(report)


def become(request: dict[str, Any], network: int, *others: int) -> None:
    """Be as if the program had just been executed in a network namespace, with what a service manager has kept.

    And, if the request has a user: with another view of the files, as that user.
    """
    check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
    os.setpgid(0, 0)
    check(_libc.setns(network, _CLONE_NEWNET))
    if request["user"]:
        check(_libc.setns(others[0], _CLONE_NEWNS))
        others = others[1:]
    aside = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, _BEYOND) for each in others]
    os.closerange(0, _BEYOND)
    for number, descriptor in enumerate(aside):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if kept := request["kept"]:
        count = str(len(others) - _FIRST_KEPT)
        os.environ.update({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": kept})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if request["forks_workers"]:
        util.spawnv_passfds = fork_worker
    obey(**request["limits"])
    if request["user"]:
        become_user(**request["user"])
    sys.argv = request["words"]


def obey(bounding: str, descriptors: int | None, denied: str) -> None:
    """As `forked.Limits` says."""
    if descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    if denied:  # before what allows to set a filter may be gone
        code = ctypes.create_string_buffer(bytes.fromhex(denied))
        program = struct.pack("@HP", len(denied) // 2 // _INSTRUCTION_BYTES, ctypes.addressof(code))
        check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0))
    if bounding:
        keep_in_bounds(bounding.split(","))


def keep_in_bounds(words: Sequence[str]) -> None:
    """As ``setpriv --bounding-set=WORD,…`` does: ``-all``, ``+NAME``, ``-NAME``; root's capabilities follow."""
    every = {*range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1)}
    kept = set(every)
    for word in words:
        meant = every if word[1:] == "all" else {_CAPABILITIES[word[1:]]}
        kept = kept | meant if word[0] == "+" else kept - meant
    for each in every - kept:
        check(_libc.prctl(_PR_CAPBSET_DROP, each, 0, 0, 0))
    _, permitted, inheritable = capabilities()
    permitted &= bits(kept) | inheritable  # capabilities(7), "Capabilities and execution of programs by root"
    set_capabilities(permitted, inheritable)


def become_user(uid: int, groups: Sequence[int], ambient: Sequence[str]) -> None:
    """As ``setpriv --reuid --regid --groups --inh-caps --ambient-caps`` does, before a program is executed."""
    check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    check(_libc.prctl(_PR_SET_KEEPCAPS, 0, 0, 0, 0))
    if uid:
        numbers = [_CAPABILITIES[each] for each in ambient]
        set_capabilities(bits(numbers), bits(numbers))
        for each in numbers:
            check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, each, 0, 0))
    # Both are changed by a change of user, and not by an execution of an ordinary file.
    check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))
    check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))


def bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)


def capabilities() -> tuple[int, int, int]:
    """Of this process: effective, permitted, inheritable."""
    data = ctypes.create_string_buffer(24)
    check(_libc.capget(struct.pack("=Ii", _CAPABILITY_VERSION, 0), data))
    low, high = struct.unpack("=3I", data.raw[:12]), struct.unpack("=3I", data.raw[12:])
    effective, permitted, inheritable = (one | other << 32 for one, other in zip(low, high, strict=True))
    return effective, permitted, inheritable


def set_capabilities(permitted: int, inheritable: int) -> None:
    """Those permitted are effective."""
    sets = (permitted, permitted, inheritable)
    data = struct.pack("=6I", *(each & 0xFFFFFFFF for each in sets), *(each >> 32 for each in sets))
    check(_libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), data))


def fork_worker(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """Fork a worker process instead of executing Python; what multiprocessing would have it run it runs all the same.

    It inherits what it would inherit over execve(2), but for the memory: descriptors of standard streams and those
    passed, the signals that are blocked and ignored, rights, limits. Of mcrd's objects none is finalized in it.

    Args:
        path: of Python.
        args: ``python OPTION… -c CODE --multiprocessing-fork``.
        passfds: descriptors that it has.

    Returns:
        Its pid.
    """
    pid = os.fork()
    return pid or run_worker(args[args.index("-c") + 1], passfds)


def run_worker(code: str, kept: Sequence[int]) -> NoReturn:
    """Be the process that would have been executed."""
    status = 1
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        last = _STANDARD - 1
        for each in [*sorted(each for each in kept if each >= _STANDARD), os.sysconf("SC_OPEN_MAX")]:
            os.closerange(last + 1, each)
            last = each
        # Another thread may have held these streams' locks.
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(each, "w", closefd=False), write_through=True) for each in (1, 2)
        )
        sys.argv = ["-c", "--multiprocessing-fork"]
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        gc.freeze()
        gc.enable()
        exec(code, {"__name__": "__main__"})  # noqa: S102
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        os._exit(status)


def run_to_the_end(run: Callable[[], None]) -> NoReturn:
    """Run a program, and end as the interpreter does, but for what comes last.

    To take all modules apart would copy the memory that this process shares with those forked from the same one.
    """
    status = 1
    try:
        run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for them
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed, or nobody reads it
                stream.flush()
        os._exit(status)


def check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    gc.disable()
    run = PROGRAMS[sys.argv[1]]()
    gc.freeze()
    gc.enable()
    if forked := serve(socket.socket(fileno=int(sys.argv[2]))):
        request, descriptors = forked
        become(request, *descriptors)
        run_to_the_end(run)


if __name__ == "__main__":
    main()
