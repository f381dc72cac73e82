"""The health of a stream: how it comes in at its rule's input, before the relay has touched it."""

from enum import StrEnum
from typing import Final

import attrs

from mcr.errors import InvalidParams

LOSS_SECONDS: Final = 10
"""A loss is over when none came for so long."""

SILENT_SECONDS: Final = 5
"""Of a stream of which nothing has come for so long no PID is told as being away: all of them are."""


class Health(StrEnum):
    """What a rule has watched of its stream."""

    NONE = "none"
    AUTO = "auto"
    """It is found out what the stream is."""
    RTP = "rtp"
    TS = "ts"
    """An MPEG transport stream, in RTP or not."""

    @classmethod
    def parse(cls, text: object, what: str = "health") -> "Health":
        """A value that somebody has written.

        Raises:
            InvalidParams: it is none.
        """
        if not isinstance(text, str) or text not in [*cls]:
            raise InvalidParams(f"Invalid {what}: {text!r}", "auto, rtp, ts, or none")
        return cls(text)


@attrs.frozen
class Gaps:
    """Seconds between two datagrams, over the last half minute to minute."""

    median: float
    p99: float
    longest: float


@attrs.frozen
class RtpHealth:
    """RTP packets (RFC 3550), by their sequence numbers."""

    lost: int
    """Did not come within a tenth of a second after later ones."""
    late: int
    """Came after they were counted as lost."""
    reordered: int
    """Came behind later ones, in time."""
    duplicates: int
    restarts: int
    """Another sender (SSRC), or sequence numbers from elsewhere."""
    jitter: float | None
    """Interarrival jitter, seconds; None: the clock of the media is not known."""


@attrs.frozen
class TsHealth:
    """Errors of an MPEG transport stream (TR 101 290). One that lasts counts once."""

    continuity: int
    """1.4: continuity counters that do not follow each other."""
    sync_losses: int
    """1.1"""
    sync_bytes: int
    """1.2: packets that do not begin with 0x47."""
    pat: int
    """1.3: no PAT for half a second."""
    pmt: int
    """1.5: no PMT of a program for half a second."""
    pid: int
    """1.6: PIDs that a PMT refers to, and that did not come for five seconds."""
    transport: int
    """2.1: packets marked as damaged before they were sent here."""
    pat_age: float | None
    """Seconds since the last PAT; None: there was none."""
    pmt_age: float | None
    """Of the PMT that has been away longest; None: one was never there, or there is no program."""
    away: tuple[int, ...] = ()
    """PIDs that have stayed away for 5 s: the PAT's (0), those of PMTs, and those that PMTs refer to; 8 at most.

    While nothing comes at all: none.
    """


@attrs.frozen
class Mdi:
    """The Media Delivery Index (RFC 4445) of the last second, and the highest of the last half minute to minute."""

    delay_factor: float
    """Seconds that a receiver has to buffer."""
    loss_rate: int
    """Media packets that are missing, per second."""
    longest_delay_factor: float
    highest_loss_rate: int


@attrs.frozen
class StreamHealth:
    """The health of one rule's stream. Counts begin when it is watched, or when mcrd was started.

    Attributes:
        watched: what the rule asks for.
        reason: why nothing is known; empty: something is.
        kind: ``rtp``, ``ts``, ``rtp+ts``, or ``unknown``.
        packets: datagrams that were looked at.
        unseen: datagrams that came and could not be looked at: what is told of them found no room.
        other: datagrams that are not of this kind.
        stalls: gaps of 50 ms or more that are ten times as long as usual.
        lost: packets that did not come: RTP packets, or where there is no RTP those of the transport stream, by
            continuity counters. It goes on from there when a stream becomes one of another kind.
        lost_age: seconds since one was last found to be lost; None: none was.
    """

    watched: Health
    reason: str = ""
    kind: str = "unknown"
    packets: int = 0
    unseen: int = 0
    other: int = 0
    stalls: int = 0
    lost: int = 0
    gaps: Gaps | None = None
    rtp: RtpHealth | None = None
    ts: TsHealth | None = None
    mdi: Mdi | None = None
    lost_age: float | None = None

    @property
    def is_losing(self) -> bool:
        """Packets have been lost within the last seconds."""
        return self.lost_age is not None and self.lost_age < LOSS_SECONDS

    @property
    def away(self) -> tuple[int, ...]:
        """PIDs that stay away now."""
        return self.ts.away if self.ts else ()
