"""The match table against a dictionary."""

import errno
from ipaddress import IPv4Address
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from mcr._native import ffi, lib
from mcr.model.flow import Flow
from mcr.shm.flows import make_flow

Place = tuple[int, Flow]
"""The slot of an interface, and what comes in by it."""

# Few interfaces, groups and ports, so that flows meet; and some that share a home bucket by chance.
ADDRESSES = st.builds(IPv4Address, st.integers(0xEF000000, 0xEF000028))
FLOWS = st.builds(Flow, ADDRESSES, st.integers(1, 20), st.integers(0, 1), st.one_of(st.none(), ADDRESSES))
PLACES = st.tuples(st.integers(0, 3), FLOWS)


def encode(place: Place) -> Any:
    slot, flow = place
    return make_flow(flow, slot)


class MatchTable(RuleBasedStateMachine):
    """Every put, drop and find answers as a dictionary would, where each rule has one flow."""

    known = Bundle("known")

    def __init__(self) -> None:
        super().__init__()
        self.table = ffi.new("struct mcr_match *")
        lib.mcr_match_init(self.table)
        self.model: dict[Place, int] = {}
        self.taken = 0

    @rule(target=known, place=PLACES)
    def put(self, place: Place) -> Place:
        number, self.taken = self.taken, self.taken + 1
        self.table.rules[number].flow = encode(place)[0]
        assert lib.mcr_match_put(self.table, number) == 0
        self.model[place] = number
        return place

    @rule(place=st.one_of(known, PLACES))
    def drop(self, place: Place) -> None:
        expected = 0 if self.model.pop(place, None) is not None else -errno.ENOENT
        assert lib.mcr_match_drop(self.table, encode(place)) == expected

    @rule(place=st.one_of(known, PLACES))
    def find(self, place: Place) -> None:
        found = lib.mcr_match_find(self.table, encode(place))
        assert found == self.model.get(place, lib.MCR_NO_RULE)

    @invariant()
    def counts(self) -> None:
        assert self.table.used == len(self.model)


TestMatchTable = MatchTable.TestCase
TestMatchTable.settings = settings(max_examples=40, stateful_step_count=80, deadline=None)


def find_all(table: Any, flows: list[Any]) -> list[int]:
    return [lib.mcr_match_find(table, ffi.addressof(each)) for each in flows]


def test_full_table_still_answers() -> None:
    """MAX_RULES flows fit, one more is refused, all are found; emptied, none is."""
    table = ffi.new("struct mcr_match *")
    lib.mcr_match_init(table)
    flows = [lib.mcr_flow_ipv4(i % 7, 0, 0, i * 2654435761 % 2**32, i % 65535 + 1) for i in range(lib.MCR_MAX_RULES)]
    for number, each in enumerate(flows):
        table.rules[number].flow = each
        assert lib.mcr_match_put(table, number) == 0
    table.rules[0].flow = lib.mcr_flow_ipv4(99, 0, 0, 1, 1)
    assert lib.mcr_match_put(table, 0) == -errno.ENOSPC
    table.rules[0].flow = flows[0]
    assert find_all(table, flows) == list(range(len(flows)))
    for each in flows[::2]:
        assert lib.mcr_match_drop(table, ffi.addressof(each)) == 0
    found = find_all(table, flows)
    assert found[1::2] == list(range(1, len(flows), 2))
    assert set(found[::2]) == {lib.MCR_NO_RULE}
