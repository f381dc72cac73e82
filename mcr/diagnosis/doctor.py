"""Checks the machine and the daemon: collects the observations, and passes them to the judges."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

import attrs

from mcr.config.settings import Settings, is_asked_for
from mcr.config.table import ABSORB
from mcr.diagnosis import (
    capture_findings,
    daemon_findings,
    flow_findings,
    health_findings,
    link_findings,
    machine_findings,
    output_findings,
    parse_errors,
)
from mcr.diagnosis.incoming import judge_input_address
from mcr.diagnosis.present import new_names
from mcr.diagnosis.saving_findings import judge_saving, judge_set_aside, judge_unusable, judge_yielding
from mcr.diagnosis.shared_outputs import judge_shared_outputs
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import IPV4, Address
from mcr.model.log import LogLevels
from mcr.model.rule import RuleState, RuleView
from mcr.model.saving import Saving
from mcr.model.stats import Stats
from mcr.model.worker import WorkerState, WorkerView
from mcr.net.capture import COPY_BYTES, describes_super_frames
from mcr.net.firewall import Firewall, look_at_firewall
from mcr.net.ip_bypass import Blocker, find_blocker, kernel_blocker
from mcr.net.links import Link, read_links
from mcr.net.machine import (
    Machine,
    Process,
    Self,
    count_backlog_drops,
    look_at_machine,
    look_at_process,
    look_at_self,
)
from mcr.net.offloads import read_merging
from mcr.net.raw import find_links
from mcr.net.routes import Path, find_paths, find_routes
from mcr.rules.conditions import Attachment, Standing
from mcr.rules.disk import free_bytes, is_writable
from mcr.rules.file_rules import Yielding
from mcr.rules.store import files_set_aside
from mcr.tap.sighting import Sighting
from mcr.tap.strays import look_for_strays

_T = TypeVar("_T")
_Merging = dict[str, tuple[str, ...] | None]  # by the interfaces' own names
_Interfaces = tuple[dict[str, Link] | None, _Merging]
_UNSEEN: _Interfaces = (None, {})

_HOSTS_ASKED = 256
"""Hosts that doctor asks whether they are there, at most."""

_PPS_TO_FEEL = 100_000
"""Packets per second from which suppression and raw frames matter, if packets come in bursts as from a network card."""


@attrs.frozen
class Relay:
    """The daemon's own knowledge.

    Attributes:
        workers: its workers.
        stats: its counters.
        rules: its rules, with their states.
        standing: of its sockets.
        idle: seconds for which each rule has matched nothing, by id.
        saving: where its rules are kept.
        yielding: rules of run time that are not used, as they give way to others of files.
    """

    workers: tuple[WorkerView, ...]
    stats: Stats
    rules: tuple[RuleView, ...]
    standing: Standing
    idle: Mapping[str, float]
    saving: Saving = attrs.field(factory=Saving)
    yielding: tuple[Yielding, ...] = ()

    @property
    def inputs(self) -> frozenset[str]:
        """Input interfaces that rules name."""
        return frozenset(rule.input.interface for rule in self.rules)

    @property
    def outputs(self) -> frozenset[str]:
        """Output interfaces that rules name."""
        return frozenset(output.interface for rule in self.rules for output in rule.outputs)

    def counters(self) -> Stats:
        """The counters; of input interfaces only those that rules name, as others are counted on after their rules."""
        interfaces = tuple(each for each in self.stats.interfaces if each.interface in self.inputs)
        return attrs.evolve(self.stats, interfaces=interfaces)


def examine(settings: Settings, relay: Relay) -> tuple[Finding, ...]:
    """Check the machine and the daemon, which is this process. It may wait for the kernel."""
    workers, stats = relay.workers, relay.counters()
    backlog, machine = count_backlog_drops(), look_at_machine()
    daemon = look_at_self(settings.send_buffer, COPY_BYTES)
    inputs, outputs = relay.inputs, relay.outputs
    blind: list[Finding] = []
    blocker = _look_at_raw(settings, blind)
    used = {each.name: each for each in relay.standing.all()}
    links, merging = _try("interfaces", lambda: _look_at_interfaces(inputs, outputs, used), _UNSEEN, blind)
    firewall = _try("firewall", look_at_firewall, Firewall(), blind)
    found = [
        *_judge_machine(machine, daemon, workers, settings),
        machine_findings.judge_backlog(backlog, count_backlog_drops()),
        *_judge_daemon(daemon, settings, len(inputs), stats.ingress.pps, blocker),
        *daemon_findings.judge_paths(relay.rules),
        judge_saving(relay.saving, free_bytes(relay.saving.path), writable=is_writable(relay.saving.path)),
        *judge_set_aside(files_set_aside(relay.saving.path)),
        *judge_yielding(relay.yielding),
        *judge_unusable(relay.rules),
        *_judge_workers(workers, daemon),
        *_judge_counters(stats, workers, links or {}, settings),
        *parse_errors.judge_loops(stats, relay.rules, inputs if links is None else inputs & links.keys()),
        *_judge_flows(relay, links or {}, blind),
        *health_findings.judge_streams(stats),
        *machine_findings.judge_firewall(firewall, output_findings.refused_outputs(stats)),
        *judge_shared_outputs(relay.rules),
    ]
    missing = link_findings.missing_interfaces(inputs | outputs, links, used) if links is not None else frozenset()
    found += link_findings.judge_rules(relay.rules, missing)
    if links is not None:
        found += link_findings.judge_presence(inputs | outputs, links, used, new_names(relay.standing.all()))
        found += [finding for link in dict.fromkeys(links.values()) for finding in link_findings.judge_drops(link)]
        found += _judge_inputs([links[name] for name in sorted(inputs & links.keys())], merging, machine)
        found += _judge_input_addresses(relay, links)
        raw = _raw_links(links, outputs, blocker, blind)
        found += _judge_neighbours(relay, links, blind)
        found += _judge_outputs({name: links[name] for name in sorted(outputs & links.keys())}, stats, blind, raw)
    return (*found, *blind)


def _look_at_raw(settings: Settings, blind: list[Finding]) -> Blocker | None:
    if not settings.raw_send:
        return Blocker("MCR_RAW_SEND is 0")
    hidden: Blocker | None = Blocker("firewall rules and the like cannot be seen")
    return _try("raw_send", lambda: kernel_blocker() or find_blocker(), hidden, blind)


def _raw_links(
    links: dict[str, Link], outputs: frozenset[str], blocker: Blocker | None, blind: list[Finding]
) -> frozenset[int]:
    """Interfaces, by index, by which raw frames leave to groups."""
    indexes = {links[name].index for name in outputs & links.keys()}
    if blocker:
        return frozenset()
    return _try("raw_send", lambda: frozenset(find_links(indexes)), frozenset[int](), blind)


def examine_machine() -> tuple[Finding, ...]:
    """Check the machine alone, from a process that is not the daemon."""
    backlog, machine = count_backlog_drops(), look_at_machine()
    blind: list[Finding] = []
    firewall = _try("firewall", look_at_firewall, Firewall(), blind)
    return (
        *_judge_machine(machine, None, (), Settings("", 1, LogLevels())),
        machine_findings.judge_backlog(backlog, count_backlog_drops()),
        *machine_findings.judge_firewall(firewall, None),
        *blind,
    )


def _look_at_interfaces(inputs: frozenset[str], outputs: frozenset[str], used: Mapping[str, Attachment]) -> _Interfaces:
    links = read_links(inputs | outputs, {name: each.index for name, each in used.items() if not each.lost})
    return links, read_merging({links[name].name for name in inputs & links.keys()})


def _judge_machine(
    machine: Machine, daemon: Self | None, workers: tuple[WorkerView, ...], settings: Settings
) -> Iterator[Finding]:
    yield machine_findings.judge_kernel(machine)
    yield machine_findings.judge_io_uring(machine, workers)
    yield from machine_findings.judge_buffers(machine, daemon, settings.send_buffer, COPY_BYTES)
    yield machine_findings.judge_locked_memory(machine)
    yield machine_findings.judge_open_files(machine, daemon)
    yield machine_findings.judge_memberships(machine)


def _judge_daemon(
    daemon: Self, settings: Settings, inputs: int, pps: float, blocker: Blocker | None
) -> Iterator[Finding]:
    short = daemon.send_buffer < settings.send_buffer or daemon.receive_buffer < COPY_BYTES
    missed = settings.absorb and (is_asked_for(ABSORB, settings) or pps >= _PPS_TO_FEEL)
    yield from daemon_findings.judge_capabilities(daemon, suppression_missed=missed, short_of_buffers=short)
    yield daemon_findings.judge_filter(daemon)
    if settings.absorb:
        yield daemon_findings.judge_suppression(daemon, inputs, missed=missed)
    else:
        yield daemon_findings.no_suppression()
    yield daemon_findings.judge_raw(blocker, missed=settings.raw_send and pps >= _PPS_TO_FEEL)


def _judge_workers(workers: tuple[WorkerView, ...], daemon: Self) -> Iterator[Finding]:
    yield from daemon_findings.judge_worker_privileges(look_at_workers(workers))
    yield from daemon_findings.judge_workers(workers)
    yield from daemon_findings.judge_cores(workers, daemon.cores)


def look_at_workers(workers: tuple[WorkerView, ...]) -> dict[int, Process | None]:
    """The processes that forward; one that is still starting has its privileges until it is about to."""
    return {
        worker.worker_id: look_at_process(worker.pid)
        for worker in workers
        if worker.pid and worker.state is WorkerState.RUNNING
    }


def _judge_counters(
    stats: Stats, workers: tuple[WorkerView, ...], links: dict[str, Link], settings: Settings
) -> Iterator[Finding]:
    yield from capture_findings.judge_captures(stats, workers, links, settings.pools)
    yield capture_findings.judge_super_frames(stats, described=describes_super_frames())
    yield from parse_errors.judge_parse_errors(stats)
    yield from output_findings.judge_outputs(stats, links)
    yield daemon_findings.judge_log(stats)


def _judge_flows(relay: Relay, links: Mapping[str, Link], blind: list[Finding]) -> Iterator[Finding]:
    names = {name: link.name for name, link in links.items()}
    sources = {
        rule.rule_id: attrs.evolve(rule.input, interface=names.get(rule.input.interface, rule.input.interface))
        for rule in relay.rules
    }
    idle = flow_findings.find_idle(relay.stats, sources, relay.idle)
    where = {each.source.interface for each in idle}
    strays: Mapping[Sighting, int] = {}
    if up := {link for link in links.values() if link.name in where and link.up}:
        strays = _try("matched", lambda: look_for_strays(up, sources.values()), {}, blind)
    yield from flow_findings.judge_matches(relay.stats, idle, strays)
    yield flow_findings.judge_unmatched(relay.counters())


def _judge_neighbours(relay: Relay, links: Mapping[str, Link], blind: list[Finding]) -> Iterator[Finding]:
    hosts = {
        (output.group, output.interface): output.state is RuleState.ACTIVE
        for rule in relay.rules
        for output in rule.outputs
        if output.interface in links and not output.group.is_multicast
    }
    # If one is not active, its rule has reported it already.
    sent_to = [key for key, active in hosts.items() if active]
    asked = sent_to[:_HOSTS_ASKED]
    wanted = [(host, links[name]) for host, name in asked]
    found: Mapping[tuple[Address, str], Path] = _try("neighbours", lambda: find_paths(wanted), {}, blind)
    paths = {(host, name): found[host, links[name].name] for host, name in asked if (host, links[name].name) in found}
    left_out, waiting = len(sent_to) - len(asked), len(hosts) - len(sent_to)
    yield from flow_findings.judge_neighbours(paths, relay.stats, left_out, waiting)


def _judge_inputs(links: list[Link], merging: _Merging, machine: Machine) -> Iterator[Finding]:
    for link in links:
        yield link_findings.judge_merging(link.name, merging[link.name])
        yield link_findings.judge_reverse_path(link, machine.unroutable)
        yield from link_findings.judge_igmp_version(link)


def _judge_input_addresses(relay: Relay, links: Mapping[str, Link]) -> Iterator[Finding]:
    """What joins of IPv4 lack; the state of a rule that takes IPv6 says so itself."""
    joined = [each.input for each in relay.rules if each.input.group.is_multicast and each.input.group.version == IPV4]
    for name in sorted({each.interface for each in joined}):
        if name in links and not links[name].loopback:
            finding = judge_input_address(links[name].name, links[name])
            if finding.verdict is not Verdict.OK:
                yield finding


def _judge_outputs(
    links: dict[str, Link], stats: Stats, blind: list[Finding], raw: frozenset[int]
) -> Iterator[Finding]:
    groups: dict[str, tuple[Address, Link]] = {}
    pps: Counter[str] = Counter()
    versions: defaultdict[str, set[int]] = defaultdict(set)
    for rule in stats.rules:
        for output in rule.outputs:
            versions[output.interface].add(output.group.version)
            if output.group.is_multicast and output.group.version == IPV4 and output.interface in links:
                groups.setdefault(output.interface, (output.group, links[output.interface]))
                pps[output.interface] += round(rule.pps)
    routes: dict[str, str | None] = _try("group_route", lambda: find_routes(groups), {}, blind)
    for name, link in links.items():
        yield from chain.from_iterable(link_findings.judge_source(link, each) for each in sorted(versions[name]))
        if name in routes:
            yield link_findings.judge_route(link, routes[name], pps[name], raw=link.index in raw)


def _try(check: str, look: Callable[[], _T], otherwise: _T, blind: list[Finding]) -> _T:
    """Look; if the kernel does not answer, note that in `blind` and return `otherwise`.

    A thread of its own looks: pyroute2 leaves circles of frames, which would keep what its callers have, such as the
    counters of thousands of rules, until garbage is looked for.
    """
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - slow to import, seldom needed

    try:
        with ThreadPoolExecutor(1) as apart:
            return apart.submit(look).result()
    except (OSError, NetlinkError) as error:
        what = f"The kernel does not report the state of {check}"
        blind.append(Finding(check, Verdict.ADVICE, what, f"netlink: {error}", "ask again; then report it as a bug"))
        return otherwise
