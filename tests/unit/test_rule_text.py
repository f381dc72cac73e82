"""JSON of rules that is written column by column, beside the one that is made of their values."""

import json
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from weakref import ref

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counted import SECONDS, Counts, moment
from mcr.control.kept_blocks import BLOCK, KeptBlocks
from mcr.control.rule_text import RuleText, views_text
from mcr.control.structure import unstructure
from mcr.control.wire import dump, encode_long_result, encode_result, is_long
from mcr.model.flow import Input
from mcr.model.health import Health, StreamHealth
from mcr.model.rule import Origin, Output, OutputView, Path, Rule, RuleState, RuleView
from mcr.model.stats import EgressStats, IngressStats, Stats
from mcr.shm.segment import OutputCounters
from mcr.stats.readings import Former

LABELS = st.sampled_from(["r", 'quo"te', "back\\slash", "ümläut ☃", "{a}", "%d", "\U0001f600"])
NAMES = LABELS | st.none()
INTERFACES = st.sampled_from(["in0", 'e"0', "ü"])
REASONS = st.sampled_from(["", "out0 is down", 'there is no "x"'])
INPUTS = st.one_of(
    st.builds(Input, INTERFACES, st.just(IPv4Address("239.1.1.1")), st.just(5000)),
    st.builds(Input, INTERFACES, st.just(IPv6Address("ff15::1")), st.just(5000), st.just(7)),
    st.just(Input("in0", IPv4Address("239.1.1.1"), 5000, sources=(IPv4Address("10.0.0.1"),))),
)
OUTPUTS = st.one_of(
    st.builds(Output, st.just(IPv4Address("239.2.2.2")), st.just(6000), INTERFACES),
    st.sampled_from(
        [
            Output(IPv6Address("ff15::2"), 6000, "out0"),
            Output(IPv4Address("239.2.2.2"), 6000, "out0", vlan=7, ttl="dec"),
            Output(IPv4Address("239.2.2.2"), 6000, "out0", gso="off", dscp=46, source=IPv4Address("10.0.0.1")),
            Output(IPv4Address("239.2.2.2"), 6000, "out0", source="keep"),
        ]
    ),
)
STATES, PATHS, ORIGINS = (st.sampled_from([*each]) for each in (RuleState, Path, Origin))
VIEWS = st.builds(
    RuleView,
    LABELS,
    NAMES,
    INPUTS,
    st.lists(st.builds(OutputView.of, OUTPUTS, STATES, REASONS), max_size=3).map(tuple),
    STATES,
    REASONS,
    st.lists(REASONS, max_size=2).map(tuple),
    ORIGINS,
    PATHS,
    REASONS,
    st.sampled_from([*Health]),
)
COUNTS = st.one_of(st.just(0), st.integers(0, 30), st.integers(0, 2**53))
ERRORS = st.one_of(st.just(0), st.sampled_from([9_000_000 << 16 | 100, 11_900_000 << 16 | 1]))
COUNTED = st.tuples(COUNTS, st.lists(st.builds(OutputCounters, *5 * [COUNTS], ERRORS), max_size=2))
RANGE = Rule(
    "range",
    Input("in0", IPv4Address("239.1.0.0"), 5000, prefix=24),
    (Output(IPv4Address("239.2.0.0"), 6000, "out0", prefix=24), Output(IPv4Address("239.3.0.0"), 1, "out1", vlan=3)),
)
RULES = (
    Rule("plain", Input("in0", IPv4Address("239.1.1.1"), 5000), (Output(IPv4Address("239.2.2.2"), 6000, "out0"),)),
    RANGE,
    Rule('o"dd', Input("in0", IPv6Address("ff15::1"), 5000), (Output(IPv6Address("ff15::2"), 6000, "ü"),), "ü"),
)


@given(views=st.lists(VIEWS, max_size=4), refused=st.booleans())
def test_views_are_written_as_their_values_are(views: list[RuleView], refused: bool) -> None:
    more = {"r": {"refused": ["10.0.0.1", "10.0.0.2"]}} if refused else {}
    values = [unstructure(each) | more.get(each.rule_id, {}) for each in views]
    assert views_text(views, more).text == dump(values)


