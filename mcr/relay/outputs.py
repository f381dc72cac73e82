"""The output interfaces that rules use: their sockets, their slots, and whether raw frames may leave by them.

Belongs to the relay. Raw frames (`mcr.net.raw`) start with the first review that finds no blocker between IP and the
interface, and end with one that finds one; the UDP sockets are there all the time, for hosts, for what does not
fit the MTU, and for then. What has a VLAN tag can't leave by those. So where raw frames are in doubt it goes on leaving
as it did, until a review finds a blocker.
"""

import errno
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from itertools import chain

import attrs

from mcr.config.settings import Settings
from mcr.config.table import RAW_SEND
from mcr.errors import McrError, SystemFault, describe_errno, errno_of
from mcr.logs.logger import get_logger
from mcr.model.flow import IPV6, Address
from mcr.model.limits import INTERFACE_SLOTS
from mcr.model.log import Facility
from mcr.model.rule import Output, Rule
from mcr.net.egress import hosts_ttl, open_alike, open_egress
from mcr.net.hops import NextHop, find_hops
from mcr.net.interfaces import Interface, find_anew, open_witness
from mcr.net.ip_bypass import UNSURE, Blocker
from mcr.net.network import Network
from mcr.net.patience import close_all
from mcr.net.raw import RawLink, bind_raw, find_links, find_sources, find_sources6, open_raw, why_unfit
from mcr.relay.attachment import attachment_of
from mcr.relay.placement import Key, Way, WayKey, Ways, key_of
from mcr.relay.slots import Slots, check_interfaces
from mcr.rules.conditions import Attachment

log = get_logger(Facility.NETWORK)

_UNSEEN = "it has not been seen yet what acts on packets that leave, which takes CAP_NET_ADMIN"
_UNCHECKED = "it is about to be checked"
_SEE = "see the routes to it, their MTU, and net.ipv4.ip_no_pmtu_disc"
_PROBE_BYTES = 4096  # of send buffer, for a socket that sends nothing


_TO_GROUP, _TO_ALL = NextHop(), NextHop(is_all=True)

_Wanted = dict[tuple[str, Address | None, int], dict[tuple[Address, int, bool], bool]]
"""Ways: by interface, source and version; in each destinations, and whether in a VLAN; do they wait for a neighbour?"""


@attrs.define(eq=False)
class Egress:
    """An output interface.

    Attributes:
        sockets: UDP, one per worker.
        raw_sockets: AF_PACKET, one per worker; none until raw frames may leave for the first time.
        raw: raw frames may leave; None: they may not.
        doubted: frames with a VLAN tag may leave as it was before raw frames came into doubt; None: there is none.
        raw_logged: what the log says of that.
        why_not_raw: why not, or why some may not; what holds for every interface is not said here.
        users: outputs that leave by it.
        carrier: False: it is up, and its driver sees nobody at the other end.
        witness: tells whether the interface is the one that it was.
        fault: why it could not be opened again.
    """

    slot: int
    interface: Interface
    sockets: tuple[socket.socket, ...]
    witness: socket.socket
    raw_sockets: tuple[socket.socket, ...] = ()
    raw: RawLink | None = None
    doubted: RawLink | None = None
    raw_logged: RawLink | None = None
    why_not_raw: str = _UNCHECKED
    users: int = 0
    fault: str = ""
    carrier: bool = True

    @cached_property
    def port(self) -> int:
        """That datagrams come from, whichever worker sends, or none."""
        return int(self.sockets[0].getsockname()[1])

    @property
    def attachment(self) -> Attachment:
        """Whether it still stands for its interface."""
        return attachment_of(self.interface, self.witness, self.fault)

    def doubt(self) -> None:
        """Raw frames may not leave for now, but those with a VLAN tag."""
        self.doubted, self.raw = self.raw or self.doubted, None
        self.why_not_raw = _UNCHECKED

    def prepare_raw(self, settings: Settings) -> None:
        """Have sockets for raw frames.

        Raises:
            OSError: there can be none now.
        """
        if self.raw_sockets:
            bind_raw(self.raw_sockets, self.interface.index)
        else:
            self.raw_sockets = open_raw(self.interface.index, settings.num_workers, settings.send_buffer)

    @property
    def all_sockets(self) -> tuple[socket.socket, ...]:
        """Those of every kind."""
        return (*self.sockets, *self.raw_sockets, self.witness)


