"""What is asked of the statistics."""

import attrs

from mcr.actors.mailbox import Reply
from mcr.model.event import Event
from mcr.relay.placement import LeavingOutput, PlacedRule
from mcr.stats.captures import Watched
from mcr.stats.moment import Counts, Moment
from mcr.stats.stalls import Checked


@attrs.frozen
class Read:
    """Say what statistics of this moment are made of."""

    reply: Reply[Moment]


@attrs.frozen
class Count:
    """Say what rules have matched."""

    reply: Reply[Counts]


@attrs.frozen
class Idle:
    """Say for how long each rule, by id, has matched nothing."""

    reply: Reply[dict[str, float]]


@attrs.frozen
class Events:
    """Say what has happened since."""

    after: int
    reply: Reply[tuple[Event, ...]]


@attrs.frozen
class CaptureOpened:
    """Count a capture from now on."""

    capture: int
    watched: Watched
    reply: Reply[None]


@attrs.frozen
class CaptureClosing:
    """Count a capture a last time."""

    capture: int
    reply: Reply[None]


@attrs.frozen
class RulesPlaced:
    """Show these rules, and no longer those ids."""

    placed: tuple[PlacedRule, ...]
    removed: tuple[str, ...]


@attrs.frozen
class OutputsClosing:
    """Count these outputs a last time."""

    outputs: tuple[LeavingOutput, ...]
    reply: Reply[None]


@attrs.frozen
class Inherited:
    """Count captures on that another mcrd has left."""

    captures: tuple[tuple[int, Watched], ...]
    reply: Reply[None]


@attrs.frozen
class Save:
    """Leave the counts to the next mcrd."""

    reply: Reply[None]


@attrs.frozen
class Sampled:
    """A round number of packets has come."""


@attrs.frozen
class Stalled:
    """Say which workers take nothing, each once. `weights`: how much this check counts for each."""

    weights: tuple[float, ...]
    reply: Reply[Checked]


@attrs.frozen
class Tick:
    """A second has passed."""


@attrs.frozen
class LinesDue:
    """It is time for [STATS:…] lines."""


Command = (
    Read
    | Count
    | Idle
    | Events
    | Stalled
    | CaptureOpened
    | CaptureClosing
    | RulesPlaced
    | OutputsClosing
    | Inherited
    | Save
    | Sampled
    | Tick
    | LinesDue
)
