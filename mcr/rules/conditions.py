"""Judges whether inputs and outputs can be served, from what is known of the network. Pure.

A rule names an interface: it is served by the one that has that name now. Where the sockets are bound to another, or to
none, it waits until they have been opened again.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Final

import attrs

from mcr.model.flow import IPV4, IPV6, LIMITED_BROADCAST, Address, resolution_to
from mcr.model.output_options import Sockets
from mcr.model.rule import Origin, Output, OutputView, Path, Rule, RuleState, RuleView
from mcr.net.interfaces import was_never_there
from mcr.net.network import Network
from mcr.text.answers import NO_ANSWER

_BRIDGE = "bridge"


@attrs.frozen
class Attachment:
    """An interface that sockets were opened on.

    Attributes:
        name: that rules give it.
        index: it had then.
        lost: the sockets are not bound to the one that has the name: it was deleted, has left this network namespace,
            or was renamed.
        fault: why it could not be opened again, although there is one of its name, or only in part.
        former: index of the interface that had the name then, and has another now; 0: there is none.
        stale: it is lost, and its sockets would be bound otherwise if they were opened again.
    """

    name: str
    index: int
    lost: bool = False
    fault: str = ""
    former: int = 0
    stale: bool = False

    @property
    def is_awaited(self) -> bool:
        """Whether it has not been there since rules name it."""
        return was_never_there(self.index) and not self.former


@attrs.frozen
class Condition:
    """How it stands with something that a rule needs.

    Attributes:
        state: active, or why not: waiting for it, or degraded, as it can be served in part.
        reason: in words; empty: active.
        warnings: what one should know although it is active.
        passing: it is about to change by itself.
    """

    state: RuleState = RuleState.ACTIVE
    reason: str = ""
    warnings: tuple[str, ...] = ()
    passing: bool = False


WELL = Condition()

UNUSABLE = "it cannot be used: "
"""Begins the reason of a rule that could not be had, whatever its interfaces are like."""


@attrs.frozen
class Hop:
    """How a host that is an output is reached.

    Attributes:
        neighbour: who has to answer on the link: the host, or the gateway to it.
        oddity: why it may not be meant, in words; empty: nothing is odd about it.
        refused: why nothing can be sent to it; empty: it may be.
    """

    neighbour: Address
    oddity: str = ""
    refused: str = ""


@attrs.frozen
class Paths:
    """Which path the packets of rules take: the kernel's, or the workers' and why.

    Attributes:
        everywhere: why all are the workers'; empty: not all.
        inputs: why those of an input interface are, by its name.
        rules: why those of a rule are, by its id; one that is not there is about to be looked at.
    """

    everywhere: str = "the kernel path is not in use"
    inputs: Mapping[str, str] = attrs.field(factory=dict)
    rules: Mapping[str, str] = attrs.field(factory=dict)

    def why_worker(self, rule: Rule) -> str:
        """Why a rule's packets are the workers'; empty: they take the kernel path."""
        return (
            self.everywhere
            or self.inputs.get(rule.input.interface, "")
            or self.rules.get(rule.rule_id, "it is about to be checked")
        )


@attrs.frozen
class Standing:
    """The state of the workers and their sockets.

    Attributes:
        acknowledged: the newest generation that every worker that runs forwards by; 0 while none runs.
        inputs: input interfaces, by name.
        outputs: output interfaces, by name.
        paths: which path rules take.
        faults: why sockets of outputs could not be opened, by interface, destination and source port (0: any).
        tagless: outputs in VLANs for which nothing can leave with a tag, and why.
        stale: names belong to other interfaces now, or what interfaces lack can be tried again: renew them.
    """

    acknowledged: int = 0
    inputs: Mapping[str, Attachment] = attrs.field(factory=dict)
    outputs: Mapping[str, Attachment] = attrs.field(factory=dict)
    paths: Paths = attrs.field(factory=Paths, kw_only=True)
    faults: Mapping[tuple[str, Address, int, Sockets], str] = attrs.field(factory=dict, kw_only=True)
    tagless: Mapping[Output, str] = attrs.field(factory=dict, kw_only=True)
    stale: bool = attrs.field(default=False, kw_only=True)

    def all(self) -> tuple[Attachment, ...]:
        """Every interface that rules name; one may be there twice."""
        return (*self.inputs.values(), *self.outputs.values())


@attrs.frozen
class Conditions:
    """The conditions that rules need and that are not met.

    Attributes:
        acknowledged: the newest generation that every worker that runs forwards by; 0 while none runs.
        inputs: input interfaces, by name.
        outputs: output interfaces, by name.
        hosts: hosts that are outputs, by address and interface.
        paths: which path rules take.
        foreign: sources that outputs ask for, and this machine does not have.
        faults: why sockets of outputs could not be opened, by interface, destination and source port.
        tagless: outputs in VLANs for which nothing can leave with a tag, and why.
        mute6: output interfaces without an IPv6 address, by name.
        unjoined6: input interfaces without a link-local IPv6 address, by name; nobody has to ask on the loopback.
        indices: of the input interfaces, by name.
        network: as it is. Conditions are equal without its neighbours and routes, of which `hosts` says what matters.
    """

    acknowledged: int = 0
    inputs: Mapping[str, Condition] = attrs.field(factory=dict)
    outputs: Mapping[str, Condition] = attrs.field(factory=dict)
    hosts: Mapping[tuple[Address, str], Condition] = attrs.field(factory=dict)
    paths: Paths = attrs.field(factory=Paths)
    foreign: frozenset[Address] = frozenset()
    faults: Mapping[tuple[str, Address, int, Sockets], str] = attrs.field(factory=dict)
    tagless: Mapping[Output, str] = attrs.field(factory=dict)
    mute6: frozenset[str] = frozenset()
    unjoined6: frozenset[str] = frozenset()
    indices: Mapping[str, int] = attrs.field(factory=dict)
    network: Network = attrs.field(factory=Network, eq=attrgetter("links", "addresses", "addresses6"))

    def concern(self, rule: Rule) -> bool:
        """Whether there is anything to be said of a rule."""
        if rule.input.interface in self.inputs or _address_of_input(rule, self) is not WELL:
            return True
        if self.mute6 and any(each.group.version == IPV6 and _output6(each, self) is not WELL for each in rule.outputs):
            return True
        return bool(self.outputs or self.hosts or self.foreign or self.faults or self.tagless) and any(
            each.interface in self.outputs
            or (each.group, each.interface) in self.hosts
            or each.own_source in self.foreign
            or each.sockets in self.faults
            or (each.vlan is not None and each in self.tagless)
            for each in rule.outputs
        )


_MEANT: Final = {
    IPV4: "{} is no group, nor on a network of this machine; if a group was meant: those begin with 224 to 239",
    IPV6: "{} is no group, nor on a network of this machine; if a group was meant: those begin with ff",
}
"""Of an input that waits for its address."""


def _waiting(reason: str) -> Condition:
    return Condition(RuleState.WAITING, reason)


def _judge_missing(attachment: Attachment, network: Network) -> Condition:
    """An interface that is not there, or not as it was when its sockets were opened."""
    name, awaited = attachment.name, attachment.is_awaited
    if not network.find(name):
        former = network.links.get(attachment.former)
        more = "" if awaited else " any more"
        more += f": it is called {former.name} now" if former else ""
        return _waiting(f"there is no interface {name} in this network namespace{more}")
    if attachment.fault:
        return _waiting(f"{name} is {'there now' if awaited else 'back'}, but cannot be used: {attachment.fault}")
    what = "is there now" if awaited else "is another interface now"
    return Condition(RuleState.WAITING, f"{name} {what}, and is about to be used", passing=True)


def _judge_attachment(attachment: Attachment, network: Network) -> Condition:
    """What is the same for inputs and outputs."""
    name = attachment.name
    link = None if attachment.lost else network.links.get(attachment.index)
    if link is None:
        return _judge_missing(attachment, network)
    if not link.up:
        return _waiting(f"{name} is down")
    if not link.carrier:
        return _waiting(f"{name} has no carrier")
    return WELL


def judge_input(attachment: Attachment, network: Network) -> Condition:
    """Whether packets can come in by an interface."""
    condition = _judge_attachment(attachment, network)
    link = network.links.get(attachment.index)
    if condition.state is not RuleState.ACTIVE or link is None:
        return condition
    if attachment.fault:
        return Condition(RuleState.DEGRADED, f"{attachment.name}: {attachment.fault}")
    master = network.links.get(link.master)
    if master and master.kind == _BRIDGE:
        reason = f"{attachment.name} is a port of bridge {master.name}: joins on it last one membership interval"
        return Condition(RuleState.DEGRADED, reason)
    return condition


def judge_output(attachment: Attachment, network: Network) -> Condition:
    """Whether packets can leave by an interface."""
    return _judge_attachment(attachment, network)


def judge(
    standing: Standing,
    network: Network,
    hops: Mapping[tuple[Address, str], Hop] | None = None,
    silent: Collection[tuple[int, Address]] = (),
    sources: Iterable[Address] = (),
) -> Conditions:
    """All of it.

    Args:
        standing: of the sockets.
        network: as it is.
        hops: how hosts are reached, by address and output interface.
        silent: neighbours that don't answer, by the interface's index and address.
        sources: that outputs ask for.
    """
    return Conditions(
        standing.acknowledged,
        _unwell({name: judge_input(each, network) for name, each in standing.inputs.items()}),
        _unwell({name: judge_output(each, network) for name, each in standing.outputs.items()}),
        _judge_hosts(hops or {}, standing.outputs, silent),
        standing.paths,
        frozenset(sources).difference(network.own_addresses()),
        standing.faults,
        standing.tagless,
        frozenset(name for name, each in standing.outputs.items() if not network.addresses6.get(each.index)),
        frozenset(
            name
            for name, each in standing.inputs.items()
            if not any(own.is_link_local for own in network.addresses6.get(each.index, ()))
            and not ((link := network.links.get(each.index)) and link.loopback)
        ),
        {name: each.index for name, each in standing.inputs.items()},
        network,
    )


def _unwell(conditions: Mapping[str, Condition]) -> dict[str, Condition]:
    return {name: condition for name, condition in conditions.items() if condition != WELL}


def _judge_hosts(
    hops: Mapping[tuple[Address, str], Hop],
    outputs: Mapping[str, Attachment],
    silent: Collection[tuple[int, Address]],
) -> dict[tuple[Address, str], Condition]:
    """Hosts that don't answer, or can't be meant."""
    found = {}
    for (host, name), hop in hops.items():
        index = outputs[name].index if name in outputs else 0
        warnings = (hop.oddity,) if hop.oddity else ()
        if hop.refused:
            found[host, name] = Condition(RuleState.WAITING, hop.refused, warnings)
        elif (index, hop.neighbour) in silent:
            who = f"{host}" if hop.neighbour == host else f"the gateway {hop.neighbour} to {host}"
            reason = f"{who} {NO_ANSWER} {resolution_to(hop.neighbour)} on {name}"
            found[host, name] = Condition(RuleState.WAITING, reason, warnings)
        elif warnings:
            found[host, name] = Condition(warnings=warnings)
    return found


def find_oddity(host: Address, name: str, network: Network, *, routed: bool) -> str:
    """Why an output's address by an interface may not be meant, in words; empty: it is a host there, or all of them.

    Args:
        host: the address.
        name: of the interface.
        network: as it is.
        routed: a route leads to the host by this interface.
    """
    if host in set(network.own_addresses()):
        return f"{host} is an address of this machine: what is sent there does not leave by {name}"
    link = network.find(name)
    if link and (of := network.broadcast_network(host, link.index)):
        return f"{host} is the broadcast address of {of}: every host there gets what is sent to it"
    needs_none = host == LIMITED_BROADCAST or (link and not link.arp)  # by a tunnel everything leaves
    return "" if routed or needs_none else f"no route to {host} leads through {name}"


def find_refusal(host: Address, index: int, network: Network, *, routed: bool = True) -> str:
    """Why nothing can be sent to a host by the interface of an index. Empty: it can.

    It is of IPv6, and no route leads there: to hosts of IPv4 the kernel needs none.
    """
    link = network.links.get(index)
    if host.version != IPV6 or routed:
        return ""
    return f"no route to {host} leads through {link.name if link else 'its interface'}"


def view_of(rule: Rule, generation: int, conditions: Conditions, origin: Origin = Origin.RUNTIME) -> RuleView:
    """A rule and its state.

    Args:
        rule: the rule.
        generation: that brought it in.
        conditions: of all that rules need.
        origin: who keeps it.
    """
    source = conditions.inputs.get(rule.input.interface) or _address_of_input(rule, conditions)
    several = [_of_output(output, conditions) for output in rule.outputs]
    warnings = dict.fromkeys(chain.from_iterable(each.warnings for each in (source, *several)))
    failing = [each for each in several if each.state is not RuleState.ACTIVE]
    if generation > conditions.acknowledged:
        state, reason = RuleState.PENDING, "not every worker has acknowledged it yet"
        several = [Condition(state, reason)] * len(several)
    elif source.state is not RuleState.ACTIVE:
        state, reason = source.state, source.reason
    elif failing:
        state, reason = RuleState.DEGRADED, _describe(failing, len(several))
    else:
        state, reason = RuleState.ACTIVE, ""
    why_worker = conditions.paths.why_worker(rule)
    return RuleView(
        rule_id=rule.rule_id,
        name=rule.name,
        input=rule.input,
        outputs=tuple(
            OutputView.of(each, how.state, how.reason) for each, how in zip(rule.outputs, several, strict=True)
        ),
        state=state,
        reason=reason,
        warnings=tuple(warnings),
        origin=origin,
        path=Path.WORKER if why_worker else Path.KERNEL,
        path_reason=why_worker,
        health=rule.health,
    )


def view_of_unusable(rule: Rule, why: str, origin: Origin) -> RuleView:
    """A rule that could not be had so far, and is tried again."""
    state, reason = RuleState.WAITING, f"{UNUSABLE}{why}"
    outputs = tuple(OutputView.of(each, state, reason) for each in rule.outputs)
    path = Path.WORKER, "it is not in use"
    return RuleView(rule.rule_id, rule.name, rule.input, outputs, state, reason, (), origin, *path, rule.health)


def _of_output(output: Output, conditions: Conditions) -> Condition:
    condition = conditions.outputs.get(output.interface) or _output6(output, conditions)
    if condition.state is not RuleState.ACTIVE:
        return condition
    if output.own_source in conditions.foreign:
        return _waiting(f"its source {output.source} is not an address of this machine")
    if fault := conditions.faults.get(output.sockets):
        return _waiting(fault)
    if output.vlan is not None and (why := conditions.tagless.get(output)):
        return _waiting(f"frames with a VLAN tag cannot leave by {output.interface}: {why}")
    if output.group.is_multicast:
        return condition
    host = conditions.hosts.get((output.group, output.interface), WELL)
    return attrs.evolve(host, warnings=(*condition.warnings, *host.warnings))


def _output6(output: Output, conditions: Conditions) -> Condition:
    """The kernel takes the source for a group from the interface itself (RFC 6724, 4), unless one is asked for."""
    if output.group.version != IPV6 or not output.group.is_multicast or output.source is not None:
        return WELL
    return _waiting(f"{output.interface} has no IPv6 address") if output.interface in conditions.mute6 else WELL


def _address_of_input(rule: Rule, conditions: Conditions) -> Condition:
    """MLD speaks from a link-local address (RFC 3810, 5). What is sent to another machine's address is that one's."""
    name, group, vlan = rule.input.interface, rule.input.group, rule.input.vlan
    if rule.input.is_own:
        index = conditions.indices.get(name)
        if index is None or conditions.network.listens_to(group, index, vlan):
            return WELL
        where = name if vlan is None else f"the device of VLAN {vlan} on {name}"
        reason = f"{group} is not an address of this machine, nor a broadcast address of {where}"
        known = conditions.network.is_on_a_network(group)
        return Condition(RuleState.WAITING, reason, () if known else (_MEANT[group.version].format(group),))
    if rule.input.group.version != IPV6 or name not in conditions.unjoined6:
        return WELL
    return Condition(RuleState.DEGRADED, f"{name} has no link-local IPv6 address, which MLD needs to ask for groups")


def _describe(failing: Iterable[Condition], outputs: int) -> str:
    reasons = [each.reason for each in failing]
    distinct = list(dict.fromkeys(reasons))
    more = f", and {len(distinct) - 1} more reasons" if len(distinct) > 2 else ""  # noqa: PLR2004
    if len(distinct) == 2:  # noqa: PLR2004
        more = f", and {distinct[1]}"
    if outputs == 1:
        return distinct[0]
    count = f"all {outputs}" if len(reasons) == outputs else f"{len(reasons)} of {outputs}"
    return f"{count} outputs: {distinct[0]}{more}"
