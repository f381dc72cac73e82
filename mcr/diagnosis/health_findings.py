"""Judges how streams come in whose health is watched. Pure: from counters to findings."""

from collections.abc import Iterator
from typing import Final

from mcr.model.finding import Finding, Verdict
from mcr.model.health import StreamHealth
from mcr.model.stats import RuleStats, Stats
from mcr.text.plurals import counted
from mcr.text.streams import lost_packets, pids_text

_NAMED: Final = 3  # rules in one finding
_UPSTREAM: Final = "the relay forwards what comes: look at the sender, and at the switches and cards on the way here"
_RECENT_SECONDS: Final = 300
"""For so long after a loss it is advice: as long as the alerts of Prometheus last."""


def judge_stream(rule: RuleStats) -> Iterator[Finding]:
    """The stream of one rule."""
    health = rule.health
    if health is None:
        return
    evidence = f"mcrctl stats {rule.rule_id}"
    if what := _trouble(health):
        yield Finding("stream_health", Verdict.ADVICE, f"Its stream comes in broken: {what}", evidence, _UPSTREAM)
        return
    if stopped := [*judge_stopped_stream(rule)]:
        yield from stopped
        return
    whole = "comes in whole" if health.packets else "is watched, and nothing of it has come"
    so_far = f"{counted(health.packets, 'datagram')} looked at since it is watched, {_lost(health)}"
    yield Finding("stream_health", Verdict.OK, f"Its stream {whole}", f"{evidence}: {so_far}")


def judge_stopped_stream(rule: RuleStats) -> Iterator[Finding]:
    """What is to say also while nothing comes: that its health is not watched, or what was wrong not long ago."""
    if rule.health is None:
        return
    see = f"mcrctl stats {rule.rule_id}"
    if rule.health.reason:
        what = f"The health of its stream is not watched: {rule.health.reason}"
        yield Finding("stream_health", Verdict.ADVICE, what, see)
    elif what := _past(rule.health):
        yield Finding("stream_health", Verdict.ADVICE, f"Its stream came in broken: {what}", see, _UPSTREAM)


def judge_streams(stats: Stats) -> Iterator[Finding]:
    """The streams of all rules, in one finding of each kind; none if no stream is watched."""
    watched = [(rule, rule.health) for rule in stats.rules if rule.health]
    unknown = [(rule, health.reason) for rule, health in watched if health.reason]
    broken = [(rule, what) for rule, health in watched if (what := _trouble(health))]
    past = [(rule, what) for rule, health in watched if not _trouble(health) and (what := _past(health))]
    for verb, those in (
        ("is not watched", unknown),
        ("is bad: it comes in broken", broken),
        ("was bad: it came in broken", past),
    ):
        if those:
            (first, why), more = those[0], len(those) - 1
            rules = f"rule {first.rule_id}" + (f" and of {more:,} more" if more else "")
            what = f"The health of the stream of {rules} {verb}: {why}"
            ask = "" if those is unknown else _UPSTREAM
            ids = ", ".join(rule.rule_id for rule, _ in those[:_NAMED])
            yield Finding("stream_health", Verdict.ADVICE, what, f"mcrctl stats: {ids}", ask)
    if watched and not unknown and not broken and not past:
        what = f"{counted(len(watched), 'stream')} watched, nothing lost within the last five minutes"
        yield Finding("stream_health", Verdict.OK, what, "mcrctl stats")


def _trouble(health: StreamHealth) -> str:
    """What is wrong with it now."""
    parts = [_lost(health)] if health.is_losing else []
    if health.away:
        parts.append(f"{pids_text(health.away)} of its transport stream {'stay' if health.away[1:] else 'stays'} away")
    return "; ".join(parts)


def _past(health: StreamHealth) -> str:
    """What was wrong with it not long ago."""
    return _lost(health) if health.lost_age is not None and health.lost_age < _RECENT_SECONDS else ""


def _lost(health: StreamHealth) -> str:
    lost = f"{lost_packets(health.lost, health.kind)} lost"
    if health.lost_age is None:
        return lost
    return f"{lost}, the last {_ago(health.lost_age)} ago"


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"
