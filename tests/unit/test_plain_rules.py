"""Rules as most are, which are read without cattrs or a reader of TOML: what comes of them is the same."""

from collections.abc import Callable
from typing import Any, cast
from unittest.mock import Mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calls import count_calls
from mcr.config import blocks
from mcr.config.writing import toml_of
from mcr.control import structure
from mcr.control.structure import RuleParams, check_rules
from mcr.model.columns import FEW
from mcr.model.rule import Rule
from mcr.relay import commands
from mcr.relay.attach import Attach
from mcr.relay.placement import PlacedRule, Placement
from mcr.rules.catalog import Catalog
from mcr.shm.places import Places

TEXTS = st.sampled_from(
    ["239.1.1.1", "239.1.1.2", "ff15::1", "ff01::1", "198.18.0.9", "0.0.0.1", "eth0", "eth1", "", "a" * 1001]
)
PORTS = st.sampled_from([5000, 5001, 0, 65536, True, "5000", 5.0, None])
GROUPS = st.sampled_from(["239.1.1.1", "239.1.1.2", "ff15::1"])
LABELS = st.sampled_from([None, "a", " a", 7])


def _ends(**more: Any) -> st.SearchStrategy[Any]:
    """Inputs or outputs: mostly sound, some with a member that is another, missing, or one too many."""
    sound = {"interface": st.sampled_from(["eth0", "eth1"]), "group": GROUPS, "port": st.just(5000)}
    odd = st.fixed_dictionaries(
        {"interface": TEXTS, "group": TEXTS}, optional={"port": PORTS, "vlan": st.just(7), "none": st.just(1)} | more
    )
    return st.fixed_dictionaries(sound) | st.fixed_dictionaries(sound) | odd | st.sampled_from([None, []])


RULES = st.fixed_dictionaries(
    {"input": _ends(), "outputs": st.lists(_ends(ttl=st.sampled_from([8, "keep", 0])), max_size=3) | st.just({})},
    optional={"rule_id": LABELS, "name": LABELS, "health": st.just("rtp"), "none": st.just(1)},
)


def _by_cattrs(value: Any) -> Rule | None:
    try:
        read: Rule = structure._structure_rule(value, RuleParams).rule()
    except Exception:  # noqa: BLE001 - a fault, whatever it is
        return None
    return read


END = {"interface": "eth1", "group": "239.1.1.1", "port": 5000}
OTHERS = [{"input": END | {"interface": "eth0"}, "outputs": [END]}] * FEW


@given(RULES | st.none() | st.just([]), st.sampled_from([[], OTHERS]))
def test_a_plain_rule_is_read_as_by_cattrs_or_left_to_it(value: Any, others: list[Any]) -> None:
    """By itself, and as one of more, which are read together."""
    read, *more = structure._plain_rules([value, *others])
    assert None not in more
    if read is not None:
        known = _by_cattrs(value)
        assert known == read
        assert (known.input.claims, known.input.flows) == (read.input.claims, read.input.flows)
        assert all(output.is_plain for output in known.outputs)


def test_a_batch_of_plain_rules_is_not_left_to_cattrs() -> None:
    for more in ({}, {"rule_id": None, "name": None}, {"rule_id": "a", "name": "b"}):
        value = {"input": END | {"interface": "eth0"}, "outputs": [END, END | {"port": 5001}]} | more
        (rule,) = check_rules([value])
        assert structure._plain_rules([value]) == [rule]


def test_among_many_rules_those_with_faults_and_options_alone_are_left_to_cattrs() -> None:
    plain = [{"input": END | {"interface": "eth0", "port": port}, "outputs": [END]} for port in range(1, 1_200)]
    odd = {"input": END, "outputs": [END | {"ttl": 8}]}
    faulty = {"input": END, "outputs": [END | {"port": 0}]}
    values = [*plain[:700], odd, faulty, *plain[700:]]
    read = structure._plain_rules(values)
    assert [index for index, each in enumerate(read) if each is None] == [700, 701]
    assert [each for each in read if each] == [_by_cattrs(each) for each in plain]


