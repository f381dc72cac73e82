"""One eBPF map of the admitted flows, and for each capture a program that looks them up (native/bpf/load.h)."""

import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from mcr._native import ffi, lib
from mcr.errors import SystemFault, check_result, describe_errno
from mcr.logs.logger import get_logger
from mcr.model.flow import Flow
from mcr.model.log import Facility
from mcr.net.filter.cbpf import ACCEPT_UDP, attach_filter, attach_program
from mcr.net.filter.suppress import Suppressor
from mcr.net.interfaces import Interface
from mcr.process.descriptor_store import DescriptorStore
from mcr.shm.flows import make_flow

log = get_logger(Facility.NETWORK)

_REJECTED = "rejected"  # the map, in the store of descriptors


class MapScreen:
    """A `Screen`. A change costs a system call for each rule, and no program is made anew.

    Raises:
        OSError: this process may not, or this kernel can't.
    """

    kind = "map"

    def __init__(self, store: DescriptorStore, *, suppress: bool = False) -> None:
        self._store = store
        self._adopted: dict[int, Sequence[socket.socket]] = {}
        self.suppressor: Suppressor | None = None
        self._wanted = check_result(lib.mcr_bpf_open_wanted())
        self._rejected = -1
        self._sockets: dict[int, Sequence[socket.socket]] = {}
        self._clipped: set[int] = set()
        self._everything = False
        try:
            self._rejected = self._open_rejected()
            os.close(self._load(0))
            self._count(0).close()
            store.put(_REJECTED, self._rejected)
        except OSError:
            self.close()
            raise
        if suppress:
            self.suppressor = _open_suppressor(self._wanted)

    def change(self, added: Iterable[tuple[int, Flow]], removed: Iterable[tuple[int, Flow]]) -> None:
        """Change the map."""
        put: list[Any] = []
        try:
            for key in (make_flow(flow, capture) for capture, flow in added):
                check_result(lib.mcr_bpf_put(self._wanted, key))
                put.append(key)
        except OSError as error:
            for key in put:
                lib.mcr_bpf_drop(self._wanted, key)
            raise SystemFault("Cannot filter by rules: BPF_MAP_UPDATE_ELEM", error.errno or 0) from None
        for capture, flow in removed:
            lib.mcr_bpf_drop(self._wanted, make_flow(flow, capture))

    def open(
        self, capture: int, interface: Interface, sockets: Sequence[socket.socket], *, clip: bool = False
    ) -> "MapCount":
        """Attach a program."""
        if clip:
            self._clipped.add(capture)
        try:
            with ExitStack() as undo:
                count = self._count(capture)
                undo.callback(count.close)
                self._attach(capture, sockets)
                undo.pop_all()
        except OSError as error:
            raise SystemFault(f"Cannot capture on {interface.name}: SO_ATTACH_BPF", error.errno or 0) from None
        self._sockets[capture] = sockets
        if self.suppressor:
            self.suppressor.add(capture, interface.index)
        return count

    def _open_rejected(self) -> int:
        """The map of the mcrd before this one: its programs count in it until others are attached."""
        inherited = self._store.take(_REJECTED)
        if inherited is not None:
            if not lib.mcr_bpf_count(inherited, 0, ffi.new("uint64_t *")):
                return inherited
            self._store.refuse(_REJECTED, inherited)
        return check_result(lib.mcr_bpf_open_rejected())

    def adopt(
        self, capture: int, interface: Interface, sockets: Sequence[socket.socket], *, clip: bool = False
    ) -> "MapCount":
        """Attach nothing yet."""
        if clip:
            self._clipped.add(capture)
        self._adopted[capture] = sockets
        if self.suppressor:
            self.suppressor.add(capture, interface.index)
        return self._count(capture)

    def install(self) -> None:
        """Attach programs."""
        self._sockets |= self._adopted
        for capture, sockets in self._adopted.items():
            self._attach_or_tell(capture, sockets)
        self._adopted = {}

    def show_all(self, *, everything: bool) -> None:
        """Attach other programs."""
        if everything == self._everything:
            return
        self._everything = everything
        for capture, sockets in self._sockets.items():
            self._attach_or_tell(capture, sockets)

    def forget(self, capture: int) -> None:
        """The program goes with its sockets."""
        self._sockets.pop(capture, None)
        self._adopted.pop(capture, None)
        self._clipped.discard(capture)

    def close(self) -> None:
        """Close the maps; the kernel keeps them for as long as a program uses them."""
        if self.suppressor:
            self.suppressor.close()
            self.suppressor = None
        for fd in (self._wanted, self._rejected):
            if fd >= 0:
                os.close(fd)
        self._wanted = self._rejected = -1

    def _attach_or_tell(self, capture: int, sockets: Sequence[socket.socket]) -> None:
        try:
            self._attach(capture, sockets)
        except OSError as error:  # no descriptor, no memory: what is filtered stays as it was
            log.warning("a filter could not be changed: %s", describe_errno(error.errno or 0))

    def _attach(self, capture: int, sockets: Sequence[socket.socket]) -> None:
        if self._everything and capture not in self._clipped:
            for each in sockets:
                attach_filter(each, ACCEPT_UDP)
            return
        program = self._load(capture)
        try:
            for each in sockets:
                attach_program(each, program)
        finally:
            os.close(program)  # the sockets keep it

    def _count(self, capture: int) -> "MapCount":
        fd = os.dup(self._rejected)
        try:
            return MapCount(fd, capture)
        except OSError:
            os.close(fd)
            raise

    def _load(self, capture: int) -> int:
        clip = capture in self._clipped
        return check_result(
            lib.mcr_bpf_load_filter(self._wanted, self._rejected, capture, clip, clip and self._everything)
        )


class MapCount:
    """`Rejected`, from the map that the programs count in. Owns the descriptor."""

    def __init__(self, fd: int, capture: int) -> None:
        self._fd, self._capture = fd, capture
        self._count = ffi.new("uint64_t *")
        self._before = 0
        self._before = self.read()  # by others who had the slot

    def read(self) -> int:
        """How many so far."""
        check_result(lib.mcr_bpf_count(self._fd, self._capture, self._count))
        return int(self._count[0]) - self._before

    @property
    def state(self) -> int:
        """Those of others who had the slot."""
        return self._before

    def resume(self, state: int) -> None:
        """Count those of the mcrd before this one, too."""
        self._before = state

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def _open_suppressor(wanted: int) -> Suppressor | None:
    try:
        return Suppressor(wanted)
    except OSError as error:
        log.info("MCR_ABSORB has no effect: %s", describe_errno(error.errno or 0))
        return None
