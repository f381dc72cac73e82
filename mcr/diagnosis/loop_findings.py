"""Judges loops over other machines."""

from collections.abc import Iterable, Mapping
from typing import assert_never

from mcr.model.finding import Finding, Verdict
from mcr.model.loop import Loop, Suspicion
from mcr.text.plurals import counted

_NAMING = "a rule that names its senders (--input-source ADDRESS), in place of this one, takes nothing from others"


def with_loops(
    findings: Iterable[Finding], loops: Iterable[Loop | Suspicion], names: Mapping[str, str]
) -> tuple[Finding, ...]:
    """All of them, and what comes back from other machines; that nothing comes back is not so then.

    `names`: of interfaces, at present.
    """
    told = [_judge(each, names.get(each.rule.input.interface, each.rule.input.interface)) for each in loops]
    if not told:
        return tuple(findings)
    fine = ("loop", Verdict.OK)
    return (*(each for each in findings if (each.check, each.verdict) != fine), *told)


def _judge(loop: Loop | Suspicion, interface: str) -> Finding:
    match loop:
        case Loop():
            return _judge_loop(loop, interface)
        case Suspicion():
            return _judge_suspicion(loop, interface)
    assert_never(loop)


def _judge_suspicion(seen: Suspicion, interface: str) -> Finding:
    rule = seen.rule
    return Finding(
        "loop",
        Verdict.ADVICE,
        f"{seen.who} sends rule {rule.label} the same {counted(seen.payloads, 'payload')} again and again, and hardly "
        f"anything else comes in by {interface}: a source that repeats itself, or a loop over another machine that is "
        "so full that nothing new gets in",
        f"a look at {interface}, {seen.ago:,.0f} s ago: {counted(seen.count, 'datagram')} from there within "
        f"{seen.within:.1f} s, {seen.others:,} of others",
        f"if it is no source, take out there the rule that sends to {rule.input.group} on {interface}, or give one "
        f"relay's output ttl=dec, which ends it; {_NAMING}",
    )


def _judge_loop(loop: Loop, interface: str) -> Finding:
    group = loop.rule.input.group
    refused = ", ".join(map(str, loop.refused))
    done, remedy = "", ""
    if refused:
        done, remedy = f", and the rule takes nothing from {refused}", f"; a rule with --input-source {refused} does"
    elif loop.why_not:
        done, remedy = f"; it goes on, as {loop.why_not}", f"; {_NAMING}"
    return Finding(
        "loop",
        Verdict.FAULT,
        f"what rule {loop.rule.label} sends on seems to come back to {interface} from {', '.join(loop.returners)}: a "
        f"loop over another machine{done}",
        f"{_seen(loop, interface)}; noticed {loop.seconds:,.0f} s ago"
        + (f"; mcrctl stats: returned, {loop.dropped:,} of this rule" if refused else ""),
        f"take out there the rule that sends to {group} on {interface}, or give one relay's output ttl=dec, which ends "
        f"it{remedy}",
    )


def _seen(loop: Loop, interface: str) -> str:
    if loop.before:
        fell = f"{loop.before:,.0f} packets a second came from there, and {loop.after:,.0f} once they were refused"
        return f"a trial, {loop.ago:,.0f} s ago: {fell}"
    back = f"{loop.returned:,} of {loop.sent:,} datagrams of others came back within {loop.within:.1f} s"
    return f"a look at {interface}, {loop.ago:,.0f} s ago: {back}"
