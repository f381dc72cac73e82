"""Neighbours that rules send to, and their sockets: hosts, and groups whose route leads to a gateway.

What is sent to a neighbour that does not answer ARP waits in the kernel, and fills the buffer of the socket that it
left by. So each has a socket of its own in each worker: a dead one costs nobody else anything.
"""

from collections.abc import Collection, Iterable, Iterator, KeysView, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from socket import socket

import attrs

from mcr.errors import McrError
from mcr.logs import get_logger
from mcr.model import MAX_INTERFACES, MAX_NEIGHBOURS, Address, Facility, Rule
from mcr.net.egress import PortTaken, open_egress
from mcr.net.gateways import find_gateways
from mcr.net.interfaces import Interface
from mcr.net.patience import close_all
from mcr.placement import Key
from mcr.settings import Settings
from mcr.shm import records
from mcr.slots import Slots

log = get_logger(Facility.NETWORK)

_PORT_SHARE = 64
"""Sockets of a worker on an interface that send from the same port. With a port each, some ten thousand hosts would use
up those of the whole machine; with one for all, the kernel would look through all sockets for each packet that comes to
it."""


@attrs.define(eq=False)
class Neighbour:
    """One of them.

    Attributes:
        sockets: UDP, one a worker.
        users: outputs that leave by it.
    """

    slot: int
    interface: Interface
    sockets: tuple[socket, ...]
    users: int = 0

    @property
    def egress_slot(self) -> int:
        """What workers know it by: the first slots are the interfaces'."""
        return MAX_INTERFACES + self.slot

    def put(self) -> records.Command:
        """Tells a worker to send by it."""
        return records.egress_put(self.egress_slot, self.interface.mtu, self.sockets)

    def drop(self) -> records.Command:
        """Tells a worker to let it go."""
        return records.egress_drop(self.egress_slot)


