"""The input interfaces that rules use: their captures, filters and group memberships.

Belongs to the relay.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, count
from typing import Any

from mcr.config.settings import Settings
from mcr.errors import LimitReached, McrError, describe_errno, errno_of
from mcr.logs.logger import get_logger
from mcr.model.columns import FEW
from mcr.model.flow import IPV4, Address, Claim, Flow, Input
from mcr.model.limits import INTERFACE_SLOTS
from mcr.model.log import Facility
from mcr.net.capture import open_captures, reject
from mcr.net.filter.base import open_filters
from mcr.net.filter.path import KernelPath
from mcr.net.filter.suppress import Suppressor, end_former_links
from mcr.net.filter.tap import StreamTap
from mcr.net.igmp import ask_for_reports
from mcr.net.interfaces import Interface, find_anew
from mcr.net.membership import Memberships
from mcr.net.network import Network, has_new_carrier
from mcr.net.patience import close_all
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.captures import Capture
from mcr.relay.forgotten import ForgottenGroups
from mcr.relay.inherited import FormerCaptures, forget_capture, names_of
from mcr.relay.local_inputs import LocalInputs
from mcr.relay.refusals import Refusals
from mcr.relay.slots import Slots, check_interfaces
from mcr.relay.watched import WatchedStreams

log = get_logger(Facility.NETWORK)


class InputInterfaces:
    """All of them, by name. What is opened here is in use once it is adopted.

    Attributes:
        slots: of captures.
        watched: of streams, their health.
        former: captures that another mcrd has left, and that no rule uses so far.
        local: those that are no groups.
        refusals: of flows that others return.
    """

    def __init__(
        self,
        settings: Settings,
        store: DescriptorStore,
        note: Mapping[str, Any],
        path: KernelPath | None,
        tap: StreamTap,
    ) -> None:
        """Start with what another mcrd has left, which its rules may use again until `take_over`.

        Args:
            settings: of mcrd.
            store: of descriptors.
            note: what `note` has told of them.
            path: the kernel path; None: there is none.
            tap: for the health of streams.
        """
        self._settings, self._store = settings, store
        self._filters = open_filters(store, suppress=settings.absorb, path=path, tap=tap)
        self._by_name: dict[str, Capture] = {}
        self.watched = WatchedStreams(tap, self._filters, lambda name: self[name].slot)
        self._memberships = Memberships(store)
        self._forgotten = ForgottenGroups(self._memberships)
        self.local = LocalInputs(store, self.__getitem__, self._filters)
        has_path = self.suppressor is not None and self.suppressor.has_path
        self.refusals = Refusals(self.get, self._filters if has_path else None)
        self._serials = count(1)
        self.former = FormerCaptures(settings, store, self._filters, self._serials, note)
        self._names = {each.slot: each.interface.name for each in self.former}
        self.slots = Slots(INTERFACE_SLOTS, "input interfaces")
        self.slots.reserve(self._names)

    def __getitem__(self, name: str) -> Capture:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Capture]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Capture | None:
        """One, if it is in use."""
        return self._by_name.get(name)

    def present(self) -> tuple[str, ...]:
        """Names of the interfaces, without those that are awaited, or gone."""
        return tuple(sorted(name for name, capture in self._by_name.items() if not capture.is_lost))

    def close(self) -> None:
        """Close every socket."""
        self._memberships.close()
        self.local.close()
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

    def open(self, sources: Sequence[Input], found: Mapping[str, Interface], undo: ExitStack) -> dict[str, Capture]:
        """Open what is new of the interfaces of these inputs: what they take comes in from here on.

        Raises:
            SystemFault: a socket could not be opened.
            LimitReached: there are too many, or one is open under another name.
        """
        new = [found[name] for name in sorted({each.interface for each in sources} - self._by_name.keys())]
        check_interfaces(len(self._by_name), len(new), "input interfaces")
        _check_single(self, new)
        former = [left for each in new if (left := self.former.use(each, undo))]
        self._names |= {each.slot: each.interface.name for each in former}
        used = {each.interface.name for each in former}
        opened = self._open([each for each in new if each.name not in used], sources, undo)
        return {each.interface.name: each for each in (*former, *opened)}

    def _open(self, interfaces: Sequence[Interface], sources: Collection[Input], undo: ExitStack) -> list[Capture]:
        slots, inputs = [], _by_interface(sources)
        for _ in interfaces:
            slots.append(self.slots.take())
            undo.callback(self.slots.give, slots[-1])
        groups = open_captures(interfaces, self._settings.num_workers, self._settings.pools)
        undo.callback(close_all, [each for group in groups.values() for each in (*group.watched, *group.sockets)])
        opened = []
        for slot, interface in zip(slots, interfaces, strict=True):
            group = groups[interface.name]
            undo.callback(self._forget, slot)
            served = [each for each in inputs[interface.name] if self.local.serves(each, interface.index)]
            self._filters.change(_keys(slot, served), ())  # first: or what comes meanwhile counts as what no rule takes
            rejected = self._filters.open(slot, interface, group.sockets, clip=not group.offloads)
            undo.callback(rejected.close)
            self._names[slot] = interface.name
            opened.append(Capture(slot, next(self._serials), interface, group, rejected))
            for name, each in zip(names_of(slot, len(group.sockets)), group.sockets, strict=True):
                self._store.put(name, each.fileno())
        return opened

    def want(self, sources: Sequence[Input], opened: Mapping[str, Capture], undo: ExitStack) -> None:
        """Join the groups of these inputs, and admit their flows; the last step that may fail.

        Raises:
            SystemFault: a group could not be joined, or a filter not set.
        """
        captures = {**self._by_name, **opened}
        _join(self._memberships, sources, captures, undo)
        served = [each for each in sources if self.local.serves(each, captures[each.interface].interface.index)]
        self._filters.change(
            [(captures[each.interface].slot, each.flow) for source in served for each in source.claims], ()
        )

    def adopt(self, opened: Mapping[str, Capture]) -> None:
        """Take these into use."""
        self._by_name |= opened

    # Letting go.

    def unwant(self, claims: Iterable[Claim]) -> None:
        """No longer admit these flows."""
        self._filters.change((), [(self._by_name[each.interface].slot, each.flow) for each in claims])

    def leave(self, source: Input) -> None:
        """An input has one rule less."""
        capture = self._by_name[source.interface]
        for group, sender in source.joins:
            self._memberships.leave(group, capture.interface, sender)
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
        forget_capture(slot, self._settings.num_workers, self._filters, self._store)

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
                for each in (*self.former, *self)
            ],
        }

    def take_over(self) -> None:
        """Have the filters of the captures that were left let in what rules want now."""
        self._filters.install()
        self.watched.show()
        end_former_links(self._store)

    def give_up_former(self) -> list[Capture]:
        """Give up the captures that were left and that no rule uses; those, to be closed."""
        unused = self.former.give_up()
        for capture in unused:
            self._let_go(capture)
        self._memberships.leave_former()
        self.local.leave_former()
        return unused

    # Links that come and go.

    async def report_again(self, before: Network, now: Network) -> None:
        """Have groups reported where carrier has come back: the switch may have forgotten them. Join forgotten ones."""
        for each in [capture.interface for capture in self]:
            if has_new_carrier(before.links.get(each.index), now.links.get(each.index)):
                _have_reported(each.name, each.index, self._memberships.count(each.name))
        await self._forgotten.follow(self, before, now)

    # Names that belong to other interfaces now.

    def renew(self, sources: Collection[Input]) -> list[tuple[Capture, Capture]]:
        """Open stale ones again; each with its replacement. One that cannot be opened is a fault.

        Args:
            sources: inputs of all rules.
        """
        stale = [each for each in self if each.attachment.stale]
        renewed = self._reopen(stale, sources)
        if len(stale) > 1 and not renewed:
            renewed = list(chain.from_iterable(self._reopen([each], sources) for each in stale))
        for old, _ in renewed:
            self._let_go(old)
        _join_missing(self, self._memberships)
        if renewed:
            self.local.renew()
        return renewed

    def _reopen(self, lost: Sequence[Capture], sources: Collection[Input]) -> list[tuple[Capture, Capture]]:
        """Open all of these again, or none."""
        inputs = _by_interface(sources)
        try:
            with ExitStack() as undo:
                interfaces = [find_anew(old.interface) for old in lost]
                _check_single(self, interfaces)
                opened = self._open(interfaces, sources, undo)
                undo.pop_all()
        except McrError as error:
            for old in lost:
                old.fault = error.message
            return []
        for old, capture in zip(lost, opened, strict=True):
            self._filters.change((), _keys(old.slot, inputs[old.interface.name]))
            capture.users = old.users
            self._by_name[capture.interface.name] = capture
            self.watched.move(old.slot, capture.slot)
            try:
                self._memberships.move(capture.interface)
            except McrError as error:
                capture.fault = error.message
        return list(zip(lost, opened, strict=True))


def _join(memberships: Memberships, sources: Sequence[Input], captures: Mapping[str, Capture], undo: ExitStack) -> None:
    missing = {name for name in {each.interface for each in sources} if captures[name].is_lost}
    asked: list[tuple[Address, Interface, Address | None]] = []
    undo.callback(_leave_all, memberships, asked)
    from_any: defaultdict[str, list[Address]] = defaultdict(list)  # groups of IPv4, if there may be thousands
    are_many = len(sources) > FEW or any(each.is_range for each in sources)
    for source in sources:
        if are_many and not source.sources and source.group.version == IPV4 and source.interface not in missing:
            from_any[source.interface] += source.groups if source.group.is_multicast else ()
            continue
        interface = captures[source.interface].interface
        ask = memberships.wait if source.interface in missing else memberships.join
        for group, sender in source.joins:
            ask(group, interface, sender)
            asked.append((group, interface, sender))
    for name, groups in from_any.items():
        interface = captures[name].interface
        memberships.join_all(groups, interface)
        asked += [(group, interface, None) for group in groups]


def _leave_all(memberships: Memberships, asked: Sequence[tuple[Address, Interface, Address | None]]) -> None:
    with ExitStack() as each:  # from the newest on, as the kernel looks for them; one that fails ends no other
        for request in asked:
            each.callback(memberships.leave, *request)


def _join_missing(captures: Iterable[Capture], memberships: Memberships) -> None:
    for capture in [each for each in captures if each.fault and not each.is_lost]:
        try:
            memberships.join_missing(capture.interface)
            capture.fault = ""
        except McrError as error:
            capture.fault = error.message


def _check_single(captures: Iterable[Capture], interfaces: Iterable[Interface]) -> None:
    """None may be captured twice: each of its packets would be."""
    names = {each.interface.index: each.interface.name for each in captures if not each.is_lost}
    for interface in interfaces:
        other = names.setdefault(interface.index, interface.name)
        if other != interface.name:
            raise LimitReached(
                f"Interface {interface.name} is the one that other rules call {other}",
                f"remove the rules that name {interface.name}, and add them again",
            )


def _by_interface(sources: Iterable[Input]) -> defaultdict[str, list[Input]]:
    grouped: defaultdict[str, list[Input]] = defaultdict(list)
    for source in sources:
        grouped[source.interface].append(source)
    return grouped


def _keys(slot: int, sources: Iterable[Input]) -> list[tuple[int, Flow]]:
    """What the kernel has to let in of these inputs, for the capture of their interface."""
    return [(slot, flow) for source in sources for flow in source.flows]


def _have_reported(name: str, index: int, groups: int) -> None:
    try:
        ask_for_reports(index, groups)
    except OSError as error:
        what = describe_errno(errno_of(error))
        log.warning("%s has carrier again, and its groups can't be reported: %s", name, what)
