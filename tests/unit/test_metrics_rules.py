"""The page of rules, from segments that the test fills as workers would."""

from collections.abc import Iterator
from ipaddress import ip_address

import attrs
import pytest

from exposition import Samples, needs_promtool, promtool, samples, sums, total, value
from mcr.metrics.exposition import Format
from mcr.metrics.rules import RulesPage, one_rule
from mcr.model.flow import Input
from mcr.model.rule import Output, Rule, RuleState
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.shm.segment import Segment
from mcr.stats.readings import Reading

ODD = ["100%", "%d %s", 'quo"te', "back\\slash", "ümläut ☃", "{a=1}", "a,b=c", "#", "\\n"]
BLOCK_BITS = 4
RULES = 40
"""More than two blocks."""


@pytest.fixture(scope="module")
def segments() -> Iterator[tuple[Segment, Segment]]:
    with Segment(0) as first, Segment(1) as second:
        yield first, second


def placed(number: int) -> PlacedRule:
    name = ODD[number] if number < len(ODD) else None
    rule = Rule(
        name or f"r{number}",
        Input("eth0", ip_address("239.1.0.0") + number, 5000),
        tuple(Output(ip_address("239.9.9.1"), 6000, interface) for interface in ("eth1", "eth2")),
        name,
    )
    slots = tuple(OutputSlot(2 * number + i, number + 1) for i in range(2))
    return PlacedRule(rule, number + 1, number, slots, (None, None), (None, None))


def count(segment: Segment, placed: PlacedRule, packets: int, failed: int = 0, in_doubt: int = 0) -> None:
    """As a worker does that has sent to all outputs, but for some packets to the first."""
    rule = segment.shared.rules[placed.slot]
    rule.tag = placed.tag
    rule.matched += packets
    for place in placed.outputs:
        output = segment.shared.outputs[place.slot]
        output.tag = place.tag
        output.submitted += packets
        output.sent += packets - failed
        output.errors += failed
        output.in_doubt += in_doubt
        output.bytes += 100 * (packets - failed)
        failed = in_doubt = 0


def reading(segments: tuple[Segment, Segment]) -> Reading:
    return Reading(0.0, tuple(each.read(RULES, 2 * RULES) for each in segments), 0)


def read(page: list[bytes], chosen: Format = Format.OPEN_METRICS) -> Samples:
    return samples(b"".join(page).decode(), chosen)


@pytest.fixture
def rules(segments: tuple[Segment, Segment], monkeypatch: pytest.MonkeyPatch) -> list[PlacedRule]:
    monkeypatch.setattr("mcr.metrics.rules._BLOCK_BITS", BLOCK_BITS)
    those = [placed(number) for number in range(RULES)]
    for each in those:
        for segment in segments:
            segment.shared.rules[each.slot].matched = 0
            for place in each.outputs:
                for field in ("submitted", "sent", "errors", "in_doubt", "bytes"):
                    setattr(segment.shared.outputs[place.slot], field, 0)
        count(segments[0], each, 10 + each.slot, failed=each.slot % 3, in_doubt=each.slot % 2 and each.slot % 3)
        count(segments[1], each, 5)
    return those


