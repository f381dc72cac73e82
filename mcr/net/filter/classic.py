"""Classic filters with the rules written into them, where eBPF may not be loaded."""

import socket
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress

import attrs

from mcr.errors import SystemFault, describe_errno, errno_of
from mcr.logs.logger import get_logger
from mcr.model.flow import Flow
from mcr.model.log import Facility
from mcr.net import uapi
from mcr.net.capture import read_count
from mcr.net.filter.cbpf import REJECT_ALL, Instruction, accept_udp, attach_filter, select_udp
from mcr.net.filter.suppress import Suppressor
from mcr.net.interfaces import Interface, bind_packet, link_header
from mcr.process.descriptor_store import DescriptorStore, adopt_socket

log = get_logger(Facility.NETWORK)

_LEAST_BUFFER = 1  # bytes; the kernel makes it the least that it allows


@attrs.frozen(eq=False)
class _Filtered:
    """A capture's sockets, and one more that takes what they reject. Nobody reads it: it counts."""

    sockets: tuple[socket.socket, ...]
    counter: socket.socket

    def install(self, wanted: set[Flow], *, everything: bool = False) -> None:
        """Select anew, these flows or everything.

        In the microseconds when one filter has changed and another has not, a frame of a group that is added or removed
        may be counted twice, or not at all.
        """
        try:
            ours, theirs = (
                (accept_udp(each.vlan for each in wanted), REJECT_ALL) if everything else self._select(wanted)
            )
            for each in self.sockets:
                attach_filter(each, ours)
            attach_filter(self.counter, theirs)
        except (OSError, OverflowError):
            if everything:
                raise
            self.install(wanted, everything=True)  # too many rules for one filter: the workers tell

    def _select(self, wanted: set[Flow]) -> tuple[Sequence[Instruction], Sequence[Instruction]]:
        link = link_header(self.counter)  # which a capture has that has no sockets, too
        return select_udp(wanted, link), select_udp(wanted, link, invert=True)


class ClassicFilters:
    """`CaptureFilters`. A change writes the filters of a capture anew."""

    suppressor: Suppressor | None = None
    kind = "classic"
    unsuppressed = "no eBPF"

    def __init__(self, store: DescriptorStore, why: str = "") -> None:
        """`why`: it is not eBPF that filters."""
        self.untold = f"it takes eBPF{f' ({why})' if why else ''}"
        self._store = store
        self._adopted: dict[int, _Filtered] = {}
        self._wanted: defaultdict[int, set[Flow]] = defaultdict(set)
        self._captures: dict[int, _Filtered] = {}
        self._everything = False

    def change(self, added: Iterable[tuple[int, Flow]], removed: Iterable[tuple[int, Flow]]) -> None:
        """Change the filters of captures that are open."""
        concerned = set()
        for capture, wanted in removed:
            self._wanted[capture].discard(wanted)
            concerned.add(capture)
        for capture, wanted in added:
            self._wanted[capture].add(wanted)
            concerned.add(capture)
        self._install_again(concerned & self._captures.keys())

    def open(
        self, capture: int, interface: Interface, sockets: Sequence[socket.socket], *, clip: bool = False
    ) -> "SocketCount":
        """Attach filters. They can't tell a super-frame: those that are longer than a slot are clipped by that."""
        del clip
        try:
            counter = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            raise SystemFault("AF_PACKET socket creation failed", errno_of(error)) from None
        try:
            with ExitStack() as undo:
                undo.callback(counter.close)
                counter.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LEAST_BUFFER)
                attach_filter(counter, REJECT_ALL)
                if not interface.is_absent:
                    bind_packet(counter, interface.index, uapi.ETH_P_ALL)
                count = SocketCount(counter.dup())
                undo.callback(count.close)
                filtered = _Filtered(tuple(sockets), counter)
                try:
                    filtered.install(self._wanted[capture], everything=self._everything)
                except OverflowError as error:  # their VLANs are too many for any filter
                    _tell_too_many(error)
                    filtered.install(set(), everything=self._everything)
                undo.pop_all()
        except OSError as error:
            raise SystemFault(f"Cannot capture on {interface.name}: SO_ATTACH_FILTER", errno_of(error)) from None
        self._captures[capture] = filtered
        self._store.put(_name(capture), counter.fileno())
        return count

    def adopt(
        self, capture: int, interface: Interface, sockets: Sequence[socket.socket], *, clip: bool = False
    ) -> "SocketCount":
        """Count on with the counting socket that was left."""
        del clip, interface
        fd = self._store.take(_name(capture))
        if fd is None:
            raise ValueError("its counting socket is missing")
        counter = adopt_socket(fd)
        if counter is None or counter.family != socket.AF_PACKET:
            self._store.refuse(_name(capture), counter.detach() if counter else fd)
            raise ValueError("its counting socket is none")
        self._store.put(_name(capture), fd)
        self._adopted[capture] = _Filtered(tuple(sockets), counter)
        return SocketCount(counter.dup())

    def install(self) -> None:
        """Write the filters."""
        self._captures |= self._adopted
        self._install_again(self._adopted)
        self._adopted = {}

    def show_all(self, *, everything: bool) -> None:
        """Change every filter."""
        if everything == self._everything:
            return
        self._everything = everything
        self._install_again(self._captures)

    def _install_again(self, captures: Iterable[int]) -> None:
        for capture in captures:
            try:
                self._captures[capture].install(self._wanted[capture], everything=self._everything)
            except OSError as error:
                log.warning("a filter could not be changed: %s", describe_errno(errno_of(error)))
            except OverflowError as error:
                _tell_too_many(error)

    def show_streams(self) -> dict[int, str]:
        """It can't, which `untold` says."""
        return {}

    def forget(self, capture: int) -> None:
        """Count no more for it."""
        self._wanted.pop(capture, None)
        filtered = self._captures.pop(capture, None) or self._adopted.pop(capture, None)
        if filtered:
            self._store.drop(_name(capture))
            with suppress(OSError):  # out of memory: it goes on counting until its last descriptor is closed
                attach_filter(filtered.counter, REJECT_ALL)
            filtered.counter.close()

    def close(self) -> None:
        """Close the counting sockets. What has been left to the next mcrd counts on."""
        for filtered in (*self._captures.values(), *self._adopted.values()):
            filtered.counter.close()


def _tell_too_many(error: OverflowError) -> None:
    log.warning("a filter could not be changed: %s are too many for classic BPF", error)


def _name(capture: int) -> str:
    """Of a counting socket, in the store of descriptors."""
    return f"counter.{capture}"


class SocketCount:
    """`Rejected`, as the kernel counts what comes to a socket. Owns it."""

    def __init__(self, counter: socket.socket) -> None:
        self._counter = counter
        self._sum = 0

    def read(self) -> int:
        """How many so far."""
        count = read_count(self._counter)
        self._sum += count.accepted + count.dropped
        return self._sum

    @property
    def state(self) -> int:
        """The sum so far."""
        return self._sum

    def resume(self, state: int) -> None:
        """Go on from a sum."""
        self._sum += state

    def close(self) -> None:
        """Close the socket."""
        self._counter.close()
