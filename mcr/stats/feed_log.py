"""What the log tells of feeds that go and come back."""

from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.rules.change_log import fields_of, some_of
from mcr.stats.activity import SILENT_SECONDS, FeedNews

log = get_logger(Facility.STATS)

_FEW = 5  # rules that have a line each


def log_feeds(news: FeedNews) -> None:
    """Tell what is new; many feeds at once in one line."""
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
