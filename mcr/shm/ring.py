"""The supervisor's ends of a worker's two rings. The ring itself, and all memory ordering, is ``native/ring.h``."""

import errno
import os
from collections.abc import Iterator

from mcr._native import ffi, lib
from mcr.shm.segment import Segment

_MAX_EVENT_BODY = lib.MCR_EVENT_RING_BYTES // 4


class RuleRing:
    """Producer's end of the rule ring: commands to one worker."""

    def __init__(self, segment: Segment) -> None:
        """Start over with an empty ring. Only while no worker is attached."""
        shared = segment.shared
        shared.rule_ring.head = 0
        shared.rule_ring.tail = 0
        self._end = ffi.new("struct mcr_ring_end *")
        ring, data = ffi.addressof(shared, "rule_ring"), ffi.addressof(shared, "rule_data")
        lib.mcr_ring_open_producer(self._end, ring, data, lib.MCR_RULE_RING_BYTES)

    def reserve(self, records: bytes) -> int:
        """Write whole records, one after the other, that the worker sees after `publish`.

        Returns:
            Bytes of those that had room.
        """
        return int(lib.mcr_ring_reserve_all(self._end, records, len(records)))

    def publish(self) -> None:
        """Show the worker every record reserved so far, at once."""
        lib.mcr_ring_publish(self._end)


class EventRing:
    """Consumer's end of the event ring: what one worker reports."""

    def __init__(self, segment: Segment) -> None:
        """Start over with an empty ring. Only while no worker is attached."""
        shared = segment.shared
        shared.event_ring.head = 0
        shared.event_ring.tail = 0
        self._end = ffi.new("struct mcr_ring_end *")
        ring, data = ffi.addressof(shared, "event_ring"), ffi.addressof(shared, "event_data")
        lib.mcr_ring_open_consumer(self._end, ring, data, lib.MCR_EVENT_RING_BYTES)
        self._type = ffi.new("uint32_t *")
        self._body = ffi.new("uint8_t[]", _MAX_EVENT_BODY)

    def drain(self) -> Iterator[tuple[int, bytes]]:
        """Yield type and body of every record that waits.

        Raises:
            OSError: EBADMSG, the worker broke the ring's format; nothing in it can be trusted any more.
        """
        while True:
            size = lib.mcr_ring_pop(self._end, self._type, self._body, _MAX_EVENT_BODY)
            if size == -errno.ENOENT:
                return
            if size < 0:
                raise OSError(-size, os.strerror(-size))
            yield self._type[0], bytes(ffi.buffer(self._body, size))
