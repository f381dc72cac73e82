"""How the rules' outputs leave: by raw frames or through IP, by which gateway, or not at all without carrier.

And what of their inputs depends on this machine's addresses.

Belongs to the relay.
"""

import math
from collections.abc import Callable, Container, Sequence
from functools import partial

import attrs
import trio

from mcr.model.rule import Rule
from mcr.net.ip_bypass import UNSURE, Blockers
from mcr.net.network import Network
from mcr.relay import commands
from mcr.relay.kernel_path import KernelRules
from mcr.relay.local_inputs import LocalInputs
from mcr.relay.neighbours import Neighbours, find_neighbours
from mcr.relay.outputs import Egress, OutputInterfaces, is_down
from mcr.relay.placement import PlacedRule, Placement, Way, neighbours_of, ways_of
from mcr.shm.records import Command

_SHARE = 0.05  # of the time, for what has a path MTU, and for interfaces that have just changed
_AT_ONCE = 0.1  # seconds of that share that may be spent together


class Routing:
    """Follows routes, carrier, and what acts on packets between IP and the interfaces."""

    def __init__(
        self,
        outputs: OutputInterfaces,
        neighbours: Neighbours,
        placement: Placement,
        kernel: KernelRules,
        attach: Callable[[PlacedRule], Command],
        *,
        local: LocalInputs,
    ) -> None:
        """Change nothing yet.

        Args:
            outputs: that the rules send by.
            neighbours: that their outputs have.
            placement: of all rules.
            kernel: the rules that the kernel path forwards by.
            attach: makes the command that tells a worker of a rule.
            local: inputs that are addresses of this machine.
        """
        self._outputs = outputs
        self._neighbours = neighbours
        self._placement = placement
        self._kernel = kernel
        self._attach = attach
        self._local = local
        self._path_mtus_due = -math.inf
        self._spent, self._spent_at = 0.0, -math.inf
        self._found = Blockers(UNSURE)  # by the last review

    async def review_raw(self, found: Blockers, *, anew: bool) -> tuple[Command, ...]:
        """Find out anew where raw frames may leave; the commands to running workers.

        Args:
            found: why nowhere, or why nothing takes the kernel path.
            anew: routes may have changed, which all outputs depend on; otherwise only new interfaces matter.
        """
        return await trio.to_thread.run_sync(self._review_raw, found, anew)

    def _review_raw(self, found: Blockers, anew: bool) -> tuple[Command, ...]:  # noqa: FBT001
        self._found, blocker = found, found.of_all
        self._kernel.block(blocker.reason if blocker else "")
        of_raw = None if blocker and blocker.of_kernel_path else blocker
        reviewed, names = self._outputs.review(of_raw)
        changed = tuple(map(commands.change_raw, reviewed))
        if blocker == UNSURE:  # for a moment
            return changed
        those = [each for each in self._placement if anew or concerns(each.rule, (), names)]
        told = (*changed, *self._follow_routes(those, raw=not of_raw))
        self._kernel.review(self._placement, found)
        return told

    async def follow_gateways(self) -> tuple[Command, ...]:
        """Find the outputs' neighbours anew, since routes have changed; the commands to running workers."""
        return tuple(await trio.to_thread.run_sync(partial(self._follow_routes, [*self._placement], raw=False)))

    def _follow_routes(self, those: Sequence[PlacedRule], *, raw: bool) -> Sequence[Command]:
        """Find the ways and neighbours of these rules' outputs anew, since routes may have changed.

        Where no raw frames leave, the ways that outputs had don't matter, and may do again.
        """
        told, changed = self._find_ways(those, raw=raw)
        return [*told, *map(self._attach, changed)]

    def renew(self, outputs: Container[str]) -> Sequence[Command]:
        """The same for rules that send by these, which were opened again; their own commands are left to the caller."""
        those = [each for each in self._placement if concerns(each.rule, (), outputs)]
        return self._find_ways(those, raw=self._outputs.is_clear)[0]

    def _find_ways(self, those: Sequence[PlacedRule], *, raw: bool) -> tuple[list[Command], list[PlacedRule]]:
        """The commands about new neighbours, and the rules that workers have to be told of, behind these."""
        rules = [placed.rule for placed in those]
        interfaces = {egress.interface.name: egress.interface for egress in self._outputs}
        awaited = find_neighbours(rules, interfaces)
        ways = self._outputs.ways(rules, awaited) if raw else None
        told = [*map(commands.attach_neighbour, self._neighbours.open_now(awaited, interfaces))]
        awaited &= self._neighbours.keys()
        changed = []
        for placed in those:
            waits_for = neighbours_of(placed.rule, awaited)
            found = placed.ways if ways is None else self._keep_tagged(placed, ways_of(placed.rule, ways))
            now = placed
            if is_new := (found, waits_for) != (placed.ways, placed.neighbours):
                self._neighbours.use(waits_for)
                self._neighbours.leave(placed.neighbours)
                now = attrs.evolve(now, ways=found, neighbours=waits_for)
                self._placement.replace(now)
            if is_new or _is_tagless(now):
                changed.append(now)
        return told, changed

    def _keep_tagged(self, placed: PlacedRule, found: tuple[Way | None, ...]) -> tuple[Way | None, ...]:
        """The ways found, and of what is tagged those it had while IP knows of none, as the interface is down.

        By one that is in doubt they have not been asked for.
        """

        def is_unasked(egress: Egress) -> bool:
            return egress.doubted is not None or is_down(egress)

        ways = zip(placed.rule.outputs, placed.ways, found, strict=True)
        return tuple(
            before if output.vlan and not now and is_unasked(self._outputs[output.interface]) else now
            for output, before, now in ways
        )

    async def follow_network(self, now: Network) -> None:
        """Take what is sent to the addresses that this machine has now, and send to the MACs that its neighbours have.

        What goes to a neighbour that has none yet, or no more, is left to the workers.
        """
        if came := self._local.follow(now):
            rules = {each.rule.rule_id for each in self._placement if each.rule.input in came}
            await trio.to_thread.run_sync(self._follow_kernel, rules)
        if self._kernel.path and (concerned := self._kernel.hops.follow(now.neighbours)):
            await trio.to_thread.run_sync(self._follow_kernel, concerned)

    def _follow_kernel(self, rule_ids: Container[str]) -> None:
        self._kernel.follow(each for each in self._placement if each.rule.rule_id in rule_ids)

    async def look_after_hops(self) -> tuple[Command, ...]:
        """Look at what the kernel does not tell of: to be called once per second; the commands to running workers.

        The kernel tells that it is in doubt of a neighbour when that happens, which may have been before it mattered.
        It does not tell that something is too long for the way behind a gateway (RFC 1191), or to a group of IPv6
        (RFC 8201). Many such rules are looked at less often: the look has a share of the time, as all else waits.
        """
        if self._kernel.hops.are_doubtful:
            await trio.to_thread.run_sync(self._kernel.ask_hops)
        begun = trio.current_time()
        if not self._kernel.hops.with_path_mtu or self._kernel.blocker or begun < self._path_mtus_due:
            return ()
        told = tuple(await trio.to_thread.run_sync(self._follow_path_mtus))
        ended = trio.current_time()
        self._path_mtus_due = ended + (ended - begun) / _SHARE
        return told

    def _follow_path_mtus(self) -> Sequence[Command]:
        before = [each for each in self._placement if each.rule.rule_id in self._kernel.hops.with_path_mtu]
        told = self._follow_routes(before, raw=True)
        self._follow_kernel({*self._kernel.hops.with_path_mtu})
        return told

    def suspect(self, before: Network, now: Network) -> tuple[Command, ...]:
        """Send no raw frames by interfaces that have changed, until `review_raw` has seen them."""
        suspected = self._outputs.suspect(before, now)
        if suspected:
            self._kernel.block("an output interface has changed, and is about to be checked")
        return tuple(map(commands.change_raw, suspected))

    async def review_changed(self) -> tuple[Command, ...]:
        """See at once whether raw frames may leave by interfaces that have changed; the commands to running workers.

        If that is not known of others, or there have been many changes, it is left to the next review.
        """
        begun = trio.current_time()
        spent = max(self._spent - (begun - self._spent_at) * _SHARE, 0.0)
        if not self._outputs.is_clear or not self._outputs.is_stale or spent > _AT_ONCE:
            return ()
        told = await self.review_raw(self._found, anew=False)
        self._spent_at = trio.current_time()
        self._spent = spent + self._spent_at - begun
        return told

    async def follow_carrier(self, now: Network) -> tuple[Command, ...]:
        """Send by no interface without carrier, and again by those that have it; the commands to running workers."""
        changed = self._outputs.follow_carrier(now)
        return await trio.to_thread.run_sync(self._follow_carrier, changed) if changed else ()

    def _follow_carrier(self, changed: Container[str]) -> tuple[Command, ...]:
        those = [placed for placed in self._placement if concerns(placed.rule, (), changed)]
        self._kernel.follow(those)
        return tuple(map(self._attach, those))


def _is_tagless(placed: PlacedRule) -> bool:
    """Whether something to be tagged has no way: workers say why, which changes with the interface's state alone."""
    return any(output.vlan and not way for output, way in zip(placed.rule.outputs, placed.ways, strict=True))


def concerns(rule: Rule, inputs: Container[str], outputs: Container[str]) -> bool:
    """Whether a rule reads from one of these interfaces, or sends by one of those."""
    return rule.input.interface in inputs or any(output.interface in outputs for output in rule.outputs)
