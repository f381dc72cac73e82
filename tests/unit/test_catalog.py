"""Which rules there are, which may be added, and how their generations are numbered."""

import functools
from ipaddress import ip_address
from typing import NoReturn

import attrs
import pytest

from calls import count_calls
from mcr.errors import InvalidParams, LimitReached, RuleExists, RuleNotFound
from mcr.model.flow import Input
from mcr.model.limits import MAX_OUTPUTS, MAX_OUTPUTS_PER_RULE, MAX_RULES
from mcr.model.output_options import KEEP
from mcr.model.rule import NO_RULES, Output, Rule, RuleChange
from mcr.model.selection import Selection
from mcr.rules.catalog import Catalog

GROUP, HOST = ip_address("239.9.9.9"), ip_address("198.18.1.2")


@functools.cache
def rule(number: int, *, rule_id: str | None = None, name: str | None = None, outputs: int = 1) -> Rule:
    source = Input("eth0", ip_address("239.1.0.0") + number, 5000)
    sends_to = tuple(Output(GROUP, 6000 + each, "eth1") for each in range(outputs))
    return Rule(rule_id or f"r{number}", source, sends_to, name)


def holding(*rules: Rule) -> Catalog:
    catalog = Catalog()
    catalog.note(catalog.plan_addition(rules))
    return catalog


