"""Judges loops over other machines."""

from collections.abc import Iterable, Mapping

from mcr.model.finding import Finding, Verdict
from mcr.model.loop import Loop


def with_loops(findings: Iterable[Finding], loops: Iterable[Loop], names: Mapping[str, str]) -> tuple[Finding, ...]:
    """All of them, and what comes back from other machines; that nothing comes back is not so then.

    `names`: of interfaces, at present.
    """
    told = [_judge(each, names.get(each.rule.input.interface, each.rule.input.interface)) for each in loops]
    if not told:
        return tuple(findings)
    fine = ("loop", Verdict.OK)
    return (*(each for each in findings if (each.check, each.verdict) != fine), *told)


def _judge(loop: Loop, interface: str) -> Finding:
    group = loop.rule.input.group
    refused = ", ".join(map(str, loop.refused))
    done, remedy = "", ""
    if refused:
        done, remedy = f", and the rule takes nothing from {refused}", f"; a rule with --input-source {refused} does"
    elif loop.why_not:
        done = f"; it goes on, as {loop.why_not}"
    return Finding(
        "loop",
        Verdict.FAULT,
        f"what rule {loop.rule.label} sends on seems to come back to {interface} from {', '.join(loop.returners)}: a "
        f"loop over another machine{done}",
        f"a look at {interface}, {loop.ago:,.0f} s ago: {loop.returned:,} of {loop.sent:,} datagrams of others came "
        f"back within {loop.within:.1f} s; noticed {loop.seconds:,.0f} s ago"
        + (f"; mcrctl stats: returned, {loop.dropped:,} of this rule" if refused else ""),
        f"take out there the rule that sends to {group} on {interface}, or give one relay's output ttl=dec, which ends "
        f"it{remedy}",
    )
