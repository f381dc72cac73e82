"""Names who may be a loop that is so full that nothing new gets in. That proves nothing, and nobody is refused."""

from collections.abc import Container
from typing import Final

import attrs
import trio

from mcr.actors.damping import CROWDED
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.model.loop import Suspicion
from mcr.relay.placement import PlacedRule
from mcr.rules.change_log import fields_of
from mcr.tap.copies import Crowd
from mcr.tap.returns import Verdict
from mcr.text.plurals import counted

log = get_logger(Facility.NETWORK)

_FORGOTTEN: Final = 180.0  # seconds in which it is not seen
_TOLD_APART: Final = 600.0  # seconds between two lines in the log about a rule


@attrs.frozen
class _Suspect:
    placed: PlacedRule
    crowd: Crowd
    within: float
    seen: float


class Suspicions:
    """All of them, by the tags of rules."""

    def __init__(self) -> None:
        """There are none."""
        self._suspects: dict[int, _Suspect] = {}
        self._told: dict[int, float] = {}

    def heed(self, placed: PlacedRule, rate: float, verdict: Verdict) -> None:
        """A look at a rule has ended: what it has seen takes the place of what was seen before."""
        self._suspects.pop(placed.tag, None)
        crowd, now = verdict.crowd, trio.current_time()
        if crowd is None or rate < CROWDED:
            return
        self._suspects[placed.tag] = _Suspect(placed, crowd, verdict.seconds, now)
        if now < self._told.get(placed.tag, float("-inf")) + _TOLD_APART:
            return
        self._told[placed.tag] = now
        what = (
            "rule %s: %s sends the same %s again and again, and hardly anything else comes in by %s: "
            "a source that repeats itself, or a loop over another machine that is full"
        )
        rule = placed.rule
        payloads = counted(crowd.payloads, "payload")
        log.notice(what, rule.label, crowd.origin, payloads, rule.input.interface, **fields_of(rule))

    def keep(self, tags: Container[int]) -> None:
        """Forget those of all other rules."""
        self._suspects = {tag: each for tag, each in self._suspects.items() if tag in tags}
        self._told = {tag: each for tag, each in self._told.items() if tag in tags}

    def all(self) -> tuple[Suspicion, ...]:
        """Those that were seen lately."""
        now = trio.current_time()
        return tuple(
            Suspicion(
                each.placed.rule,
                str(each.crowd.origin),
                each.crowd.count,
                each.crowd.payloads,
                each.crowd.others,
                each.within,
                now - each.seen,
            )
            for each in self._suspects.values()
            if now - each.seen < _FORGOTTEN
        )
