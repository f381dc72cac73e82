"""What the capture filter tells of streams whose health is watched, and who analyses it (native/health/tap.h).

The filter sees each datagram before either path does, so what is told is how the stream came in. A thread reads it, in
C: it takes neither the interpreter's lock nor anything of the packet path.
"""

import os
import time
from threading import Lock, Thread
from typing import Any, Final, Self

from mcr._native import ffi, lib
from mcr.errors import check_result
from mcr.model.flow import Flow
from mcr.model.health import SILENT_SECONDS, Gaps, Health, Mdi, RtpHealth, StreamHealth, TsHealth
from mcr.shm.flows import make_flow

_KINDS: Final = {Health.AUTO: 0, Health.RTP: lib.MCR_STREAM_RTP, Health.TS: lib.MCR_STREAM_TS}
_NS: Final = 1_000_000_000


class StreamTap:
    """The streams, by their rules' slots. A context manager: leaving it ends the thread.

    Maps and thread are made with the first stream, and end with the last one.
    """

    def __init__(self) -> None:
        self._maps: Any = None
        self._tap: Any = None
        self._thread: Thread | None = None
        self._slots: set[int] = set()
        self._told: set[tuple[int, Flow]] = set()  # of captures
        self._reasons: dict[int, str] = {}
        self._lock = Lock()  # of what is opened and closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop()
        if self._thread:
            self._thread.join()

    def maps(self, capture: int) -> Any:
        """For the filter's programs of a capture; NULL while no stream of it is watched."""
        return self._maps if self._maps and capture in self.captures else ffi.NULL

    @property
    def captures(self) -> set[int]:
        """Those of whose streams some are watched."""
        return {capture for capture, _ in self._told}

    def begin(self, slot: int, health: Health) -> None:
        """Watch a stream, from zero.

        Raises:
            OSError: this kernel can't, or there is no memory.
        """
        self._reasons.pop(slot, None)
        with self._lock:
            if not self._tap:
                self._open()
            check_result(lib.mcr_tap_begin(self._tap, slot, _KINDS[health]))
            self._slots.add(slot)

    def tell(self, slot: int, capture: int, flow: Flow) -> None:
        """Have its filters tell of a flow as this stream.

        Raises:
            OSError: there is no memory.
        """
        check_result(lib.mcr_bpf_tap_put(self._maps, make_flow(flow, capture), slot))
        self._told.add((capture, flow))

    def tell_no_more(self, capture: int, flow: Flow) -> None:
        """Have filters tell nothing of a flow."""
        self._told.discard((capture, flow))
        if self._maps:
            lib.mcr_bpf_tap_drop(self._maps, make_flow(flow, capture))

    def end(self, slot: int) -> None:
        """Watch a stream no more."""
        self._reasons.pop(slot, None)
        self._slots.discard(slot)
        with self._lock:
            if self._tap:
                lib.mcr_tap_end(self._tap, slot)

    def rest(self) -> None:
        """Let go of everything while no stream is watched. No filter that tells of one is to be attached any more."""
        if not self._slots:
            self._stop()

    def _stop(self) -> None:
        """The thread closes what it uses, within its next look at the ring."""
        with self._lock:
            if self._tap:
                lib.mcr_tap_stop(self._tap)
            self._tap = self._maps = None

    def refuse(self, slot: int, reason: str) -> None:
        """Say why nothing can be known of a stream."""
        self.end(slot)
        self._reasons[slot] = reason

    def read(self, slot: int, watched: Health) -> StreamHealth:
        """What is known of a stream, as of now."""
        figures = ffi.new("struct mcr_figures *")
        with self._lock:
            found = self._tap and lib.mcr_tap_read(self._tap, slot, figures)
        if not found:
            return StreamHealth(watched, reason=self._reasons.get(slot, ""))
        return _health(watched, figures, time.monotonic_ns())

    def _open(self) -> None:
        maps = ffi.new("struct mcr_bpf_tap *")
        check_result(lib.mcr_bpf_tap_open(maps))
        tap = lib.mcr_tap_open(maps)
        if not tap:
            error = ffi.errno
            lib.mcr_bpf_tap_close(maps)
            raise OSError(error, os.strerror(error))
        self._maps, self._tap = maps, tap
        self._thread = Thread(target=_analyse, args=(tap, maps), name="stream health", daemon=True)
        self._thread.start()


def _analyse(tap: Any, maps: Any) -> None:
    lib.mcr_tap_run(tap)
    lib.mcr_tap_close(tap)
    lib.mcr_bpf_tap_close(maps)


def _health(watched: Health, figures: Any, now: int) -> StreamHealth:
    rtp, ts = figures.kind & lib.MCR_STREAM_RTP, figures.kind & lib.MCR_STREAM_TS
    kinds = [name for name, is_so in (("rtp", rtp), ("ts", ts)) if is_so]
    return StreamHealth(
        watched,
        kind="+".join(kinds) or "unknown",
        packets=figures.packets,
        unseen=figures.unseen,
        other=figures.other,
        stalls=figures.stalls,
        lost=figures.lost,
        lost_age=_age(figures.lost_time, now),
        gaps=Gaps(*map(_seconds, (figures.gap_median, figures.gap_99, figures.gap_longest)))
        if figures.packets > 1
        else None,
        rtp=_rtp_health(figures) if rtp else None,
        ts=_ts_health(figures, now) if ts else None,
        mdi=Mdi(
            delay_factor=_seconds(figures.delay_factor),
            loss_rate=figures.loss_rate,
            longest_delay_factor=_seconds(figures.delay_factor_highest),
            highest_loss_rate=figures.loss_rate_highest,
        )
        if figures.delay_factor_highest
        else None,
    )


def _rtp_health(figures: Any) -> RtpHealth:
    return RtpHealth(
        lost=figures.lost,
        late=figures.late,
        reordered=figures.reordered,
        duplicates=figures.duplicates,
        restarts=figures.restarts,
        jitter=_seconds(figures.jitter) if figures.has_clock else None,
    )


def _ts_health(figures: Any, now: int) -> TsHealth:
    return TsHealth(
        continuity=figures.continuity,
        sync_losses=figures.sync_losses,
        sync_bytes=figures.sync_bytes,
        pat=figures.pat_errors,
        pmt=figures.pmt_errors,
        pid=figures.pid_errors,
        transport=figures.transport,
        pat_age=_age(figures.pat_time, now),
        pmt_age=_age(figures.pmt_time, now),
        away=() if now - figures.newest > SILENT_SECONDS * _NS else tuple(figures.away[0 : figures.away_count]),
    )


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / _NS


def _age(moment: int, now: int) -> float | None:
    return round(max(now - moment, 0) / _NS, 3) if moment else None
