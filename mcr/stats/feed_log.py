"""What is told of feeds that go and come back, or come in broken: by the log, and to whoever asks for events."""

from collections import deque
from datetime import UTC, datetime
from typing import Any

from mcr.logs.logger import get_logger
from mcr.model.event import Event, Kind
from mcr.model.log import Facility
from mcr.model.rule import Rule
from mcr.rules.change_log import fields_of, some_of
from mcr.stats.activity import SILENT_SECONDS, FeedNews
from mcr.stats.away_log import log_away
from mcr.stats.loss_log import LossNews, log_losses

log = get_logger(Facility.STATS)

_FEW = 5  # rules that have a line each
_REMEMBERED = 1_000  # events


class Feeds:
    """Tells what is new, and remembers the newest events."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_REMEMBERED)
        self._number = 0

    def tell(self, news: FeedNews) -> None:
        """Log what is new; many feeds at once in one line."""
        for each in news.silent:
            self._remember("feed_silent", each.rule, float(SILENT_SECONDS))
        for each, seconds in news.back:
            self._remember("feed_back", each.rule, seconds)
        _log_feeds(news)

    def tell_losses(self, news: LossNews) -> None:
        """Likewise of losses, and of PIDs that stay away."""
        for each in news.begun:
            self._remember("loss_begins", each.rule, each.seconds, lost=each.lost, unit=each.unit)
        for each in news.ended:
            self._remember("loss_ends", each.rule, each.seconds, lost=each.lost, unit=each.unit)
        log_losses(news)
        for gone in news.away.gone:
            self._remember("pids_away", gone.rule, gone.seconds, pids=gone.pids)
        for back in news.away.back:
            self._remember("pids_back", back.rule, back.seconds, pids=back.pids)
        log_away(news.away)

    def _remember(self, kind: Kind, rule: Rule, seconds: float, **more: Any) -> None:
        self._number += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._events.append(Event(self._number, now, kind, rule.rule_id, rule.name, round(seconds, 1), **more))

    def after(self, number: int) -> tuple[Event, ...]:
        """Events with higher numbers that are remembered."""
        return tuple(each for each in self._events if each.number > number)


def _log_feeds(news: FeedNews) -> None:
    if len(news.silent) > _FEW:
        rules = some_of([each.rule.label for each in news.silent])
        log.warning("feeds silent: %d rules have had no packet for %d s: %s", len(news.silent), SILENT_SECONDS, rules)
    else:
        for each in news.silent:
            what = "feed silent: rule %s has had no packet for %d s"
            log.warning(what, each.rule.label, SILENT_SECONDS, event="feed_silent", **fields_of(each.rule))
    if len(news.back) > _FEW:
        rules = some_of([each.rule.label for each, _ in news.back])
        log.notice("feeds back: %d rules have packets again: %s", len(news.back), rules)
    else:
        for each, seconds in news.back:
            what, fields = "feed back: rule %s has packets again, after %.0f s", fields_of(each.rule)
            log.notice(what, each.rule.label, seconds, event="feed_back", seconds=round(seconds, 1), **fields)
