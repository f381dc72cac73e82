"""The places of rules in shared memory: the numbers by which workers and statistics know them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress, islice, repeat
from operator import attrgetter
from socket import socket
from typing import NamedTuple

import attrs

from mcr.errors import LimitReached
from mcr.model.columns import FEW, in_pieces, make_all, setters_of
from mcr.model.flow import Address, Flow
from mcr.model.limits import MAX_OUTPUTS, MAX_RULES
from mcr.model.output_options import Sockets
from mcr.model.overlaps import Singles, taken_of
from mcr.model.rule import Output, Rule
from mcr.relay.slots import Slots
from mcr.shm.places import Place, Places, digest
from mcr.text.addresses import plain


@attrs.frozen
class Way:
    """How datagrams get to an output without IP's help.

    Attributes:
        source: address that they come from.
        hop: host or gateway whose MAC they go to; None: that of the group, or of all on the link.
        ttl: that they have unless the output asks for another.
    """

    source: Address
    hop: Address | None = None
    ttl: int = 1


WayKey = tuple[Address, int, str, Address | None, bool]
"""An output's destination, the source that it asks for, and whether it is in a VLAN, where nobody has a gateway."""

Ways = Mapping[WayKey, Way]
"""Where IP would do more than add headers there is none."""


class Key(NamedTuple):
    """A neighbour: an output interface, and the host, or the group with a gateway, that is sent to by it.

    Whatever asks for a port that it comes from has sockets of its own, too. 0: it comes from any. So have all IPv6
    groups together, since an output interface's own are of IPv4, and what keeps the sources or ports of datagrams.
    """

    interface: str
    address: Address
    port: int = 0
    kind: Sockets = Sockets.UDP


def key_of(output: Output) -> Key:
    """The neighbour of an output that needs sockets of its own."""
    return Key(*output.sockets)


def in_order(keys: Iterable[Key]) -> list[Key]:
    """Sorted: addresses of IPv4 and of IPv6 can't be compared."""
    return sorted(keys, key=lambda key: (key.interface, key.address.version, int(key.address), key.port, key.kind))


def way_key(output: Output) -> WayKey:
    """What the way to an output is found by."""
    return output.group, output.port, output.interface, output.own_source, output.vlan is not None


class OutputSlot(NamedTuple):
    """Where an output's counters are; the tag tells them from those of whoever had the slot before."""

    slot: int
    tag: int


@attrs.frozen
class PlacedRule:
    """A rule and its slots.

    Attributes:
        rule: what the operator asked for.
        tag: unique to this placing; tells a slot's counters from those of the slot's last rule. It stays when
            the rule is changed.
        slot: of the rule's counters.
        outputs: slots of the outputs' counters, in the rule's order.
        ways: to the outputs, in the same order; None: there is none but through IP.
        neighbours: that outputs wait for, in the same order; None: an output waits for nobody.
        taken: flows of its range that go to other rules, which name group and port.
    """

    rule: Rule
    tag: int
    slot: int
    outputs: tuple[OutputSlot, ...]
    ways: tuple[Way | None, ...]
    neighbours: tuple[Key | None, ...]
    taken: frozenset[Flow] = frozenset()

    @property
    def flows(self) -> tuple[Flow, ...]:
        """What it takes of its input interface."""
        flows = self.rule.input.flows
        return tuple(flow for flow in flows if flow not in self.taken) if self.taken else flows


@attrs.frozen
class LeavingOutput:
    """An output that its rule has no more. Workers may still count in its slot."""

    place: OutputSlot
    rule: int
    """Tag of the rule."""

    @property
    def slot(self) -> int:
        """Of its counters."""
        return self.place.slot

    @property
    def all_sockets(self) -> tuple[socket, ...]:
        """It has none of its own."""
        return ()


@attrs.frozen
class Replacement:
    """A rule that was changed, and what its change left out."""

    before: PlacedRule
    now: PlacedRule
    leaving: tuple[LeavingOutput, ...]


