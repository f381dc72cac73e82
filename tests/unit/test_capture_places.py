"""Which packets `mcrctl capture` shows of a rule."""

from ipaddress import IPv4Address
from typing import Any

import pytest

from mcr.model.flow import Flow
from mcr.tap.rule_capture import places_of

FIRST, SECOND = "198.18.0.1", "198.18.0.2"


def rule(*sources: str, port: int = 5000) -> dict[str, Any]:
    source = {"interface": "in0", "group": "239.1.1.1", "port": port} | ({"sources": [*sources]} if sources else {})
    return {"input": source, "outputs": [{"group": "239.2.2.2", "port": 6000, "interface": "out0"}]}


def test_of_a_range_all_is_shown_but_what_goes_to_other_rules() -> None:
    shown = rule()
    shown["input"] |= {"group": "239.1.1.0", "prefix": 30, "last_port": 5001}
    shown["outputs"][0] |= {"group": "239.2.2.0", "prefix": 30}
    came, left = places_of(shown, ("in", "out"), [shown, rule(), rule(FIRST, port=5001)])
    groups = [IPv4Address("239.1.1.0") + number for number in range(4)]
    assert came.flows == {Flow(group, port) for group in groups for port in (5000, 5001)} - {Flow(groups[1], 5000)}
    assert left.flows == {Flow(IPv4Address("239.2.2.0") + number, 6000) for number in range(4)}
    assert places_of(shown, ("out",), [shown, rule()]) == [left]

    def taken(group: int, port: int) -> list[bool]:
        return [came.takes(0, groups[group].packed, port, IPv4Address(each).packed) for each in (FIRST, SECOND)]

    assert (taken(1, 5001), taken(2, 5001), taken(1, 0)) == ([False, True], [True, True], [True, True])
    shown["input"]["sources"] = [FIRST, SECOND]
    (came,) = places_of(shown, ("in",), [shown, rule(FIRST, port=5001)])
    assert (taken(1, 5001), taken(2, 5001)) == ([False, True], [True, True])


@pytest.mark.parametrize(
    ("shown", "others", "taken"),
    [
        (rule(), [rule()], [True, True]),
        (rule(), [rule(), rule(FIRST)], [False, True]),
        (rule(), [rule(), rule(FIRST, port=5001)], [True, True]),
        (rule(FIRST), [], [True, False]),
        (rule(FIRST), [rule(FIRST), rule(SECOND)], [True, False]),
    ],
)
def test_what_other_rules_take_by_source_is_not_the_rules(
    shown: dict[str, Any], others: list[dict[str, Any]], taken: list[bool]
) -> None:
    """What leaves is the rule's in any case: it comes from the relay."""
    came, left = places_of(shown, ("in", "out"), others)
    group, senders = IPv4Address("239.1.1.1").packed, [IPv4Address(each).packed for each in (FIRST, SECOND)]
    for port in (5000, 0):
        assert [came.takes(0, group, port, each) for each in senders] == taken
    assert [left.takes(0, IPv4Address("239.2.2.2").packed, 6000, each) for each in senders] == [True, True]