@given(now=st.lists(COUNTED, min_size=3, max_size=3), gone=st.booleans(), watched=st.booleans(), seen=st.booleans())
def test_statistics_are_written_as_their_values_are(now: list[Counts], gone: bool, watched: bool, seen: bool) -> None:
    """Also of a rule that had other outputs before, and of one whose stream is watched."""
    told = moment(Stats(IngressStats(), EgressStats()), RULES, now, {2: SECONDS - 0.44} if seen else {})
    if gone:
        former = Former(told.rules[0].outputs, sent=10, errors=20, bytes=2_000)
        told = attrs.evolve(told, former={told.rules[2].tag: former})
    health = {"range": StreamHealth(Health.RTP, kind="rtp", lost=3)} if watched else {}
    values = [attrs.evolve(each, health=health.get(each.rule_id)) for each in told.of_rules()]
    assert RuleText().stats(told.columns, health).text == dump(unstructure(values))


def test_outputs_that_a_rule_has_no_more_count_for_it() -> None:
    """Those that are still counted for have a rate; what others had is only in the sums."""
    counted = OutputCounters(50, 40, 10, 0, 4_000, 0)
    before = OutputCounters(10, 10, 0, 0, 1_000, 0)
    now, past = [(50, [counted]), (0, []), (7, [counted])], [(10, [before])]
    told = moment(Stats(IngressStats(), EgressStats()), RULES, now, past=past)
    former = Former(told.rules[0].outputs, sent=1, errors=2, bytes=3)
    (*_, rule) = attrs.evolve(told, former={told.rules[2].tag: former}).of_rules()
    assert (rule.matched, rule.sent, rule.errors, rule.bytes) == (7, 81, 22, 8_003)
    assert (rule.pps, rule.bps) == (3.5, 28_000.0)
    assert rule.outputs[0].sent == 40


@pytest.mark.parametrize("count", [0, 2, 400])
def test_a_result_has_what_is_written_in_its_place(count: int) -> None:
    """Alone or as a member; and a thread copies what is long."""
    views = [RuleView(str(n), None, RULES[0].input, (), RuleState.ACTIVE) for n in range(count)]
    values = unstructure(views)
    for result, expected in (
        (views_text(views), values),
        ({"a": 1, "rules": views_text(views)}, {"a": 1, "rules": values}),
    ):
        assert encode_result(1, result) == encode_long_result(1, result) == encode_result(1, expected)
        assert json.loads(encode_result(1, result))["result"] == expected
        assert is_long(result) == (count == 400)


@pytest.mark.parametrize("count", [0, 1, 201, BLOCK + 1, 2 * BLOCK])
def test_what_is_kept_of_a_list_says_what_is_new(count: int) -> None:
    """A view more, another one in its place, and one less; what stays is not written again."""
    views = [RuleView(str(n), None, RULES[0].input, (), RuleState.ACTIVE) for n in range(count)]
    text = RuleText()
    new = (
        attrs.evolve(views[0], state=RuleState.WAITING)
        if views
        else RuleView("x", None, RANGE.input, (), RuleState.ACTIVE)
    )
    for now in (views, views, [*views, new], [new, *views[1:]], views[:-1], []):
        more = {"0": {"refused": ["10.0.0.1"]}}
        assert text.listed(now, {}).text == dump(unstructure(now))
        assert text.listed(now, more).text == dump([unstructure(each) | more.get(each.rule_id, {}) for each in now])


def test_what_stays_is_made_once_and_what_is_gone_is_not_held() -> None:
    made: list[int] = []

    def make(values: Sequence[Rule]) -> list[str]:
        made.append(len(values))
        return [each.rule_id for each in values]

    def rule(number: int) -> Rule:
        return attrs.evolve(RULES[0], rule_id=str(number))

    blocks, rules = KeptBlocks(make), [rule(number) for number in range(2 * BLOCK)]
    for _ in range(3):
        assert blocks.of(rules) == [*map(str, range(2 * BLOCK))]
    assert made == [BLOCK, BLOCK]
    rules[1] = rule(7)
    assert blocks.of(rules)[:3] == ["0", "7", "2"]
    assert made == [BLOCK, BLOCK, BLOCK]
    gone = ref(rules[0])
    rules[0] = rule(9)
    assert gone() is None
    assert blocks.of(rules)[0] == "9"
