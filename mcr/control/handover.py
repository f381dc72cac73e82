"""One mcrd hands on to the next what outlives it, over the control socket: `mcrd supervisor --take-over`.

The next one asks; descriptors come as ancillary data, and then one line of JSON names them. Up to there nothing has
changed, and no rule is changed meanwhile. Once the next one has said that it has all of them, the first one ends, and
leaves its workers as they are.
"""

import array
import json
import os
import select
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from typing import Final, Protocol

import attrs
import trio

from mcr.actors.rule_store import Held
from mcr.control import wire
from mcr.control.connection import ControlClient
from mcr.control.peers import Peer, peer_of
from mcr.control.structure import structure, unstructure
from mcr.errors import McrError, NotPermitted, SystemFault, errno_of
from mcr.model.rule import Rule
from mcr.process.accounts import user_name
from mcr.process.descriptor_store import DescriptorStore
from mcr.rules.store import RuleFile

METHOD: Final = "hand_over"

_AT_ONCE = 200  # descriptors in a message; the kernel takes 253
_PATIENCE_SECONDS = 10.0
_DO_WITHOUT = "start it without --take-over"


@attrs.frozen
class HandedOver:
    """What another mcrd has handed on.

    Attributes:
        descriptors: by name.
        rules: that were added at run time.
        saved_in: path of the file where it has saved them; empty: nowhere.
    """

    descriptors: Mapping[str, int]
    rules: tuple[Rule, ...] = ()
    saved_in: str = ""

    def rules_beside(self, file: RuleFile | None) -> tuple[Rule, ...]:
        """Those that are not in this file already."""
        return () if file and _place_of(file) == self.saved_in else self.rules


class Rules(Protocol):
    """The owner of the rules."""

    def held(self) -> AbstractAsyncContextManager[Held]:
        """Make no change until this is left."""


@attrs.frozen
class _Rules:
    rules: tuple[Rule, ...]


@attrs.frozen
class HandOver:
    """What serves the request.

    Attributes:
        store: of what outlives mcrd.
        rules: their owner.
        file: where they are saved, if they are.
        leave: have this mcrd end.
    """

    store: DescriptorStore
    rules: Rules
    file: RuleFile | None
    leave: Callable[[], None]

    async def serve(self, client: ControlClient, request: wire.Request) -> bool:
        """Hand everything on; False if the client is gone."""
        if refusal := self._refusal(client):
            return await client.send(wire.encode_error(request.id, refusal))
        async with self.rules.held() as held:
            if await self._send_all(client, request, held) and await _has_it(client):
                held.take()
                self.leave()
        return False

    async def _send_all(self, client: ControlClient, request: wire.Request, rules: Held) -> bool:
        with ExitStack() as held:
            named = dict(_duplicates(self.store.all(), held))
            duplicates = [*named.values()]
            for begin in range(0, len(duplicates), _AT_ONCE):
                if not await client.send_descriptors(duplicates[begin : begin + _AT_ONCE]):
                    return False
            return await client.send(await trio.to_thread.run_sync(self._result, request, [*named], rules))

    def _result(self, request: wire.Request, names: list[str], held: Held) -> bytes:
        """It takes a while where there are many rules."""
        rules = [*map(unstructure, held.rules)]
        return wire.encode_result(request.id, {"names": names, "rules": rules, "saved_in": _place_of(self.file)})

    def _refusal(self, client: ControlClient) -> McrError | None:
        if client.peer.uid not in (0, os.geteuid()):
            return NotPermitted("Only root and the user that mcrd runs as may take over from it")
        if self.store.outlives_mcrd:
            return McrError(
                "This mcrd belongs to a service manager, which starts the next one", "systemctl restart mcrd"
            )
        return None


def _duplicates(descriptors: Mapping[str, int], held: ExitStack) -> Iterator[tuple[str, int]]:
    """Of the caller's own, whatever becomes of them meanwhile."""
    for name, descriptor in descriptors.items():
        with suppress(OSError):
            duplicate = os.dup(descriptor)
            held.callback(os.close, duplicate)
            yield name, duplicate


def _place_of(file: RuleFile | None) -> str:
    """By which another mcrd knows it; empty: it finds none."""
    return os.path.realpath(file.path) if file and not file.is_gone else ""


async def _has_it(client: ControlClient) -> bool:
    """Whether the other one says so in time."""
    with trio.move_on_after(_PATIENCE_SECONDS):
        return bool(await client.receive())
    return False


def take_over(path: str) -> HandedOver:
    """Have the mcrd that serves a control socket hand everything on, and end. Returns when it has.

    Raises:
        McrError: it doesn't, nobody serves it, or another user does.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            connection.connect(path)
            _trust(path, peer_of(connection))
            connection.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": METHOD}).encode() + b"\n")
            handed_over = _receive(connection)
            with _ended(peer_of(connection).pid):
                connection.sendall(b"\n")
        except OSError as error:
            number = errno_of(error)
            raise SystemFault(f"Cannot take over from the mcrd at {path}", number, _DO_WITHOUT) from None
    return handed_over


def _trust(path: str, peer: Peer) -> None:
    """Raise if what serves the socket belongs to neither root nor this user: its word says what is used and ended."""
    if peer.uid not in (0, os.geteuid()):
        raise NotPermitted(
            f"Cannot take over from the process that serves {path}: it runs as {user_name(peer.uid)}",
            f"run this one as {user_name(peer.uid)}, too, if that process (pid {peer.pid}) is the mcrd that you mean",
        )


@contextmanager
def _ended(pid: int) -> Generator[None]:
    """Wait at the end until a process has ended: what it has locked is free then."""
    pidfd = os.pidfd_open(pid)
    try:
        yield
        poll = select.poll()  # select() takes no descriptor above 1,023, and many have just come
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_PATIENCE_SECONDS * 1000):
            raise McrError(f"The mcrd that ran (pid {pid}) has handed everything on, and does not end")
    finally:
        os.close(pidfd)


def _receive(connection: socket.socket) -> HandedOver:
    data, descriptors = bytearray(), array.array("i")
    while not data.endswith(b"\n"):
        some, received, _, _ = socket.recv_fds(connection, 1 << 16, 253, socket.MSG_CMSG_CLOEXEC)
        if not some:
            raise McrError("The mcrd that runs has ended instead of handing on what it has", _DO_WITHOUT)
        data += some
        descriptors.extend(received)
    reply = json.loads(data)
    if "error" in reply:
        raise McrError(reply["error"]["message"], *reply["error"]["data"]["hints"])
    result = reply["result"]
    names = result["names"]
    if len(names) != len(descriptors):
        raise McrError("Not all that the mcrd that runs hands on has arrived: too many open files?", _DO_WITHOUT)
    rules = structure({"rules": result["rules"]}, _Rules).rules
    return HandedOver(dict(zip(names, descriptors, strict=True)), rules, result.get("saved_in", ""))