@functools.cache
def most() -> tuple[Rule, ...]:
    """Rules with all the outputs that a relay holds."""
    numbers = range(MAX_OUTPUTS // MAX_OUTPUTS_PER_RULE)
    return tuple(rule(number, outputs=MAX_OUTPUTS_PER_RULE) for number in numbers)


def held(catalog: Catalog) -> list[str]:
    return [entry.rule.rule_id for entry in catalog]


def from_sources(rule_id: str, *sources: int) -> Rule:
    """A rule for one group, from the sources with these numbers."""
    taken = tuple(ip_address("198.18.0.0") + number for number in sources)
    return attrs.evolve(rule(1, rule_id=rule_id), input=attrs.evolve(rule(1).input, sources=taken))


@pytest.mark.parametrize("many", [0, 200])
def test_nobody_sees_of_a_change_what_is_only_prepared(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcr.rules.catalog.MANY", many)
    catalog = holding(rule(1, name="a"), rule(2))
    change = catalog.plan_exchange([rule(3)], [rule(2)], [rule(1, name="b")])
    prepared = catalog.prepare(change)
    assert held(catalog) == ["r1", "r2"]
    assert catalog.find(None, "a").rule == rule(1, name="a")
    assert catalog.generation == change.generation - 1
    catalog.show(prepared)
    assert held(catalog) == ["r1", "r3"]
    assert catalog.find(None, "b").rule == rule(1, name="b")
    with pytest.raises(RuleNotFound):
        catalog.find(None, "a")
    assert catalog.generation == change.generation
    catalog.plan_addition([rule(2)])
    for number in (1, 3):
        with pytest.raises(RuleExists):
            catalog.plan_addition([rule(number, rule_id="other")])


def test_two_rules_share_no_source_of_a_flow() -> None:
    """One for any source is beside those for some; what a rule lets go another may take."""
    catalog = holding(from_sources("some", 1, 2), from_sources("any"))
    with pytest.raises(RuleExists, match=r"some takes 239\.1\.0\.1:5000 on eth0 from 198\.18\.0\.2$"):
        catalog.plan_addition([from_sources("more", 2, 3)])
    with pytest.raises(RuleExists, match=r"rules\[1\] has the same input as rules\[0\], .* from 198\.18\.0\.4$"):
        catalog.plan_addition([from_sources("one", 3, 4), from_sources("two", 4, 5)])
    with pytest.raises(RuleExists, match=r"two rules would have .* from 198\.18\.0\.2$"):
        catalog.plan_exchange([from_sources("more", 2, 3)], [], [])
    catalog.note(catalog.plan_exchange([from_sources("more", 2, 3)], [from_sources("some", 1, 2)], []))
    catalog.plan_addition([from_sources("first", 1)])
    assert catalog.same(from_sources("again", 3, 2)) == catalog.find("more", None)
    assert catalog.same(from_sources("less", 2)) is None


@pytest.mark.slow
def test_a_rule_counts_once_for_each_of_its_sources() -> None:
    """The workers' table has a flow for each."""
    full = holding(*(from_sources(f"r{first}", *range(first, first + 64)) for first in range(1, MAX_RULES + 1, 64)))
    with pytest.raises(LimitReached, match=f"No room for rules with {MAX_RULES + 1} flows"):
        full.plan_addition([rule(2)])


def by_loopback(number: int, *to: int, interface: str = "lo", sources: tuple[int, ...] = ()) -> Rule:
    """Takes the group of this number, and sends to those of others."""
    taken = tuple(ip_address("198.18.0.0") + each for each in sources)
    source = Input("lo", ip_address("239.1.0.0") + number, 5000, sources=taken)
    outputs = tuple(Output(ip_address("239.1.0.0") + each, 5000, interface) for each in to)
    return Rule(f"r{number}", source, outputs)


def test_rules_that_would_feed_themselves_by_the_loopback_are_refused() -> None:
    """With the loop spelt out. Elsewhere it is another group or another interface's, or noticed on the wire."""
    chain = [by_loopback(1, 7, 2), by_loopback(2, 3), by_loopback(3, 4)]
    catalog = holding(*chain, by_loopback(5, 5, interface="eth0"), rule(9))
    with pytest.raises(InvalidParams) as refused:
        catalog.plan_addition([by_loopback(4, 1)])
    assert refused.value.message == (
        "Rule r4 would feed itself: it sends 239.1.0.4:5000 on lo to 239.1.0.1:5000:lo, which r1 sends to "
        "239.1.0.2:5000:lo, which r2 sends to 239.1.0.3:5000:lo, which r3 sends to 239.1.0.4:5000:lo"
    )
    with pytest.raises(InvalidParams):
        catalog.plan_change([by_loopback(3, 1)])
    with pytest.raises(InvalidParams):
        catalog.plan_exchange([by_loopback(4, 1)], [], [])
    catalog.plan_exchange([by_loopback(4, 1)], [chain[1]], [])  # what is cut is no loop
    catalog.plan_exchange([by_loopback(4, 1)], [], [by_loopback(2, 7)])


def test_a_rule_for_other_sources_does_not_feed_itself() -> None:
    there, back = by_loopback(1, 2), by_loopback(2, 1, sources=(9,))
    Catalog().plan_addition([there, back])
    own = attrs.evolve(there.outputs[0], source=ip_address("198.18.0.9"))
    with pytest.raises(InvalidParams):
        Catalog().plan_addition([attrs.evolve(there, outputs=(own,)), back])


def test_a_source_that_is_kept_may_be_any_that_another_rule_names() -> None:
    kept = [
        attrs.evolve(each, outputs=(attrs.evolve(each.outputs[0], source=KEEP),))
        for each in (by_loopback(1, 2), by_loopback(2, 3, sources=(7, 8)), by_loopback(3, 1, sources=(8,)))
    ]
    with pytest.raises(InvalidParams, match="would feed itself"):
        Catalog().plan_addition(kept)
    Catalog().plan_addition([*kept[:2], attrs.evolve(by_loopback(3, 1, sources=(9,)), outputs=kept[2].outputs)])


def test_a_rule_that_keeps_sources_feeds_the_rules_of_all_of_them() -> None:
    """Those of the second as well as those of the first."""
    first = by_loopback(1, 2, sources=(7, 8))
    rules = [by_loopback(2, 9, sources=(7,)), attrs.evolve(by_loopback(2, 1, sources=(8,)), rule_id="other")]
    catalog = holding(*[attrs.evolve(each, outputs=(attrs.evolve(each.outputs[0], source=KEEP),)) for each in rules])
    with pytest.raises(InvalidParams, match="which other sends to"):
        catalog.plan_addition([attrs.evolve(first, outputs=(attrs.evolve(first.outputs[0], source=KEEP),))])


def test_a_loop_that_a_rule_inside_a_range_keeps_open_is_refused() -> None:
    """It can be removed, and nobody looks for loops then."""
    one, two = ip_address("239.1.0.0"), ip_address("239.2.0.0")
    there = Rule("there", Input("lo", one, 5000, prefix=24), (Output(two, 5000, "lo", prefix=24),))
    back = Rule("back", Input("lo", two, 5000, prefix=30), (Output(one + 1, 5000, "lo"),))
    for sources in ((), (9,)):
        inside = by_loopback(1, 1, interface="eth0", sources=sources)
        with pytest.raises(InvalidParams, match="which there sends to"):
            holding(there, inside).plan_addition([back])
    Catalog().plan_addition([there, back, inside][1:])


def test_what_is_sent_to_an_address_of_this_machine_comes_in_by_the_loopback() -> None:
    """Whichever interface the output names."""
    one, two = ip_address("198.18.0.1"), ip_address("198.18.0.2")
    there = Rule("there", Input("lo", one, 5000), (Output(two, 5000, "eth0"),))
    with pytest.raises(InvalidParams, match="Rule back would feed itself"):
        holding(there).plan_addition([Rule("back", Input("lo", two, 5000), (Output(one, 5000, "eth1"),))])
    holding(there).plan_addition([Rule("back", Input("eth0", two, 5000), (Output(one, 5000, "eth1"),))])
    every = ip_address("255.255.255.255")
    Catalog().plan_addition([Rule("all", Input("lo", every, 5000), (Output(every, 5000, "eth1"),))])


def test_generations_are_numbered_without_gaps() -> None:
    catalog = Catalog()
    assert catalog.generation == NO_RULES
    addition = catalog.plan_addition([rule(1)])
    assert addition == RuleChange(NO_RULES + 1, added=(rule(1),))
    catalog.note(addition)
    renewal = catalog.plan_renewal()
    assert renewal == RuleChange(NO_RULES + 2, renew=True)
    catalog.note(renewal)
    removal = catalog.plan_removal([catalog.find("r1", None).rule])
    assert removal == RuleChange(NO_RULES + 3, removed=(rule(1),))
    catalog.note(removal)
    assert catalog.generation == NO_RULES + 3


def test_plan_alone_changes_nothing() -> None:
    """What could not be applied leaves its number, its input, its id and its name free."""
    catalog = holding(rule(1))
    for _ in range(2):
        assert catalog.plan_addition([rule(2, name="tv")]).generation == NO_RULES + 2
        assert catalog.plan_removal([catalog.find("r1", None).rule]).generation == NO_RULES + 2
    assert held(catalog) == ["r1"]


def test_plan_that_is_out_of_date_is_a_bug() -> None:
    catalog = Catalog()
    first, second = catalog.plan_addition([rule(1)]), catalog.plan_addition([rule(2)])
    catalog.note(first)
    with pytest.raises(AssertionError, match="planned before another"):
        catalog.note(second)


def test_entry_says_which_generation_brought_it_in_or_took_it_out() -> None:
    catalog = holding(rule(1))
    (second,) = catalog.note(catalog.plan_addition([rule(2)]))
    assert [entry.generation for entry in catalog] == [NO_RULES + 1, NO_RULES + 2]
    (removed,) = catalog.note(catalog.plan_removal([catalog.find("r2", None).rule]))
    assert (second.generation, removed.generation) == (NO_RULES + 2, NO_RULES + 3)


def test_entry_knows_the_hosts_that_its_rule_sends_to() -> None:
    outputs = (Output(GROUP, 6000, "eth1"), Output(HOST, 6000, "eth2"))
    (entry,) = holding(Rule("tv", Input("eth0", GROUP, 5000), outputs))
    assert entry.hosts == ((HOST, "eth2"),)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (rule(1, rule_id="other"), "Rule already exists: r1 (tv) takes 239.1.0.1:5000 on eth0"),
        (rule(2, rule_id="r1"), "Rule already exists: r1"),
        (rule(2, name="tv"), "Rule already exists: r1 is named 'tv'"),
    ],
    ids=["input", "id", "name"],
)
def test_identity_that_is_taken_is_refused_until_its_holder_is_gone(second: Rule, message: str) -> None:
    catalog = holding(rule(1, name="tv"))
    with pytest.raises(RuleExists) as caught:
        catalog.plan_addition([second])
    assert caught.value.message == message
    catalog.note(catalog.plan_removal([catalog.find("r1", None).rule]))
    catalog.note(catalog.plan_addition([second]))
    assert held(catalog) == [second.rule_id]


