"""What has happened, as `mcrctl events` tells it."""

from typing import Literal

import attrs

Kind = Literal["feed_silent", "feed_back", "loss_begins", "loss_ends"]


@attrs.frozen
class Event:
    """One thing that happened to a rule.

    Attributes:
        number: from 1, since mcrd was started.
        time: when it was seen, UTC.
        seconds: for how long there was no packet; of a loss, how long it lasted.
        lost: packets that were missing so far, or breaks of continuity where there is no RTP; None: it is of a feed.
    """

    number: int
    time: str
    event: Kind
    rule_id: str
    name: str | None
    seconds: float
    lost: int | None = None