class OutputInterfaces:
    """All of them, by name, in use once they are adopted. `why_not_raw`: by none; empty: each has its own reason."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._logged: set[str] = set()  # reasons why some raw frames don't leave
        self._found: set[str] = set()  # those of them that were met since the last review began
        self._by_name: dict[str, Egress] = {}
        self.slots = Slots(INTERFACE_SLOTS, "output interfaces")
        self._stale: set[str] = set()  # names of those that no review has judged
        self.why_not_raw = _UNSEEN if settings.raw_send else f"{RAW_SEND.variable}=0"
        self._unplugged: set[int] = set()  # interfaces that are up without carrier
        self.is_clear = False  # the last review has found nothing between IP and the interfaces, whichever they are

    def __getitem__(self, name: str) -> Egress:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Egress]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Egress | None:
        """One, if it is in use."""
        return self._by_name.get(name)

    def close(self) -> None:
        """Close every socket."""
        close_all([each for egress in self for each in egress.all_sockets])

    # Taking.

    def open(self, names: Collection[str], interfaces: Mapping[str, Interface], undo: ExitStack) -> dict[str, Egress]:
        """Open what is new of these.

        Raises:
            SystemFault: a socket could not be opened.
            LimitReached: there are too many.
        """
        opened, new = {}, names - self._by_name.keys()
        check_interfaces(len(self._by_name), len(new), "output interfaces")
        for name in sorted(new):
            opened[name] = self._open(interfaces[name], undo)
            if interfaces[name].address is None and not interfaces[name].is_absent:
                log.warning(
                    "%s has no IPv4 address: what leaves by it to IPv4 has another interface's address as its source",
                    name,
                )
        return opened

    def adopt(self, opened: Mapping[str, Egress]) -> None:
        """Take these into use."""
        self._by_name |= opened
        self._judge(opened.values())

    def _open(self, interface: Interface, undo: ExitStack) -> Egress:
        slot = self.slots.take()
        undo.callback(self.slots.give, slot)
        witness = undo.enter_context(open_witness(interface))
        sockets, carrier = _open_sockets(interface, self._settings), interface.index not in self._unplugged
        egress = Egress(slot, interface, sockets, witness, carrier=carrier)
        undo.callback(close_all, egress.sockets)
        return egress

    def renew(self) -> list[tuple[Egress, Egress]]:
        """Open those again whose names belong to other interfaces now, or to none; each with what took its place."""
        renewed = []
        for old in [each for each in self if each.attachment.stale]:
            name = old.interface.name
            try:
                with ExitStack() as undo:
                    fresh = self._open(find_anew(old.interface), undo)
                    undo.pop_all()
            except McrError as error:
                old.fault = error.message
                continue
            fresh.users = old.users
            self._by_name[name] = fresh
            renewed.append((old, fresh))
        self._judge(fresh for _, fresh in renewed)
        return renewed

    # Carrier.

    def follow_carrier(self, now: Network) -> set[str]:
        """Note which have carrier; names of those where that is new.

        Without it the kernel drops what it takes, and calls it sent. By an interface that is down it takes nothing.
        """
        self._unplugged = {index for index, link in now.links.items() if link.up and not link.carrier}
        changed = [egress for egress in self if egress.carrier == (egress.interface.index in self._unplugged)]
        for egress in changed:
            egress.carrier = not egress.carrier
        return {egress.interface.name for egress in changed}

    # Letting go.

    def drop_unused(self) -> list[Egress]:
        """Let go of those that no output uses any more."""
        unused = [egress for egress in self if not egress.users]
        for egress in unused:
            del self._by_name[egress.interface.name]
        return unused

    # Raw frames.

    @property
    def is_stale(self) -> bool:
        """Whether there are some that no review has seen yet, or that the last one could not judge."""
        return bool(self._stale)

    def review(self, blocker: Blocker | None) -> tuple[list[Egress], set[str]]:
        """Find out anew by which interfaces raw frames may leave.

        Args:
            blocker: why they may leave by none; None: they may, as far as is known.

        Returns:
            Those by which they may now, or may no more, or in another way; and the names of these and of all that
            were stale.
        """
        self.is_clear = blocker is None
        if blocker == UNSURE:  # for a moment: what comes of it is logged
            doubted = [egress for egress in self if egress.raw]
            for egress in doubted:
                egress.doubt()
            return doubted, self._stale | {egress.interface.name for egress in doubted}
        stale, self._stale = self._stale, set()
        self.why_not_raw = blocker.reason if blocker else ""
        self._logged &= self._found
        self._found = set()
        links = {} if blocker else self._find_links(self)
        if blocker:
            self._tell(blocker.reason)
        changed = [egress for egress in self if self._set_raw(egress, links.get(egress.interface.index))]
        _log_raw(self, blocker.reason if blocker else "the interface has changed, or is gone")
        return changed, stale | {egress.interface.name for egress in changed}

    def suspect(self, before: Network, now: Network) -> list[Egress]:
        """Send no raw frames by interfaces that are not what they were, until the next review has seen them."""
        suspected = []
        for egress in self:
            index = egress.interface.index
            if egress.raw and _identity(before, index) != _identity(now, index):
                egress.doubt()
                self._stale.add(egress.interface.name)
                log.debug("%s has changed: no raw frames leave until mcrd has checked it", egress.interface.name)
                suspected.append(egress)
        return suspected

    def _judge(self, those: Iterable[Egress]) -> None:
        """Have raw frames leave by new ones at once if the last review found nothing: tagged frames can't wait."""
        fresh = [*those]
        self._stale |= {egress.interface.name for egress in fresh}
        if not self.is_clear or not fresh:
            return
        self._stale -= {egress.interface.name for egress in fresh}
        links = self._find_links(fresh)
        for egress in fresh:
            self._set_raw(egress, links.get(egress.interface.index))
        _log_raw(fresh, "")

    def _find_links(self, those: Iterable[Egress]) -> dict[int, RawLink]:
        try:
            return find_links({egress.interface.index for egress in those})
        except Exception as error:  # noqa: BLE001 - whatever it is, relaying does not depend on it
            self._stale |= self._by_name.keys()  # it may be better the next time
            self.why_not_raw = f"interfaces cannot be seen: {error}"
            self._tell(self.why_not_raw)
            return {}

    def _set_raw(self, egress: Egress, link: RawLink | None) -> bool:
        """Have raw frames leave by this link, or none; whether that is new."""
        before = egress.raw, egress.doubted
        egress.raw, egress.doubted = link, None
        egress.why_not_raw = "" if link else _why_unfit(egress)
        if egress.raw and not self._have_sockets(egress):
            egress.raw = None
        return (egress.raw, egress.doubted) != before

    def _have_sockets(self, egress: Egress) -> bool:
        try:
            egress.prepare_raw(self._settings)
        except OSError as error:
            self._fail(egress, describe_errno(errno_of(error)))
            return False
        return True

    def ways(self, rules: Iterable[Rule], awaited: Collection[Key]) -> Ways:
        """Find the ways to the outputs of rules; there are none by interfaces that raw frames may not leave by.

        Args:
            rules: those.
            awaited: outputs that wait for a neighbour: a host, or a gateway.
        """
        outputs = chain.from_iterable(rule.outputs for rule in rules)
        wanted = _wanted((each for each in outputs if self._by_name[each.interface].raw), awaited)
        found: dict[WayKey, Way] = {}
        for (name, source, version), those in wanted.items():
            behind = {group for (group, _, _), waits in those.items() if waits}
            hops = self._find_hops(self._by_name[name], source, behind)
            destinations = [(group, port) for group, port, _ in those]
            sources = self._ask(self._by_name[name], source, version, destinations)
            for (destination, waits), own in zip(those.items(), sources, strict=True):
                group, port, tagged = destination
                hop = hops.get(group) if waits else _TO_GROUP if group.is_multicast else _TO_ALL
                if own and hop and hop.plain:
                    found[group, port, name, source, tagged] = _way(group, *own, hop)
        return found

    def _find_hops(self, egress: Egress, source: Address | None, to: Collection[Address]) -> dict[Address, NextHop]:
        addresses = [*to]
        try:
            found = find_hops(egress.interface.index, addresses, source) if addresses else []
        except OSError as error:
            self._fail(egress, describe_errno(errno_of(error)))
            return {}
        return {address: hop for address, hop in zip(addresses, found, strict=True) if hop}

    def _ask(
        self, egress: Egress, source: Address | None, version: int, destinations: Sequence[tuple[Address, int]]
    ) -> Sequence[tuple[Address, int] | None]:
        """The source addresses, each with the TTL of what is sent there, if it is a host."""
        assert egress.raw
        try:
            with open_egress(egress.interface, _PROBE_BYTES, source=source, version=version) as probe:
                return (find_sources6 if version == IPV6 else _find)(probe, egress.raw.mtu, destinations)
        except SystemFault as error:
            if error.errno != errno.EADDRNOTAVAIL:  # which is not of this machine now: IP refuses it, too
                self._fail(egress, str(error))
        except (McrError, OSError) as error:
            if not _is_of_down(error):
                self._fail(egress, str(error))
            elif egress.raw.up:  # when it was looked at, and maybe again now: `suspect` sees no flap between two looks
                egress.raw = attrs.evolve(egress.raw, up=False)
                self._stale.add(egress.interface.name)
        return [None] * len(destinations)

    def _fail(self, egress: Egress, why: str) -> None:
        """Something that may be better the next time."""
        egress.why_not_raw = why
        self._stale.add(egress.interface.name)
        self._tell(f"{egress.interface.name}: {why}")

    def _tell(self, why: str) -> None:
        """Log a reason that was not there before."""
        if why not in self._logged:
            log.info("not everything may leave as raw frames: %s", why)
        self._logged.add(why)
        self._found.add(why)


