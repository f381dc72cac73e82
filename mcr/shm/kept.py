"""What outlives mcrd, so that the next one goes on where it ended: shared memory, and the store of descriptors."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final, Self

import attrs

from mcr._native import lib
from mcr.process.descriptor_store import DescriptorStore
from mcr.shm.memo import Memo
from mcr.shm.places import Places
from mcr.shm.segment import Segment

_NOTES: Final = 3  # layout of what the notes say
_LAYOUT: Final = [lib.MCR_ABI_VERSION, _NOTES]

_SEGMENT, _PLACES, _CAPTURES, _COUNTS = "segment", "places", "captures", "counts"
_KERNEL = "kernel."  # what the kernel path has counted (mcr.shm.kernel_counters), by the places


@attrs.frozen
class Kept:
    """All of it. A context manager: leaving it closes what is mcrd's own.

    Attributes:
        store: of descriptors.
        segments: one per worker.
        places: of the rules in the segments.
        captures: the relay's note.
        counts: the statistics' note.
        unfit: why what another mcrd has left can't be used; empty: it can, or nothing was left.
        inherited: another mcrd has left it.
    """

    store: DescriptorStore
    segments: Sequence[Segment]
    places: Places
    captures: Memo
    counts: Memo
    unfit: str = ""
    inherited: bool = False

    @classmethod
    def open(cls, store: DescriptorStore, workers: int, hold_us: int = 0, batch: int = 32) -> Self:
        """Go on with what another mcrd has left, all of it; or make it anew."""
        unfit = ""
        if store.inherited(_SEGMENT):
            try:
                return cls._adopt(store, workers, hold_us, batch)
            except (ValueError, OSError) as error:
                unfit = str(error)
        for prefix in (_SEGMENT, _PLACES, _CAPTURES, _COUNTS, _KERNEL):
            store.close_inherited(prefix)
        segments = [Segment(worker_id, hold_us, batch, workers=workers) for worker_id in range(workers)]
        kept = cls(store, segments, Places.make(), Memo.make("mcr-captures"), Memo.make("mcr-counts"), unfit)
        kept.note_captures({})
        kept.note_counts({})
        kept.put()
        return kept

    @classmethod
    def _adopt(cls, store: DescriptorStore, workers: int, hold_us: int, batch: int) -> Self:
        if len(store.inherited(f"{_SEGMENT}.")) != workers:
            raise ValueError(f"it ran {len(store.inherited(f'{_SEGMENT}.'))} workers, this one runs {workers}")
        with ExitStack() as undo:

            def take(name: str) -> int:
                fd = store.take(name)
                if fd is None:
                    raise ValueError(f"{name} is missing")
                undo.callback(store.refuse, name, fd)
                return fd

            captures, counts = Memo(take(_CAPTURES)), Memo(take(_COUNTS))
            for memo in (captures, counts):
                _check(memo.read())
            places = Places.adopt(take(_PLACES))
            segments = [
                Segment(worker_id, hold_us, batch, workers=workers, inherited=take(f"{_SEGMENT}.{worker_id}"))
                for worker_id in range(workers)
            ]
            undo.pop_all()
        kept = cls(store, segments, places, captures, counts, inherited=True)
        kept.put()
        return kept

    def put(self) -> None:
        """Leave it to the next mcrd."""
        for worker_id, segment in enumerate(self.segments):
            self.store.put(f"{_SEGMENT}.{worker_id}", segment.fd)
        for name, each in ((_PLACES, self.places), (_CAPTURES, self.captures), (_COUNTS, self.counts)):
            self.store.put(name, each.fd)

    def note_captures(self, value: dict[str, Any]) -> None:
        """Have the relay's note say this."""
        self.captures.write({"layout": _LAYOUT, **value})

    def note_counts(self, value: dict[str, Any]) -> None:
        """Have the statistics' note say this."""
        self.counts.write({"layout": _LAYOUT, **value})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for segment in self.segments:
            segment.close()
        for each in (self.places, self.captures, self.counts):
            each.close()


def _check(note: Any) -> None:
    if not isinstance(note, dict) or note.get("layout") != _LAYOUT:
        found = note.get("layout") if isinstance(note, dict) else None
        raise ValueError(f"shared memory has layout {found}, this mcrd has {_LAYOUT}")
