"""Which rules the kernel path forwards by, and why it does not by the others.

It bypasses the IP stack as raw frames do, so an output has to be one that raw frames may leave for, with the source
that was found for those. What is not so is a worker's; the rule is the same, and so are its counters.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from mcr.config.settings import Settings
from mcr.config.table import ABSORB, KERNEL_PATH, RAW_SEND
from mcr.errors import describe_errno, errno_of
from mcr.logs.logger import get_logger
from mcr.model.flow import IPV6, Claim, Flow, Input, without_source
from mcr.model.log import Facility
from mcr.net.filter.path import (
    INHERITED,
    LONGEST,
    OWN,
    REVIEWED,
    SHOWN,
    TRACED,
    KernelPath,
    Target,
    open_kernel_path,
)
from mcr.net.ip_bypass import Blockers
from mcr.relay.next_hops import NextHops
from mcr.relay.outputs import Egress
from mcr.relay.placement import PlacedRule, Replacement
from mcr.relay.targets import PortOf, find_targets, has_path_mtu, hops_of, plain_targets, targets_of, why_not
from mcr.rules.conditions import Paths
from mcr.shm.kept import Kept
from mcr.shm.kernel_counters import KernelCounters

log = get_logger(Facility.NETWORK)

_UNSEEN = "it has not been seen yet what acts on packets that leave, which takes CAP_NET_ADMIN"
_ONE_BY_ONE = 4  # replaced flows, each of which may take a grace period; for more, one with their gates closed


class _Served(NamedTuple):
    """What the kernel path has of a rule. `mtu`: 0: nothing may take it for now."""

    capture: int
    source: Input
    flows: tuple[Flow, ...]
    mtu: int
    targets: tuple[Target, ...] = ()

    def lacks(self, other: "_Served") -> tuple[Flow, ...]:
        """Flows of the other one that this one has not."""
        if self.flows == other.flows:
            return ()
        have = frozenset(self.flows)
        return tuple(flow for flow in other.flows if flow not in have)


class _Plan(NamedTuple):
    """What the kernel path is to have of a rule; with a reason, why it forwards nothing by it."""

    rule_id: str
    slot: int
    reason: str
    now: _Served


class KernelRules:
    """The rules of the kernel path.

    Attributes:
        path: None: there is none.
        counters: None: there are none. Without a path, they are those of the mcrd before this one.
        blocker: why it forwards nothing, found by a review; empty: no reason is known.
        blocker6: why it forwards no IPv6, likewise.
        hops: hosts and gateways that it sends to.
    """

    def __init__(self, path: KernelPath | None, why_not: str = "", counters: KernelCounters | None = None) -> None:
        """`why_not`: there is no kernel path."""
        self.path = path
        self.counters = counters
        self.blocker = self.blocker6 = _UNSEEN
        self._why_not = why_not
        self._capture_of: Callable[[str], int]
        self._egress_of: Callable[[str], Egress]
        self._port_of: PortOf
        self._serves: Callable[[Input], bool]
        self._served: dict[str, _Served] = {}
        self._stuck: dict[str, int] = {}  # captures of rules that the kernel has not as they are, by rule
        self._reasons: dict[str, str] = {}
        self._told = self._reasons  # a copy that others have: it never changes
        self.hops = NextHops()

    # The transaction's parts.

    def bind(
        self,
        capture_of: Callable[[str], int],
        egress_of: Callable[[str], Egress],
        port_of: PortOf,
        serves: Callable[[Input], bool],
    ) -> None:
        """The relay that it belongs to: slots of captures and output interfaces, by name; neighbours; inputs."""
        self._capture_of, self._egress_of, self._port_of = capture_of, egress_of, port_of
        self._serves = serves

    def use(self, added: Sequence[PlacedRule], changed: Sequence[Replacement]) -> None:
        """Forward by new and changed rules, where that may be. Their counters are theirs from now on."""
        if not self.path:
            return
        now = (*added, *(each.now for each in changed))
        for placed in now:
            self.path.counters.start_rule(placed.slot, placed.tag)
            for place in placed.outputs:
                self.path.counters.start_output(place.slot, place.tag)
        self.follow(now)
        if any(each.leaving for each in changed):
            self.path.wait()  # what has left counts no more

    def follow(self, rules: Iterable[PlacedRule]) -> None:
        """Forward by these rules as they are now, where that may be."""
        if not self.path:
            return
        plans = [self._plan(placed) for placed in rules]
        self._give_way(plans)
        replaced = [each for each in plans if self._served.get(each.rule_id, each.now) != each.now]
        if sum(len(each.now.flows) for each in replaced) > _ONE_BY_ONE:
            self.path.hold([*self._stuck.values(), *(each.now.capture for each in replaced)])
            narrowed = [True]
        else:
            narrowed = [self._try(self._narrow, each) for each in replaced]
        if any(narrowed):
            self.path.wait()  # longer datagrams leave by the outputs that there were
        for each in plans:
            self._try(self._serve, each)
        self.path.hold(self._stuck.values())
        self.ask_hops()

    def _give_way(self, plans: Iterable[_Plan]) -> None:
        """Forward no more what of ranges is other rules' from now on."""
        several = ((plan, before) for plan in plans if (before := self._served.get(plan.rule_id)))
        less = [(plan, before, lost) for plan, before in several if (lost := plan.now.lacks(before))]
        if not less or not self.path:
            return
        self.path.hold([*self._stuck.values(), *(before.capture for _, before, _ in less)])
        self.path.wait()
        for plan, before, lost in less:
            self._drop(before._replace(flows=lost))
            gone = frozenset(lost)
            kept = tuple(flow for flow in before.flows if flow not in gone)
            self._served[plan.rule_id] = before._replace(flows=kept)

    def ask_hops(self) -> None:
        """Have the kernel ask hosts and gateways whether they are there, where it is in doubt."""
        if self.hops.are_doubtful:
            self.hops.ask()

    def forget(self, rules: Iterable[PlacedRule], still: AbstractSet[Claim]) -> None:
        """Rules that were removed.

        Args:
            rules: those.
            still: what other rules are about to take, or may take now, with sources left out. The other flows are
                admitted no more.
        """
        served, going_on = [], []
        for placed in rules:
            rule_id = placed.rule.rule_id
            self._stuck.pop(rule_id, None)
            self.hops.use(rule_id, ())
            if rule_id in self._reasons:
                del self._own_reasons()[rule_id]
            if gone := self._served.pop(rule_id, None):
                served.append(gone)
                claims = map(without_source, placed.rule.input.claims)
                going_on += [] if still.isdisjoint(claims) else [gone.capture]
        if not self.path:
            return
        if going_on:  # packets that the filter has left to the kernel path are to find the rule
            self.path.hold([*self._stuck.values(), *going_on])
            self.path.wait()
        for each in served:
            self._drop(each)
        self.path.hold(self._stuck.values())

    def block(self, reason: str) -> None:
        """Forward nothing from now on; without a reason nothing changes."""
        self.blocker = reason or self.blocker
        if self.path and reason:
            self.path.bar(REVIEWED)

    def review(self, rules: Iterable[PlacedRule], found: Blockers) -> None:
        """Forward by the rules as they are now, unless there is a blocker."""
        if found.of_all:
            return
        self.blocker, self.blocker6 = "", found.of_ipv6.reason if found.of_ipv6 else ""
        self.follow(rules)
        if self.path:
            self.path.unbar(REVIEWED)

    def take_over(self) -> None:
        """The filters of another mcrd are in force no more, and deal with no packet."""
        if self.counters:
            self.counters.settle()  # while no gate is open, and nobody else counts
        if self.path:
            self.path.unbar(INHERITED)

    def trace(self, *, on: bool) -> None:
        """Whether workers are to log every packet that is forwarded, and so to forward it."""
        if self.path:
            (self.path.bar if on else self.path.unbar)(TRACED)

    @property
    def is_waiting(self) -> bool:
        """Whether rules could move to the kernel path if workers looked at their rings."""
        return self.path is not None and bool(self._served) and self.path.is_waiting

    @property
    def drains(self) -> tuple[int, ...]:
        """Descriptor of the map in which the workers say which of their rings are empty; none: there is no path."""
        return (self.path.drains_fd,) if self.path else ()

    def set_own(self, keys: bytes) -> None:
        """Leave to the workers what comes from these sources of this machine."""
        if not self.path:
            return
        try:
            self.path.set_own(keys)
        except OSError:
            self.path.bar(OWN)
        else:
            self.path.unbar(OWN)

    def paths(self, inputs: dict[str, str]) -> Paths:
        """Which rules take it, and why others don't. `inputs`: why no packet of an input interface may."""
        everywhere = self._why_not
        if self.path and self.path.why_refused:
            everywhere = f"this kernel does not load the eBPF programs of the kernel path: {self.path.why_refused}"
        everywhere = everywhere or self.blocker or (_why_barred(self.path) if self.path else "")
        self._told = self._reasons
        return Paths(everywhere, inputs, self._told)

    def _own_reasons(self) -> dict[str, str]:
        if self._told is self._reasons:
            self._reasons = dict(self._reasons)
        return self._reasons

    def _plan(self, placed: PlacedRule) -> _Plan:
        rule_id, source = placed.rule.rule_id, placed.rule.input
        plain = plain_targets(placed, self._egress_of)
        lacks_way = rule_id in self.hops.with_path_mtu and None in placed.ways
        told_of_mtu = plain is None and (has_path_mtu(placed) or lacks_way)
        self.hops.use(rule_id, () if plain else hops_of(placed, self._egress_of), path_mtu=told_of_mtu)
        reason = "" if plain else why_not(placed, self._egress_of, self._port_of, self.hops)
        if self.path and source.group.version == IPV6:
            reason = reason or self.blocker6 or self.path.why_no_ipv6()
        if not self._serves(source):
            reason = f"this machine does not listen to {source.group}"
        targets = () if reason else plain or find_targets(placed, self._egress_of, self._port_of, self.hops)
        mtu = min([LONGEST, *[each.mtu for each in targets]]) if targets else 0
        now = _Served(self._capture_of(source.interface), source, placed.flows, mtu, targets)
        before = self._served.get(rule_id)
        if before and before.capture != now.capture:  # its interface was opened again: what came in by it is no more
            self._drop(before)
            del self._served[rule_id]
        elif before and not targets:  # packets that the filter has left to the kernel path are to find it
            now = before._replace(flows=_both(before.flows, placed), mtu=0)
        return _Plan(rule_id, placed.slot, reason, now)

    def _try(self, step: Callable[[_Plan], bool], plan: _Plan) -> bool:
        """Do it. If there is no memory the kernel goes on by what it had of the rule, so its capture is held."""
        reason, done = plan.reason, False
        try:
            done = step(plan)
            self._stuck.pop(plan.rule_id, None)
        except OSError as error:
            reason = describe_errno(errno_of(error))
            before = self._served.get(plan.rule_id)
            if before and before.mtu:
                self._stuck[plan.rule_id] = before.capture
        if self._reasons.get(plan.rule_id) != reason:
            self._own_reasons()[plan.rule_id] = reason
        return done

    def _narrow(self, plan: _Plan) -> bool:
        """Let no longer datagrams in than new outputs take, before they are there; whether any were let in before."""
        before, now = self._served[plan.rule_id], plan.now
        if now.mtu >= before.mtu:
            return False
        self._forward(plan, before._replace(mtu=now.mtu))
        return now.targets != before.targets

    def _serve(self, plan: _Plan) -> bool:
        """Forward as planned; whether that is new."""
        if not plan.now.targets or plan.now == self._served.get(plan.rule_id):
            return False
        self._forward(plan, plan.now)
        return True

    def _forward(self, plan: _Plan, now: _Served) -> None:
        assert self.path
        try:
            for flow in now.flows:
                self.path.forward(now.capture, flow, plan.slot, now.mtu, targets_of(flow, now.source, now.targets))
        except OSError:  # what of it came in new would outlive the rule
            before = self._served.get(plan.rule_id)
            self._drop(now._replace(flows=before.lacks(now)) if before else now)
            raise
        self._served[plan.rule_id] = now

    def _drop(self, served: _Served) -> None:
        assert self.path
        for flow in served.flows:
            self.path.drop(served.capture, flow)


