"""One eBPF map of the admitted flows, and for each capture a program that looks them up (native/bpf/load.h)."""

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any, TypeVar

from mcr._native import ffi, lib
from mcr.errors import SystemFault, check_result, describe_errno, errno_of
from mcr.logs.logger import get_logger
from mcr.model.flow import Flow
from mcr.model.log import Facility
from mcr.net import uapi
from mcr.net.filter.admitted import Admitted, capture_of, has_source
from mcr.net.filter.attach import NoRoomError, attach_programs, let_all_in, why_unattached
from mcr.net.filter.path import SHOWN, KernelPath, wait_for_packets
from mcr.net.filter.refusal import is_lacking, tell_refusal, why_refused
from mcr.net.filter.suppress import Suppressor
from mcr.net.filter.tap import StreamTap
from mcr.net.interfaces import Interface, link_header
from mcr.process.descriptor_store import DescriptorStore
from mcr.shm.flows import flow_bytes

_T = TypeVar("_T")

log = get_logger(Facility.NETWORK)

_REJECTED = "rejected"  # the map, in the store of descriptors
_FIRST = (0, 0, False, False, False, False, ffi.NULL)  # what the program is for that is tried at the start
_HATYPE = 3  # in the address of an AF_PACKET socket


class EbpfFilters:
    """`CaptureFilters`. A change costs a system call for each rule, and no program is made anew.

    Raises:
        OSError: this process may not, or this kernel can't.
    """

    kind = "map"
    untold = ""

    def __init__(
        self,
        store: DescriptorStore,
        path: KernelPath | None = None,
        tap: StreamTap | None = None,
        *,
        suppress: bool = False,
    ) -> None:
        self._store = store
        self._tap = tap
        self._telling: set[int] = set()  # captures whose programs tell of streams
        self._adopted: dict[int, Sequence[socket.socket]] = {}
        self.suppressor: Suppressor | None = None
        self.unsuppressed = ""
        self._path = path
        self._wanted = check_result(lib.mcr_bpf_open_wanted())
        self._rejected = -1
        self._spare: list[int] = []  # the program that was tried
        self._sockets: dict[int, Sequence[socket.socket]] = {}
        self._clipped: set[int] = set()
        self._bare: set[int] = set()  # captures of tunnels
        self._everything = False
        self._admitted = Admitted()
        try:
            self._rejected = _open_rejected(store)
            # For the first capture: to verify another takes milliseconds.
            self._spare = [self._with_path_or_without(lambda: self._load(0, 0))]
            _count(self._rejected, 0).close()
            store.put(_REJECTED, self._rejected)
        except OSError:
            self.close()
            raise
        if suppress:
            self._open_suppressor()
        if not self.suppressor or not self.suppressor.has_tcx:
            self._path = None  # nobody would carry out what filters decide
        if self._path is not path:
            self._close_spare()

    def change(self, added: Iterable[tuple[int, Flow]], removed: Iterable[tuple[int, Flow]]) -> None:
        """Change the map; and the programs, where rules begin to name sources, or end to."""
        # What others have admitted already is not to be undone.
        put, before = self._admitted.lacking(added), self._admitted.with_sources
        missing = self._admitted.add(put)
        step = "BPF_MAP_UPDATE_ELEM"
        try:
            check_result(lib.mcr_bpf_put(self._wanted, b"".join(missing), len(missing)))
            step = "SO_ATTACH_BPF"
            for capture in self._admitted.with_sources - before:
                self._attach(capture, self._sockets.get(capture, ()))
        except OSError as error:
            self._reject(put)
            raise SystemFault(f"Cannot filter by rules: {step}", errno_of(error)) from None
        before, gone = self._admitted.with_sources, [flow_bytes(flow, capture) for capture, flow in removed]
        # What came from a source may be with a worker, and go the way of what comes from any from here on.
        moving = {capture_of(key) for key in gone if has_source(key)}
        with self._path.closed(moving) if self._path and moving else nullcontext():
            self._reject(gone)
        for capture in before - self._admitted.with_sources:
            self._attach_or_tell(capture, self._sockets.get(capture, ()))

    def _reject(self, keys: Iterable[bytes]) -> None:
        for key in self._admitted.drop(keys):
            lib.mcr_bpf_drop(self._wanted, ffi.from_buffer("struct mcr_flow *", key))

    def open(
        self, capture: int, interface: Interface, sockets: Sequence[socket.socket], *, clip: bool = False
    ) -> "MapCount":
        """Attach a program."""
        self._note(capture, sockets, clip=clip)
        try:
            with ExitStack() as undo:
                count = _count(self._rejected, capture)
                undo.callback(count.close)
                self._attach(capture, sockets)
                undo.pop_all()
        except OSError as error:
            raise SystemFault(f"Cannot capture on {interface.name}: SO_ATTACH_BPF", errno_of(error)) from None
        self._sockets[capture] = sockets
        self._suppress(capture, interface, sockets)
        return count

    def _note(self, capture: int, sockets: Sequence[socket.socket], *, clip: bool) -> None:
        """Whether it clips super-frames, and whether the kernel hands packets over without a link layer's header."""
        if clip:
            self._clipped.add(capture)
        self._bare.discard(capture)
        if sockets and not link_header(sockets[0]):
            self._bare.add(capture)

    def _suppress(self, capture: int, interface: Interface, sockets: Sequence[socket.socket]) -> None:
        if self.suppressor:
            is_ethernet = sockets[0].getsockname()[_HATYPE] == uapi.ARPHRD_ETHER
            self.suppressor.add(capture, interface.index, is_ethernet=is_ethernet, is_bare=capture in self._bare)

    def adopt(
        self, capture: int, interface: Interface, sockets: Sequence[socket.socket], *, clip: bool = False
    ) -> "MapCount":
        """Attach nothing yet."""
        self._note(capture, sockets, clip=clip)
        self._adopted[capture] = sockets
        self._suppress(capture, interface, sockets)
        return _count(self._rejected, capture)

    def install(self) -> None:
        """Attach programs; such as tell of streams when `show_streams` is called next."""
        self._sockets |= self._adopted
        for capture, sockets in self._adopted.items():
            if self._attach_or_tell(capture, sockets):
                let_all_in(sockets, self._admitted.vlans_of(capture))
        self._adopted = {}

    def show_all(self, *, everything: bool) -> None:
        """Attach other programs."""
        if everything == self._everything:
            return
        self._everything = everything
        if everything and self._path:
            self._path.bar(SHOWN)
        for capture, sockets in self._sockets.items():
            self._attach_or_tell(capture, sockets)
        if not everything and self._path:
            self._path.unbar(SHOWN)

    def show_streams(self) -> dict[int, str]:
        """Attach programs that tell of streams, or such as don't."""
        assert self._tap
        wanted = self._tap.captures & self._sockets.keys()
        changed = (self._telling & self._sockets.keys()) ^ wanted
        failed = {each: why for each in changed if (why := self._attach_or_tell(each, self._sockets[each]))}
        self._telling = wanted - failed.keys()
        return failed

    def forget(self, capture: int) -> None:
        """The program goes with its sockets, and what it admits with it: the next capture may have its slot."""
        self._sockets.pop(capture, None)
        self._adopted.pop(capture, None)
        self._reject(self._admitted.of(capture))
        self._clipped.discard(capture)

    def close(self) -> None:
        """Close the maps; the kernel keeps them for as long as a program uses them."""
        if self.suppressor:
            self.suppressor.close()
            self.suppressor = None
        self._close_spare()
        for fd in {self._wanted, self._rejected} - {-1}:
            os.close(fd)
        self._wanted = self._rejected = -1

    def _close_spare(self) -> None:
        while self._spare:
            os.close(self._spare.pop())

    def _attach_or_tell(self, capture: int, sockets: Sequence[socket.socket]) -> str:
        """Why it could not be; empty: it is attached."""
        try:
            self._attach(capture, sockets)
        except OSError as error:  # no descriptor, no memory: what is filtered stays as it was
            log.warning("a filter could not be changed: %s", why := why_unattached(error))
            return why
        return ""

    def _open_suppressor(self) -> None:
        try:
            self.suppressor = self._with_path_or_without(
                lambda: Suppressor(self._wanted, self._rejected, self._path, self._store)
            )
        except OSError as error:
            self.unsuppressed = describe_errno(errno_of(error))
            log.info("MCR_ABSORB has no effect: %s", self.unsuppressed)

    def _with_path_or_without(self, make: Callable[[], _T]) -> _T:
        try:
            return make()
        except OSError as error:
            self._do_without_path(error)
            return make()

    def _do_without_path(self, error: OSError) -> None:
        """Have the programs do the rest, if they were to serve the kernel path, too."""
        if not self._path:
            raise error
        tell_refusal("MCR_KERNEL_PATH has no effect: {}: workers forward everything, which costs more", error)
        self._path.refuse(why_refused(error))
        self._path = None

    def _attach(self, capture: int, sockets: Sequence[socket.socket]) -> None:
        attach = partial(attach_programs, sockets, partial(self._load, capture))
        try:
            attach()
        except NoRoomError:
            if self._tap_of(capture) and capture not in self._telling:
                raise  # it may be too long for the socket alone, and the one before is in force
            with self._path.closed({capture}) if self._path else nullcontext():
                attach(self._admitted.vlans_of(capture))
                wait_for_packets()  # what was let in meanwhile is with the workers, who have to deal with it first

    def _tap_of(self, capture: int) -> Any:
        """What its programs tell; NULL: nothing, or not yet."""
        return self._tap.maps(capture) if self._tap and capture not in self._adopted else ffi.NULL

    def _load(self, capture: int, worker: int) -> int:
        clip, sourced, bare = capture in self._clipped, self._admitted.has_sources(capture), capture in self._bare
        purpose = (capture, worker, clip, self._everything, sourced, bare, self._tap_of(capture))
        if self._spare and purpose == _FIRST:
            return self._spare.pop()
        filtered = ffi.new("struct mcr_bpf_filter *", purpose)
        if self._path:
            try:
                return check_result(lib.mcr_bpf_load_filter(self._wanted, self._rejected, self._path.maps, filtered))
            except OSError as error:
                if not is_lacking(error):
                    raise
                self._do_without_path(error)  # the JIT compiler may have been switched off meanwhile
        return check_result(lib.mcr_bpf_load_filter(self._wanted, self._rejected, ffi.NULL, filtered))


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


def _open_rejected(store: DescriptorStore) -> int:
    """The map of the mcrd before this one: its programs count in it until others are attached."""
    inherited = store.take(_REJECTED)
    if inherited is not None:
        if not lib.mcr_bpf_count(inherited, 0, ffi.new("uint64_t *")):
            return inherited
        store.refuse(_REJECTED, inherited)
    return check_result(lib.mcr_bpf_open_rejected())


def _count(rejected: int, capture: int) -> MapCount:
    fd = os.dup(rejected)
    try:
        return MapCount(fd, capture)
    except OSError:
        os.close(fd)
        raise
