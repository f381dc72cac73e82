"""Judges whether a rule gets what arrives for it. Pure."""

from collections.abc import Collection, Iterator, Mapping

from mcr.diagnosis import parse_errors
from mcr.diagnosis.outgoing import HEADERS
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import Input
from mcr.model.rule import RuleView
from mcr.model.stats import Stats
from mcr.net.filter.path import LONGEST
from mcr.net.links import Link
from mcr.tap.sighting import Look, Wanted
from mcr.text.plurals import counted


def judge_taking(
    rule: RuleView, look: Look, before: Stats, after: Stats, others: Collection[RuleView]
) -> Iterator[Finding]:
    """What arrives, is it what this relay sent, and is it taken by the rule?"""
    yield from judge_looped(rule, before, after, others)
    yield judge_match(rule, look, before, after, others)


def judge_looped(rule: RuleView, before: Stats, after: Stats, others: Collection[RuleView]) -> Iterator[Finding]:
    """Has what this relay sent come back in where the rule's flow does, within the last minute?"""
    for each in after.interfaces:
        if each.interface == rule.input.interface and parse_errors.loops_now(each):
            returns = parse_errors.is_sent_here(rule, (rule, *others)) or (
                matched(rule, after) <= matched(rule, before) and _loops(rule, after) > _loops(rule, before)
            )
            yield parse_errors.judge_loop(each, concerned=returns)


def judge_path(rule: RuleView, look: Look, links: Mapping[str, Link]) -> Finding:
    """Who forwards it. Either does.

    Args:
        rule: this one.
        look: at the wire.
        links: interfaces of its outputs, by the names that the rule has for them.
    """
    if rule.path_reason:
        return Finding("path", Verdict.OK, "a worker forwards it", rule.path_reason)
    see = "mcrctl list --json: path"
    left = ["comes in fragments"] if look.cut is not None else []
    if (look.payload or 0) + HEADERS[rule.input.group.version] > LONGEST:
        left.append(f"is longer than {LONGEST:,} bytes")
    if longer := _longer_than_mtus(rule, look.payload or 0, links):
        left.append(f"is longer than the MTU of {' and '.join(longer)}")
    if left:
        what = (
            f"the rule takes the kernel path, but what {' or '.join(left)} goes through a worker, as some did just now"
        )
        return Finding("path", Verdict.OK, what, see)
    return Finding("path", Verdict.OK, "the kernel forwards it, without a worker", see)


def _longer_than_mtus(rule: RuleView, payload: int, links: Mapping[str, Link]) -> list[str]:
    """Interfaces of outputs whose MTU the packets exceed that leave there."""
    there = {each.interface: payload + HEADERS[each.group.version] for each in rule.outputs if each.interface in links}
    return [name for name, size in there.items() if size > links[name].mtu]


def _loops(rule: RuleView, stats: Stats) -> int:
    return sum(each.parse_errors.loop for each in stats.interfaces if each.interface == rule.input.interface)


def judge_match(rule: RuleView, look: Look, before: Stats, after: Stats, others: Collection[RuleView] = ()) -> Finding:
    """What arrives, is it taken by the rule?"""
    source = rule.input
    now, grown = matched(rule, after), matched(rule, after) - matched(rule, before)
    if grown > 0:
        see = f"mcrctl stats: matched {now:,}, {grown:,} of them since this began"
        return Finding("matched", Verdict.OK, "the rule takes it", see)
    lost = {
        "kernel_drops": _dropped(source, after) - _dropped(source, before),
        "parse_err": after.ingress.parse_err - before.ingress.parse_err,
        "buf_exhaust": after.ingress.buf_exhaust - before.ingress.buf_exhaust,
    }
    causes = parse_errors.grown(before.ingress.parse_errors, after.ingress.parse_errors)
    remedies = {
        "kernel_drops": "the workers are too slow, or their rings too small: see mcrd supervisor --help",
        "parse_err": "; ".join(
            f"{count:,} {parse_errors.CAUSES[cause][0]}: {parse_errors.CAUSES[cause][1]}"
            for cause, count in causes.items()
        ),
        "buf_exhaust": f"super-frames came faster than they were fetched: sudo ethtool -K {source.interface} gro off",
    }
    frames = Wanted.of(source, (each.input for each in others)).count(look.frames)
    see = f"mcrctl stats: matched stays {now:,} with {counted(frames, 'frame')} on the wire; " + ", ".join(
        f"{each} +{count:,}" for each, count in lost.items()
    )
    if remedy := next((remedies[each] for each, count in lost.items() if count > 0), ""):
        return Finding("matched", Verdict.FAULT, "it arrives, but the rule does not get it", see, remedy)
    what = "it arrives, but no worker has taken it: a worker is stopped, or does not get the CPU"
    remedy = "ask again: mcrd replaces a worker that takes nothing within seconds, and its log says so"
    return Finding("matched", Verdict.FAULT, what, see, remedy)


def matched(rule: RuleView, stats: Stats) -> int:
    """Packets that a rule has matched so far."""
    return sum(each.matched for each in stats.rules if each.rule_id == rule.rule_id)


def _dropped(source: Input, stats: Stats) -> int:
    return sum(each.kernel_drops for each in stats.interfaces if each.interface == source.interface)