def _both(flows: tuple[Flow, ...], placed: PlacedRule) -> tuple[Flow, ...]:
    """Those of these that the rule takes still."""
    return tuple(flow for flow in flows if flow not in placed.taken) if placed.taken else flows


def _why_barred(path: KernelPath) -> str:
    """Why nothing takes it, by what bars it for now."""
    why = {
        SHOWN: "the workers show every packet: ingress logs at debug",
        TRACED: "the workers log every packet: egress logs at trace",
        INHERITED: "the filters of the mcrd before this one are in force",
        OWN: "there was no memory to tell it the addresses of this machine",
    }
    return next((text for who, text in why.items() if path.is_barred(who)), "")


@contextmanager
def open_kernel_rules(settings: Settings, kept: Kept) -> Generator[KernelRules]:
    """Make the kernel path, if it may be used and this process and kernel are able to.

    Counters that another mcrd has left go on.
    """
    with ExitStack() as stack:
        counters = _adopt_counters(kept)
        if counters:
            stack.enter_context(counters)
        why_not = _why_nowhere(settings)
        if why_not:
            yield KernelRules(None, why_not, counters)
            return
        try:
            counters = counters or stack.enter_context(KernelCounters.make(kept.store))
            path = stack.enter_context(open_kernel_path(settings.num_workers, counters))
        except OSError as error:
            why_not = f"mcrd cannot load its eBPF programs: {describe_errno(errno_of(error))}"
            log.info("%s has no effect: %s", KERNEL_PATH.variable, why_not)
            yield KernelRules(None, why_not, counters)
            return
        yield KernelRules(path, "", counters)


def _adopt_counters(kept: Kept) -> KernelCounters | None:
    try:
        return KernelCounters.adopt(kept.store)
    except (ValueError, OSError) as error:
        log.warning("what the kernel path has counted for the last mcrd is lost: %s", error)
        return None


def _why_nowhere(settings: Settings) -> str:
    off = {
        f"{KERNEL_PATH.variable}=off": settings.kernel_path == "off",
        f"{ABSORB.variable}=0": not settings.absorb,
        f"{RAW_SEND.variable}=0": not settings.raw_send,
    }
    return next((what for what, is_so in off.items() if is_so), "")
