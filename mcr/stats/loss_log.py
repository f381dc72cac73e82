"""When packets begin to be missing in streams whose health is watched, and when they come whole again."""

from collections.abc import Collection, Iterable
from typing import Final

import attrs

from mcr.logs.logger import get_logger
from mcr.model.health import StreamHealth
from mcr.model.log import Facility
from mcr.model.rule import Rule
from mcr.relay.placement import PlacedRule
from mcr.rules.change_log import fields_of, some_of

log = get_logger(Facility.STATS)

WHOLE_SECONDS: Final = 10
"""Without a loss, until it is over."""

_FEW = 5  # rules that have a line each


@attrs.frozen
class Loss:
    """Of one rule, up to now: packets, or breaks of continuity where there is no RTP, and how long it lasted."""

    rule: Rule
    lost: int
    seconds: float = 0.0


@attrs.frozen
class LossNews:
    """What began and ended since the last time."""

    begun: tuple[Loss, ...] = ()
    ended: tuple[Loss, ...] = ()


@attrs.define
class _Known:
    lost: int  # so far
    before: int = 0  # when the loss began that lasts
    began: float | None = None
    grew: float = 0.0


class Losses:
    """Of all streams, by the tags of their rules."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def note(self, streams: Collection[tuple[PlacedRule, StreamHealth]], now: float) -> LossNews:
        """What is new, by what is known of all streams that are watched at this time, in seconds."""
        if self._known:
            tags = {placed.tag for placed, _ in streams}
            self._known = {tag: each for tag, each in self._known.items() if tag in tags}
        begun, ended = [], []
        for placed, health in streams:
            lost = _lost(health)
            known = self._known.setdefault(placed.tag, _Known(0))
            if lost < known.lost:  # it is counted anew
                known.lost, known.began = 0, None
            if lost > known.lost:
                if known.began is None:
                    known.before, known.began = known.lost, now
                    begun.append(Loss(placed.rule, lost - known.before))
                known.lost, known.grew = lost, now
            elif known.began is not None and now - known.grew >= WHOLE_SECONDS:
                ended.append(Loss(placed.rule, lost - known.before, round(known.grew - known.began, 1)))
                known.began = None
        return LossNews(tuple(begun), tuple(ended))


def _lost(health: StreamHealth) -> int:
    if health.rtp:
        return health.rtp.lost
    return health.ts.continuity if health.ts else 0


def log_losses(news: LossNews) -> None:
    """Many at once in one line."""
    _log_begun(news.begun)
    _log_ended(news.ended)


def _log_begun(losses: Collection[Loss]) -> None:
    if len(losses) > _FEW:
        log.warning("losses begin: the streams of %d rules come in with packets missing: %s", *_together(losses))
        return
    for each in losses:
        what = "loss begins: the stream of rule %s comes in with packets missing (%d so far)"
        log.warning(what, each.rule.label, each.lost, event="loss_begins", lost=each.lost, **fields_of(each.rule))


def _log_ended(losses: Collection[Loss]) -> None:
    if len(losses) > _FEW:
        log.notice("losses end: the streams of %d rules come in whole again: %s", *_together(losses))
        return
    for each in losses:
        what, fields = "loss ends: the stream of rule %s comes in whole again; %d were missing", fields_of(each.rule)
        log.notice(what, each.rule.label, each.lost, event="loss_ends", lost=each.lost, seconds=each.seconds, **fields)


def _together(losses: Iterable[Loss]) -> tuple[int, str]:
    labels = [each.rule.label for each in losses]
    return len(labels), some_of(labels)
