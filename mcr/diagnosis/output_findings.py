"""Judges outputs: what was not sent, and why. Pure."""

import errno
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final

import attrs

from mcr.diagnosis.send_errors import explain_error, is_lately, last_errno, newest_error
from mcr.model.finding import Finding, Verdict
from mcr.model.stats import OutputStats, Stats
from mcr.net.links import Link
from mcr.text.addresses import span_text
from mcr.text.plurals import counted, were

_HALF = 0.5
"""Beyond that it no longer relays."""

_APART: Final = 3.0
"""Seconds. When a rule had its newest packet is known to one, and at times later."""


@attrs.frozen
class _Failing:
    """An output that had errors; the seconds since the newest packet of its rule, None: not known."""

    output: OutputStats
    fed_ago: float | None

    def has_sent_since(self, ago: float) -> bool:
        """Whether it was owed something less than so many seconds ago, and has had no error since: it was sent."""
        return self.fed_ago is not None and self.fed_ago + _APART < ago


def judge_outputs(stats: Stats, links: Mapping[str, Link]) -> tuple[Finding, ...]:
    """Whether the outputs took what they were owed; those of one interface and error together."""
    failing: defaultdict[tuple[str, int | None, bool], list[_Failing]] = defaultdict(list)
    for rule in stats.rules:
        for output in rule.outputs:
            if output.errors:
                key = output.interface, last_errno(output), is_lately(output)
                failing[key].append(_Failing(output, rule.last_packet_ago))
    if failing:
        return tuple(_failing(name, number, outputs, links.get(name)) for (name, number, _), outputs in failing.items())
    if stats.egress.errors:
        packets = counted(stats.egress.errors, "packet")
        return (
            Finding(
                "egress_errors",
                Verdict.OK,
                f"{packets} {were(stats.egress.errors)} not sent to outputs that have been removed since",
                f"mcrctl stats: errors={stats.egress.errors}",
            ),
        )
    return (Finding("egress_errors", Verdict.OK, "No output has had errors", "mcrctl stats: errors=0"),)


def refused_outputs(stats: Stats) -> tuple[str, ...]:
    """Outputs whose last error, lately, was that sending is not permitted."""
    return tuple(
        _named(output)
        for rule in stats.rules
        for output in rule.outputs
        if last_errno(output) == errno.EPERM and is_lately(output)
    )


def _named(output: OutputStats) -> str:
    tag = "" if output.vlan is None else f":vlan={output.vlan}"
    return f"{span_text(output.group, output.port, output.prefix, output.last_port)}:{output.interface}{tag}"


def _failing(name: str, number: int | None, those: list[_Failing], link: Link | None) -> Finding:
    outputs = [each.output for each in those]
    counts: Counter[str] = Counter()
    for output in outputs:
        counts.update(submitted=output.submitted, errors=output.errors, in_doubt=output.in_doubt)
    sent_now, errors_now = sum(each.pps for each in outputs), sum(each.error_pps for each in outputs)
    linked = link is not None and link.up and link.running
    broken = not linked or errors_now > _HALF * (errors_now + sent_now)
    mended = _mended(number, those) if linked and not errors_now else ""
    first = _named(outputs[0])
    which = first if len(outputs) == 1 else f"{len(outputs):,} outputs on {name}, among them {first}"
    doubt, failed = counts["in_doubt"], counts["errors"] - counts["in_doubt"]
    what = f"{counted(failed, 'packet')} ({failed / counts['submitted']:.2%}) {were(failed)} not sent to {which}"
    in_hand = f"may or may not have left: a worker had {'it' if doubt == 1 else 'them'} in hand when it died"
    if doubt and not failed:
        what = f"{counted(doubt, 'packet')} ({doubt / counts['submitted']:.2%}) to {which} {in_hand}"
    elif doubt:
        what += f"; {doubt:,} more {in_hand}"
    cause, remedy = explain_error(number, name, outputs[0].group) or ("", "")
    what += newest_error(outputs) + (f", {cause}" if cause else "")
    if errors_now:
        what += f"; now {errors_now / (errors_now + sent_now):.2%} of what is due"
    elif mended:
        what += f"; {mended}"
    evidence = f"mcrctl stats: errors={counts['errors']}"
    over = mended and number in _OF_INTERFACES
    if over or not is_lately(outputs[0]):  # of a worker that died the finding `workers` tells
        return Finding("egress_errors", Verdict.OK, what, evidence)
    return Finding(
        "egress_errors",
        Verdict.FAULT if broken else Verdict.ADVICE,
        what,
        evidence,
        remedy,
    )


def _mended(number: int | None, those: list[_Failing]) -> str:
    """How it shows, where the interface is up and nothing fails now, that the errors are over; empty: it does not."""
    if any(each.output.pps > 0 for each in those):
        return "now all is sent"
    newest = min((each.output.last_error.ago for each in those if each.output.last_error), default=0.0)
    if any(each.has_sent_since(newest) for each in those):
        return "what has come since was sent"
    return "the interface is up again" if number in _OF_LINKS else ""


_OF_LINKS: Final = {errno.ENETDOWN, errno.ENODEV, errno.ENXIO}
"""Errors of an interface that was down, or was not there."""
_OF_INTERFACES: Final = _OF_LINKS | {errno.ENETUNREACH, errno.EHOSTUNREACH}
"""Errors that are over once something is sent: it was the way out that was missing."""