BLOCK = """\
[[rule]]
name = "a b"
rule_id = "c"
input = { interface = "eth0", group = "239.1.1.1", port = 5000 }
outputs = ["239.2.2.2:6000:eth1", "239.2.2.3:6000:eth1"]
"""
PIECES = st.sampled_from([*"\n\r\t\v\f \"\\',:=[]{}#0123456789.-_/abé\x00\x7f\x85\u2028", '"""', " # a\n", ":ttl=8"])
MUTATIONS = st.lists(st.tuples(st.integers(0, len(BLOCK)), st.integers(0, 2), PIECES), max_size=2)


@given(MUTATIONS)
@example([(len(BLOCK) - 2, 0, "\v")])  # white space, and TOML has none like it
def test_a_plain_block_of_a_file_is_read_as_a_reader_of_toml_reads_it_or_left_to_it(
    mutations: list[tuple[int, int, str]],
) -> None:
    block = BLOCK
    for start, length, piece in mutations:
        block = block[:start] + piece + block[start + length :]
    read = blocks._read_plain(block)
    try:
        as_toml = blocks._read_any(block)
    except ValueError:
        as_toml = None
    assert read is None or read == as_toml


def test_what_mcrctl_writes_of_plain_rules_is_not_left_to_a_reader_of_toml() -> None:
    for outputs in ([END], [END, END | {"port": 5001}]):
        for more in ({}, {"name": "b c"}, {"rule_id": "a", "name": "b"}):
            (rule,) = check_rules([{"input": END | {"interface": "eth0"}, "outputs": outputs} | more])
            assert blocks._read_plain(toml_of([rule])) == rule


def _plain_values(many: int) -> list[dict[str, Any]]:
    return [
        {
            "input": {"interface": "eth0", "group": f"239.1.1.{each}", "port": 5000},
            "outputs": [{"group": f"239.2.2.{each}", "port": 5000, "interface": "eth1"}],
        }
        for each in range(1, many + 1)
    ]


def test_a_plain_rule_takes_few_calls_to_be_read_planned_placed_and_told_of() -> None:
    """Of thousands that are added at once each costs what these cost (docs/decisions/0024)."""
    many = 100
    values = _plain_values(many)
    rules, placement, placed = check_rules(values), Placement(Places.make()), list[PlacedRule]()
    steps: list[tuple[Callable[[], object], int]] = [
        (lambda: check_rules(values), 4),
        (lambda: Catalog().plan_addition(rules), 9),
        (lambda: placed.extend(placement.place(rules, {}, ())), 22),
        (lambda: commands.attach_plain(placed, {"eth0": 0}, {"eth1": (0, True)}), 2),
    ]
    for number, (step, most) in enumerate(steps):
        assert count_calls(step) <= most * many, f"step {number}"


@pytest.mark.parametrize(
    ("group", "steps"), [("ff15::1", 0), ("239.1.0.0/24", 0), ("198.18.0.1", 700)], ids=["IPv6", "range", "fault"]
)
def test_one_that_is_not_plain_does_not_make_all_others_dear(group: str, steps: int) -> None:
    """They are made all at once, or by few parts."""
    end, many = {"interface": "eth1", "group": "239.1.1.1", "port": 5000}, 500
    values = [{"input": end | {"port": port}, "outputs": [end]} for port in range(1, many + 1)]
    alone = count_calls(lambda: structure._plain_rules(values))
    values[many // 2] = {"input": end | {"group": group}, "outputs": [end]}
    assert structure._plain_rules(values)[many // 2] is None
    assert count_calls(lambda: structure._plain_rules(values)) <= alone + steps


def test_one_rule_is_not_made_as_many_are() -> None:
    """Columns and loops for one rule took more calls, and three times as long."""
    values = _plain_values(1)
    rules, placement = check_rules(values), Placement(Places.make())
    assert count_calls(lambda: blocks._read_plain(BLOCK)) <= 32
    assert count_calls(lambda: check_rules(values)) <= 41
    assert count_calls(lambda: placement.place(rules, {}, ())) <= 49
    (placed,) = placement
    capture, egress = Mock(slot=0), Mock(slot=0, carrier=True)
    attach = Attach(cast("Any", {"eth0": capture}), cast("Any", {"eth1": egress}), Mock())
    assert count_calls(lambda: attach.all([placed])) <= 20
