"""Owns the control socket and its clients.

Rules of the module:

1. One task a client. Whatever a client does (reset, send garbage, not read), only its own connection ends.
2. The requests of one connection are answered in order, one at a time; the next ones wait in its socket.
3. What clients can make the daemon hold is bounded: their number, and the bytes of long requests and replies.
4. An `McrError` is the client's to hear; any other exception is a bug, and ends the daemon.
"""

import errno
import fcntl
import grp
import math
import os
import shlex
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs
import trio

from mcr import wire
from mcr.api import Api
from mcr.errors import LimitReached, McrError, ShuttingDown, SystemFault, describe_errno
from mcr.logs import get_logger
from mcr.model import Facility
from mcr.ownership import SERVICE, describe_owner, own_group, own_user
from mcr.rights import Rights, peer_of

MAX_CLIENTS: Final = 1_000
"""Connections at the same time. The next one is told so and closed."""

MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of long requests and replies of all clients together. Who exceeds it is told so."""

SEND_TIMEOUT: Final = 10
"""Seconds for a client to read a reply. Ordinary replies fit into the socket's buffer and wait for nobody."""

STOP_GRACE: Final = 2
"""Seconds for the requests in progress to finish when the server stops."""

_LONG = 64 * 1024  # a request or reply up to this length is too short to count against MAX_HELD
_CHUNK = 64 * 1024
_BACKLOG = 1_024
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE = 0.1  # seconds; descriptors come back when a client leaves, and nothing tells us when
_WARNING_INTERVAL = 60
_MODE = 0o660
_DIRECTORY_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EROFS})
_MORE_FILES = "allow more open files: ulimit -n, or LimitNOFILE= of the systemd unit"
_FIND_MCRD = "find the mcrd that is running: pgrep -a mcrd"
_OTHER_PATH = "choose another path: --control-socket PATH, or MCR_CONTROL_SOCKET"

_log = get_logger(Facility.CONTROL)


@attrs.frozen
class ControlServer:
    """The handle of a running control server."""

    path: str
    _stopping: trio.Event
    _stopped: trio.Event

    async def stop(self) -> None:
        """Stop accepting, let requests in progress finish for up to `STOP_GRACE` seconds, close the clients.

        Returns when the socket is gone and the last client is closed. Stop it before the actors that answer.
        """
        self._stopping.set()
        await self._stopped.wait()


