"""Judges how streams come in whose health is watched. Pure: from counters to findings."""

from collections.abc import Iterator
from typing import Final

from mcr.model.finding import Finding, Verdict
from mcr.model.health import StreamHealth
from mcr.model.stats import RuleStats, Stats
from mcr.text.plurals import counted

_NAMED: Final = 3  # rules in one finding
_UPSTREAM: Final = "the relay forwards what comes: look at the sender, and at the switches and cards on the way here"


def judge_stream(rule: RuleStats) -> Iterator[Finding]:
    """The stream of one rule."""
    health = rule.health
    if health is None:
        return
    evidence = f"mcrctl stats {rule.rule_id}"
    if health.reason:
        what = f"The health of its stream is not watched: {health.reason}"
        yield Finding("stream_health", Verdict.ADVICE, what, evidence)
        return
    if what := _trouble(health):
        yield Finding("stream_health", Verdict.ADVICE, f"Its stream comes in broken: {what}", evidence, _UPSTREAM)
        return
    whole = "comes in whole" if health.packets else "is watched, and nothing of it has come"
    so_far = f"{counted(health.packets, 'datagram')} looked at, {health.lost:,} missing since it is watched"
    yield Finding("stream_health", Verdict.OK, f"Its stream {whole}", f"{evidence}: {so_far}")


def judge_streams(stats: Stats) -> Iterator[Finding]:
    """The streams of all rules, in one finding of each kind; none if no stream is watched."""
    watched = [(rule, rule.health) for rule in stats.rules if rule.health]
    unknown = [(rule, health.reason) for rule, health in watched if health.reason]
    broken = [(rule, what) for rule, health in watched if (what := _trouble(health))]
    for verb, those in (("is not watched", unknown), ("is bad: it comes in broken", broken)):
        if those:
            (first, why), more = those[0], len(those) - 1
            rules = f"rule {first.rule_id}" + (f" and of {more:,} more" if more else "")
            what = f"The health of the stream of {rules} {verb}: {why}"
            ask = "" if those is unknown else _UPSTREAM
            ids = ", ".join(rule.rule_id for rule, _ in those[:_NAMED])
            yield Finding("stream_health", Verdict.ADVICE, what, f"mcrctl stats: {ids}", ask)
    if watched and not unknown and not broken:
        what = f"{counted(len(watched), 'stream')} watched, nothing missing within the last half minute"
        yield Finding("stream_health", Verdict.OK, what, "mcrctl stats")


def _trouble(health: StreamHealth) -> str:
    """What is wrong with it now, or was within the last half minute."""
    if health.mdi and health.mdi.highest_loss_rate:
        return f"up to {health.mdi.highest_loss_rate:,} packets per second were missing, {health.lost:,} in all"
    return ""