@pytest.mark.parametrize("chosen", Format)
def test_every_rule_adds_up_over_workers_and_outputs(
    segments: tuple[Segment, Segment], rules: list[PlacedRule], chosen: Format
) -> None:
    states = {each.rule.rule_id: RuleState.ACTIVE for each in rules}
    found = read(RulesPage().make(reading(segments), rules, states, chosen), chosen)
    of_outputs, of_states = (
        sums(found, name, *labels)
        for name, labels in (("mcr_output_packets_total", ("rule", "output")), ("mcr_rule_state", ("rule",)))
    )
    errors = sums(found, "mcr_output_errors_total", "rule", "output")
    for each in rules:
        rule, number, source = each.rule.rule_id, each.slot, each.rule.input
        matched = value(found, "mcr_rule_packets_total", rule=rule)
        assert matched == 15 + number
        for output, failed in zip(each.rule.outputs, (number % 3, 0), strict=True):
            assert of_outputs[rule, str(output)] == matched
            assert value(found, "mcr_output_packets_total", rule=rule, output=output, result="error") == failed
            assert errors[rule, str(output)] == failed
            assert value(found, "mcr_output_bytes_total", rule=rule, output=output) == 100 * (matched - failed)
        assert value(found, "mcr_rule_state", rule=rule, state="active") == of_states[(rule,)] == 1
        labels = {"name": each.rule.name or "", "interface": "eth0", "group": source.group, "port": 5000}
        assert value(found, "mcr_rule_info", rule=rule, **labels) == 1


@needs_promtool
def test_promtool_has_nothing_to_say(segments: tuple[Segment, Segment], rules: list[PlacedRule]) -> None:
    page = RulesPage().make(reading(segments), rules, {}, Format.PROMETHEUS)
    assert promtool("check", "metrics", given=b"".join(page).decode()) == ""


def test_a_page_that_was_made_before_says_what_is_new(
    segments: tuple[Segment, Segment], rules: list[PlacedRule]
) -> None:
    """A packet, a name, an output, a state, a rule more and a rule less; what stays is the same."""
    page = RulesPage()
    before = read(page.make(reading(segments), rules, {}, Format.OPEN_METRICS))
    assert read(page.make(reading(segments), rules, {}, Format.OPEN_METRICS)) == before
    changed = attrs.evolve(rules[20], rule=attrs.evolve(rules[20].rule, name="new"))
    fewer = attrs.evolve(
        rules[21],
        rule=attrs.evolve(rules[21].rule, outputs=rules[21].rule.outputs[:1]),
        outputs=rules[21].outputs[:1],
    )
    count(segments[1], rules[22], 7)
    now = [*rules[:19], changed, fewer, *rules[22:]]
    after = read(page.make(reading(segments), now, {}, Format.OPEN_METRICS))
    assert after == read(RulesPage().make(reading(segments), now, {}, Format.OPEN_METRICS))
    degraded = read(page.make(reading(segments), now, {"r22": RuleState.DEGRADED}, Format.OPEN_METRICS))
    assert value(degraded, "mcr_rule_state", rule="r22", state="degraded") == 1
    assert read(page.make(reading(segments), now, {}, Format.OPEN_METRICS)) == after
    assert {each for each in after if ("name", "new") in each[1]} == {key for key in after if key not in before}
    assert value(after, "mcr_rule_packets_total", rule="r22") == 7 + value(before, "mcr_rule_packets_total", rule="r22")
    assert total(after, "mcr_output_packets_total", rule="r19") == 0
    assert read(one_rule(reading(segments), [changed], {}, Format.OPEN_METRICS)).items() <= after.items()


def test_a_worker_that_has_not_got_a_rule_yet_counts_nothing_for_it(
    segments: tuple[Segment, Segment], rules: list[PlacedRule]
) -> None:
    """Its slot still bears the tag of the rule that had it before."""
    later = attrs.evolve(rules[1], tag=9_999, outputs=tuple(OutputSlot(each.slot, 9_999) for each in rules[1].outputs))
    found = read(one_rule(reading(segments), [rules[0], later], {}, Format.OPEN_METRICS))
    assert value(found, "mcr_rule_packets_total", rule=rules[1].rule.rule_id) == 0
    assert total(found, "mcr_output_packets_total", rule=rules[1].rule.rule_id) == 0
    count(segments[1], later, 3)
    segments[1].shared.rules[1].matched = 3
    found = read(one_rule(reading(segments), [rules[0], later], {}, Format.OPEN_METRICS))
    assert value(found, "mcr_rule_packets_total", rule=rules[1].rule.rule_id) == 3
