"""Captures that another mcrd has left: found in the store of descriptors, and seen to be what they should be."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from mcr.logs.logger import get_logger
from mcr.model.limits import INTERFACE_SLOTS
from mcr.model.log import Facility
from mcr.net import capture
from mcr.net.capture import CaptureGroup
from mcr.net.interfaces import Interface
from mcr.process.descriptor_store import DescriptorStore, adopt_socket

log = get_logger(Facility.NETWORK)

_PREFIX = "capture."


def names_of(slot: int, workers: int) -> list[str]:
    """What the store of descriptors calls the sockets of a capture."""
    return [f"{_PREFIX}{slot}.{worker_id}" for worker_id in range(workers)]


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