def ways_of(rule: Rule, ways: Ways) -> tuple[Way | None, ...]:
    """Those to a rule's outputs."""
    return tuple([ways.get(way_key(output)) for output in rule.outputs])


def neighbours_of(rule: Rule, neighbours: Collection[Key]) -> tuple[Key | None, ...]:
    """Those of a rule's outputs."""
    if not neighbours:
        return (None,) * len(rule.outputs)
    return tuple(key if key in neighbours else None for key in map(key_of, rule.outputs))


def _leaves_by(output: Output) -> tuple[object, ...]:
    """What the sockets and the source of an output depend on."""
    return *output.destination, output.source, output.source_port


def _identity(rule: Rule) -> str:
    """What the next mcrd knows it by: the beginning of what digests are made of."""
    return f"{rule.rule_id}\0{rule.input}"


def _output_identity(of_rule: str, output: Output) -> str:
    if output.is_plain:
        return f"{of_rule}\0{plain(output.group)}\0{output.port}\0{output.interface}"
    return "\0".join((of_rule, *map(plain, output.destination)))


def _fresh(
    digests: Sequence[bytes], places: Sequence[Place], former: Sequence[Place | None]
) -> tuple[Sequence[bytes], Sequence[Place]]:
    """Those that had no place before."""
    if not any(former):
        return digests, places
    fresh = [each is None for each in former]
    return [*compress(digests, fresh)], [*compress(places, fresh)]


_PLACED = setters_of(PlacedRule, *attrs.fields_dict(PlacedRule))
_VLAN, _NO_VLAN = attrgetter("vlan"), {None}
_PIECE = 500  # rules that are placed together, so that others have their turn