def test_a_rule_that_differs_by_its_name_alone_can_be_renamed() -> None:
    catalog = holding(rule(1, name="tv"))
    for name, hints in (("news", ["or its name: mcrctl change --rule-id r1 --new-name news"]), (None, [])):
        with pytest.raises(RuleExists) as caught:
            catalog.plan_addition([rule(1, name=name, rule_id="other")])
        assert [*caught.value.hints[2:]] == hints


def test_which_of_several_is_refused_is_told() -> None:
    catalog = holding(rule(1))
    with pytest.raises(RuleExists, match=r"\(rules\[1\]\)$"):
        catalog.plan_addition([rule(2), rule(1)])


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (rule(1, rule_id="other"), "input as rules[0], 239.1.0.1:5000 on eth0"),
        (rule(2, rule_id="r1"), "id as rules[0], r1"),
        (rule(2, name="tv"), "name as rules[0], tv"),
    ],
    ids=["input", "id", "name"],
)
def test_identity_that_is_given_twice_is_refused(second: Rule, what: str) -> None:
    with pytest.raises(RuleExists) as caught:
        Catalog().plan_addition([rule(1, name="tv"), second])
    assert caught.value.message == f"Rule already exists: rules[1] has the same {what}"


def test_every_clash_is_told() -> None:
    catalog = holding(rule(1), rule(2))
    with pytest.raises(RuleExists, match=r"rules\[0\].*rules\[2\]") as caught:
        catalog.plan_addition([rule(2), rule(3), rule(1), rule(3)])
    assert [fault.message[-10:] for fault in caught.value.faults] == ["(rules[0])", "(rules[2])", "00 on eth0"]


