"""What has happened, as `mcrctl events` tells it."""

from typing import Literal

import attrs

Kind = Literal["feed_silent", "feed_back", "loss_begins", "loss_ends", "pids_away", "pids_back"]


@attrs.frozen
class Event:
    """One thing that happened to a rule.

    Attributes:
        number: from 1, since mcrd was started.
        time: when it was seen, UTC.
        seconds: for how long there was no packet; of a loss, how long it lasted; of PIDs, for how long some were away.
        lost: packets that are lost so far; None: it is not of a loss.
        unit: of a loss, what is counted: ``rtp`` or ``ts`` packets.
        pids: of a transport stream, those that stay away, or did.
    """

    number: int
    time: str
    event: Kind
    rule_id: str
    name: str | None
    seconds: float
    lost: int | None = None
    unit: Literal["rtp", "ts"] | None = None
    pids: tuple[int, ...] = ()
