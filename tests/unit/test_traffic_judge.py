"""How the traffic generator judges what it receives, and the flows that it is told of."""

from collections import Counter
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import McrError, UsageError
from traffic import datagram
from traffic_gen import parse_sent_flow, parse_subscription
from trafficgen.judge import SocketJudge
from trafficgen.latency import LatencySummary, summarize
from trafficgen.report import Tally
from trafficgen.subscription import Subscription


@given(st.lists(st.integers(-100, 10_000), min_size=1, max_size=2000))
def test_percentiles_are_the_nearest_ranks_of_the_sorted_list(latencies: list[int]) -> None:
    ordered = sorted(latencies)
    ranks = [-(-len(ordered) * permille // 1000) - 1 for permille in (500, 900, 990, 999, 1000)]
    assert summarize(Counter(latencies)) == LatencySummary(*(ordered[rank] for rank in ranks))


def test_no_packets_have_no_percentiles() -> None:
    assert summarize(Counter()) is None


@pytest.mark.slow
@given(st.lists(st.integers(0, 12)))
def test_the_judge_agrees_with_the_definitions(arrivals: list[int]) -> None:
    """Packets 0 to 9 are expected, 10 to 12 are not; any may be missing, repeated, out of order."""
    judge = SocketJudge({"a": 10})
    for sequence in arrivals:
        judge.take(memoryview(datagram(sequence)), 0)
    tally, (flow,) = judge.report()

    mine = [sequence for sequence in arrivals if sequence < 10]
    firsts = [s for i, s in enumerate(mine) if s not in mine[:i]]
    assert tally.expected == 10
    assert tally.received == len(arrivals)
    assert tally.unique == len(firsts)
    assert tally.lost == 10 - len(firsts)
    assert tally.duplicated == len(mine) - len(firsts)
    assert tally.reordered == sum(any(s < earlier for earlier in firsts[:i]) for i, s in enumerate(firsts))
    assert tally.foreign == len(arrivals) - len(mine)
    assert tally.received == tally.unique + tally.duplicated + tally.corrupted + tally.foreign
    assert tally.ok == (arrivals == list(range(10)))
    assert judge.complete == (tally.lost == 0)
    assert judge.missing == max(firsts, default=-1) + 1 - len(firsts)
    assert flow.tally.received == len(mine)


def test_flows_of_one_socket_are_judged_apart() -> None:
    judge = SocketJudge({"a": 2, "b": 1})
    for sequence, flow in ((0, "a"), (0, "b"), (1, "a"), (0, "c")):
        judge.take(memoryview(datagram(sequence, flow=flow)), 0)
    judge.take(memoryview(b"not ours"), 0)
    tally, flows = judge.report()
    assert tally == Tally(expected=3, received=5, unique=3, corrupted=1, foreign=1)
    assert {flow.name: flow.tally.unique for flow in flows} == {"a": 2, "b": 1}


def test_flows_nobody_named_are_judged_by_what_is_seen_of_them() -> None:
    judge = SocketJudge({}, any_flow=2)
    for sequence, flow in ((0, "a"), (1, "a"), (0, "b")):
        judge.take(memoryview(datagram(sequence, flow=flow)), 0)
    tally, flows = judge.report()
    assert tally == Tally(expected=4, received=3, unique=3, lost=1)
    assert len(flows) == 2


def test_a_socket_where_any_flow_is_expected_and_none_comes_has_lost_one() -> None:
    judge = SocketJudge({}, any_flow=2)
    assert not judge.complete
    assert judge.report()[0] == Tally(expected=2, lost=2)


def test_latency_is_from_when_the_packet_was_due() -> None:
    judge = SocketJudge({"a": 1})
    judge.take(memoryview(datagram(0, due_ns=5_000_000)), 5_042_999)
    assert judge.latencies == Counter({42: 1})


def test_flows_are_read() -> None:
    destination, name = parse_sent_flow("239.1.1.1:5001")
    assert (str(destination), name) == ("239.1.1.1:5001", "239.1.1.1:5001")
    assert parse_sent_flow("239.1.1.1:5001=camera")[1] == "camera"
    assert parse_subscription("239.1.1.1:5001", 9) == Subscription(IPv4Address("239.1.1.1"), 5001, None, {}, any_flow=9)
    assert parse_subscription("239.1.1.1:5001@in0=239.2.2.2:6001,camera/3", 9) == Subscription(
        IPv4Address("239.1.1.1"), 5001, "in0", {"239.2.2.2:6001": 9, "camera": 3}
    )


@pytest.mark.parametrize(
    "text", ["", "239.1.1.1", "239.1.1.1:", "239.1.1.1:x", "239.1.1.1:0", "239.1.1.1:65536", "host:5001"]
)
def test_a_flow_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(McrError, match="Invalid"):
        parse_sent_flow(text)
    with pytest.raises(McrError, match="Invalid"):
        parse_subscription(text, 1)


def test_a_flow_to_a_host_is_not_sent() -> None:
    with pytest.raises(UsageError, match=r"Invalid flow: 198\.18\.1\.1 is not a multicast group"):
        parse_sent_flow("198.18.1.1:5001")


@pytest.mark.parametrize("text", ["239.1.1.1:5001=,", "239.1.1.1:5001=a/x", "239.1.1.1:5001=/3"])
def test_a_list_of_flows_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Invalid flow"):
        parse_subscription(text, 1)
