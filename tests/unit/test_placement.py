"""Where rules stand in shared memory."""

from ipaddress import IPv4Address, ip_address

import attrs
import pytest

from calls import count_calls
from mcr.errors import LimitReached
from mcr.model.flow import Input
from mcr.model.limits import MAX_OUTPUTS
from mcr.model.overlaps import shared
from mcr.model.rule import Output, Rule
from mcr.relay.placement import Key, LeavingOutput, Placement, Way, way_key
from mcr.shm.places import Places
from placing import place

HOST = IPv4Address("198.18.1.2")


def rule(number: int) -> Rule:
    group = Output(ip_address("239.9.9.9"), 6000 + number, "eth1")
    return Rule(
        f"r{number}", Input("eth0", ip_address("239.1.1.1"), 5000 + number), (group, Output(HOST, 6000, "eth2"))
    )


def test_slots_are_used_again_but_tags_never() -> None:
    """By its tag a slot's counters are told from those of who had it before."""
    placement = Placement(Places.make())
    first, second = (place(placement, rule(number), {}, ()) for number in (1, 2))
    assert placement.displace(first.rule) == first
    third = place(placement, rule(3), {}, ())
    assert third.slot == first.slot
    assert [each.slot for each in third.outputs] == [each.slot for each in first.outputs]
    tags = [tag for each in (first, second, third) for tag in (each.tag, *(place.tag for place in each.outputs))]
    assert len({*tags}) == len(tags)
    assert [*placement] == [second, third]


def test_numbers_have_names_until_they_are_free() -> None:
    placement = Placement(Places.make())
    placed = place(placement, rule(1), {}, ())
    group, host = placed.outputs
    assert placement.rule_name(placed.slot) == "r1"
    names = [placement.output_name(each.slot) for each in (group, host)]
    assert names == ["239.9.9.9:6001:eth1", "198.18.1.2:6000:eth2"]
    placement.displace(placed.rule)
    assert placement.rule_name(placed.slot) == f"{placed.slot} (gone)"
    assert placement.output_name(group.slot) == f"output {group.slot} (gone)"


def test_each_output_has_its_way_and_its_neighbour() -> None:
    placement, way = Placement(Places.make()), Way(ip_address("198.18.0.1"))
    added = rule(1)
    ways = {way_key(added.outputs[0]): way, way_key(added.outputs[1]): attrs.evolve(way, hop=HOST)}
    placed = place(placement, added, ways, {Key("eth2", HOST)})
    assert placed.ways == (way, attrs.evolve(way, hop=HOST))
    assert placed.neighbours == (None, Key("eth2", HOST))


def test_who_names_an_interface_is_known() -> None:
    placement = Placement(Places.make())
    for number in (1, 2):
        place(placement, rule(number), {}, ())
    assert [placement.naming(name) for name in ("eth0", "eth2", "eth3")] == [["r1", "r2"], ["r1", "r2"], []]


def test_what_stays_of_a_changed_rule_keeps_its_place() -> None:
    """Its slots, tags, way and neighbour, whatever is known of them now; what leaves keeps its slot for a while."""
    places, way = Places.make(), Way(ip_address("198.18.0.1"))
    placement, first = Placement(places), rule(1)
    before = place(placement, first, {way_key(first.outputs[0]): way}, {Key("eth2", HOST)})
    group, host = first.outputs
    assert placement.growth(attrs.evolve(first, name="tv")) is None
    slower, fresh = attrs.evolve(group, gso="off"), Output(ip_address("239.9.9.9"), 7000, "eth3")
    changed = attrs.evolve(first, outputs=(fresh, slower), name="tv")
    growth = placement.growth(changed)
    assert growth
    assert growth.outputs == (fresh,)
    replaced = placement.change(changed, {}, ())
    assert (replaced.before, replaced.now.rule) == (before, changed)
    assert (replaced.now.slot, replaced.now.tag) == (before.slot, before.tag)
    assert (replaced.now.outputs[1], replaced.now.ways, replaced.now.neighbours) == (
        before.outputs[0],
        (None, way),
        (None, None),
    )
    assert replaced.leaving == (LeavingOutput(before.outputs[1], before.tag),)
    assert len(places.outputs()) == 3  # until its sums are noted, a next mcrd would find it
    placement.forget(replaced.leaving)
    assert {place.slot for place in places.outputs().values()} == {each.slot for each in replaced.now.outputs}
    assert placement.output_slots.taken == 3
    assert placement.output_name(before.outputs[1].slot).endswith("(gone)")
    assert placement.output_name(replaced.now.outputs[0].slot) == str(fresh)
    assert [*placement] == [replaced.now]
    placement.output_slots.give(before.outputs[1].slot)
    again = placement.change(attrs.evolve(first, outputs=(fresh, slower, host)), {}, {Key("eth2", HOST)})
    assert again.now.outputs[2].slot == before.outputs[1].slot
    assert again.now.outputs[2].tag not in {before.tag, before.outputs[1].tag}
    assert again.now.neighbours == (None, None, Key("eth2", HOST))


