"""Neighbours that rules send to, and their sockets: hosts, and groups whose route leads to a gateway.

Datagrams to a neighbour that does not answer ARP, or in IPv6 neighbour discovery, wait in the kernel, and fill the
buffer of their socket. So each neighbour has a socket of its own in each worker: a dead one costs the others nothing.
While there is no need, they send by common sockets: what goes to several hosts is one system call then. What comes from
a port that its operator has chosen is sent by such sockets, too, whoever it is for; and so is all that goes to IPv6
groups. Raw sockets of UDP cost the whole machine time, so there are common ones alone.
"""

import errno
from collections.abc import Collection, Iterable, Iterator, KeysView, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from socket import SO_SNDBUF, SOL_SOCKET, socket

import attrs

from mcr.config.settings import Settings
from mcr.errors import McrError, SystemFault, describe_errno
from mcr.logs.logger import get_logger
from mcr.logs.standing_reason import StandingReason
from mcr.model.flow import IPV4, IPV6, Address, may_be_broadcast
from mcr.model.limits import INTERFACE_SLOTS, MAX_NEIGHBOURS
from mcr.model.log import Facility
from mcr.model.output_options import Sockets
from mcr.model.rule import Rule
from mcr.net.egress import open_alike, open_ear, open_egress, open_raw_egress, share_egress
from mcr.net.hops import NextHop, find_hops
from mcr.net.interfaces import Interface, is_gone
from mcr.net.neighbour_tables import unresolved_bytes
from mcr.net.patience import close_all
from mcr.relay.placement import Key, in_order, key_of
from mcr.relay.slots import Slots

log = get_logger(Facility.NETWORK)

JUST_GONE = (errno.ENODEV, errno.ENXIO)
"""What the kernel says of an interface that is not there."""

_ON_LINK = NextHop()

_NO_SLOT = -1  # of what has no sockets

_PARTY = 64
"""Neighbours that share a common socket, and with it the port that they send from. With a port each, some ten thousand
hosts would use up those of the whole machine; with one for all, the kernel would look through all sockets for each
packet that comes to it."""

_ROOM_FOR_DEAD = 0.75
"""Part of a send buffer that hosts which don't answer may fill, where others send by it, too."""


@attrs.define(eq=False)
class _Place:
    """Sockets on an interface, and where workers have them.

    Attributes:
        sockets: UDP, one per worker.
        users: that send by it.
    """

    slot: int
    interface: Interface
    sockets: tuple[socket, ...]
    users: int = attrs.field(default=0, kw_only=True)

    @property
    def egress_slot(self) -> int:
        """What workers know it by: the first slots are the interfaces'."""
        return INTERFACE_SLOTS + self.slot

    @property
    def all_sockets(self) -> tuple[socket, ...]:
        """There are no others."""
        return self.sockets


@attrs.define(eq=False)
class Common(_Place):
    """Sockets that some neighbours on an interface send by while they have room: one system call for all of them.

    Its users are neighbours.

    Attributes:
        told: workers know it.
        most: users that it may have.
        ears: by which the kernel hears of ways that carry less, where these sockets hear of none.
    """

    told: bool = False
    most: int = _PARTY
    ears: tuple[socket, ...] = ()

    @property
    def all_sockets(self) -> tuple[socket, ...]:
        """Those of both kinds."""
        return (*self.sockets, *self.ears)


@attrs.define(eq=False)
class Neighbour(_Place):
    """One of them. Its users are outputs.

    Attributes:
        common: it sends by that, too; None: it has no sockets.
        fault: why they could not be opened: nothing is sent to it; empty: it has them.
    """

    common: Common | None
    fault: str = attrs.field(default="", kw_only=True)


@attrs.frozen
class Renewed:
    """Neighbours whose interfaces were made again.

    Attributes:
        interfaces: names of those.
        opened: what workers do not know yet, in the order in which they have to be told.
        dropped: what it takes the place of.
    """

    interfaces: frozenset[str] = frozenset()
    opened: tuple[Neighbour | Common, ...] = ()
    dropped: tuple[Neighbour | Common, ...] = ()


