"""When PIDs of transport streams whose health is watched stay away, and when all of them come again."""

from collections.abc import Collection, Iterable
from typing import Final

import attrs

from mcr.logs.logger import get_logger
from mcr.model.health import LOSS_SECONDS, StreamHealth
from mcr.model.log import Facility
from mcr.model.rule import Rule
from mcr.relay.placement import PlacedRule
from mcr.rules.change_log import fields_of, some_of
from mcr.text.streams import pids_text

log = get_logger(Facility.STATS)

_FEW: Final = 5  # rules that have a line each


@attrs.frozen
class Away:
    """PIDs of one rule's stream, and for how many seconds some of them were away."""

    rule: Rule
    pids: tuple[int, ...]
    seconds: float = 0.0


@attrs.frozen
class AwayNews:
    """What is new since the last time: PIDs that stay away, and streams of which none does any more."""

    gone: tuple[Away, ...] = ()
    back: tuple[Away, ...] = ()


@attrs.define
class _Known:
    pids: set[int]
    began: float
    last: float  # when one was last away
    packets: int  # that came, up to the last look


class AwayPids:
    """Of all streams, by the tags of their rules. They are back when for some seconds none was away.

    What is known of a stream stays as it is while nothing of it comes.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def note(self, streams: Collection[tuple[PlacedRule, StreamHealth]], now: float) -> AwayNews:
        """What is new, by what is known of all streams that are watched at this time, in seconds."""
        tags = {placed.tag for placed, _ in streams} if self._known else set()
        self._known = {tag: each for tag, each in self._known.items() if tag in tags}
        gone, back = [], []
        for placed, health in streams:
            known = self._known.get(placed.tag)
            if health.away:
                known = self._known.setdefault(placed.tag, _Known(set(), now, now, health.packets))
                known.last = now
                if fresh := [pid for pid in health.away if pid not in known.pids]:
                    known.pids.update(fresh)
                    gone.append(Away(placed.rule, tuple(fresh)))
            elif known and known.packets != health.packets and now - known.last >= LOSS_SECONDS:
                back.append(Away(placed.rule, tuple(sorted(known.pids)), round(known.last - known.began, 1)))
                del self._known[placed.tag]
            if known:
                known.packets = health.packets
        return AwayNews(tuple(gone), tuple(back))


def log_away(news: AwayNews) -> None:
    """Many at once in one line."""
    if len(news.gone) > _FEW:
        log.warning("PIDs away: in the streams of %d rules PIDs stay away: %s", *_together(news.gone))
    else:
        for each in news.gone:
            what, fields = "PIDs away: in the stream of rule %s: %s", fields_of(each.rule)
            log.warning(what, each.rule.label, pids_text(each.pids), event="pids_away", pids=[*each.pids], **fields)
    if len(news.back) > _FEW:
        log.notice("PIDs back: in the streams of %d rules no PID stays away: %s", *_together(news.back))
    else:
        for each in news.back:
            what, fields = "PIDs back: in the stream of rule %s no PID stays away: %s did", fields_of(each.rule)
            log.notice(what, each.rule.label, pids_text(each.pids), event="pids_back", pids=[*each.pids], **fields)


def _together(those: Iterable[Away]) -> tuple[int, str]:
    labels = [each.rule.label for each in those]
    return len(labels), some_of(labels)
