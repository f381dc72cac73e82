"""Judges `parse_err` by its causes. One of them is a loop, which is a fault of the network."""

from collections.abc import Collection, Iterable
from typing import Final

import attrs

from mcr.model.finding import Finding, Verdict
from mcr.model.rule import RuleView
from mcr.model.span_index import SpanIndex
from mcr.model.stats import InterfaceStats, ParseErrors, Stats

_LOOPS_NOW: Final = 60.0
"""Seconds after the last looped datagram until a loop counts as over."""

_GOES_ON: Final = 10.0
"""The same, where no rule is left that sends what one takes there."""

_NAME_THEM: Final = "mcrctl log-level set --facility ingress --level debug"

_SHOW_FRAGMENTS: Final = "tcpdump -v -i IF 'ip[6:2] & 0x3fff != 0 or ip6[6] = 44'"

CAUSES: Final = {
    "malformed": ("were cut short or malformed", f"they are named in the log: {_NAME_THEM}"),
    "fragment": (
        "were fragments that can belong to no datagram",
        f"they are named in the log: {_NAME_THEM}",
    ),
    "checksum": (
        "had a wrong IP or UDP checksum",
        "they were damaged on the way: look for errors of cables and cards (ethtool -S IF; ip -s -s link)",
    ),
    "source": (
        "came from an address that no host can have",
        f"give the source an address of its network; the address is in the log: {_NAME_THEM}",
    ),
    "loop": ("were sent by this machine and came back", "see the finding loop"),
    "returned": (
        "came from a machine that returns what others send",
        "see the finding loop; a rule with --input-source takes what that machine sends all the same",
    ),
    "other_host": (
        "were addressed to another host's MAC",
        (
            "have the source send to the group's MAC, or to this host's; such frames are seen where an interface takes "
            "all: a promiscuous one (ip -details link show: promiscuity), or a virtual one without a filter"
        ),
    ),
    "vlan": (
        "bore a second VLAN tag, or one that is not 802.1Q's",
        "make an interface for each tag (ip link add link IF name NAME type vlan), and a rule on the innermost",
    ),
    "fragment_overlap": (
        "were fragments that overlap others, or came twice",
        f"does the network double frames, or does somebody forge them? {_SHOW_FRAGMENTS}",
    ),
    "fragment_incomplete": (
        "were fragments of datagrams of which others did not come within a second",
        "they are lost on the way; have the source send datagrams that fit the MTU, so that less is lost with them",
    ),
    "fragment_evicted": (
        "were fragments of datagrams whose place others were given, as too many were incomplete at a time",
        (
            "fragments are lost on the way, or somebody sends beginnings of datagrams and never their ends: "
            f"{_SHOW_FRAGMENTS}"
        ),
    ),
}
"""By cause: what was wrong, as the end of a sentence, and what to do."""


def counted(errors: ParseErrors) -> dict[str, int]:
    """The causes that are not zero, the most frequent first."""
    causes: dict[str, int] = {name: count for name, count in attrs.asdict(errors).items() if count > 0}
    return dict(sorted(causes.items(), key=lambda item: -item[1]))


def grown(before: ParseErrors, after: ParseErrors) -> dict[str, int]:
    """The same, of the difference of two readings."""
    then = attrs.astuple(before)
    return counted(ParseErrors(*(now - past for now, past in zip(attrs.astuple(after), then, strict=True))))


def judge_parse_errors(stats: Stats) -> tuple[Finding, ...]:
    """Whether datagrams arrived that can't be relayed, except those of loops."""
    ingress = stats.ingress
    findings = tuple(
        Finding(
            "parse_err",
            Verdict.ADVICE,
            f"{count:,} of {ingress.recv:,} packets {CAUSES[cause][0]} and are not relayed",
            f"mcrctl stats: parse_err={ingress.parse_err} {cause}={count}",
            CAUSES[cause][1],
        )
        for cause, count in counted(ingress.parse_errors).items()
        if cause != "loop"
    )
    evidence = f"mcrctl stats: parse_err={ingress.parse_err}"
    return findings or (Finding("parse_err", Verdict.OK, "Every datagram was sound", evidence),)


def judge_loops(stats: Stats, rules: Collection[RuleView], there: Collection[str]) -> tuple[Finding, ...]:
    """Whether datagrams that this machine sent come back in.

    Args:
        stats: the counters.
        rules: all that there are now.
        there: input interfaces that exist; one that is gone takes in nothing.
    """
    findings = tuple(
        _loop(each, Verdict.FAULT)
        for each in stats.interfaces
        if each.interface in there and loops_now(each) and (_goes_on(each) or _is_closed(each.interface, rules))
    )
    lately = f"none in the last {_LOOPS_NOW:.0f} s; mcrctl stats: loop={stats.ingress.parse_errors.loop}"
    return findings or (Finding("loop", Verdict.OK, "Nothing that this relay sent comes back in", lately),)


def _goes_on(interface: InterfaceStats) -> bool:
    return interface.looped is not None and interface.looped <= _GOES_ON


def _is_closed(interface: str, rules: Collection[RuleView]) -> bool:
    """Whether a rule takes there what another sends, or itself: without it, or its sender, the loop is over."""
    sent = SpanIndex[None]()
    for span in {each.span for rule in rules for each in rule.outputs}:
        sent.add(span, "", None)
    return any(any(sent.meeting(each.input.span)) for each in rules if each.input.interface == interface)


def is_sent_here(rule: RuleView, senders: Iterable[RuleView]) -> bool:
    """Whether an output of any of these sends to the group and port that the rule takes."""
    flows = rule.input.span
    return any(flows.meets(each.span) for one in senders for each in one.outputs)


def loops_now(interface: InterfaceStats) -> bool:
    """Whether a datagram that this machine sent has come back in there within the last minute."""
    return interface.looped is not None and interface.looped <= _LOOPS_NOW


def judge_loop(interface: InterfaceStats, *, concerned: bool) -> Finding:
    """A loop at the input of a rule.

    Args:
        interface: the rule's input interface.
        concerned: the datagrams that come back go to the rule's group and port, as far as can be told.
    """
    if concerned:
        return _loop(interface, Verdict.FAULT)
    return _loop(interface, Verdict.ADVICE, "; as far as can be told, this rule's flow is not among them")


def _loop(interface: InterfaceStats, verdict: Verdict, more: str = "") -> Finding:
    name, ago = interface.interface, interface.looped or 0.0
    return Finding(
        "loop",
        verdict,
        f"datagrams that this relay sent come back in on {name}: a loop; they end here{more}",
        f"mcrctl stats --json: {name}: loop={interface.parse_errors.loop}, the last one {ago:,.0f} s ago",
        f"keep the networks of {name} and of the outputs apart, or send to groups that no rule takes on {name}; "
        "the log names the flows",
    )
