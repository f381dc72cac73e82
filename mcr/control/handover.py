"""One mcrd hands on to the next what outlives it, over the control socket: `mcrd supervisor --take-over`.

The next one asks; descriptors come as ancillary data, and then one line of JSON names them. Up to there nothing has
changed. Once the next one has said that it has all of them, the first one ends, and leaves its workers as they are.
"""

import array
import json
import os
import select
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import attrs
import trio

from mcr.control import wire
from mcr.control.connection import ControlClient
from mcr.control.methods import Api
from mcr.control.peers import Peer, peer_of
from mcr.control.structure import structure
from mcr.errors import McrError, NotPermitted, SystemFault
from mcr.model.rule import Rule
from mcr.process.accounts import user_name
from mcr.process.descriptor_store import DescriptorStore

METHOD: Final = "hand_over"

_AT_ONCE = 200  # descriptors in a message; the kernel takes 253
_PATIENCE_SECONDS = 10.0
_READ_ONLY = frozenset({"state", "reason", "warnings", "origin", "path", "path_reason"})
_DO_WITHOUT = "start it without --take-over"


@attrs.frozen
class HandedOver:
    """What another mcrd has handed on: descriptors by name, and the rules that were added at run time."""

    descriptors: Mapping[str, int]
    rules: tuple[Rule, ...] = ()


@attrs.frozen
class _Rules:
    rules: tuple[Rule, ...]


@attrs.frozen
class HandOver:
    """What serves the request. `leave`: have this mcrd end."""

    store: DescriptorStore
    api: Api
    leave: Callable[[], None]

    async def serve(self, client: ControlClient, request: wire.Request) -> bool:
        """Hand everything on; False if the client is gone."""
        if refusal := self._refusal(client):
            return await client.send(wire.encode_error(request.id, refusal))
        rules = await self.api.call("list", {})
        with ExitStack() as held:
            named = dict(_duplicates(self.store.all(), held))
            duplicates = [*named.values()]
            for begin in range(0, len(duplicates), _AT_ONCE):
                if not await client.send_descriptors(duplicates[begin : begin + _AT_ONCE]):
                    return False
            added = [_plain(each) for each in rules if each["origin"] == "runtime"]
            if not await client.send(wire.encode_result(request.id, {"names": [*named], "rules": added})):
                return False
        with trio.move_on_after(_PATIENCE_SECONDS):
            if await client.receive():
                self.leave()
        return False

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


def _plain(view: Mapping[str, Any]) -> dict[str, Any]:
    """A rule as it was added."""
    rule = {name: value for name, value in view.items() if name not in _READ_ONLY}
    outputs = [{name: each[name] for name in each if name not in _READ_ONLY} for each in view["outputs"]]
    return {**rule, "outputs": outputs}


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
            number = error.errno or 0
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
    names = reply["result"]["names"]
    if len(names) != len(descriptors):
        raise McrError("Not all that the mcrd that runs hands on has arrived: too many open files?", _DO_WITHOUT)
    rules = structure({"rules": reply["result"]["rules"]}, _Rules).rules
    return HandedOver(dict(zip(names, descriptors, strict=True)), rules)
