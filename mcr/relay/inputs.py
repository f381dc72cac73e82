"""The input interfaces that rules use: their captures, filters and group memberships.

Belongs to the relay.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from socket import socket
from typing import Any

import attrs

from mcr.config.settings import Settings
from mcr.errors import LimitReached, McrError, describe_errno
from mcr.logs.logger import get_logger
from mcr.model.flow import Flow, Input
from mcr.model.limits import INTERFACE_SLOTS
from mcr.model.log import Facility
from mcr.net.capture import CaptureGroup, open_captures, reject, slot_size
from mcr.net.filter.base import Rejected, open_filters
from mcr.net.filter.path import KernelPath, wait_for_packets
from mcr.net.filter.suppress import LINKS, Suppressor, end_links
from mcr.net.igmp import ask_for_reports
from mcr.net.interfaces import Interface, find_anew
from mcr.net.membership import Memberships
from mcr.net.network import Network, has_new_carrier
from mcr.net.patience import close_all
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.attachment import attachment_of
from mcr.relay.inherited import adopt_captures, names_of
from mcr.relay.slots import Slots, check_interfaces
from mcr.rules.conditions import Attachment

log = get_logger(Facility.NETWORK)


@attrs.define(eq=False)
class Capture:
    """An input interface.

    Attributes:
        serial: tells it from the last capture in its slot.
        rejected: counts the packets that a filter rejected; belongs to the statistics.
        users: rules that read from it.
        fault: why it could not be opened again, or not with all of its groups.
        inherited: another mcrd has opened it, and its workers have read from it.
    """

    slot: int
    serial: int
    interface: Interface
    group: CaptureGroup
    rejected: Rejected
    users: int = 0
    fault: str = ""
    inherited: bool = False

    @property
    def all_sockets(self) -> tuple[socket, ...]:
        """Those of the workers; watched ones belong to the statistics."""
        return self.group.sockets

    @property
    def is_lost(self) -> bool:
        """Whether it does not stand for the interface that has its name."""
        return self.attachment.lost

    @property
    def attachment(self) -> Attachment:
        """Whether it still stands for its interface."""
        return attachment_of(self.interface, self.group.sockets[0], self.fault)


class InputInterfaces:
    """All of them, by name. What is opened here is in use once it is adopted."""

    def __init__(
        self, settings: Settings, store: DescriptorStore, note: Mapping[str, Any], path: KernelPath | None
    ) -> None:
        """Start with what another mcrd has left, which its rules may use again until `take_over`.

        Args:
            settings: of mcrd.
            store: of descriptors.
            note: what `note` has told of them.
            path: the kernel path; None: there is none.
        """
        self._settings = settings
        self._store = store
        self._filters = open_filters(store, suppress=settings.absorb, path=path)
        self._by_name: dict[str, Capture] = {}
        self._memberships = Memberships(store)
        self._names: dict[int, str] = {}
        self._serial = 0
        self.slots = Slots(INTERFACE_SLOTS, "input interfaces")
        self._former: dict[int, Capture] = {}
        self.are_torn = self._inherit(note)
        """Some that were left can't be gone on with. Another mcrd's workers may still read from them, and count in
        slots that are free here: they have to end before anything is opened."""

    def __getitem__(self, name: str) -> Capture:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Capture]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Capture | None:
        """One, if it is in use."""
        return self._by_name.get(name)

    def names(self) -> tuple[str, ...]:
        """Names of the interfaces."""
        return tuple(sorted(self._by_name))

    def close(self) -> None:
        """Close every socket."""
        self._memberships.close()
        close_all([each for capture in (*self, *self.former) for each in capture.all_sockets])
        self._filters.close()

    def name(self, slot: int) -> str:
        """Name of the interface of a capture slot; the last that it had if it is free: logs may come late."""
        return self._names.get(slot, f"capture {slot}")

    @property
    def suppressor(self) -> Suppressor | None:
        """Suppresses local delivery, for the review that looks for local receivers; None: nothing does."""
        return self._filters.suppressor

    def why_not_kernel(self, capture: Capture) -> str:
        """Why no packet of a capture may take the kernel path; empty: nothing here forbids it."""
        if self.suppressor:
            return self.suppressor.why_not(capture.slot)
        return f"no program may run where it comes in: {self._filters.unsuppressed}"

    # Taking.

    def open(self, names: Collection[str], interfaces: Mapping[str, Interface], undo: ExitStack) -> dict[str, Capture]:
        """Open what is new of these.

        Raises:
            SystemFault: a socket could not be opened.
            LimitReached: there are too many, or one is open under another name.
        """
        new = [interfaces[name] for name in sorted(names - self._by_name.keys())]
        check_interfaces(len(self._by_name), len(new), "input interfaces")
        self._check_single(new)
        former = [found for each in new if (found := self._use_former(each, undo))]
        used = {each.interface.name for each in former}
        opened = self._open([each for each in new if each.name not in used], undo)
        return {each.interface.name: each for each in (*former, *opened)}

    def _open(self, interfaces: Sequence[Interface], undo: ExitStack) -> list[Capture]:
        slots = []
        for _ in interfaces:
            slots.append(self.slots.take())
            undo.callback(self.slots.give, slots[-1])
        groups = open_captures(interfaces, self._settings.num_workers, self._settings.pools)
        undo.callback(close_all, [each for group in groups.values() for each in (*group.watched, *group.sockets)])
        opened = []
        for slot, interface in zip(slots, interfaces, strict=True):
            group = groups[interface.name]
            rejected = self._filters.open(slot, interface, group.sockets, clip=not group.offloads)
            undo.callback(rejected.close)
            undo.callback(self._forget, slot)
            self._serial += 1
            self._names[slot] = interface.name
            opened.append(Capture(slot, self._serial, interface, group, rejected))
            for name, each in zip(names_of(slot, len(group.sockets)), group.sockets, strict=True):
                self._store.put(name, each.fileno())
        return opened

    def _check_single(self, interfaces: Iterable[Interface]) -> None:
        """None may be captured twice: each of its packets would be."""
        names = {each.interface.index: each.interface.name for each in self if not each.is_lost}
        for interface in interfaces:
            other = names.setdefault(interface.index, interface.name)
            if other != interface.name:
                raise LimitReached(
                    f"Interface {interface.name} is the one that other rules call {other}",
                    f"remove the rules that name {interface.name}, and add them again",
                )

    def want(self, sources: Sequence[Input], opened: Mapping[str, Capture], undo: ExitStack) -> None:
        """Join the groups of these inputs, and admit their flows; the last step that may fail.

        Raises:
            SystemFault: a group could not be joined, or a filter not set.
        """
        captures = {**self._by_name, **opened}
        missing = {name for name in {each.interface for each in sources} if captures[name].is_lost}
        for source in sources:
            ask = self._memberships.wait if source.interface in missing else self._memberships.join
            ask(source.group, captures[source.interface].interface)
            undo.callback(self._memberships.leave, source.group, captures[source.interface].interface)
        self._filters.change([_key(captures[source.interface], source) for source in sources], ())

    def adopt(self, opened: Mapping[str, Capture]) -> None:
        """Take these into use."""
        self._by_name |= opened

    # Letting go.

    def unwant(self, sources: Iterable[Input]) -> None:
        """No longer admit the flows of these inputs."""
        self._filters.change((), [_key(self._by_name[source.interface], source) for source in sources])

    def leave(self, source: Input) -> None:
        """An input has one rule less."""
        capture = self._by_name[source.interface]
        self._memberships.leave(source.group, capture.interface)
        capture.users -= 1

    def drop_unused(self) -> list[Capture]:
        """Give up those that no rule uses any more; packets that wait in them can still be read."""
        unused = [capture for capture in self if not capture.users]
        for capture in unused:
            del self._by_name[capture.interface.name]
            self._let_go(capture)
        return unused

    def _let_go(self, capture: Capture) -> None:
        reject(capture.group.sockets)  # so that workers come to the end of what waits
        self._forget(capture.slot)

    def _forget(self, slot: int) -> None:
        self._filters.forget(slot)
        if self.suppressor:
            self.suppressor.forget(slot)
        for name in names_of(slot, self._settings.num_workers):
            self._store.drop(name)

    def reject(self) -> None:
        """Let nothing more in, at the end; packets that have arrived can still be read."""
        for capture in self:
            reject(capture.group.sockets)
            self._filters.forget(capture.slot)

    def show_unmatched(self, *, show: bool) -> None:
        """Whether workers are to see flows that no rule takes."""
        self._filters.show_all(everything=show)

    # What another mcrd has left, and what is left to the next one.

    def note(self) -> dict[str, Any]:
        """What the next mcrd has to know of the captures."""
        return {
            "filter": self._filters.kind,
            "captures": [
                [each.slot, each.interface.name, each.group.frame_size, each.group.frame_count]
                for each in (*self._former.values(), *self)
            ],
        }

    @property
    def former(self) -> tuple[Capture, ...]:
        """Captures that another mcrd has left, and that no rule uses so far."""
        return tuple(self._former.values())

    def _inherit(self, note: Mapping[str, Any]) -> bool:
        """Take over the captures that are as the note says; the others are closed. Whether there are any of those."""
        noted, kind = note.get("captures", []), note.get("filter")
        fits = kind == self._filters.kind
        if noted and not fits:
            anew = "interfaces are captured anew, and packets lost meanwhile: filters were of kind %s, and are %s now"
            log.warning(anew, kind, self._filters.kind)
        adopted = adopt_captures(noted if fits else (), self._settings.num_workers, self._store)
        for slot, (interface, group) in adopted.items():
            try:
                rejected = self._filters.adopt(slot, interface, group.sockets, clip=not group.offloads)
            except (ValueError, OSError) as error:
                log.warning("%s is captured anew, and packets lost meanwhile: %s", interface.name, error)
                close_all([*group.sockets, *group.watched])
                self._forget(slot)
                continue
            self._serial += 1
            self._names[slot] = interface.name
            self._former[slot] = Capture(slot, self._serial, interface, group, rejected, inherited=True)
        end_links(self._store, self._former)
        self.slots.reserve(self._former)
        return len(self._former) < len(noted)

    def _use_former(self, interface: Interface, undo: ExitStack) -> Capture | None:
        """The capture that was left of an interface, if it is as it would be made now."""
        former = next((each for each in self.former if each.interface.index == interface.index), None)
        if not former:
            return None
        former.interface = interface
        if former.is_lost:
            return None
        frame_size = slot_size(interface.mtu)
        geometry = frame_size, self._settings.pools.slots(frame_size)
        if geometry != (former.group.frame_size, former.group.frame_count):
            anew = (
                "%s is captured anew, and packets lost meanwhile: its ring had %d slots of %d bytes, and gets %d of %d"
            )
            log.warning(anew, interface.name, former.group.frame_count, former.group.frame_size, *reversed(geometry))
            reject(former.group.sockets)  # from here on the new one takes what arrives
            return None
        self._names[former.slot] = interface.name
        del self._former[former.slot]
        undo.callback(self._former.setdefault, former.slot, former)
        return former

    def take_over(self) -> None:
        """Have the filters of the captures that were left let in what rules want now."""
        self._filters.install()
        if self._store.inherited(LINKS):
            wait_for_packets()  # what former filters have left to them, they forward: they end now

    def give_up_former(self) -> list[Capture]:
        """Give up the captures that were left and that no rule uses.

        Returns:
            Those, to be closed.
        """
        unused = [*self._former.values()]
        self._former = {}
        for capture in unused:
            self._let_go(capture)
        self._memberships.leave_former()
        return unused

    # Links that come and go.

    def report_again(self, before: Network, now: Network) -> None:
        """Have groups reported where carrier has come back: the switch there may have forgotten who asked for them."""
        for capture in self:
            name, index = capture.interface.name, capture.interface.index
            if has_new_carrier(before.links.get(index), now.links.get(index)):
                try:
                    ask_for_reports(index, self._memberships.count(name))
                except OSError as error:
                    what = describe_errno(error.errno or 0)
                    log.warning("%s has carrier again, and its groups can't be reported: %s", name, what)

    # Names that belong to other interfaces now.

    def stale(self) -> list[Capture]:
        """Those whose names belong to other interfaces now, or to none."""
        return [each for each in self if each.attachment.stale]

    @property
    def incomplete(self) -> list[Capture]:
        """Those that are open, but not joined to all of their groups."""
        return [each for each in self if each.fault and not each.is_lost]

    def renew(self, sources: Collection[Input]) -> list[tuple[Capture, Capture]]:
        """Open stale ones again; each with its replacement. One that cannot be opened is a fault.

        Args:
            sources: inputs of all rules.
        """
        stale = self.stale()
        renewed = self._reopen(stale, sources)
        if len(stale) > 1 and not renewed:
            renewed = list(chain.from_iterable(self._reopen([each], sources) for each in stale))
        for old, _ in renewed:
            self._let_go(old)
        for capture in self.incomplete:
            try:
                self._memberships.join_missing(capture.interface)
                capture.fault = ""
            except McrError as error:
                capture.fault = error.message
        return renewed

    def _reopen(self, lost: Sequence[Capture], sources: Collection[Input]) -> list[tuple[Capture, Capture]]:
        """Open all of these again, or none."""
        try:
            with ExitStack() as undo:
                interfaces = [find_anew(old.interface) for old in lost]
                self._check_single(interfaces)
                opened = self._open(interfaces, undo)
                for capture in opened:
                    self._filters.change(_keys(capture, sources), ())
                undo.pop_all()
        except McrError as error:
            for old in lost:
                old.fault = error.message
            return []
        for old, capture in zip(lost, opened, strict=True):
            self._filters.change((), _keys(old, sources))
            capture.users = old.users
            self._by_name[capture.interface.name] = capture
            try:
                self._memberships.move(capture.interface)
            except McrError as error:
                capture.fault = error.message
        return list(zip(lost, opened, strict=True))


def _key(capture: Capture, source: Input) -> tuple[int, Flow]:
    """What the kernel has to let in, and of which capture."""
    return capture.slot, source.flow


def _keys(capture: Capture, sources: Iterable[Input]) -> list[tuple[int, Flow]]:
    return [_key(capture, source) for source in sources if source.interface == capture.interface.name]
