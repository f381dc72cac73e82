"""The file of a unix socket that is served: its owner and mode, and the lock that lets only one daemon serve it."""

import errno
import fcntl
import grp
import os
import shlex
import socket
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from mcr.config.paths import CONTROL_SOCKET_VARIABLE, describe_length
from mcr.control.peers import peer_of
from mcr.errors import SystemFault, errno_of
from mcr.process.accounts import SERVICE, describe_owner, own_group, own_user

_BACKLOG = 128  # the next client waits behind all of them
_MODE = 0o660
_DIRECTORY_MODE = 0o750
_LOCK_MODE = 0o600  # a user who could open it could hold it
_DIRECTORY_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EROFS})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
_MORE_FILES = "allow more open files: ulimit -n, or LimitNOFILE= of the systemd unit"
_REPLACE = (
    "to replace it: mcrd supervisor --take-over, with the other options as before; a service: systemctl restart mcrd"
)
_FIND_MCRD = "find the mcrd that is running: pgrep -a mcrd"
_OTHER_PATH = f"choose another path: --control-socket PATH, or {CONTROL_SOCKET_VARIABLE}"


def control_socket(path: str) -> AbstractContextManager[socket.socket]:
    """The control socket; see `unix_listener`. Its directory is made, too, if only that is missing."""
    if not path:
        raise SystemFault("Failed to bind to the control socket: its path is empty", errno.EINVAL, _OTHER_PATH)
    return unix_listener(path, _OTHER_PATH, makes_directory=True)


@contextmanager
def unix_listener(path: str, remedy: str, *, makes_directory: bool = False) -> Iterator[socket.socket]:
    """Make a socket, with mode 0660 and for the group `mcr` if there is one, and listen on it; remove it at the end.

    What somebody put in the socket's place meanwhile is left alone.

    Args:
        path: of the socket.
        remedy: how another path is chosen.
        makes_directory: its directory is made, too, with mode 0750, if only the last component is missing.

    Raises:
        SystemFault: it cannot be made, or another daemon serves it.
    """
    with ExitStack() as stack:
        with _explain(path, remedy):
            if makes_directory:
                _make_directory(Path(path).parent)
            _lock(path, stack, remedy)
            _remove_stale(path, remedy)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # The file gets the socket's mode less the umask: never a wider one, not even for a moment.
            os.fchmod(listener.fileno(), _MODE)
            listener.bind(path)
            stack.callback(_remove, path, _identity(path))
            _give_to_group(path, _MODE)  # the mode, too: the umask took some of it away
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        yield listener


def _make_directory(directory: Path) -> None:
    with suppress(FileExistsError):
        directory.mkdir(_DIRECTORY_MODE)
        _give_to_group(str(directory), _DIRECTORY_MODE)


def _give_to_group(path: str, mode: int) -> None:
    """Set the mode of what was just made, and let the group `mcr` in, if there is one and this process may.

    By a descriptor: whoever owns the directory could put a link to another file in its place meanwhile.
    """
    held = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(held)
        if not (stat.S_ISSOCK(status.st_mode) or stat.S_ISDIR(status.st_mode)) or status.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        made = Path(f"/proc/self/fd/{held}")
        with suppress(KeyError, PermissionError):
            os.chown(made, -1, grp.getgrnam(SERVICE).gr_gid)
        made.chmod(mode)
    finally:
        os.close(held)


def _lock(path: str, stack: ExitStack, remedy: str) -> None:
    """Hold the lock file beside the socket: its holder may bind or replace the socket.

    The socket alone cannot say: between "nobody answers" and "remove it", another daemon may bind its own.
    The lock goes with its process, so a crash leaves nothing that would have to be cleaned up.
    """
    lock = f"{path}.lock"
    while True:
        try:
            # Of a pipe that somebody has put there the other end is not waited for.
            flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(lock, flags, _LOCK_MODE)
        except PermissionError as error:
            with suppress(FileNotFoundError):
                hint = f"{lock} belongs to {describe_owner(lock)}; if no mcrd runs: sudo rm {shlex.quote(lock)}"
                raise SystemFault(f"Failed to bind to {path}", errno_of(error), hint, remedy) from None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            hint = f"{lock} is not a file that mcrd has made; move it away"
            raise SystemFault(f"Failed to bind to {path}", errno.EEXIST, hint, remedy)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _in_use(path, _FIND_MCRD, _REPLACE, remedy) from None
        status = os.fstat(descriptor)
        if _identity(lock) == (status.st_dev, status.st_ino):
            stack.callback(os.close, descriptor)
            stack.callback(_remove, lock, _identity(lock))
            return
        os.close(descriptor)  # its last holder removed it on leaving: it locks nothing


def _remove_stale(path: str, remedy: str) -> None:
    """Remove the socket of a daemon that is gone; raise if there is anything else at the path."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _in_use(path, f"{path} is not a socket, so mcrd leaves it alone; move it away", remedy)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        match probe.connect_ex(path):
            case errno.ECONNREFUSED:
                Path(path).unlink()
            case 0:
                raise _in_use(path, f"process {peer_of(probe).pid} serves it", _FIND_MCRD, remedy)
            case errno.EAGAIN:  # it listens, and its queue is full
                raise _in_use(path, _FIND_MCRD, remedy)
            case code:
                raise OSError(code, os.strerror(code))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _remove(path: str, identity: tuple[int, int] | None) -> None:
    """Remove what we made, and nothing that came in its place."""
    if _identity(path) == identity:
        with suppress(OSError):  # gone, or no longer ours to remove: nothing depends on it
            Path(path).unlink()


def _in_use(path: str, *hints: str) -> SystemFault:
    return SystemFault(f"Failed to bind to {path}", errno.EADDRINUSE, *hints)


@contextmanager
def _explain(path: str, remedy: str) -> Iterator[None]:
    """Turn the system's refusal into an error that names the users who may write there."""
    try:
        yield
    except OSError as error:
        # Python itself refuses a path of more than 107 bytes, without an errno.
        number = error.errno or errno.ENAMETOOLONG
        hints: tuple[str, ...] = (remedy,)
        if number in _DIRECTORY_ERRORS:
            hints = (*_directory_hints(Path(path).parent), remedy)
        elif number in _EXHAUSTED:
            hints = (_MORE_FILES,)
        elif number == errno.ENAMETOOLONG:
            hints = (describe_length(path), remedy)
        raise SystemFault(f"Failed to bind to {path}", number, *hints) from None


def _directory_hints(directory: Path) -> tuple[str, str]:
    try:
        owner = f"belongs to {describe_owner(directory)}"
    except OSError as error:
        owner = f"cannot be made: {error.strerror}"
    quoted = shlex.quote(str(directory))
    return (
        f"mcrd runs as {own_user()}; the directory {directory} {owner}",
        f"sudo mkdir -p {quoted} && sudo chown {own_user()}:{own_group()} {quoted} && sudo chmod 750 {quoted}",
    )