class Neighbours:
    """All of them. What is opened here is in use once it is adopted.

    Attributes:
        unrenewed: interfaces that were made again, and whose neighbours' sockets could not be opened so far.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._by_key: dict[Key, Neighbour] = {}
        self.slots = Slots(2 * MAX_NEIGHBOURS, "hosts")
        self._commons: dict[int, Common] = {}  # by slot
        # By interface, version of IP, the port that was asked for, their kind, and whether routers may not cut.
        self._newest: dict[tuple[str, int, int, Sockets, bool], Common] = {}
        self._unused: set[Key] = set()
        self.unrenewed: dict[str, Interface] = {}
        self._not_renewed = StandingReason()
        self._not_opened = StandingReason()

    def keys(self) -> KeysView[Key]:
        """Those that are in use."""
        return self._by_key.keys()

    def egress_slot(self, key: Key) -> int | None:
        """What workers know it by; None: it has no sockets."""
        neighbour = self._by_key[key]
        return None if neighbour.fault else neighbour.egress_slot

    def port(self, key: Key) -> int | None:
        """That datagrams come from, whichever worker sends, or none. None: it has no sockets."""
        neighbour = self._by_key[key]
        return None if neighbour.fault else int(neighbour.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Close every socket."""
        held: Iterable[Neighbour | Common] = chain(self._by_key.values(), self._commons.values())
        close_all([each for those in held for each in those.all_sockets])

    def faults(self) -> dict[tuple[str, Address, int, Sockets], str]:
        """Why nothing is sent to some of them."""
        return {key: neighbour.fault for key, neighbour in self._by_key.items() if neighbour.fault}

    def open(
        self, keys: Collection[Key], interfaces: Mapping[str, Interface], undo: ExitStack, *, wait: bool = False
    ) -> dict[Key, Neighbour]:
        """Open what is new of these.

        Args:
            keys: which.
            interfaces: those that they are on, by name.
            undo: closes them.
            wait: for what the system refuses, instead of raising: those have a fault.

        Raises:
            SystemFault: a socket could not be opened.
            LimitReached: there are too many.
        """
        opened = {}
        for key in in_order(keys - self._by_key.keys()):
            interface = interfaces[key.interface]
            try:
                with ExitStack() as one:
                    opened[key] = self._open(key, interface, one)
                    undo.enter_context(one.pop_all())
            except SystemFault as error:
                if not wait or error.errno in JUST_GONE:
                    raise
                opened[key] = Neighbour(_NO_SLOT, interface, (), None, fault=_describe(key, error))
        return opened

    def _open(self, key: Key, interface: Interface, undo: ExitStack) -> Neighbour:
        common = self._join_common(key, interface, undo)
        slot = self.slots.take()
        undo.callback(self.slots.give, slot)
        if key.kind is not Sockets.UDP:
            # The kernel looks through all raw sockets of UDP for each packet that it takes for this machine. Groups
            # wait for a gateway at most, which holds back a part of a send buffer; of hosts no more share it than fit.
            shared = (share_egress(each, interface, key.address) for each in common.sockets)
            return Neighbour(slot, interface, tuple(undo.enter_context(each) for each in shared), common)
        port = common.sockets[0].getsockname()[1]
        sockets = self._open_sockets(key, interface, port, undo, to=key.address)
        return Neighbour(slot, interface, sockets, common)

    def _join_common(self, key: Key, interface: Interface, undo: ExitStack) -> Common:
        party = interface.name, key.address.version, key.port, key.kind, _has_df(key)
        common = self._newest.get(party)
        if not common or common.users in (0, common.most) or common.interface.index != interface.index:
            slot = self.slots.take()
            undo.callback(self.slots.give, slot)
            ears = tuple(undo.enter_context(each) for each in self._open_ears(key, interface))
            sockets = self._open_sockets(key, interface, key.port, undo)
            common = Common(slot, interface, sockets, most=_most(key, sockets), ears=ears)
            self._commons[slot] = self._newest[party] = common
            undo.callback(self._commons.pop, slot)
        common.users += 1
        undo.callback(self._leave_common, common)
        return common

    def _open_ears(self, key: Key, interface: Interface) -> Iterator[socket]:
        """One for all interfaces: the kernel looks at each for what comes to this machine."""
        if not _has_ears(key):
            return
        if other := next(chain.from_iterable(each.ears for each in self._commons.values()), None):
            yield share_egress(other, interface)
        else:
            yield open_ear(interface)

    @staticmethod
    def _leave_common(common: Common) -> None:
        common.users -= 1

    def _open_sockets(
        self, key: Key, interface: Interface, port: int, undo: ExitStack, to: Address | None = None
    ) -> tuple[socket, ...]:
        """Open those of a neighbour, or with `to` None common ones for it and others."""
        version, size, number = key.address.version, self._settings.send_buffer, self._settings.num_workers
        if key.kind is not Sockets.UDP:
            is_foreign, has_df = key.kind is Sockets.FOREIGN, _has_df(key)
            open_raw = partial(open_raw_egress, interface, size, foreign=is_foreign, has_df=has_df, version=version)
            return tuple(undo.enter_context(open_raw(to=to)) for _ in range(number))
        of_neighbours = partial(open_egress, interface, size, of_neighbours=True, version=version)
        open_one = partial(of_neighbours, is_chosen=bool(key.port), has_df=_has_df(key))
        return open_alike(partial(open_one, to=to), port, number, undo)

    def adopt(self, opened: Mapping[Key, Neighbour]) -> list[Neighbour | Common]:
        """Take these into use, once there are outputs.

        Returns:
            Those that workers do not know yet, in the order in which they have to learn of them.
        """
        self._by_key |= opened
        self._unused.update(opened)
        for key, neighbour in opened.items():
            if neighbour.fault:
                log.warning("nothing is sent to %s on %s: %s", key.address, key.interface, neighbour.fault)
        return self._untold(opened.values())

    @staticmethod
    def _untold(opened: Iterable[Neighbour]) -> list[Neighbour | Common]:
        untold: list[Neighbour | Common] = []
        for neighbour in opened:
            if not neighbour.common:
                continue
            if not neighbour.common.told:
                neighbour.common.told = True
                untold.append(neighbour.common)
            untold.append(neighbour)
        return untold

    def renew(self, returned: Sequence[Interface]) -> Renewed:
        """Open those again whose interfaces were made again, and those that have a fault.

        A socket that cannot be opened now is tried again at the next call; if its interface has gone once more, when
        that is back.
        """
        self.unrenewed = {each.name: each for each in (*self.unrenewed.values(), *returned) if not is_gone(each)}
        keys = [key for key in self._by_key if key.interface in self.unrenewed] if self.unrenewed else []
        mended = self._mend(
            [key for key, each in self._by_key.items() if each.fault and key.interface not in self.unrenewed]
        )
        olds = [self._by_key.pop(key) for key in keys]
        try:
            with ExitStack() as undo:
                opened = self.open(keys, self.unrenewed, undo, wait=True)
                undo.pop_all()
        except McrError as error:
            if self._not_renewed.is_news(error.message):
                log.warning("%s: it is tried again", error.message)
            self._by_key |= zip(keys, olds, strict=True)
            return Renewed(frozenset(key.interface for key in mended), tuple(self._untold(mended.values())))
        self._not_renewed.is_news("")
        self.unrenewed = {}
        self._by_key |= opened
        for key, old in zip(keys, olds, strict=True):
            opened[key].users = old.users
        names = frozenset(key.interface for key in chain(keys, mended))
        untold = self._untold(chain(mended.values(), opened.values()))
        return Renewed(names, tuple(untold), tuple(self._drop(olds)))

    def _mend(self, keys: Iterable[Key]) -> dict[Key, Neighbour]:
        """Open those that could not be opened, as far as they can be now."""
        mended = {}
        for key in keys:
            old = self._by_key.pop(key)
            try:
                with ExitStack() as undo:
                    now = self.open([key], {key.interface: old.interface}, undo, wait=True)[key]
                    undo.pop_all()
            except McrError as error:
                now = attrs.evolve(old, fault=error.message)
            now.users = old.users
            self._by_key[key] = now
            if not now.fault:
                mended[key] = now
                log.notice("what is due is sent to %s on %s: what it takes can be had now", key.address, key.interface)
        return mended

    def open_now(self, keys: Collection[Key], interfaces: Mapping[str, Interface]) -> list[Neighbour | Common]:
        """Open and adopt what is new of these, as routes have changed; of interfaces that are there all, or none."""
        try:
            with ExitStack() as undo:
                opened = self.open(keys, interfaces, undo)
                undo.pop_all()
        except McrError as error:
            if gone := {name for name in {key.interface for key in keys} if is_gone(interfaces[name])}:
                # The log has that, and theirs are opened with it when it is back. The others can be opened.
                there = [key for key in keys if key.interface not in gone]
                return self.open_now(there, interfaces) if there else []
            if self._not_opened.is_news(error.message):
                log.warning("%s: groups whose routes lead to a gateway now can keep others waiting", error.message)
            return []
        self._not_opened.is_news("")
        return self.adopt(opened)

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

    def drop_unused(self) -> list[Neighbour | Common]:
        """Let go of those that no output uses any more."""
        unused = [self._by_key.pop(key) for key in in_order(self._unused)]
        self._unused.clear()
        return self._drop(unused)

    def _drop(self, those: Sequence[Neighbour]) -> list[Neighbour | Common]:
        dropped: list[Neighbour | Common] = []
        for neighbour in those:
            if not neighbour.common:
                continue
            dropped.append(neighbour)
            self._leave_common(neighbour.common)
            if not neighbour.common.users:
                dropped.append(self._commons.pop(neighbour.common.slot))
        return dropped


