"""One flow has one spelling, whoever writes it down."""

import socket
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr._native import ffi, lib
from mcr.model.flow import Flow, Input
from mcr.net import uapi
from mcr.shm.flows import make_flow
from mcr.shm.records import network_address
from mcr.tap.sighting import Sighting, Tag

ADDRESSES = st.ip_addresses(v=4).filter(int)
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
