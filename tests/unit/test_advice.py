"""What one should know of a rule when it is added."""

from ipaddress import ip_address

import attrs
import pytest

from mcr.model.flow import Input
from mcr.model.rule import Output
from mcr.rules.advice import advice


@pytest.mark.parametrize(
    ("group", "to", "said"),
    [
        ("239.1.1.1", "239.2.2.2", []),
        ("233.0.0.1", "224.0.1.0", []),
        ("239.1.1.1", "198.18.0.1", []),
        ("ff15::1", "ff3e:30:2001:db8::1", []),
        ("ff02::fb", "ff12::1", ["ff02::fb is for control protocols of one network (ff02::/16)"]),
        ("ff3e::8000:1", "ff3e::1", ["ff3e::8000:1 is a group of source-specific multicast (ff3x::/32)"]),
        ("232.1.2.3", "232.1.2.4", ["232.1.2.3 is a group of source-specific multicast (232.0.0.0/8)"]),
        ("224.0.0.5", "239.2.2.2", ["224.0.0.5 is for control protocols of one network (224.0.0.0/24)"]),
        ("224.0.0.251", "224.0.0.251", ["224.0.0.251 is for control protocols of one network (224.0.0.0/24)"]),
    ],
)
def test_groups_that_are_for_something_else_are_told(group: str, to: str, said: list[str]) -> None:
    found = advice(Input("eth0", ip_address(group), 5000), (Output(ip_address(to), 6000, "eth1"),))
    for whole, host in ("232.1.2.3", "198.18.0.1"), ("ff3e::8000:1", "2001:db8::1"):
        named = Input("eth0", ip_address(whole), 5000, sources=(ip_address(host),))
        assert not advice(named, ())
    assert [each.partition(": the")[0].partition(", such")[0] for each in found] == said


def test_senders_that_leave_as_they_came_are_told() -> None:
    plain = Output(ip_address("239.2.2.2"), 6000, "eth1")
    kept = attrs.evolve(plain, port=6001, source="keep")
    (said,) = advice(Input("eth0", ip_address("239.1.1.1"), 5000), (plain, kept, attrs.evolve(kept, port=6002)))
    assert "eth1 leave with the addresses of their senders" in said