def test_rules_without_names_are_no_clash() -> None:
    assert held(holding(rule(1), rule(2))) == ["r1", "r2"]


def test_rule_is_found_by_its_id_or_its_name() -> None:
    catalog = holding(rule(1, name="tv"), rule(2))
    assert catalog.find("r2", None).rule == rule(2)
    assert catalog.find(None, "tv").rule.rule_id == "r1"


@pytest.mark.parametrize(
    ("rule_id", "name", "message", "hint"),
    [
        ("news-11", None, "No rule has the id 'news-11'", "did you mean news-1?"),
        (None, "tvv", "No rule has the name 'tvv'", "did you mean tv?"),
        (None, "zzz", "No rule has the name 'zzz'", "see the rules: mcrctl list"),
        ("tv", None, "No rule has the id 'tv'", "see the rules: mcrctl list"),
    ],
)
def test_rule_that_is_not_there_is_not_found(rule_id: str | None, name: str | None, message: str, hint: str) -> None:
    catalog = holding(rule(1, rule_id="news-1", name="tv"))
    with pytest.raises(RuleNotFound) as caught:
        catalog.find(rule_id, name)
    assert (caught.value.message, caught.value.hints[0]) == (message, hint)


def test_rules_that_send_to_the_same_place_are_told_while_they_do() -> None:
    catalog, one, two = Catalog(), rule(1), rule(2)
    elsewhere = attrs.evolve(rule(3), outputs=(attrs.evolve(one.outputs[0], vlan=7),))
    assert one.outputs == two.outputs
    catalog.note(catalog.plan_addition([one, two, elsewhere]))
    told = catalog.destinations.shared([one, elsewhere])
    assert list(told) == ["r1"]
    assert "is an output of rule r2, too" in told["r1"][0]
    away = attrs.evolve(two, outputs=(attrs.evolve(two.outputs[0], port=7777),))
    for changed, shared in ((away, []), (two, ["r1", "r2"])):
        catalog.note(catalog.plan_change([changed]))
        assert list(catalog.destinations.shared([one, changed])) == shared
    catalog.note(catalog.plan_removal([two]))
    assert catalog.destinations.shared([one]) == {}


