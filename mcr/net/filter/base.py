"""The capture filter: keeps UDP that no rule takes away from the workers, and counts it, in the kernel.

It is eBPF that looks rules up in a map, if this process may load it (CAP_BPF). Otherwise it is classic filters with the
rules written into them, as many as fit; beyond that every UDP frame goes to a worker, which counts it. Trying decides.
"""

import socket
from collections.abc import Iterable, Sequence
from typing import Protocol

from mcr.logs.logger import get_logger
from mcr.model.flow import Flow
from mcr.model.log import Facility
from mcr.net.filter.classic import ClassicFilters
from mcr.net.filter.ebpf import EbpfFilters
from mcr.net.filter.path import KernelPath
from mcr.net.filter.refusal import tell_refusal, why_refused
from mcr.net.filter.suppress import Suppressor
from mcr.net.filter.tap import StreamTap
from mcr.net.interfaces import Interface
from mcr.process.descriptor_store import DescriptorStore

log = get_logger(Facility.NETWORK)


class Rejected(Protocol):
    """Datagrams of one capture that the kernel rejected on the workers' behalf."""

    def read(self) -> int:
        """How many so far."""
        ...

    @property
    def state(self) -> int:
        """What `resume` takes, to go on from here."""
        ...

    def resume(self, state: int) -> None:
        """Go on where the reader of another mcrd has ended."""
        ...

    def close(self) -> None:
        """Let go of it; no more readings."""
        ...


class CaptureFilters(Protocol):
    """The filters of all captures, which are known by their slots.

    Attributes:
        suppressor: suppresses local delivery of admitted flows; None: nothing does.
        unsuppressed: why nothing does; empty: nothing was asked to.
        kind: of filter; that of another kind can't be gone on with.
        untold: why it can't tell of streams, for their health; empty: it can.
    """

    suppressor: Suppressor | None
    unsuppressed: str
    kind: str
    untold: str

    def change(self, added: Iterable[tuple[int, Flow]], removed: Iterable[tuple[int, Flow]]) -> None:
        """Admit more flows, and fewer; none is both added and removed.

        Raises:
            SystemFault: nothing has changed.
        """
        ...

    def open(
        self, capture: int, interface: Interface, sockets: Sequence[socket.socket], *, clip: bool = False
    ) -> Rejected:
        """From now on let in, on these sockets, the admitted flows of this interface.

        With `clip`, only the beginning of super-frames, as far as they can be told.

        Raises:
            SystemFault: nothing is let in.
        """
        ...

    def adopt(
        self, capture: int, interface: Interface, sockets: Sequence[socket.socket], *, clip: bool = False
    ) -> Rejected:
        """Go on with sockets that another mcrd has left. Its filter is in force until `install`.

        Raises:
            OSError, ValueError: it can't be.
        """
        ...

    def install(self) -> None:
        """Have the filters of adopted sockets let in the flows that are admitted now."""
        ...

    def show_all(self, *, everything: bool) -> None:
        """Whether workers are to see flows that no rule takes, and log them."""
        ...

    def show_streams(self) -> dict[int, str]:
        """Tell of streams whose health is watched, if there are any. By capture, why that could not be changed."""
        ...

    def forget(self, capture: int) -> None:
        """Stop counting for a capture; its sockets belong to others."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


def open_filters(
    store: DescriptorStore, *, suppress: bool, path: KernelPath | None, tap: StreamTap | None = None
) -> CaptureFilters:
    """Make the best capture filter that this process may load.

    Args:
        store: what it leaves to the next mcrd, and was left.
        suppress: whether to suppress local delivery of admitted flows, where that is allowed.
        path: the kernel path; stays the caller's. None: there is none.
        tap: takes what it tells of streams; stays the caller's.
    """
    try:
        return EbpfFilters(store, path, tap, suppress=suppress)
    except OSError as error:
        reason = why_refused(error)
        tell_refusal("no eBPF ({}): classic filters reject what no rule takes", error)
        if suppress:
            log.info("MCR_ABSORB has no effect: no eBPF (%s)", reason)
        return ClassicFilters(store, reason)
