"""Judges loops over other machines."""

from collections.abc import Iterable

from mcr.model.finding import Finding, Verdict
from mcr.model.loop import Loop


def judge_loops_by_others(loops: Iterable[Loop]) -> tuple[Finding, ...]:
    """What rules send and other machines send back."""
    return tuple(map(_judge, loops))


def _judge(loop: Loop) -> Finding:
    source = loop.rule.input
    return Finding(
        "loop",
        Verdict.FAULT,
        f"what rule {loop.rule.label} sends comes back to {source.interface} by other machines: a loop; "
        "what comes back ends here",
        f"mcrctl stats --json: {source.interface}: loop_by_others, {loop.returned:,} more in {loop.seconds:,.0f} s, "
        f"the last one {loop.ago:,.0f} s ago",
        f"find who sends it to {source.group} on {source.interface}, by the address that the log names: a relay, or "
        "a bridge; take one of the two rules away, or give the outputs of both relays ttl=dec",
    )


def with_loops(findings: Iterable[Finding], loops: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """All of them; that nothing comes back is not so then."""
    if not loops:
        return tuple(findings)
    fine = ("loop", Verdict.OK)
    return (*(each for each in findings if (each.check, each.verdict) != fine), *loops)
