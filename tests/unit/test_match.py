"""The match table against a dictionary. A flow with its source is found before the same one from any."""

import errno
import functools
from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from mcr._native import ffi, lib
from mcr.model.flow import Flow
from mcr.shm.flows import make_flow

Place = tuple[int, Flow]
"""The slot of an interface, and what comes in by it."""

GROUPS, PORTS, SLOTS, VLANS = 41, 20, 4, 2
"""Few, so that flows meet."""


def place_of(number: int) -> Place:
    """One of the places, by its number: drawn as such it costs hypothesis a tenth."""
    rest, group = divmod(number, GROUPS)
    rest, port = divmod(rest, PORTS)
    rest, slot = divmod(rest, SLOTS)
    source, vlan = divmod(rest, VLANS)
    address = IPv4Address(0xEF000000 + source - 1) if source else None
    return slot, Flow(IPv4Address(0xEF000000 + group), port + 1, vlan, address)


PLACES = st.integers(0, GROUPS * PORTS * SLOTS * VLANS * (GROUPS + 1) - 1)
STEPS = st.tuples(st.sampled_from(["put", "drop", "find", "drop known", "find known", "drop other"]), PLACES)


def without_source(place: Place) -> Place:
    """What takes the same from any source."""
    slot, flow = place
    return slot, attrs.evolve(flow, source=None)


def encode(place: Place) -> Any:
    slot, flow = place
    return make_flow(flow, slot)


def find_all(table: Any, flows: list[Any]) -> list[int]:
    return [lib.mcr_match_find(table, ffi.addressof(each)) for each in flows]


OTHERS = [lib.mcr_flow_ipv4(7, 0, 0, i * i, 5000) for i in range(16_000)]
"""They fill half of the buckets, so that what a step does meets neighbours."""


@functools.cache
def crowded() -> Any:
    """A table with nothing but the others."""
    table = ffi.new("struct mcr_match *")
    lib.mcr_match_init(table)
    for number, each in enumerate(OTHERS):
        table.rules[number].flow = each
        assert lib.mcr_match_put(table, number, number) == 0
    return table


@pytest.mark.slow
@examples(0.3)  # of a hundred steps each, and every flow is asked for at the end
@given(st.lists(STEPS, min_size=60, max_size=120))
def test_every_put_drop_and_find_answers_as_a_dictionary_would(steps: list[tuple[str, int]]) -> None:
    table = ffi.new("struct mcr_match *")
    ffi.memmove(table, crowded(), ffi.sizeof("struct mcr_match"))
    model: dict[Place, int] = {}
    known: list[Place] = []
    gone: set[int] = set()
    for step, number in steps:
        place = known[number % len(known)] if known and "known" in step else place_of(number)
        match step.split():
            case ["put"]:
                rule = len(OTHERS) + len(known)
                table.rules[rule].flow = encode(place)[0]
                assert lib.mcr_match_put(table, rule, rule) == 0
                model[place] = rule
                known.append(place)
            case ["drop", "other"]:
                other = number % len(OTHERS)
                expected = -errno.ENOENT if other in gone else 0
                assert lib.mcr_match_drop(table, ffi.addressof(OTHERS[other])) == expected
                gone.add(other)
            case ["drop", *_]:
                expected = 0 if model.pop(place, None) is not None else -errno.ENOENT
                assert lib.mcr_match_drop(table, encode(place)) == expected
            case _:
                from_any = model.get(without_source(place), lib.MCR_NO_RULE)
                assert lib.mcr_match_find(table, encode(place)) == model.get(place, from_any)
        assert table.sourced == sum(flow.source is not None for _, flow in model)
        assert table.used == len(OTHERS) - len(gone) + len(model)
    assert find_all(table, OTHERS) == [lib.MCR_NO_RULE if other in gone else other for other in range(len(OTHERS))]


def test_full_table_still_answers() -> None:
    """MAX_RULES flows fit, one more is refused, all are found; emptied, none is."""
    table = ffi.new("struct mcr_match *")
    lib.mcr_match_init(table)
    flows = [lib.mcr_flow_ipv4(i % 7, 0, 0, i * 2654435761 % 2**32, i % 65535 + 1) for i in range(lib.MCR_MAX_RULES)]
    for number, each in enumerate(flows):
        table.rules[number].flow = each
        assert lib.mcr_match_put(table, number, number) == 0
    table.rules[0].flow = lib.mcr_flow_ipv4(99, 0, 0, 1, 1)
    assert lib.mcr_match_put(table, 0, 0) == -errno.ENOSPC
    table.rules[0].flow = flows[0]
    assert find_all(table, flows) == list(range(len(flows)))
    for each in flows[::2]:
        assert lib.mcr_match_drop(table, ffi.addressof(each)) == 0
    found = find_all(table, flows)
    assert found[1::2] == list(range(1, len(flows), 2))
    assert set(found[::2]) == {lib.MCR_NO_RULE}
