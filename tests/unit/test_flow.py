"""One flow has one spelling, whoever writes it down."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr._native import ffi, lib
from mcr.model.flow import Flow, Input
from mcr.net import uapi
from mcr.shm.flows import address_words, make_flow
from mcr.shm.records import network_address
from mcr.tap.sighting import Sighting, Tag

ADDRESSES = st.ip_addresses(v=4).filter(int)
ADDRESSES6 = st.ip_addresses(v=6).filter(int)
SLOTS, VLANS, PORTS = st.integers(0, 127), st.integers(0, 4095), st.integers(1, 65_535)
GROUP = ip_address("239.1.1.1")


@given(SLOTS, VLANS, st.one_of(st.none(), ADDRESSES), ADDRESSES, PORTS)
def test_python_and_c_spell_a_flow_alike(
    slot: int, vlan: int, source: IPv4Address | None, group: IPv4Address, port: int
) -> None:
    """To the byte: what Python writes into rules and the filter's map is what packets are looked up by."""
    theirs = lib.mcr_flow_ipv4(
        slot, vlan, network_address(source) if source else 0, network_address(group), socket.htons(port)
    )
    ours = make_flow(Flow(group, port, vlan, source), slot)
    assert bytes(ffi.buffer(ours)) == bytes(ffi.buffer(ffi.addressof(theirs)))


def words(address: IPv6Address) -> Any:
    return ffi.new("uint32_t[]", address_words(address))


@given(SLOTS, VLANS, st.one_of(st.none(), ADDRESSES6), ADDRESSES6, PORTS)
def test_python_and_c_spell_an_ipv6_flow_alike(
    slot: int, vlan: int, source: IPv6Address | None, group: IPv6Address, port: int
) -> None:
    theirs = lib.mcr_flow_ipv6(slot, vlan, words(source) if source else ffi.NULL, words(group), socket.htons(port))
    ours = make_flow(Flow(group, port, vlan, source), slot)
    assert bytes(ffi.buffer(ours)) == bytes(ffi.buffer(ffi.addressof(theirs)))


def brief(flow: Flow, slot: int = 3) -> bytes:
    made = lib.mcr_flow_brief(make_flow(flow, slot))
    return bytes(ffi.buffer(ffi.addressof(made)))


@given(SLOTS, VLANS, ADDRESSES, PORTS)
def test_capture_filter_has_an_ipv4_flow_as_it_is(slot: int, vlan: int, group: IPv4Address, port: int) -> None:
    flow = Flow(group, port, vlan)
    assert brief(flow, slot) == bytes(ffi.buffer(make_flow(flow, slot)))


@pytest.mark.slow
def test_capture_filter_has_ipv6_flows_in_the_room_of_ipv4_ones() -> None:
    """Of 30,000 groups and sources as people choose them no two are the same there."""
    groups = [IPv6Address(f"ff{flags}{scope}::{end:x}") for flags in "013" for scope in "258e" for end in range(500)]
    groups += [IPv6Address(f"ff15:{middle:x}::{end:x}:0") for middle in range(70) for end in range(100)]
    sources = [None, *(IPv6Address(f"2001:db8:{net:x}::{host:x}") for net in range(8) for host in (1, 2, 0xFFFF))]
    flows = {Flow(group, 5000) for group in groups}
    flows |= {Flow(group, 5000, source=source) for group in groups[:400] for source in sources}
    numbered = (IPv6Address(f"2001:db8:0:{net:x}::{host:x}") for net in range(100) for host in range(100))
    flows |= {Flow(groups[0], 5000, source=source) for source in numbered}
    assert len(flows) > 30_000
    found = {brief(flow) for flow in flows}
    assert len(found) == len(flows)
    assert all(each[16:] == bytes(24) for each in found)


@given(st.binary(min_size=40, max_size=40))
def test_every_bit_of_a_flow_counts(noise: bytes) -> None:
    """It has no padding: flows that differ anywhere are two."""
    assert ffi.sizeof("struct mcr_flow") == len(noise)
    table = ffi.new("struct mcr_match *")
    lib.mcr_match_init(table)
    ffi.memmove(ffi.addressof(table.rules[0].flow), noise, len(noise))
    lib.mcr_match_put(table, 0, 0)
    for bit in range(8 * len(noise)):
        other = bytearray(noise)
        other[bit // 8] ^= 1 << bit % 8
        asked = ffi.from_buffer("struct mcr_flow *", bytes(other), require_writable=False)
        assert lib.mcr_match_slot(table, asked) == lib.MCR_NO_RULE
    asked = ffi.from_buffer("struct mcr_flow *", noise, require_writable=False)
    assert lib.mcr_match_slot(table, asked) == 0


@pytest.mark.parametrize(
    ("sighting", "flow"),
    [
        (Sighting.of(Input("in0", GROUP, 5000)), Flow(GROUP, 5000)),
        (Sighting("in0", GROUP, 5000, (Tag(7),)), Flow(GROUP, 5000, vlan=7)),
        (Sighting("in0", GROUP, 5000, (Tag(7, uapi.ETH_P_8021AD),)), None),
        (Sighting("in0", GROUP, 5000, (Tag(7), Tag(8))), None),
        (Sighting("in0", GROUP, None, fragment=True), None),
    ],
)
def test_sighting_names_the_flow_that_a_rule_would_ask_for(sighting: Sighting, flow: Flow | None) -> None:
    assert sighting.flow == flow