def test_an_output_with_another_sender_keeps_its_counters_and_leaves_in_another_way() -> None:
    placement, addresses = Placement(Places.make()), [ip_address(f"198.18.0.{i}") for i in (1, 2)]
    ways = [Way(each) for each in addresses]
    first = rule(1)
    before = place(placement, first, {way_key(first.outputs[0]): ways[0]}, {Key("eth2", HOST)})
    group, host = first.outputs
    asked, ported = attrs.evolve(group, source=addresses[1]), attrs.evolve(host, source_port=4000)
    changed = attrs.evolve(first, outputs=(asked, ported))
    assert placement.count_new(changed) == 0
    assert placement.growth(changed) == changed
    assert placement.growth(attrs.evolve(first, outputs=(attrs.evolve(group, ttl=8, dscp=46), host))) is None
    replaced = placement.change(changed, {way_key(asked): ways[1]}, {Key("eth2", HOST, 4000)})
    assert replaced.now.outputs == before.outputs
    assert replaced.now.ways == (ways[1], None)
    assert replaced.now.neighbours == (None, Key("eth2", HOST, 4000))
    assert not replaced.leaving


def test_slots_that_are_leaving_are_not_free() -> None:
    placement = Placement(Places.make())
    placement.check_room(MAX_OUTPUTS)
    place(placement, rule(1), {}, ())
    with pytest.raises(LimitReached, match="65535 more outputs"):
        placement.check_room(MAX_OUTPUTS - 1)


def ranged(number: int) -> Rule:
    source = Input("eth0", ip_address("239.2.0.0") + number, 5000, last_port=5001)
    return Rule(f"range{number}", source, (Output(ip_address("239.9.9.9"), 6000, "eth1"),))


def inside(number: int) -> Rule:
    return Rule(f"in{number}", Input("eth0", ip_address("239.2.0.0") + number, 5001), rule(1).outputs)


def test_ranges_give_way_to_rules_inside_of_them_and_take_back() -> None:
    placement, wide, single = Placement(Places.make()), ranged(1), inside(1)
    sourced = attrs.evolve(single, rule_id="s", input=attrs.evolve(single.input, sources=(HOST,)))
    for each in (single, ranged(2), wide):
        place(placement, each, {}, ())
    assert {*placement.give_way([wide])} == {"range1"}
    place(placement, sourced, {}, ())
    assert placement.give_way([sourced]) == {}, "of the range from any source it takes nothing"
    placement.displace(single)
    (back,) = placement.give_way([single]).values()
    assert (back.before.flows, back.now.flows) == (wide.input.flows[:1], wide.input.flows)
    place(placement, inside(2), {}, ())
    placement.change(attrs.evolve(inside(2), name="tv"), {}, ())
    assert {*placement.give_way([inside(2)])} == {"range2"}
    placement.displace(inside(2))
    assert {*placement.give_way([inside(2)])} == {"range2"}


@pytest.mark.slow
def test_a_change_is_not_compared_with_all_ranges_and_rules() -> None:
    placement, number = Placement(Places.make()), 300
    for each in range(number):
        place(placement, ranged(each), {}, ())
        place(placement, inside(number + each), {}, ())
    place(placement, inside(7), {}, ())
    assert count_calls(lambda: placement.give_way([inside(7)])) < 30 * number
    gone = [ranged(each) for each in range(number)]
    assert count_calls(lambda: [*shared(gone, (each.rule for each in placement))]) < 60 * number
