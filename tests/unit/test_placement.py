"""Where rules stand in shared memory."""

from ipaddress import IPv4Address, ip_address

from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.relay.placement import Placement

HOST = IPv4Address("198.18.1.2")


def rule(number: int) -> Rule:
    group = Output(ip_address("239.9.9.9"), 6000 + number, "eth1")
    return Rule(
        f"r{number}", Input("eth0", ip_address("239.1.1.1"), 5000 + number), (group, Output(HOST, 6000, "eth2"))
    )


def test_slots_are_used_again_but_tags_never() -> None:
    """By its tag a slot's counters are told from those of who had it before."""
    placement = Placement()
    first, second = (placement.place(rule(number), {}, ()) for number in (1, 2))
    assert placement.displace(first.rule) == first
    third = placement.place(rule(3), {}, ())
    assert (third.slot, third.outputs) == (first.slot, first.outputs)
    assert len({first.tag, second.tag, third.tag}) == 3
    assert [*placement] == [second, third]


def test_numbers_have_names_until_they_are_free() -> None:
    placement = Placement()
    placed = placement.place(rule(1), {}, ())
    group, host = placed.outputs
    assert placement.rule_name(placed.slot) == "r1"
    assert [placement.output_name(each) for each in (group, host)] == ["239.9.9.9:6001:eth1", "198.18.1.2:6000:eth2"]
    placement.displace(placed.rule)
    assert placement.rule_name(placed.slot) == f"{placed.slot} (gone)"
    assert placement.output_name(group) == f"output {group} (gone)"


def test_raw_frames_wait_for_no_neighbour() -> None:
    """An output that waits for a neighbour has no source; one that does not has its own."""
    placement, source = Placement(), ip_address("198.18.0.1")
    added = rule(1)
    sources = {output.destination: source for output in added.outputs}
    placed = placement.place(added, sources, {("eth2", HOST)})
    assert placed.sources == (source, None)
    assert placed.neighbours == (None, ("eth2", HOST))


def test_who_names_an_interface_is_known() -> None:
    placement = Placement()
    for number in (1, 2):
        placement.place(rule(number), {}, ())
    assert [placement.naming(name) for name in ("eth0", "eth2", "eth3")] == [["r1", "r2"], ["r1", "r2"], []]