class Placement:
    """All placed rules, by their ids, and the slots that they have.

    Rules that another mcrd has placed get the slots, and so the counters, that they had, until `forget_former`.
    """

    def __init__(self, places: Places, settle: Callable[[], None] | None = None) -> None:
        """`settle`: waits until nobody counts for rules that were removed; None: nobody does."""
        self._by_id: dict[str, PlacedRule] = {}
        self._tagged: set[str] = set()  # ids of those with outputs in VLANs
        self._ranges: dict[str, None] = {}  # ids of those that take ranges
        self._singles: Singles | None = None  # inputs of the others, since there was a range first
        self._places = places
        self._former_rules, self._former_outputs = places.rules(), places.outputs()
        self._rule_slots = Slots(MAX_RULES, "rules", settle)
        self._rule_slots.reserve({place.slot for place in self._former_rules.values()})
        self.output_slots = Slots(MAX_OUTPUTS, "outputs", settle)
        self.output_slots.reserve({place.slot for place in self._former_outputs.values()})
        self._rules: dict[int, Rule] = {}  # by slot
        self._sent_to: dict[int, Output] = {}

    def __iter__(self) -> Iterator[PlacedRule]:
        return iter(self._by_id.values())

    @property
    def has_ranges(self) -> bool:
        """Whether some rule takes a range."""
        return bool(self._ranges)

    def check_room(self, outputs: int) -> None:
        """Raise `LimitReached` if there are not as many slots of outputs: some may still be leaving."""
        if self.output_slots.taken - len(self._former_outputs) + outputs > MAX_OUTPUTS:
            raise LimitReached(
                f"No room for {outputs} more outputs now", "workers still use some that were removed: try again"
            )

    def place(self, rules: Sequence[Rule], ways: Ways, neighbours: Collection[Key]) -> tuple[PlacedRule, ...]:
        """Give rules their slots. There are enough: `check_room`, and `mcr.rules.catalog` admits no more rules."""
        if len(rules) <= FEW:
            return tuple([self._place_one(rule, ways, neighbours) for rule in rules])
        placed = list[PlacedRule]()
        for some in in_pieces(rules, _PIECE):
            placed += self._place(some, ways, neighbours)
        return tuple(placed)

    def _place_one(self, rule: Rule, ways: Ways, neighbours: Collection[Key]) -> PlacedRule:
        identity = _identity(rule)
        ((slot, tag),) = self._place_rules([digest(identity)])
        outputs = tuple(self._place_outputs([(identity, output) for output in rule.outputs]))
        placed = PlacedRule(rule, tag, slot, outputs, ways_of(rule, ways), neighbours_of(rule, neighbours))
        self._note([placed])
        return placed

    def _place(self, rules: Sequence[Rule], ways: Ways, neighbours: Collection[Key]) -> list[PlacedRule]:
        identities = [*map(_identity, rules)]
        slots, tags = zip(*self._place_rules([*map(digest, identities)]), strict=True)
        sent = [(identity, output) for identity, rule in zip(identities, rules, strict=True) for output in rule.outputs]
        places = iter(self._place_outputs(sent))
        outputs = [tuple(islice(places, len(rule.outputs))) for rule in rules]
        found, awaited = [ways_of(rule, ways) for rule in rules], [neighbours_of(rule, neighbours) for rule in rules]
        nothing: Iterable[frozenset[Flow]] = repeat(frozenset())
        placed = make_all(PlacedRule, _PLACED, len(rules), rules, tags, slots, outputs, found, awaited, nothing)
        self._note(placed)
        return placed

    def growth(self, rule: Rule) -> Rule | None:
        """A changed rule with those outputs alone that the one with its id lacks, or sends otherwise; None: none."""
        had = {*map(_leaves_by, self._by_id[rule.rule_id].rule.outputs)}
        outputs = tuple(output for output in rule.outputs if _leaves_by(output) not in had)
        return attrs.evolve(rule, outputs=outputs) if outputs else None

    def count_new(self, rule: Rule) -> int:
        """Outputs of a changed rule that have no slots yet."""
        had = {output.destination for output in self._by_id[rule.rule_id].rule.outputs}
        return sum(output.destination not in had for output in rule.outputs)

    def change(self, rule: Rule, ways: Ways, neighbours: Collection[Key]) -> Replacement:
        """Have it stand in the place of the rule with its id and input. Outputs that stay keep all that they have.

        The slots of those that leave are still taken, and known to a next mcrd until `forget`.
        """
        before = self._by_id[rule.rule_id]
        former = {
            _leaves_by(output): (way, neighbour)
            for output, way, neighbour in zip(before.rule.outputs, before.ways, before.neighbours, strict=True)
        }
        had = {output.destination: place for output, place in zip(before.rule.outputs, before.outputs, strict=True)}
        identity = _identity(rule)
        outputs = tuple(
            had.pop(output.destination) if output.destination in had else self._place_outputs([(identity, output)])[0]
            for output in rule.outputs
        )
        waits_for = neighbours_of(rule, neighbours)
        found = [
            former.get(_leaves_by(output), (way, neighbour))
            for output, way, neighbour in zip(rule.outputs, ways_of(rule, ways), waits_for, strict=True)
        ]
        found_ways, awaited = zip(*found, strict=True)
        now = PlacedRule(rule, before.tag, before.slot, outputs, found_ways, awaited, before.taken)
        self.replace(now)
        for place in had.values():
            del self._sent_to[place.slot]
        return Replacement(before, now, tuple(LeavingOutput(place, now.tag) for place in had.values()))

    def give_way(self, concerned: Iterable[Rule]) -> dict[str, Replacement]:
        """Have ranges take what no rule names by group and port, after these rules were added or removed, by their ids.

        Returns:
            Those that take more or less than before.
        """
        about = [*concerned] if self._ranges else []
        if not about:
            return {}
        singles = self._singles = self._singles or Singles(placed.rule.input for placed in self)
        fresh, changed = {rule.rule_id for rule in about}, Singles(rule.input for rule in about)
        replaced = {}
        for before in [self._by_id[each] for each in self._ranges]:
            source, rule_id = before.rule.input, before.rule.rule_id
            is_concerned = rule_id in fresh or any(changed.inside(source))
            if is_concerned and (taken := taken_of(source, singles)) != before.taken:
                now = self._by_id[rule_id] = attrs.evolve(before, taken=taken)
                replaced[rule_id] = Replacement(before, now, ())
        return replaced

    def forget(self, leaving: Iterable[LeavingOutput]) -> None:
        """Let no next mcrd know them."""
        for each in leaving:
            self._places.drop_output(each.slot)

    def _place_rules(self, digests: Sequence[bytes]) -> list[Place]:
        """Places of rules: those that another mcrd has given them, or new ones."""
        found = [*map(self._former_rules.pop, digests, repeat(None))]
        if (new := found.count(None)) and self._rule_slots.taken + new > MAX_RULES:
            self.forget_former()
        tags = self._places.new_tags(new)
        places = [each or Place(self._rule_slots.take(), next(tags)) for each in found]
        self._places.put_rules(*_fresh(digests, places, found))
        return places

    def _place_outputs(self, sent: Sequence[tuple[str, Output]]) -> list[OutputSlot]:
        """The same of outputs, each with what identifies its rule."""
        digests = [digest(_output_identity(*each)) for each in sent]
        found = [*map(self._former_outputs.pop, digests, repeat(None))]
        if (new := found.count(None)) and self.output_slots.taken + new > MAX_OUTPUTS:
            self.forget_former()
        tags = self._places.new_tags(new)
        places = [each or Place(self.output_slots.take(), next(tags)) for each in found]
        self._places.put_outputs(*_fresh(digests, places, found))
        self._sent_to |= {slot: output for (slot, _), (_, output) in zip(places, sent, strict=True)}
        return [*map(OutputSlot._make, places)]

    def forget_former(self) -> None:
        """Free the slots that another mcrd had placed rules in that are no more."""
        for place in self._former_rules.values():
            self._places.drop_rule(place.slot)
            self._rule_slots.give(place.slot)
        for place in self._former_outputs.values():
            self._places.drop_output(place.slot)
            self.output_slots.give(place.slot)
        self._former_rules, self._former_outputs = {}, {}

    def replace(self, placed: PlacedRule) -> None:
        """Have it stand in the place of the one with its id, if there is one: in the same slots."""
        self._note([placed])

    def _note(self, several: Sequence[PlacedRule]) -> None:
        rules = {each.rule.rule_id: each.rule for each in several}
        self._by_id |= zip(rules, several, strict=True)
        self._rules |= {each.slot: each.rule for each in several}
        self._tagged.difference_update(rules)
        self._tagged.update([each for each, rule in rules.items() if {*map(_VLAN, rule.outputs)} != _NO_VLAN])
        self._ranges |= dict.fromkeys([each for each, rule in rules.items() if rule.input.is_range])
        if self._singles is not None:
            for rule in rules.values():
                self._singles.add(rule.input)

    def displace(self, rule: Rule) -> PlacedRule:
        """Take a rule's slots back."""
        placed = self._by_id.pop(rule.rule_id)
        self._tagged.discard(rule.rule_id)
        self._ranges.pop(rule.rule_id, None)
        if self._singles is not None:
            self._singles.drop(rule.input)
        del self._rules[placed.slot]
        self._places.drop_rule(placed.slot)
        self._rule_slots.rest(placed.slot)
        for place in placed.outputs:
            del self._sent_to[place.slot]
            self._places.drop_output(place.slot)
            self.output_slots.rest(place.slot)
        return placed

    def tagged(self) -> Iterator[tuple[Output, Way | None]]:
        """The outputs in VLANs, and the ways to them."""
        for placed in map(self._by_id.__getitem__, self._tagged):
            for output, way in zip(placed.rule.outputs, placed.ways, strict=True):
                if output.vlan is not None:
                    yield output, way

    def naming(self, interface: str) -> list[str]:
        """Ids of the rules that name an interface."""
        return [rule_id for rule_id, placed in self._by_id.items() if interface in placed.rule.interfaces]

    def rule_name(self, slot: int) -> str:
        """Id and name of the rule in a rule slot."""
        rule = self._rules.get(slot)
        return rule.label if rule else f"{slot} (gone)"

    def output_name(self, slot: int) -> str:
        """Destination of an output slot."""
        output = self._sent_to.get(slot)
        return str(output) if output else f"output {slot} (gone)"
