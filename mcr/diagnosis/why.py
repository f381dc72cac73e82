"""Walks one rule from wire to wire.

Rules of the module:

1. Observations are made step by step, and judged by pure functions (`incoming`, `outgoing`). A fault on the way
   in ends the way in; one at an output ends the walk to this output, as the others don't depend on it. Outputs are
   looked at whatever comes in: they have to be in order before a feed begins.
2. Nothing waits on the event loop; all of it takes less time than a client waits for a reply.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

import attrs
import trio

from mcr.actors.querier_watch import Hearing, QuerierWatch
from mcr.actors.stats_aggregator import StatsAggregator
from mcr.diagnosis.arrival import judge_arrival
from mcr.diagnosis.health_findings import judge_stopped_stream, judge_stream
from mcr.diagnosis.incoming import Entrance, judge_bridge, judge_entrance, judge_rule
from mcr.diagnosis.matching import judge_looped, judge_path, judge_taking, matched
from mcr.diagnosis.outgoing import judge_output
from mcr.diagnosis.present import present_stats
from mcr.diagnosis.queriers import IGMP, MLD, Queriers
from mcr.errors import RuleNotFound, SystemFault, errno_of
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import IPV4, IPV6, Input
from mcr.model.rule import Output, RuleState, RuleView
from mcr.model.stats import OutputStats, RuleStats, Stats
from mcr.model.worker import WorkerView
from mcr.net.firewall import Firewall, look_at_firewall
from mcr.net.links import Link, read_links
from mcr.net.machine import count_unroutable
from mcr.net.procfs import asked_sources, captured_interfaces, igmp_version, joined_groups, udp_listeners
from mcr.net.routes import find_paths
from mcr.tap.probe import look_at_wire
from mcr.tap.sighting import Look, Wanted

_COUNTED_SECONDS = 0.4  # for what was seen on the wire to reach the counters
_AGAIN_SECONDS = 0.7  # and more, with other frames, before it is said that they don't
_APART = 0.1  # between two such looks
_PAUSE = 0.02
_ANY = {IPV4: (IPv4Address(0), IPv6Address(0)), IPV6: (IPv6Address(0),)}  # a socket of IPv6 may take IPv4, too
_HEARD_SECONDS = 0.2  # between a query that a look sees and the question whether it was heard

_A = TypeVar("_A")
_T = TypeVar("_T")


@attrs.frozen
class Walk:
    """One walk.

    Attributes:
        rule: which one.
        others: the other rules.
        workers: as they are.
        stats: who counts.
        watch: who listens for queriers.
        used: indices of the interfaces that mcrd has sockets of, by their present names.
        former: what the rules call them, by their present names, if that is another.
    """

    rule: RuleView
    others: tuple[RuleView, ...]
    workers: tuple[WorkerView, ...]
    stats: StatsAggregator
    watch: QuerierWatch
    used: Mapping[str, int] = attrs.field(factory=dict)
    former: Mapping[str, str] = attrs.field(factory=dict)

    async def go(self) -> tuple[Finding, ...]:
        """Find the first thing that is wrong on the way in, and on the way to each output.

        Raises:
            RuleNotFound: the rule is removed meanwhile.
            SystemFault: the system refused an observation.
        """
        findings = _until_fault(judge_rule(self.rule, self.workers))
        if _ends(findings):
            return findings
        findings += tuple(self._judge_names())
        source = self.rule.input
        entrance = await trio.to_thread.run_sync(_read_entrance, source, self.used)
        findings += _until_fault(judge_entrance(source, entrance, self.rule.reason, waits=self._waits))
        before = await self._read_stats()
        if entrance.link is None or _ends(findings):
            findings += tuple(judge_stopped_stream(self._counters(before)))
            return findings + await self._judge_outputs(None, before, before)
        look = await trio.to_thread.run_sync(self._look, entrance.link.index, abandon_on_cancel=True)
        queriers = await self._find_queriers(look, entrance, entrance.link.index)
        look, after = await self._count(look, before, entrance.link.index)
        findings += await self._judge_flow(look, entrance.link, queriers, before, after)
        if _ends(findings):
            findings += tuple(judge_stopped_stream(self._counters(after)))
            return findings + await self._judge_outputs(look.payload, before, after)
        links = await trio.to_thread.run_sync(self._read_output_links)
        findings += (judge_path(self.rule, look, links),)
        return findings + await self._judge_outputs(look.largest, before, after)

    def _look(self, index: int) -> Look:
        return look_at_wire(self._wanted, index)

    def _read_output_links(self) -> dict[str, Link]:
        return _asked(partial(read_links, used=self.used), [output.interface for output in self.rule.outputs])

    async def _judge_flow(
        self, look: Look, link: Link, queriers: Queriers, before: Stats, after: Stats
    ) -> tuple[Finding, ...]:
        """Does it arrive, and is it taken?"""
        source = self.rule.input
        arrived = self._wanted.count(look.frames) > 0 or self._has_grown(before, after)
        findings = () if arrived else _until_fault(judge_looped(self.rule, before, after, self.others))
        if findings and _ends(findings):
            return findings
        if link.bridge and not arrived:
            return (*findings, judge_bridge(source.interface, link.bridge, Verdict.FAULT))
        dropped = 0 if arrived else await trio.to_thread.run_sync(_count_dropped, source, link, self.used)
        arrival = judge_arrival(
            self.rule,
            look,
            before,
            after,
            others=self.others,
            queriers=queriers,
            dropped=dropped,
            mtu=link.mtu,
        )
        findings += await trio.to_thread.run_sync(_until_fault, arrival)  # there may be thousands of other rules
        if _ends(findings):
            return findings
        taking = judge_taking(self.rule, look, before, after, self.others)
        findings += await trio.to_thread.run_sync(_until_fault, taking)
        if _ends(findings):
            return findings
        return (*findings, *judge_stream(self._counters(after)))

    @property
    def _waits(self) -> bool:
        return self.rule.state is RuleState.WAITING

    @cached_property
    def _wanted(self) -> Wanted:
        """First asked for in a thread: it goes through all rules."""
        return Wanted.of(self.rule.input, (each.input for each in self.others))

    def _judge_names(self) -> Iterator[Finding]:
        for name in dict.fromkeys((self.rule.input.interface, *(each.interface for each in self.rule.outputs))):
            if name in self.former:
                what = f"{self.former[name]} is called {name} now, which is what it is called here"
                yield Finding("interface_name", Verdict.OK, what, f"ip link show dev {name}: {self.used[name]}")

    async def _find_queriers(self, look: Look, entrance: Entrance, index: int) -> Queriers:
        """The queriers of the interface where the flow should arrive."""
        await trio.sleep(_PAUSE)  # for what has just come in to be heard
        version = self.rule.input.group.version
        protocol = IGMP if version == IPV4 else MLD
        heard = self.watch.on(index, version)
        if not self.rule.input.group.is_multicast or (entrance.link is not None and entrance.link.loopback):
            return Queriers(heard, loopback=True, protocol=protocol)
        tunnel = entrance.link is not None and entrance.link.tunnel
        seen = look.queries.get(self.rule.input.interface, 0)
        unheard = seen if not _heard_within(heard, look.seconds + _HEARD_SECONDS) else 0
        if not unheard and heard.lately and not heard.overdue:
            return Queriers(heard, protocol=protocol, tunnel=tunnel)
        firewall = await trio.to_thread.run_sync(_look_at_firewall, version)
        filtered = entrance.link is not None and entrance.link.rp_filter != 0 and version == IPV4
        unroutable = count_unroutable() - entrance.unroutable if filtered else 0
        return Queriers(heard, unheard, firewall, unroutable, protocol=protocol, tunnel=tunnel)

    async def _judge_outputs(self, payload: int | None, before: Stats, after: Stats) -> tuple[Finding, ...]:
        outputs = self.rule.outputs
        links = await trio.to_thread.run_sync(self._read_output_links)
        leading = [(output.group, links[output.interface]) for output in outputs if output.interface in links]
        paths = await trio.to_thread.run_sync(_asked, find_paths, leading)
        received = await trio.to_thread.run_sync(_find_local_receivers, outputs, links, (self.rule, *self.others))
        findings: dict[Finding, None] = {}  # outputs by the same interface have some in common
        for output, then, now in zip(outputs, self._outputs(before), self._outputs(after), strict=True):
            link = links.get(output.interface)
            judged = judge_output(
                output,
                link,
                paths.get((output.group, link.name)) if link else None,
                payload,
                before=then,
                after=now,
                local_receiver=output in received,
            )
            findings |= dict.fromkeys(_until_fault(judged))
        return tuple(findings)

    async def _count(self, look: Look, before: Stats, index: int) -> tuple[Look, Stats]:
        """Read statistics, once they show what was seen on the wire.

        If they don't, probe again: a worker may be late, and a single frame may be a damaged one.
        """
        wanted = self._wanted
        after = await self._read_counted(look, before)
        deadline = trio.current_time() + _AGAIN_SECONDS
        while wanted.count(look.frames) and not self._has_grown(before, after):
            left = deadline - trio.current_time()
            if left <= 0:
                break
            see = partial(look_at_wire, wanted, index, left)
            look = look.with_more(await trio.to_thread.run_sync(see, abandon_on_cancel=True))
            await trio.sleep(min(_APART, left))
            after = await self._read_stats()
        return look, after

    async def _read_counted(self, look: Look, before: Stats) -> Stats:
        seen = self._wanted.count(look.frames)
        deadline = trio.current_time() + _COUNTED_SECONDS
        while True:
            after = await self._read_stats()
            if not seen or self._has_grown(before, after) or trio.current_time() >= deadline:
                return after
            await trio.sleep(_PAUSE)

    def _has_grown(self, before: Stats, after: Stats) -> bool:
        return matched(self.rule, after) > matched(self.rule, before)

    async def _read_stats(self) -> Stats:
        stats = present_stats(
            await self.stats.read(self.rule.rule_id), {former: name for name, former in self.former.items()}
        )
        if not stats.rules:
            raise RuleNotFound(f"The rule {self.rule.rule_id!r} has just been removed", "see the rules: mcrctl list")
        return stats

    def _counters(self, stats: Stats) -> RuleStats:
        return stats.rules[0]

    def _outputs(self, stats: Stats) -> Sequence[OutputStats]:
        return self._counters(stats).outputs


def _read_entrance(source: Input, used: Mapping[str, int]) -> Entrance:
    link = _asked(partial(read_links, used=used), [source.interface]).get(source.interface)
    if link is None:
        return Entrance(None)
    return Entrance(
        link,
        captured_interfaces(),
        joined_groups(),
        count_unroutable(),
        asked_sources(source.group.version) if source.sources else {},
        _igmp_version(link.index) if source.sources else "",
    )


def _igmp_version(index: int) -> str:
    return _asked(igmp_version, index)


def _count_dropped(source: Input, before: Link, used: Mapping[str, int]) -> int:
    """Frames that the input interface has dropped since then."""
    link = _asked(partial(read_links, used=used), [source.interface]).get(source.interface, before)
    return link.rx_dropped + link.rx_missed - before.rx_dropped - before.rx_missed


def _heard_within(heard: Hearing, seconds: float) -> bool:
    return heard.ago is not None and heard.ago <= seconds


def _look_at_firewall(version: int) -> Firewall:
    return _asked(look_at_firewall, version)


def _find_local_receivers(
    outputs: Iterable[Output], links: Mapping[str, Link], rules: Iterable[RuleView]
) -> frozenset[Output]:
    """Groups that a program of this machine has joined where they leave, and on whose port it listens."""
    sent_to = {group for output in outputs for group, _ in output.span.each()}
    ours = {  # joined by mcrd itself
        (each.input.interface, group) for each in rules for group in each.input.groups if group in sent_to
    }
    joined, listeners = joined_groups(), udp_listeners()
    return frozenset(
        output
        for output in outputs
        if output.interface in links
        and any(
            (links[output.interface].index, group) in joined
            and not {(output.interface, group), (links[output.interface].name, group)} & ours
            and not listeners.isdisjoint((each, port) for each in (group, *_ANY[group.version]))
            for group, port in output.span.each()
        )
    )


def _asked(look: Callable[[_A], _T], what: _A) -> _T:
    """Look, over netlink; raises SystemFault if the kernel does not answer."""
    from pyroute2 import NetlinkError  # noqa: PLC0415 - slow to import, seldom needed

    try:
        return look(what)
    except NetlinkError as error:
        raise SystemFault("Cannot ask the kernel over netlink", error.code) from None
    except OSError as error:
        raise SystemFault("Cannot ask the kernel over netlink", errno_of(error)) from None


def _until_fault(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    kept = []
    for finding in findings:
        kept.append(finding)
        if finding.verdict is Verdict.FAULT:
            break
    return tuple(kept)


def _ends(findings: Sequence[Finding]) -> bool:
    return findings[-1].verdict is Verdict.FAULT
