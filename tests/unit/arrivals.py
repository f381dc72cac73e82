"""A rule, what it takes, and how it arrives."""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from mcr.actors.querier_watch import Hearing
from mcr.diagnosis.arrival import judge_arrival
from mcr.diagnosis.incoming import Entrance
from mcr.diagnosis.queriers import Queriers
from mcr.model.finding import Finding
from mcr.model.flow import Input
from mcr.model.rule import Output, OutputView, RuleState, RuleView
from mcr.model.stats import EgressStats, IngressStats, InterfaceStats, RuleStats, Stats
from mcr.net.firewall import Firewall
from mcr.net.links import Link
from mcr.tap.sighting import Look, Sighting

GROUP, OTHER = IPv4Address("239.1.1.1"), IPv4Address("239.1.1.2")
SOURCE = Input("in0", GROUP, 5000)


def output(group: IPv4Address, port: int, interface: str) -> OutputView:
    return OutputView.of(Output(group, port, interface))


RULE = RuleView("tv", None, SOURCE, (output(IPv4Address("239.2.2.2"), 6000, "out0"),), RuleState.ACTIVE)
FLOW = Sighting("in0", GROUP, 5000)
LINK = Link("in0", 11, addresses=(IPv4Interface("198.18.0.2/24"),))
ENTRANCE = Entrance(LINK, {11}, {(11, GROUP)})
UNHEARD = Hearing(7.0)
HEARD = Hearing(300.0, 20.0, IPv4Address("198.18.0.254"))


def verdicts(findings: Iterable[Finding]) -> list[str]:
    return [f"{each.verdict} {each.check}" for each in findings]


def stats(matched: int = 0, *, drops: int = 0, **ingress: Any) -> Stats:
    return Stats(
        IngressStats(**ingress),
        EgressStats(),
        (RuleStats("radio", None, 99, 0, 0, 0, 0.0, 0.0), RuleStats("tv", None, matched, 0, 0, 0, 0.0, 0.0)),
        (),
        (InterfaceStats("in0", 0, drops), InterfaceStats("in1", 0, 0)),
    )


def arrival(
    *seen: Sighting,
    grown: int = 0,
    querier: Hearing = UNHEARD,
    others: Collection[RuleView] = (),
    unheard: int = 0,
    firewall: Firewall = Firewall(),  # noqa: B008 - frozen
    unroutable: int = 0,
    rule: RuleView = RULE,
) -> list[Finding]:
    frames = dict.fromkeys(seen, 10)
    look = Look(2.0, frames, {}, 188 if Sighting.of(rule.input) in seen else None)
    queriers = Queriers(querier, unheard, firewall, unroutable)
    return list(judge_arrival(rule, look, stats(50), stats(50 + grown), others=others, queriers=queriers))