class Neighbours:
    """All of them. What is opened here is in use once it is adopted.

    Attributes:
        unrenewed: interfaces that were made again, and whose neighbours' sockets could not be had so far.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._by_key: dict[Key, Neighbour] = {}
        self._closing: list[tuple[int, Neighbour]] = []  # (generation without it, neighbour)
        self._slots = Slots(MAX_NEIGHBOURS, "hosts")
        self._unused: set[Key] = set()
        self.unrenewed: dict[str, Interface] = {}
        self._ports: dict[str, tuple[tuple[int, ...], int]] = {}  # by interface: one a worker, and how many share them

    def keys(self) -> KeysView[Key]:
        """Those that are in use."""
        return self._by_key.keys()

    def egress_slot(self, key: Key) -> int:
        """What workers know it by."""
        return self._by_key[key].egress_slot

    def close(self) -> None:
        """Close every socket."""
        neighbours = chain(self._by_key.values(), (closing for _, closing in self._closing))
        close_all([each for neighbour in neighbours for each in neighbour.sockets])

    def put(self) -> Iterator[records.Command]:
        """Tell a worker of all of them that knows nothing."""
        return (neighbour.put() for neighbour in self._by_key.values())

    def open(self, keys: Collection[Key], interfaces: Mapping[str, Interface], undo: ExitStack) -> dict[Key, Neighbour]:
        """Open what is new of these.

        Raises:
            SystemFault: a socket could not be had.
            LimitReached: there are too many.
        """
        opened = {}
        for key in sorted(keys - self._by_key.keys()):
            slot = self._slots.take()
            undo.callback(self._slots.give, slot)
            interface = interfaces[key[0]]
            sockets = self._open_sockets(key, interface)
            opened[key] = Neighbour(slot, interface, sockets)
            for each in sockets:
                undo.callback(each.close)
        return opened

    def adopt(self, opened: Mapping[Key, Neighbour]) -> None:
        """Have these in use, once there are outputs."""
        self._by_key |= opened
        self._unused.update(opened)

    def renew(self, returned: Sequence[Interface], generation: int) -> list[tuple[Neighbour, Neighbour]]:
        """Open those again whose interfaces were made again; each with what took its place.

        What can't be had now is tried again at the next call.
        """
        self.unrenewed |= {interface.name: interface for interface in returned}
        keys = [key for key in self._by_key if key[0] in self.unrenewed] if self.unrenewed else []
        olds = [self._by_key.pop(key) for key in keys]
        try:
            with ExitStack() as undo:
                opened = self.open(keys, self.unrenewed, undo)
                undo.pop_all()
        except McrError as error:
            log.warning("%s: it is tried again", error.message)
            self._by_key |= zip(keys, olds, strict=True)
            return []
        self.unrenewed = {}
        self._by_key |= opened
        self._closing.extend((generation, old) for old in olds)
        for key, old in zip(keys, olds, strict=True):
            opened[key].users = old.users
        return [(old, opened[key]) for key, old in zip(keys, olds, strict=True)]

    def open_now(self, keys: Collection[Key], interfaces: Mapping[str, Interface]) -> Collection[Neighbour]:
        """Open and adopt what is new of these, as routes have changed; if that can't be had, nothing."""
        try:
            with ExitStack() as undo:
                opened = self.open(keys, interfaces, undo)
                undo.pop_all()
        except McrError as error:
            log.warning("%s: groups whose routes lead to a gateway since then can keep others waiting", error.message)
            return ()
        self.adopt(opened)
        return opened.values()

    def _open_sockets(self, key: Key, interface: Interface) -> tuple[socket, ...]:
        ports, sharing = self._ports.get(interface.name, ((), _PORT_SHARE))
        if sharing < _PORT_SHARE:
            with suppress(PortTaken):  # those who had it have gone, and it with them
                opened = self._open_from(key, interface, ports)
                self._ports[interface.name] = ports, sharing + 1
                return opened
        opened = self._open_from(key, interface, (0,) * self._settings.num_workers)
        self._ports[interface.name] = tuple(each.getsockname()[1] for each in opened), 1
        return opened

    def _open_from(self, key: Key, interface: Interface, ports: Sequence[int]) -> tuple[socket, ...]:
        with ExitStack() as undo:
            send_buffer, to = self._settings.send_buffer, key[1]
            opened = tuple(
                undo.enter_context(open_egress(interface, send_buffer, to=to, shared_port=port)) for port in ports
            )
            undo.pop_all()
        return opened

    # Use.

    def use(self, keys: Iterable[Key | None]) -> None:
        """One more output leaves by each of these."""
        for key in filter(None, keys):
            self._by_key[key].users += 1
            self._unused.discard(key)

    def leave(self, keys: Iterable[Key | None]) -> None:
        """One output less does."""
        for key in filter(None, keys):
            self._by_key[key].users -= 1
            if not self._by_key[key].users:
                self._unused.add(key)

    def drop_unused(self, generation: int) -> list[records.Command]:
        """Let go of those that no output uses from this generation of the rules on."""
        unused = [self._by_key.pop(key) for key in sorted(self._unused)]
        self._unused.clear()
        self._closing.extend((generation, neighbour) for neighbour in unused)
        return [neighbour.drop() for neighbour in unused]

    def release(self, generation: int) -> list[socket]:
        """Free the slots of what no worker sends by any more, once all forward by this generation.

        Returns:
            Their sockets, to be closed.
        """
        released = [neighbour for since, neighbour in self._closing if since <= generation]
        self._closing = [each for each in self._closing if each[0] > generation]
        for neighbour in released:
            self._slots.give(neighbour.slot)
        return [each for neighbour in released for each in neighbour.sockets]


def find_neighbours(rules: Iterable[Rule], interfaces: Mapping[str, Interface]) -> frozenset[Key]:
    """What of the rules' outputs waits for a neighbour's answer."""
    groups: dict[str, dict[Address, None]] = {}
    found: set[Key] = set()
    for output in chain.from_iterable(rule.outputs for rule in rules):
        if output.group.is_multicast:
            groups.setdefault(output.interface, {})[output.group] = None
        else:
            found.add((output.interface, output.group))
    for name, asked in groups.items():
        try:
            found.update((name, group) for group in find_gateways(interfaces[name].index, [*asked]))
        except OSError as error:
            log.info("%s: cannot see which groups have a gateway: %s", name, error.strerror)
    return frozenset(found)