def _find(probe: socket.socket, mtu: int, to: Sequence[tuple[Address, int]]) -> Sequence[tuple[Address, int] | None]:
    ttl = hosts_ttl()
    return [(each, ttl) if each else None for each in find_sources(probe, mtu, to)]


def _open_sockets(interface: Interface, settings: Settings) -> tuple[socket.socket, ...]:
    with ExitStack() as undo:
        opened = open_alike(partial(open_egress, interface, settings.send_buffer), 0, settings.num_workers, undo)
        for each in opened:  # no other program may have the port, too
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        undo.pop_all()
    return opened


def _log_raw(those: Iterable[Egress], why_not: str) -> None:
    """Log by which interfaces raw frames leave, where that is another than the log says."""
    for egress in those:
        name, raw = egress.interface.name, egress.raw
        if raw and raw != egress.raw_logged:
            log.info("%s: datagrams to groups leave as raw frames, which bypass the IP stack; MTU %d", name, raw.mtu)
        elif egress.raw_logged and not raw:
            log.info("%s: no raw frames leave any more: %s", name, why_not)
        egress.raw_logged = raw


def _wanted(outputs: Iterable[Output], awaited: Collection[Key]) -> _Wanted:
    wanted: _Wanted = {}
    for output in outputs:
        version = output.group.version
        asked = wanted.setdefault((output.interface, output.own_source, version), {})
        tagged = output.vlan is not None
        to = output.group, output.port, tagged
        on_link = tagged or (version == IPV6 and output.group.is_multicast)  # no such group has a gateway
        asked[to] = asked.get(to, False) or (bool(awaited) and key_of(output) in awaited and not on_link)
    return wanted


