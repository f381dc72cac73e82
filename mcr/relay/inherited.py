"""Captures that another mcrd has left: found in the store of descriptors, and seen to be what they should be."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from mcr.config.settings import Settings
from mcr.logs.logger import get_logger
from mcr.model.limits import INTERFACE_SLOTS
from mcr.model.log import Facility
from mcr.net import capture
from mcr.net.capture import CaptureGroup, reject, slot_size
from mcr.net.filter.base import CaptureFilters
from mcr.net.filter.suppress import end_links
from mcr.net.interfaces import Interface
from mcr.net.patience import close_all
from mcr.process.descriptor_store import DescriptorStore, adopt_socket
from mcr.relay.captures import Capture

log = get_logger(Facility.NETWORK)

_PREFIX = "capture."


def names_of(slot: int, workers: int) -> list[str]:
    """What the store of descriptors calls the sockets of a capture."""
    return [f"{_PREFIX}{slot}.{worker_id}" for worker_id in range(workers)]


def forget_capture(slot: int, workers: int, filters: CaptureFilters, store: DescriptorStore) -> None:
    """Neither count for a capture nor leave it to the next mcrd; its sockets belong to others."""
    filters.forget(slot)
    if filters.suppressor:
        filters.suppressor.forget(slot)
    for name in names_of(slot, workers):
        store.drop(name)


class FormerCaptures:
    """Captures that another mcrd has left, and that no rule uses so far.

    Attributes:
        are_torn: some that were left can't be gone on with, and are closed. Another mcrd's workers may still read from
            them, and count in slots that are free here: they have to end before anything is opened.
    """

    def __init__(
        self,
        settings: Settings,
        store: DescriptorStore,
        filters: CaptureFilters,
        serials: Iterator[int],
        note: Mapping[str, Any],
    ) -> None:
        """Take over those that are as the note says; the others are closed."""
        self._settings = settings
        noted, kind = note.get("captures", []), note.get("filter")
        fits = kind == filters.kind
        if noted and not fits:
            anew = "interfaces are captured anew, and packets lost meanwhile: filters were of kind %s, and are %s now"
            log.warning(anew, kind, filters.kind)
        self._by_slot: dict[int, Capture] = {}
        adopted = adopt_captures(noted if fits else (), settings.num_workers, store)
        for slot, (interface, group) in adopted.items():
            try:
                rejected = filters.adopt(slot, interface, group.sockets, clip=not group.offloads)
            except (ValueError, OSError) as error:
                log.warning("%s is captured anew, and packets lost meanwhile: %s", interface.name, error)
                close_all([*group.sockets, *group.watched])
                forget_capture(slot, settings.num_workers, filters, store)
                continue
            self._by_slot[slot] = Capture(slot, next(serials), interface, group, rejected, inherited=True)
        end_links(store, self._by_slot)
        self.are_torn = len(self._by_slot) < len(noted)

    def __iter__(self) -> Iterator[Capture]:
        return iter(self._by_slot.values())

    def use(self, interface: Interface, undo: ExitStack) -> Capture | None:
        """The capture that was left of an interface, if it is as it would be made now."""
        former = next((each for each in self if each.interface.index == interface.index), None)
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
        del self._by_slot[former.slot]
        undo.callback(self._by_slot.setdefault, former.slot, former)
        return former

    def give_up(self) -> list[Capture]:
        """All of them, which are then none of these any more."""
        unused = [*self]
        self._by_slot = {}
        return unused


def adopt_captures(
    noted: Sequence[Any], workers: int, store: DescriptorStore
) -> dict[int, tuple[Interface, CaptureGroup]]:
    """Take those that were noted and are sound out of the store, by their slots; every other one is closed.

    Args:
        noted: slot, name of the interface, bytes and number of slots of each.
        workers: sockets of each.
        store: where they are.
    """
    adopted: dict[int, tuple[Interface, CaptureGroup]] = {}
    for slot, name, frame_size, frame_count in _sound(noted):
        try:
            with ExitStack() as undo:
                sockets = tuple(_take(each, store, undo) for each in names_of(slot, workers))
                group = capture.adopt_captures(sockets, frame_size, frame_count)
                undo.pop_all()
        except (ValueError, OSError) as error:
            log.warning("%s is captured anew, and packets lost meanwhile: %s", name, error)
            continue
        for each, its in zip(names_of(slot, workers), sockets, strict=True):
            store.put(each, its.fileno())
        adopted[slot] = Interface(name, _index(sockets[0]), 0, None), group
    store.close_inherited(_PREFIX)
    return adopted


def _sound(noted: Sequence[Any]) -> Iterator[tuple[int, str, int, int]]:
    seen: set[int] = set()
    for entry in noted:
        match entry:
            case [int(slot), str(name), int(size), int(count)] if (
                0 <= slot < INTERFACE_SLOTS and slot not in seen and _is_power(size) and _is_power(count)
            ):
                seen.add(slot)
                yield slot, name, size, count


def _is_power(number: int) -> bool:
    return 0 < number <= 1 << 24 and not number & (number - 1)


def _take(name: str, store: DescriptorStore, undo: ExitStack) -> socket.socket:
    fd = store.take(name)
    if fd is None:
        raise ValueError("a socket is missing")
    taken = adopt_socket(fd)
    if taken is None:
        store.refuse(name, fd)
        raise ValueError("what was left is no socket")
    undo.callback(taken.close)
    undo.callback(store.drop, name)
    return taken


def _index(captured: socket.socket) -> int:
    """Of the interface; -1: it is bound to none that there is."""
    try:
        return socket.if_nametoindex(captured.getsockname()[0])
    except OSError:
        return -1
