"""Addresses of rules are those of ipaddress, in all that is asked of them."""

import copy
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.model.address import RuleAddress


@given(st.integers(0, 0xFFFF_FFFF))
def test_an_address_is_that_of_ipaddress(number: int) -> None:
    known = IPv4Address(number)
    for made in (RuleAddress(known.packed), RuleAddress(number), RuleAddress(str(known))):
        assert made == known
        assert {made} == {known}
        assert (hash(made), str(made), made.packed, int(made)) == (hash(known), str(known), known.packed, number)
        assert (made.is_multicast, made.version) == (known.is_multicast, known.version)
        assert made in IPv4Network((number, 24), strict=False)


def test_it_can_be_copied_and_counted_on() -> None:
    made = RuleAddress(b"\xef\x01\x02\x03")
    for other in (copy.copy(made), copy.deepcopy(made), made + 1 - 1):
        assert (other, other.packed, other.is_multicast) == (made, made.packed, True)
    with pytest.raises(ValueError, match="At most 3 characters"):
        RuleAddress("239.1.2.3333")