def _identity(network: Network, index: int) -> object:
    """The parts of the headers of raw frames, and how long frames may be."""
    link = network.links.get(index)
    return link and (link.mac, link.mtu, link.up), network.addresses.get(index), network.addresses6.get(index)


def _is_of_down(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENETDOWN


def is_down(egress: Egress) -> bool:
    """Whether raw frames will leave when somebody sets it up. Until then IP knows of no way to any group there."""
    link = egress.raw or egress.doubted
    return link is not None and not link.up


def is_away(egress: Egress) -> bool:
    """Whether nothing can leave by it, with a tag or without: it is down, or gone."""
    return is_down(egress) or egress.interface.is_absent or egress.attachment.lost


def tagless(outputs: OutputInterfaces, tagged: Iterable[tuple[Output, Way | None]]) -> dict[Output, str]:
    """Why frames with a VLAN tag can't leave for outputs, as no raw frames can. `tagged`: those, and their ways."""
    found = {output: _why_tagless(outputs, outputs[output.interface], output, way) for output, way in tagged}
    return {output: why for output, why in found.items() if why}


def _why_tagless(outputs: OutputInterfaces, egress: Egress, output: Output, way: Way | None) -> str:
    if way is None and is_away(egress):
        return ""  # which is why nothing leaves
    if not egress.raw and not (egress.doubted and way):
        return outputs.why_not_raw or egress.why_not_raw
    if way is None:
        return egress.why_not_raw or f"IP would do more for {output.group} than add headers: {_SEE}"
    return ""


def _way(group: Address, source: Address, ttl: int, hop: NextHop) -> Way:
    if group.is_multicast:
        return Way(source, hop.gateway)
    return Way(source, None if hop.is_all else hop.gateway or group, ttl)


def _why_unfit(egress: Egress) -> str:
    try:
        return why_unfit(egress.interface.index)
    except Exception as error:  # noqa: BLE001 - whatever it is, relaying does not depend on it
        return f"the interface cannot be seen: {error}"
