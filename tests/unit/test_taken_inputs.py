"""What is said of a rule whose input overlaps that of another."""

from ipaddress import ip_address

import attrs
import pytest

from mcr.errors import RuleExists
from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.rules.catalog import Catalog


def holding(rule: Rule) -> Catalog:
    catalog = Catalog()
    catalog.note(catalog.plan_addition([rule]))
    return catalog


def test_inputs_that_overlap_are_told_to_keep_apart() -> None:
    """Other outputs would not help where the input is another one."""
    ranged = Input("eth0", ip_address("239.1.8.0"), 5000, prefix=24, last_port=5003)
    outputs = (Output(ip_address("239.9.9.9"), 6000, "eth1"),)
    there = Rule("wide", ranged, outputs)
    with pytest.raises(RuleExists) as caught:
        holding(there).plan_addition([Rule("more", attrs.evolve(ranged, port=5003, last_port=5006), outputs)])
    assert caught.value.message == "Rule already exists: wide takes 239.1.8.0:5003 on eth0"
    assert caught.value.hints == (
        "choose groups or ports that it does not take: it takes 239.1.8.0/24:5000-5003 on eth0",
        "or remove it first: mcrctl remove --rule-id wide",
    )
    first, second, third = map(ip_address, ("198.18.0.1", "198.18.0.2", "198.18.0.3"))
    named = Input("eth0", ip_address("239.1.1.1"), 5000, sources=(first, second))
    with pytest.raises(RuleExists) as caught:
        holding(Rule("named", named, outputs)).plan_addition(
            [Rule("more", attrs.evolve(named, sources=(second, third)), outputs)]
        )
    assert caught.value.hints[0].startswith("choose sources that it does not take: ")