def _has_df(key: Key) -> bool:
    """Whether routers may not cut what is sent there. They tell the address and port that it came from.

    No socket is bound to these where the port is chosen (`mcr.net.egress`), or kept. Of IPv4 groups they tell nobody.
    """
    return key.address.is_multicast or (key.kind is Sockets.UDP and not key.port)


def _most(key: Key, sockets: Sequence[socket]) -> int:
    """Neighbours that may share these sockets. By raw ones a host has no other, so the dead must not fill it.

    What waits for one is bounded (``unres_qlen_bytes``, arp(7)), and counts as the send buffer does.
    """
    if key.kind is Sockets.UDP or key.address.is_multicast:
        return _PARTY
    size = sockets[0].getsockopt(SOL_SOCKET, SO_SNDBUF)
    return min(max(int(_ROOM_FOR_DEAD * size / unresolved_bytes(key.interface, key.address.version)), 1), _PARTY)


def _has_ears(key: Key) -> bool:
    """Whether this machine is told by a router of IPv6 that a way carries less, and no socket here hears it."""
    return key.address.version == IPV6 and not _has_df(key) and key.kind is not Sockets.FOREIGN


def _describe(key: Key, error: SystemFault) -> str:
    """Why a neighbour has no sockets."""
    what = f"its source port {key.port} cannot be had: {describe_errno(error.errno)}" if key.port else error.message
    return "; ".join([what, *error.hints])


