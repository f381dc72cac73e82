"""What the map of the filters has to have, as flows come and go."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from mcr.model.flow import Flow
from mcr.net.filter.admitted import Admitted, capture_of, has_source
from mcr.shm.flows import flow_bytes

IPV4 = st.builds(
    Flow,
    st.sampled_from([IPv4Address("239.1.1.1"), IPv4Address("239.1.1.2")]),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 7]),
    st.sampled_from([None, IPv4Address("198.18.0.9")]),
)
IPV6 = st.builds(
    Flow,
    st.just(IPv6Address("ff15::1:0:0")),
    st.just(1),
    st.sampled_from([0, 7]),
    st.sampled_from([None, IPv6Address("::1")]),
)
FLOWS = st.tuples(st.sampled_from([0, 300]), IPV4 | IPV6)


def _needed(wanted: set[tuple[int, Flow]]) -> set[bytes]:
    """The flows, their groups' fragments, and their VLANs."""
    found = set()
    for capture, flow in wanted:
        found |= {flow_bytes(flow, capture), flow_bytes(Flow(flow.group, 0, flow.vlan), capture)}
        found |= {flow_bytes(Flow(IPv4Address(0), 0, flow.vlan), capture)} if flow.vlan else set()
    return found


@given(st.lists(st.tuples(st.booleans(), st.lists(FLOWS, max_size=4)), max_size=8))
def test_the_map_has_what_the_flows_need_and_nothing_else(steps: list[tuple[bool, list[tuple[int, Flow]]]]) -> None:
    admitted, there, wanted = Admitted(), set[bytes](), set[tuple[int, Flow]]()
    for adds, flows in steps:
        if adds:
            missing = admitted.add(admitted.lacking(flows))
            assert there.isdisjoint(missing)
            assert len({*missing}) == len(missing)
            there |= {*missing}
            wanted |= {*flows}
        else:
            gone = [*admitted.drop(flow_bytes(flow, capture) for capture, flow in flows)]
            assert there >= {*gone}
            assert len({*gone}) == len(gone)
            there -= {*gone}
            wanted -= {*flows}
        assert there == _needed(wanted)
        assert admitted.with_sources == {capture for capture, flow in wanted if flow.source}
        for capture in (0, 300):
            assert admitted.has_sources(capture) == (capture in admitted.with_sources)
            assert admitted.vlans_of(capture) == {flow.vlan for slot, flow in wanted if slot == capture}


@given(FLOWS)
def test_bytes_of_a_flow_tell_its_capture_and_whether_it_has_a_source(each: tuple[int, Flow]) -> None:
    capture, flow = each
    key = flow_bytes(flow, capture)
    assert (capture_of(key), has_source(key)) == (capture, flow.source is not None)
