"""What has happened, as `mcrctl events` tells it."""

from typing import Literal

import attrs

Kind = Literal["feed_silent", "feed_back"]


@attrs.frozen
class Event:
    """One thing that happened to a rule.

    Attributes:
        number: from 1, since mcrd was started.
        time: when it was seen, UTC.
        seconds: for how long there was no packet.
    """

    number: int
    time: str
    event: Kind
    rule_id: str
    name: str | None
    seconds: float
