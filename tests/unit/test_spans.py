"""Ranges of groups and ports: as operators write them, what they leave to other rules, and what is refused."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from mcr.config.output_text import parse_output
from mcr.config.rule_table import rule_of_table
from mcr.config.writing import table_of
from mcr.errors import InvalidParams, RuleExists, UsageError
from mcr.model.flow import Flow, Input
from mcr.model.health import Health
from mcr.model.limits import MAX_FLOWS
from mcr.model.overlaps import Singles, shared, taken_of
from mcr.model.rule import Output, Rule, automatic_rule_id
from mcr.model.span_index import SpanIndex
from mcr.rules.catalog import Catalog

FIRST, THERE = IPv4Address("239.1.0.0"), IPv4Address("239.2.0.0")
SOURCE = IPv4Address("198.18.0.1")
RANGE = Input("eth0", FIRST, 5000, prefix=24, last_port=5009)
MAPPED = Output(THERE, 6000, "eth1", prefix=24, last_port=6009)


def rule_for(source: Input, *outputs: Output, name: str | None = None) -> Rule:
    return Rule(automatic_rule_id(source), source, outputs or (Output(IPv4Address("239.9.9.9"), 7000, "eth1"),), name)


def test_a_range_is_its_groups_and_ports() -> None:
    assert str(RANGE) == "239.1.0.0/24:5000-5009 on eth0"
    assert str(MAPPED) == "239.2.0.0/24:6000-6009:eth1"
    assert len({*RANGE.flows}) == 2560
    assert {flow.group for flow in RANGE.flows} == {FIRST + n for n in range(256)}
    assert len(RANGE.joins) == 256
    assert RANGE.covers(Flow(FIRST + 255, 5009))
    assert not RANGE.covers(Flow(FIRST + 256, 5009))
    assert not RANGE.covers(Flow(FIRST, 5010))
    ids = {
        automatic_rule_id(each) for each in (RANGE, Input("eth0", FIRST, 5000), Input("eth0", FIRST, 5000, prefix=24))
    }
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("group", "port", "prefix", "last_port", "told"),
    [
        ("239.1.0.1", 5000, 24, None, "write 239.1.0.0/24"),
        ("239.1.0.0", 5000, 32, None, "one group is written without"),
        ("239.1.0.0", 5000, 0, None, "not the length of a prefix"),
        ("239.0.0.0", 5000, 19, None, r"at most 4,096: groups times ports"),
        ("239.1.0.0", 5000, 24, 5016, r"at most 4,096: groups times ports"),
        ("198.18.0.0", 5000, 24, None, "hosts are named one by one"),
        ("224.0.0.0", 5000, 3, None, "is more than groups"),
        ("239.1.0.0", 5000, None, 5000, "not a range of ports"),
        ("239.1.0.0", 5000, None, 4000, "not a range of ports"),
        ("239.1.0.0", 65_000, None, 65_536, "not a range of ports"),
        ("ff15::1", 5000, 120, None, "write ff15::/120"),
    ],
)
def test_what_is_no_range_is_refused_with_a_remedy(
    group: str, port: int, prefix: int | None, last_port: int | None, told: str
) -> None:
    with pytest.raises(InvalidParams) as refused:
        Input("eth0", ip_address(group), port, prefix=prefix, last_port=last_port)

    assert re.search(told, f"{refused.value.message} {refused.value.hints}")


def test_the_limit_is_of_flows() -> None:
    assert len(Input("eth0", FIRST, 5000, prefix=20).flows) == MAX_FLOWS
    with pytest.raises(InvalidParams, match="is 8,192 flows"):
        Input("eth0", FIRST, 5000, prefix=20, sources=(SOURCE, SOURCE + 1))


def test_outputs_have_as_many_as_the_input_or_one() -> None:
    single = Output(THERE, 6000, "eth1")
    for output in (MAPPED, single, Output(THERE, 6000, "eth1", prefix=24), Output(THERE, 6000, "eth1", last_port=6009)):
        rule_for(RANGE, output)
    for output, told in (
        (Output(THERE, 6000, "eth1", prefix=25), "takes 256 groups, and 239.2.0.0/25:6000:eth1 has 128 groups"),
        (Output(THERE, 6000, "eth1", last_port=6010), "takes 10 ports, and 239.2.0.0:6000-6010:eth1 has 11 ports"),
    ):
        with pytest.raises(InvalidParams, match=told):
            rule_for(RANGE, output)
    with pytest.raises(InvalidParams, match="takes 1 group, and"):
        rule_for(Input("eth0", FIRST, 5000), Output(THERE, 6000, "eth1", prefix=24))
    with pytest.raises(InvalidParams, match="have groups and ports in common"):
        rule_for(RANGE, MAPPED, Output(THERE + 7, 6003, "eth1"))
    with pytest.raises(InvalidParams, match="back to where it came from"):
        rule_for(RANGE, Output(FIRST + 7, 5003, "eth0"))
    with pytest.raises(InvalidParams, match="hosts are named one by one"):
        Output(IPv4Address("198.18.1.0"), 6000, "eth1", prefix=24)
    with pytest.raises(InvalidParams, match="is about one stream"):
        Rule("a", RANGE, (MAPPED,), health=Health.AUTO)


@pytest.mark.parametrize(
    "text", ["239.2.0.0/24:6000-6009:eth1", "[ff15::100/120]:6000:eth1:ttl=8", "239.2.0.1:1-9:eth1"]
)
def test_outputs_are_read_as_they_are_shown(text: str) -> None:
    parts = parse_output(text)
    output = Output(**parts | {"group": ip_address(parts["group"])})
    assert text.startswith(str(output))


def test_ways_to_write_it() -> None:
    assert parse_output("[ff15::100]/120:6000:eth1") == parse_output("[ff15::100/120]:6000:eth1")
    assert parse_output("239.2.0.1/32:6000-6000:eth1") == {"group": "239.2.0.1", "port": 6000, "interface": "eth1"}
    for wrong in ("239.2.0.0/24:6000-:eth1", "239.2.0.0/24:-6:eth1", "239.2.0.0:6-7-8:eth1"):
        with pytest.raises(UsageError, match="is not a port"):
            parse_output(wrong)


@pytest.mark.parametrize("source", [RANGE, Input("eth0", IPv6Address("ff15::"), 5000, 7, prefix=120)])
def test_a_file_has_it_as_mcrctl_does(source: Input) -> None:
    rule = rule_for(source, Output(THERE, 6000, "eth1", prefix=24))
    table = table_of(rule)
    assert "/" in table["input"]["group"]
    assert rule_of_table(table) == rule


SPANS = st.builds(
    lambda group, port, bits, ports, senders: Input(
        "eth0",
        IPv4Address(int(FIRST) + (group >> bits << bits)),
        5000 + port,
        sources=tuple(SOURCE + each for each in senders),
        prefix=32 - bits if bits else None,
        last_port=5000 + port + ports if ports else None,
    ),
    st.integers(0, 7),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sets(st.integers(0, 1)),
)


@examples(1)
@given(st.lists(SPANS, max_size=6))
def test_each_flow_has_one_rule_the_most_specific(inputs: list[Input]) -> None:
    """What ranges leave, and others take, is what a search by the definition gives; and what stays is still let in."""
    catalog = Catalog()
    for each in inputs:
        try:
            catalog.note(catalog.plan_addition([rule_for(each)]))
        except RuleExists:
            continue
    there = [entry.rule for entry in catalog]
    singles = {flow for rule in there if not rule.input.is_range for flow in rule.input.flows}
    named = Singles(rule.input for rule in there)
    for rule in there:
        if rule.input.is_range:
            taken = taken_of(rule.input, named)
            assert taken == {
                flow
                for flow in rule.input.flows
                if flow in singles or Flow(flow.group, flow.port, flow.vlan) in singles
            }
    for rule in there:
        others = [each for each in there if each is not rule]
        theirs = {flow for each in others for flow in each.input.flows}
        kept = {claim.flow for claim in shared([rule], others)}
        assert kept & {*rule.input.flows} == theirs & {*rule.input.flows}


@examples(1)
@given(st.lists(SPANS, max_size=8), SPANS)
def test_the_spans_that_one_meets_are_found(inputs: list[Input], asked: Input) -> None:
    """Whatever they have in common, and also after others have gone."""
    index, held = SpanIndex[int](), {str(number): each.span for number, each in enumerate(inputs)}
    for name, span in held.items():
        index.add(span, name, 0)
    while True:
        found = [name for _, holders in index.meeting(asked.span) for name in holders]
        assert sorted(found) == sorted(name for name, span in held.items() if span.meets(asked.span))
        if not held:
            return
        name, span = held.popitem()
        index.drop(span, name)