def find_neighbours(rules: Iterable[Rule], interfaces: Mapping[str, Interface]) -> frozenset[Key]:
    """The outputs of rules that wait for a neighbour's answer: not groups on the link, nor broadcast addresses."""
    groups: dict[str, dict[Address, None]] = {}
    found: set[Key] = set()
    for output in chain.from_iterable(rule.outputs for rule in rules):
        if output.is_plain and output.group.version == IPV4 and output.group.is_multicast:  # as thousands are
            groups.setdefault(output.interface, {})[output.group] = None
            continue
        key = key_of(output)
        if output.vlan and not key.port:
            continue  # raw frames, or the kernel path's, which wait for nobody
        of_all = output.group.is_multicast or may_be_broadcast(output.group)
        if of_all and key == Key(output.interface, output.group):  # not of IPv6: see sent_for
            groups.setdefault(output.interface, {})[output.group] = None
        else:
            found.add(key)
    for name, asked in groups.items():
        try:
            hops = find_hops(interfaces[name].index, [*asked])
        except OSError as error:
            log.info("%s: cannot see which groups have a gateway: %s", name, error.strerror)
            hops = [None] * len(asked)
        found.update(Key(name, to) for to, hop in zip(asked, hops, strict=True) if _waits(to, hop))
    return frozenset(found)


def _waits(to: Address, hop: NextHop | None) -> bool:
    """Whether what is sent there waits for a neighbour."""
    if to.is_multicast:
        return hop is not None and hop != _ON_LINK
    return hop is None or not hop.is_all
