"""Suppresses local delivery of packets that a rule takes and no UDP socket here waits for (native/bpf/load.h).

Otherwise the kernel allocates a route for each packet of a joined group, finds no socket, and throws both away.
"""

import errno
import os
import socket
from collections.abc import Collection

from mcr._native import ffi, lib
from mcr.errors import check_result
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.net.filter.path import KernelPath, wait_for_packets
from mcr.net.filter.refusal import why_refused
from mcr.net.local_receivers import LinkChanges, without_others_below_ip
from mcr.net.offloads import has_chains
from mcr.net.patience import close_after_exit
from mcr.process.descriptor_store import DescriptorStore

log = get_logger(Facility.NETWORK)

_LINKS = "link."
"""Beginning of the names of links, in the store of descriptors; then come the slot of the capture and a serial number.
Those of another mcrd forward what its filters leave to them, and are closed when these filters are in force no more."""

_AT_ONCE = 8  # links made or closed before others have their turn: some 15 ms each


class Suppressor:
    """A program at the ingress of each captured interface that has no local receivers (`mcr.net.local_receivers`).

    Making and closing its links waits for the kernel's lock of the network's configuration.

    Args:
        wanted: the map of admitted flows; stays the caller's, as all of these.
        rejected: the map of what was rejected.
        path: the kernel path, which the same program serves; None: there is none.
        store: of descriptors. Links of the kernel path outlive mcrd, as filters do.

    Attributes:
        changes: of interfaces, and so perhaps of local receivers.
        has_tcx: this kernel lets programs run at the ingress so: Linux 6.6.

    Raises:
        OSError: this process may not, or this kernel can't.
    """

    def __init__(self, wanted: int, rejected: int, path: KernelPath | None, store: DescriptorStore) -> None:
        self._wanted, self._rejected, self._path, self._store = wanted, rejected, path, store
        self._interfaces: dict[int, int] = {}
        self._ethernet: set[int] = set()  # captures of interfaces that frames come in by as by Ethernet
        self._bare: set[int] = set()  # captures of those that packets come in by without a link layer's header
        self._links: dict[int, int] = {}
        self._serial = max((_numbers(each)[1] for each in store.inherited(_LINKS)), default=0)
        self._left: dict[int, str] = {}  # what the store calls links, by capture
        self._told: set[int] = set()
        self._chains: set[int] = set()  # captures of interfaces that chain what arrives
        self._barred: dict[int, str] = {}  # why nothing runs there, by capture
        self._asked: dict[int, int] = {}  # those that are looked for, by capture
        self._matched: dict[int, int] = {}  # by the kernel path, when it was last asked, by capture
        self._settled: set[int] = set()  # captures that have been suppressed on since they were looked for below IP
        self._takes_ipv6 = False  # the kernel path does: that program takes the kernel twice as long to verify
        self._program = self._load(0)
        self.has_tcx = lib.mcr_bpf_link_ingress(self._program, 0) != -errno.EINVAL  # but -ENODEV: no interface is 0
        try:
            self.changes = LinkChanges()
        except OSError:
            os.close(self._program)
            raise
        if path:
            path.learn_ipv6 = self._learn_ipv6
        self._stale = False
        self._useless = False

    @property
    def has_path(self) -> bool:
        """Whether packets may take the kernel path, as filters decide."""
        return self._path is not None and self.has_tcx

    def add(self, capture: int, interface: int, *, is_ethernet: bool = False, is_bare: bool = False) -> None:
        """Suppress on an interface, by index, once it is known to have no local receivers."""
        self._interfaces[capture] = interface
        if is_ethernet:
            self._ethernet.add(capture)
        if is_bare:
            self._bare.add(capture)
        self._stale = True

    def forget(self, capture: int) -> None:
        """Suppress no more."""
        self._unlink(capture)
        self._interfaces.pop(capture, None)
        self._ethernet.discard(capture)
        self._bare.discard(capture)
        self._told.discard(capture)
        if self._path:
            self._path.forget(capture)

    def why_not(self, capture: int) -> str:
        """Why no packet of a capture may take the kernel path; empty: nothing here forbids it."""
        if not self.has_tcx:
            return "the kernel path needs Linux 6.6"
        if self._path and (why := self._why_closed(self._path, capture)):
            return why
        if capture in self._links:
            return "" if capture in self._ethernet else "it does not come in by Ethernet"
        return self._barred.get(capture, "the input interface is about to be checked")

    def _why_closed(self, path: KernelPath, capture: int) -> str:
        if path.is_contested(capture):
            return "another program at the ingress of the input interface takes packets first"
        if path.is_held(capture):
            return "there was no memory to change what the kernel has of its rules"
        if path.is_early(capture):
            return "workers may hold packets, or fragments of some, that came in before"
        if capture in self._chains:
            return "the input interface chains datagrams, and the kernel path reaches but the first: rx-gro-list is on"
        return ""

    @property
    def is_stale(self) -> bool:
        """Whether there are new captures, or local receivers have to be looked for again; links may have changed."""
        return self._stale and not self._useless

    def is_due(self) -> bool:
        """Whether there are new captures, or local receivers may have changed: then `pause`. Hears what changed."""
        if self.changes.heard():
            self._stale = True
        return self.is_stale

    def pause(self) -> frozenset[int] | None:
        """Suppress nothing until local receivers are known.

        Returns:
            The interfaces whose local receivers have to be looked for; then call `suppress_on`. None: call again, for
            it takes long, and others may have their turn.
        """
        leaving = [*self._links][:_AT_ONCE]
        if self._path:
            self._path.unlink(self._links)
        for capture in leaving:
            self._unlink(capture)
        if self._links:
            return None
        self._stale = False
        self._asked = dict(self._interfaces)
        return frozenset(self._asked.values())

    def suppress_on(self, free: frozenset[int] | None) -> bool:
        """After `pause`: suppress on these interfaces, by index. None: it can't be known now. False: call again."""
        # What was seen may be no more. Of what changes from the first link on, `changes` tells once all are made.
        if free is None or (not self._links and self.changes.heard()):
            self._stale = True
            return True
        for capture, index in [*self._asked.items()][:_AT_ONCE]:
            del self._asked[capture]
            if self._interfaces.get(capture) != index:  # it has gone meanwhile
                continue
            if index in free:
                self._link(capture, index)
            elif self.changes.heard():  # it may have been seen as it went
                self._stale = True
            elif _exists(index):
                self._barred[capture] = f"a bridge or multicast routing may want what comes in by {_name(index)}"
                self._tell(
                    capture, f"local delivery on {_name(index)} goes on: a bridge or multicast routing may want it"
                )
        return not self._asked

    def has_forwarded(self) -> bool:
        """Whether the kernel path has, since the last call: then `look_below_ip`."""
        if not self._path:
            return False
        before = self._matched
        self._matched = {capture: self._path.counters.taken(capture).matched for capture in self._links}
        return self._matched != before

    def look_below_ip(self) -> None:
        """Have the kernel path consume packets where nobody but IP would get them, if nothing has changed lately.

        To be called again and again: what is suppressed since the last time has to wait for the next one. So a device
        that is put on top of the interface has time to come up.
        """
        if not self._path or not self._links:
            return
        settled = {each: self._interfaces[each] for each in self._settled}
        try:
            sole = without_others_below_ip(settled.values())
        except OSError:
            sole = frozenset()
        self._path.consume({capture for capture, index in settled.items() if index in sole})
        self._settled = self._links.keys() & self._ethernet

    def close(self) -> None:
        """Suppress nothing more, soon after the process has ended."""
        close_after_exit([*self._links.values()])
        os.close(self._program)
        self.changes.close()

    def _link(self, capture: int, index: int) -> None:
        try:
            self._links[capture] = self._link_program(capture, index)
        except OSError as error:
            self._useless |= not self.has_tcx
            self._stale |= error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
            self._barred[capture] = f"no program runs where it comes in: {why_refused(error)}"
            self._tell(capture, f"MCR_ABSORB has no effect on {_name(index)}: {why_refused(error)}")
        else:
            self._told.discard(capture)
            self._barred.pop(capture, None)
            if self._path and capture in self._ethernet:
                self._leave(capture)
                self._open_gate(self._path, capture, index)

    def _open_gate(self, path: KernelPath, capture: int, index: int) -> None:
        """Unless each packet may be several in a chain: a program changes the headers of the first."""
        if has_chains(_name(index)):
            self._chains.add(capture)
        else:
            path.link(capture)

    def _leave(self, capture: int) -> None:
        self._serial += 1
        self._left[capture] = f"{_LINKS}{capture}.{self._serial}"
        self._store.put(self._left[capture], self._links[capture])

    def _link_program(self, capture: int, index: int) -> int:
        if self._path and capture not in self._bare:  # one program for all
            return check_result(lib.mcr_bpf_link_ingress(self._program, index))
        program = self._load(capture)
        try:
            return check_result(lib.mcr_bpf_link_ingress(program, index))
        finally:
            os.close(program)  # the link keeps it

    def _load(self, capture: int) -> int:
        maps = self._path.maps if self._path else ffi.NULL
        differs = ffi.new("struct mcr_bpf_ingress *", (capture, capture in self._bare, self._takes_ipv6))
        return check_result(lib.mcr_bpf_load_ingress(self._wanted, self._rejected, maps, differs))

    def _learn_ipv6(self) -> None:
        """Have a program take the place of the one that runs, from which on the kernel path takes IPv6.

        Raises:
            OSError: this kernel does not load it, or the kernel has no memory.
        """
        before, self._takes_ipv6 = self._takes_ipv6, True
        try:
            program = self._load(0)
        except OSError:
            self._takes_ipv6 = before
            raise
        os.close(self._program)
        self._program = program
        for capture, link in self._links.items():
            if capture not in self._bare and (ret := lib.mcr_bpf_relink(link, program)) != -errno.ENOLINK:
                check_result(ret)  # ENOLINK: its interface has gone

    def _tell(self, capture: int, what: str) -> None:
        if capture not in self._told:
            self._told.add(capture)
            log.info("%s", what)

    def _unlink(self, capture: int) -> None:
        self._settled.discard(capture)
        self._chains.discard(capture)
        if capture in self._links:
            if self._path:
                self._path.unlink([capture])
            if capture in self._left:
                self._store.drop(self._left.pop(capture))
            lib.mcr_bpf_unlink(self._links.pop(capture))


def end_links(store: DescriptorStore, captures: Collection[int]) -> None:
    """End those of another mcrd, but for these captures. Workers may still have the sockets of others, with filters."""
    for name in store.inherited(_LINKS):
        if _numbers(name)[0] not in captures and (link := store.take(name)) is not None:
            store.drop(name)
            lib.mcr_bpf_unlink(link)


def end_former_links(store: DescriptorStore) -> None:
    """End those of another mcrd, whose filters are in force no more: nobody else counts in its maps then."""
    if store.inherited(_LINKS):
        wait_for_packets()  # what former filters have left to them, they forward
        end_links(store, ())


def _numbers(name: str) -> tuple[int, int]:
    """Of a link: the slot of its capture, and its own."""
    match name.removeprefix(_LINKS).split("."):
        case [capture, serial] if capture.isdecimal() and serial.isdecimal():
            return int(capture), int(serial)
    return -1, 0


def _exists(index: int) -> bool:
    try:
        return bool(socket.if_indextoname(index))
    except OSError:
        return False


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"
