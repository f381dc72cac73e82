"""When packets begin to be lost from streams whose health is watched, before the relay, and when all come again."""

from collections.abc import Collection, Iterable
from typing import Literal

import attrs

from mcr.logs.logger import get_logger
from mcr.model.health import LOSS_SECONDS, StreamHealth
from mcr.model.log import Facility
from mcr.model.rule import Rule
from mcr.relay.placement import PlacedRule
from mcr.rules.change_log import fields_of, some_of
from mcr.stats.away_log import AwayNews, AwayPids
from mcr.text.streams import lost_packets

log = get_logger(Facility.STATS)

_FEW = 5  # rules that have a line each


@attrs.frozen
class Loss:
    """Of one rule, up to now: packets of this kind, and how long it lasted."""

    rule: Rule
    lost: int
    unit: Literal["rtp", "ts"]
    seconds: float = 0.0


@attrs.frozen
class LossNews:
    """What began and ended since the last time."""

    begun: tuple[Loss, ...] = ()
    ended: tuple[Loss, ...] = ()
    away: AwayNews = attrs.field(factory=AwayNews)


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
        self._away = AwayPids()

    def note(self, streams: Collection[tuple[PlacedRule, StreamHealth]], now: float) -> LossNews:
        """What is new, by what is known of all streams that are watched at this time, in seconds."""
        if self._known:
            tags = {placed.tag for placed, _ in streams}
            self._known = {tag: each for tag, each in self._known.items() if tag in tags}
        begun, ended = [], []
        for placed, health in streams:
            lost, unit = health.lost, _unit(health)
            known = self._known.setdefault(placed.tag, _Known(0))
            if lost < known.lost:  # it is counted anew
                known.lost, known.began = 0, None
            if lost > known.lost:
                if known.began is None:
                    known.before, known.began = known.lost, now
                    begun.append(Loss(placed.rule, lost - known.before, unit))
                known.lost, known.grew = lost, now
            elif known.began is not None and now - known.grew >= LOSS_SECONDS:
                ended.append(Loss(placed.rule, lost - known.before, unit, round(known.grew - known.began, 1)))
                known.began = None
        return LossNews(tuple(begun), tuple(ended), self._away.note(streams, now))


def _unit(health: StreamHealth) -> Literal["rtp", "ts"]:
    return "rtp" if health.rtp else "ts"


def log_losses(news: LossNews) -> None:
    """Many at once in one line."""
    _log_begun(news.begun)
    _log_ended(news.ended)


def _log_begun(losses: Collection[Loss]) -> None:
    if len(losses) > _FEW:
        log.warning("losses begin: the streams of %d rules come in with packets lost: %s", *_together(losses))
        return
    for each in losses:
        what, fields = "loss begins: the stream of rule %s comes in with packets lost (%s so far)", fields_of(each.rule)
        lost, counts = lost_packets(each.lost, each.unit), {"lost": each.lost, "unit": each.unit}
        log.warning(what, each.rule.label, lost, event="loss_begins", **counts, **fields)


def _log_ended(losses: Collection[Loss]) -> None:
    if len(losses) > _FEW:
        log.notice("losses end: the streams of %d rules come in whole again: %s", *_together(losses))
        return
    for each in losses:
        what, fields = "loss ends: the stream of rule %s comes in whole again; lost were %s", fields_of(each.rule)
        lost, counts = lost_packets(each.lost, each.unit), {"lost": each.lost, "unit": each.unit}
        log.notice(what, each.rule.label, lost, event="loss_ends", seconds=each.seconds, **counts, **fields)


def _together(losses: Iterable[Loss]) -> tuple[int, str]:
    labels = [each.rule.label for each in losses]
    return len(labels), some_of(labels)