def test_rules_that_send_to_ranges_are_told_of_each_other() -> None:
    """But for those that send where the range would have sent what it leaves to them."""
    pairs = [pair_rule(number) for number in range(3)]
    elsewhere = Rule("else", rule(9).input, (Output(GROUP, 6001, "eth1"),))
    inside = Rule("inside", Input("eth0", pairs[1].input.group, 5001), (Output(GROUP, 6001, "eth1"),))
    catalog = holding(pairs[1], inside)
    assert catalog.destinations.shared([pairs[1], inside]) == {}
    catalog.note(catalog.plan_addition([pairs[0], pairs[2], elsewhere]))
    told = catalog.destinations.shared([*pairs, elsewhere, inside])
    who = {name: text.partition("of rule ")[2].partition(", too")[0] for name, (text,) in told.items()}
    more = {"p0": "p1 and 1 more", "p1": "p0 and 1 more", "p2": "p1 and 1 more"}
    assert who == more | {"else": "inside and 3 more", "inside": "else and 2 more"}
    catalog.note(catalog.plan_removal([pairs[0], pairs[2], elsewhere]))
    assert catalog.destinations.shared([pairs[1], inside]) == {}


def test_a_rule_for_any_source_is_told_of_a_range_around_it_that_names_some() -> None:
    """But not one that names them, too, nor one beside the range."""
    group, named = ip_address("239.1.0.0"), tuple(map(ip_address, ("10.0.0.1", "10.0.0.2")))
    ranged = Rule("ranged", Input("eth0", group, 5000, None, named, 24), rule(1).outputs)
    any_source = Rule("any", Input("eth0", group + 7, 5000), rule(2).outputs)
    beside = Rule("beside", Input("eth1", group + 7, 5000), rule(3).outputs)
    some = Rule("some", attrs.evolve(any_source.input, sources=named), rule(4).outputs)
    catalog = holding(ranged, any_source, beside, some)
    told = catalog.destinations.shared([ranged, any_source, beside, some])
    those = {name: [each for each in texts if "in the range of" in each] for name, texts in told.items()}
    assert {name: len(texts) for name, texts in those.items() if texts} == {"any": 1}
    assert "239.1.0.7:5000 on eth0 is in the range of rule ranged, which names sources" in those["any"][0]
    assert "what comes from 10.0.0.1 and 1 more, not" in those["any"][0]
    catalog.note(catalog.plan_removal([ranged]))
    assert not any("in the range of" in each for each in catalog.destinations.shared([any_source])["any"])


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_what_is_told_of_many_ranges_does_not_take_long(*, apart: bool) -> None:
    """Nobody is answered meanwhile. `apart`: each sends to ports of its own. So it is with rules that send into one."""
    rules = [pair_rule(number, apart=apart) for number in range(300)]
    into = [Rule(f"s{each}", rule(1000 + each).input, (Output(GROUP, 6001, "eth1"),)) for each in range(300)]
    catalog = holding(*rules, *into)
    assert count_calls(lambda: catalog.destinations.shared([*rules, *into])) < 60 * 600
    (text,) = catalog.destinations.shared(into[1:2])["s1"]
    assert f"of rule s0 and {299 if apart else 598} more, too" in text


def pair_rule(number: int, *, apart: bool = False) -> Rule:
    """Takes two ports of a group of its own, and sends to two."""
    source = Input("eth0", ip_address("239.1.0.0") + number, 5000, last_port=5001)
    first = 6000 + 2 * number if apart else 6000
    return Rule(f"p{number}", source, (Output(GROUP, first, "eth1", last_port=first + 1),))


@pytest.mark.slow
def test_more_rules_than_a_relay_holds_are_refused() -> None:
    catalog = holding(rule(0))
    several = [rule(number) for number in range(1, MAX_RULES + 1)]
    assert len(catalog.plan_addition(several[:-1]).added) == MAX_RULES - 1
    with pytest.raises(LimitReached, match=f"No room for {MAX_RULES + 1} rules"):
        catalog.plan_addition(several)