async def run_control_server(
    path: str, api: Api, *, task_status: trio.TaskStatus[ControlServer] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the control protocol on a unix socket until `ControlServer.stop` is called.

    Resource handling: the socket file is made with mode 0660; its directory too, with mode 0750, if only the
    last component is missing. The file is removed at the end, unless somebody put another in its place.

    Error handling: a client's failure ends its connection. A bug in a handler ends this coroutine, and all
    connections with it.

    Raises:
        SystemFault: the socket cannot be made, or another daemon serves it.
    """
    stopping, stopped = trio.Event(), trio.Event()
    clients = _Clients(api)
    try:
        async with trio.open_nursery() as nursery:
            with _control_socket(path) as listener:
                task_status.started(ControlServer(path, stopping, stopped))
                async with trio.open_nursery() as door:
                    door.start_soon(clients.accept, listener, nursery)
                    await stopping.wait()
                    door.cancel_scope.cancel(reason="the control server stops")
            clients.stop()
            nursery.cancel_scope.deadline = trio.current_time() + STOP_GRACE
    finally:
        stopped.set()


class _Client:
    """One connection. Its failures are answers, not exceptions: an exception in its task is a handler's."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.lines = wire.LineBuffer()
        self.in_hand = 0  # bytes of the request that is carried out, or of the reply that is sent
        self._stream = stream
        self.peer = peer_of(stream.socket)

    @property
    def held(self) -> int:
        """Bytes that the daemon keeps for this client."""
        return self.lines.held + self.in_hand

    async def receive(self) -> bytes:
        """The next bytes, none at the end of the stream."""
        try:
            return bytes(await self._stream.receive_some(_CHUNK))
        except trio.BrokenResourceError:
            return b""

    async def send(self, reply: bytes) -> bool:
        """Send a whole reply; False if the client left or did not read it in time."""
        with trio.move_on_after(SEND_TIMEOUT):
            try:
                await self._stream.send_all(reply)
            except trio.BrokenResourceError:
                return False
            return True
        _log.notice("Process %d did not read its reply for %d s: disconnected", self.peer.pid, SEND_TIMEOUT)
        return False

    def stop_receiving(self) -> None:
        """Let `receive` return the end of the stream, now or when it is called next."""
        self._stream.socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self._stream.socket.close()


class _Clients:
    """All connections."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._rights = Rights.of_this_machine()
        self._open: set[_Client] = set()
        self._stopping = False
        self._next_warning = -math.inf

    def stop(self) -> None:
        """Refuse every further request, and let the clients that have none in progress go."""
        self._stopping = True
        for client in self._open:
            client.stop_receiving()

    async def accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        """Start a task in the nursery for every client that comes."""
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._warn_seldom(f"Cannot accept a client: {describe_errno(error.errno)}")
                await trio.sleep(_EXHAUSTED_PAUSE)
                continue
            client = _Client(stream)
            if len(self._open) < MAX_CLIENTS:
                self._open.add(client)
                nursery.start_soon(self._serve, client)
                continue
            self._warn_seldom(f"Refused a client: {MAX_CLIENTS:,} are connected")
            try:
                await client.send(_too_much(f"{MAX_CLIENTS:,} clients are connected to the control socket"))
            finally:
                client.close()

    async def _serve(self, client: _Client) -> None:
        _log.debug("Process %d connected, uid %d", client.peer.pid, client.peer.uid)
        try:
            await self._converse(client)
        finally:
            self._open.remove(client)
            client.close()
        _log.debug("Process %d left", client.peer.pid)

    async def _converse(self, client: _Client) -> None:
        while data := await client.receive():
            for line in client.lines.feed(data):
                if not await self._answer(client, line):
                    return
            if self._exceeds(client):
                await client.send(_too_much("The long requests in progress exceed what mcrd holds"))
                return
        if rejection := client.lines.end():
            await client.send(rejection.reply)

    async def _answer(self, client: _Client, line: bytes | wire.Rejection) -> bool:
        """Answer a line; False if the client is gone."""
        if isinstance(line, wire.Rejection):
            return await client.send(line.reply)
        request = wire.parse_request(line)
        if isinstance(request, wire.Rejection):
            return await client.send(request.reply)
        try:
            client.in_hand = len(line)
            reply = await self._carry_out(request, client)
            if request.notification:
                return True
            client.in_hand = len(reply)
            if self._exceeds(client):
                reply = _too_much("The long replies in progress exceed what mcrd holds", request.id)
            return await client.send(reply)
        finally:
            client.in_hand = 0

    async def _carry_out(self, request: wire.Request, client: _Client) -> bytes:
        started = trio.current_time()
        try:
            if self._stopping:
                raise ShuttingDown("mcrd is stopping")
            if self._api.changes(request.method) and not self._rights.may_change(client.peer):
                raise await trio.to_thread.run_sync(self._rights.refusal, client.peer, request.method)
            result = await self._api.call(request.method, request.params)
            if wire.is_long(result):
                return await trio.to_thread.run_sync(wire.encode_result, request.id, result)
            return wire.encode_result(request.id, result)
        except McrError as error:
            return wire.encode_error(request.id, error)
        finally:
            milliseconds = (trio.current_time() - started) * 1_000
            _log.debug("%s for process %d took %.1f ms", request.method, client.peer.pid, milliseconds)

    def _exceeds(self, client: _Client) -> bool:
        return client.held > _LONG and sum(other.held for other in self._open) > MAX_HELD

    def _warn_seldom(self, message: str) -> None:
        if trio.current_time() >= self._next_warning:
            self._next_warning = trio.current_time() + _WARNING_INTERVAL
            _log.warning("%s", message)


def _too_much(message: str, request_id: wire.RequestId = None) -> bytes:
    return wire.encode_error(request_id, LimitReached(message, "try again when others are done"))


# The socket file.


@contextmanager
def _control_socket(path: str) -> Iterator[trio.SocketListener]:
    if not path:
        raise SystemFault("Failed to bind to the control socket: its path is empty", errno.EINVAL, _OTHER_PATH)
    with ExitStack() as stack:
        with _explain(path):
            with suppress(FileExistsError):
                Path(path).parent.mkdir(0o750)
                _give_to_group(str(Path(path).parent))
            _lock(path, stack)
            _remove_stale(path)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # The file gets the socket's mode less the umask: never a wider one, not even for a moment.
            os.fchmod(listener.fileno(), _MODE)
            listener.bind(path)
            stack.callback(_remove, path, _identity(path))
            _give_to_group(path)
            Path(path).chmod(_MODE)  # what the umask took away
            listener.listen(_BACKLOG)
        yield trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def _give_to_group(path: str) -> None:
    """Let the group `mcr` in, if there is one and this process may."""
    with suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam(SERVICE).gr_gid)


def _lock(path: str, stack: ExitStack) -> None:
    """Hold the file beside the socket that says who may bind or replace it.

    The socket alone cannot say: between "nobody answers" and "remove it", another daemon may bind its own.
    The lock goes with its process, so a crash leaves nothing that would have to be cleaned up.
    """
    lock = f"{path}.lock"
    while True:
        # Read-only is enough for flock, and lets a daemon of another user take over a crashed one's file.
        descriptor = os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _in_use(path, _FIND_MCRD) from None
        status = os.fstat(descriptor)
        if _identity(lock) == (status.st_dev, status.st_ino):
            stack.callback(os.close, descriptor)
            stack.callback(_remove, lock, _identity(lock))
            return
        os.close(descriptor)  # its last holder removed it on leaving: it locks nothing


def _remove_stale(path: str) -> None:
    """Remove the socket of a daemon that is gone; raise if there is anything else at the path."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _in_use(path, f"{path} is not a socket, so mcrd leaves it alone; move it away", _OTHER_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        match probe.connect_ex(path):
            case errno.ECONNREFUSED:
                Path(path).unlink()
            case 0:
                raise _in_use(path, f"process {peer_of(probe).pid} serves it", _FIND_MCRD)
            case errno.EAGAIN:  # it listens, and its queue is full
                raise _in_use(path, _FIND_MCRD)
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
def _explain(path: str) -> Iterator[None]:
    """Turn the system's refusal into an error that says who may write where."""
    try:
        yield
    except OSError as error:
        # Python itself refuses a path of more than 107 bytes, without an errno.
        number = error.errno or errno.ENAMETOOLONG
        hints: tuple[str, ...] = (_OTHER_PATH,)
        if number in _DIRECTORY_ERRORS:
            hints = (*_directory_hints(Path(path).parent), _OTHER_PATH)
        elif number in _EXHAUSTED:
            hints = (_MORE_FILES,)
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
