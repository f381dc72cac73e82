"""The output interfaces that rules use: their sockets, their slots, and whether raw frames may leave by them.

Belongs to the relay. Raw frames (`mcr.net.raw`) start with the first review that finds nobody between IP and the
interface, and end with one that finds somebody; the UDP sockets are there all the time, for hosts, for what does not
fit the MTU, and for then.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from socket import socket

import attrs

from mcr.errors import McrError, describe_errno
from mcr.logs import get_logger
from mcr.model import MAX_INTERFACES, Address, Facility, Rule
from mcr.net.capture import close_all
from mcr.net.egress import open_egress
from mcr.net.interfaces import Interface
from mcr.net.raw import RawLink, find_links, find_sources, open_raw
from mcr.placement import Sources
from mcr.settings import Settings
from mcr.shm import records
from mcr.slots import Slots

log = get_logger(Facility.NETWORK)

NOT_KNOWN = "what else there is between IP and the interfaces is not known yet"

_PROBE_BYTES = 4096  # of send buffer, for a socket that sends nothing


@attrs.define(eq=False)
class Egress:
    """An output interface.

    Attributes:
        sockets: UDP, one a worker.
        raw_sockets: AF_PACKET, one a worker; none until raw frames may leave for the first time.
        raw: raw frames may leave; None: they may not.
        users: outputs that leave by it.
    """

    slot: int
    interface: Interface
    sockets: tuple[socket, ...]
    raw_sockets: tuple[socket, ...] = ()
    raw: RawLink | None = None
    users: int = 0

    def put(self) -> tuple[records.Command, ...]:
        """Tells a worker to send by it."""
        return (records.egress_put(self.slot, self.interface.mtu, self.sockets), *self.put_raw())

    def put_raw(self) -> tuple[records.Command, ...]:
        """Tells a worker to send raw frames by it, if they may leave."""
        return (records.raw_put(self.slot, self.raw.mtu, self.raw.mac, self.raw_sockets),) if self.raw else ()

    def close(self) -> None:
        """Close all sockets; those that workers have are others. For raw ones the kernel waits for its readers."""
        close_all(self.sockets)
        close_all(self.raw_sockets)


class OutputInterfaces:
    """All of them, by name. What is opened here is in use once it is adopted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._bar = NOT_KNOWN if settings.raw_send else "MCR_RAW_SEND is 0"
        self._by_name: dict[str, Egress] = {}
        self._closing: list[tuple[int, Egress]] = []  # (generation without it, egress)
        self._slots = Slots(MAX_INTERFACES, "output interfaces")
        self._stale = False

    def __getitem__(self, name: str) -> Egress:
        return self._by_name[name]

    def get(self, name: str) -> Egress | None:
        """One, if it is in use."""
        return self._by_name.get(name)

    def close(self) -> None:
        """Close every socket."""
        for egress in chain(self._by_name.values(), (closing for _, closing in self._closing)):
            egress.close()

    def put(self) -> Iterable[records.Command]:
        """Tell a worker of all of them that knows nothing."""
        return chain.from_iterable(egress.put() for egress in self._by_name.values())

    # Taking.

    def open(self, names: Collection[str], interfaces: Mapping[str, Interface], undo: ExitStack) -> dict[str, Egress]:
        """Open what is new of these.

        Raises:
            SystemFault: a socket could not be had.
            LimitReached: there are too many.
        """
        opened = {}
        for name in sorted(names - self._by_name.keys()):
            slot = self._slots.take()
            undo.callback(self._slots.give, slot)
            egress = opened[name] = Egress(slot, interfaces[name], self._open_sockets(interfaces[name]))
            undo.callback(egress.close)
            if interfaces[name].address is None:
                log.warning("%s has no IPv4 address: what leaves by it bears another interface's as its source", name)
        return opened

    def adopt(self, opened: Mapping[str, Egress]) -> None:
        """Have these in use."""
        self._by_name |= opened
        self._stale |= bool(opened)

    def _open_sockets(self, interface: Interface) -> tuple[socket, ...]:
        with ExitStack() as undo:
            workers, send_buffer = self._settings.num_workers, self._settings.send_buffer
            opened = tuple(undo.enter_context(open_egress(interface, send_buffer)) for _ in range(workers))
            undo.pop_all()
        return opened

    # Letting go.

    def drop_unused(self, generation: int) -> list[records.Command]:
        """Let go of those that no output uses from this generation of the rules on."""
        unused = [egress for egress in self._by_name.values() if not egress.users]
        for egress in unused:
            del self._by_name[egress.interface.name]
            self._closing.append((generation, egress))
        return [records.egress_drop(egress.slot) for egress in unused]

    def to_close(self, generation: int) -> list[Egress]:
        """What no worker sends by any more, once all forward by this generation; close it next, see `has_closed`."""
        ready = [egress for since, egress in self._closing if since <= generation]
        self._closing = [each for each in self._closing if each[0] > generation]
        return ready

    def has_closed(self, egress: Egress) -> None:
        """Its slot is free again."""
        self._slots.give(egress.slot)

    # Raw frames.

    @property
    def is_stale(self) -> bool:
        """Whether there are some that no review has seen yet."""
        return self._stale

    def review(self, bar: str) -> list[records.Command]:
        """Find out anew by which interfaces raw frames may leave.

        Args:
            bar: why they may leave by none; empty: they may, as far as is known.
        """
        self._bar = bar
        self._stale = False
        return self._set_raw(self._by_name.values())

    def _set_raw(self, those: Collection[Egress]) -> list[records.Command]:
        commands: list[records.Command] = []
        links = self._find_links(those)
        for egress in those:
            before, egress.raw = egress.raw, links.get(egress.interface.index)
            if egress.raw and not self._have_sockets(egress):
                egress.raw = None
            if egress.raw and egress.raw != before:
                log.info("%s: raw frames leave to groups, past IP", egress.interface.name)
                commands += egress.put_raw()
            elif before and not egress.raw:
                reason = self._bar or "it is not what it was"
                log.info("%s: no raw frames leave any more: %s", egress.interface.name, reason)
                commands.append(records.raw_drop(egress.slot))
        return commands

    def _find_links(self, those: Collection[Egress]) -> dict[int, RawLink]:
        if self._bar or not those:
            return {}
        try:
            return find_links({egress.interface.index for egress in those})
        except OSError as error:
            log.info("raw frames leave by no interface: %s", describe_errno(error.errno or 0))
            return {}

    def _have_sockets(self, egress: Egress) -> bool:
        try:
            if not egress.raw_sockets:
                workers, send_buffer = self._settings.num_workers, self._settings.send_buffer
                egress.raw_sockets = open_raw(egress.interface, workers, send_buffer)
        except OSError as error:
            log.info("%s: no raw frames leave: %s", egress.interface.name, describe_errno(error.errno or 0))
        return bool(egress.raw_sockets)

    def sources(self, rules: Iterable[Rule], opened: Mapping[str, Egress] | None = None) -> Sources:
        """Find where raw frames to these rules' outputs come from; those to which they may not be sent have nothing.

        Args:
            rules: in question.
            opened: for them, and not in use yet.
        """
        known = {**self._by_name, **(opened or {})}
        groups: dict[str, dict[Address, None]] = {}
        for output in chain.from_iterable(rule.outputs for rule in rules):
            if known[output.interface].raw and output.group.is_multicast:
                groups.setdefault(output.interface, {})[output.group] = None
        return {
            (name, group): source
            for name, those in groups.items()
            for group, source in zip(those, _ask(known[name], [*those]), strict=True)
            if source
        }


def _ask(egress: Egress, groups: Sequence[Address]) -> Sequence[Address | None]:
    assert egress.raw
    try:
        with open_egress(egress.interface, _PROBE_BYTES) as probe:
            return find_sources(probe, egress.raw.mtu, groups)
    except McrError:
        return [None] * len(groups)