@pytest.mark.slow
def test_more_outputs_than_a_relay_holds_are_refused() -> None:
    catalog = holding(*most())
    with pytest.raises(LimitReached, match=f"No room for {MAX_OUTPUTS + 1} outputs"):
        catalog.plan_addition([rule(9999)])
    catalog.note(catalog.plan_removal([catalog.find("r0", None).rule]))
    assert catalog.plan_addition([rule(9999)])


def test_changed_rule_stands_where_it_stood() -> None:
    """In a new generation, with its new name and hosts; its former name is free."""
    catalog = holding(rule(1, name="tv"), rule(2, name="radio"))
    sends_to = Output(HOST, 6000, "eth2")
    changed = attrs.evolve(rule(1, name="news"), outputs=(sends_to,))
    change = catalog.plan_change([changed])
    assert change == RuleChange(NO_RULES + 2, changed=(changed,))
    (entry,) = catalog.note(change)
    assert (entry.rule, entry.generation, entry.hosts) == (changed, NO_RULES + 2, ((HOST, "eth2"),))
    assert held(catalog) == ["r1", "r2"]
    assert catalog.find(None, "news") == catalog.find_either("r1") == entry
    with pytest.raises(RuleExists, match="r1 is named 'news'"):
        catalog.plan_change([rule(2, name="news")])
    catalog.note(catalog.plan_change([rule(2, name="tv")]))
    catalog.note(catalog.plan_removal([changed]))
    assert catalog.plan_addition([rule(1, name="news")])


@pytest.mark.slow
def test_changed_rule_has_the_room_of_the_one_that_it_was() -> None:
    catalog = holding(*most())
    catalog.note(catalog.plan_change([rule(0, name="smaller", outputs=MAX_OUTPUTS_PER_RULE - 1)]))
    catalog.note(catalog.plan_addition([rule(9999)]))
    with pytest.raises(LimitReached, match=f"No room for {MAX_OUTPUTS + 1} outputs"):
        catalog.plan_change([most()[0]])
    assert catalog.plan_change([rule(0, outputs=MAX_OUTPUTS_PER_RULE - 1)])


def test_same_rule_has_the_same_input_outputs_and_name() -> None:
    catalog = holding(rule(1, name="tv", outputs=2))
    there = rule(1, name="tv", outputs=2, rule_id="any")
    assert catalog.same(attrs.evolve(there, outputs=there.outputs[::-1]))
    for other in (rule(2, name="tv", outputs=2), rule(1, outputs=2), rule(1, name="tv"), rule(1, name="x", outputs=2)):
        assert not catalog.same(other)


def test_an_exchange_leaves_no_input_id_or_name_twice() -> None:
    """As an interface's other name could make it: the files have different ones."""
    catalog = Catalog()
    catalog.note(catalog.plan_addition([rule(1), rule(2)]))
    twins = (attrs.evolve(rule(1), rule_id="twin"), attrs.evolve(rule(3), rule_id=rule(1).rule_id))
    for twin in twins:
        with pytest.raises(RuleExists, match="two rules would have"):
            catalog.plan_exchange([twin], [rule(2)], [])
        catalog.plan_exchange([twin], [rule(1)], [])
    named = [attrs.evolve(rule(1), name="n"), attrs.evolve(rule(2), name="n")]
    with pytest.raises(RuleExists, match="two rules would have n"):
        catalog.plan_exchange([], [], named)


def test_rule_is_found_without_a_look_at_the_others() -> None:
    """There may be thousands, and thousands of changes."""

    class Unwalked(Catalog):
        def __iter__(self) -> NoReturn:
            raise AssertionError

    catalog = Unwalked()
    catalog.note(catalog.plan_addition([rule(1, name="tv"), rule(2)]))
    for wanted in (Selection(("r1",)), Selection(names=("tv",)), Selection(("r1",), ("tv",), literal=True)):
        assert [entry.rule.rule_id for entry in catalog.find_all(wanted)] == ["r1"]
