"""The traffic generator counts every datagram once, under the right name; nothing it reports is a guess."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Padding, Raw

import trafficgen.payload as payloads
from lab import Lab, Namespace
from mcr.errors import McrError, SystemFault, UsageError
from traffic_gen import parse_sent_flow, parse_subscription
from trafficgen.frame import Frame, multicast_template
from trafficgen.interface import interface_address
from trafficgen.judge import SocketJudge
from trafficgen.latency import LatencySummary, summarize
from trafficgen.mmsg import MessageBuffers
from trafficgen.receive import receive
from trafficgen.report import ReceiveReport, SendReport, Tally
from trafficgen.schedule import Paced
from trafficgen.send import Flow, send
from trafficgen.subscription import Subscription

PROGRAM = Path(__file__).parents[2] / "tools" / "traffic_gen.py"
LOOPBACK = IPv4Address("127.0.0.1")
GROUP = IPv4Address("239.129.1.1")  # its MAC address is that of 239.1.1.1: only 23 bits of a group are in it
NAME = "239.129.1.1:5001"
SEND = [sys.executable, PROGRAM, "send", "--interface", "src0", "--flow", NAME]


def template(**options: object) -> Packet:
    return multicast_template(GROUP, 5001, source=IPv4Address("198.18.1.1"), source_mac="02:00:00:00:00:01", **options)


def datagram(sequence: int, *, flow: str = "a", size: int = 100, due_ns: int = 0) -> bytes:
    frame = Frame.build(template(), size)
    buffer = bytearray(frame.data)
    frame.stamp_into(buffer, 0, payloads.flow_id(flow), sequence, due_ns)
    return bytes(buffer[frame.payload_offset :])


# --- payload -------------------------------------------------------------------------------------------------------


@given(
    st.integers(payloads.MIN_SIZE, 3000),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
def test_a_payload_says_what_its_sender_said(size, flow, sequence, due_ns):
    frame = Frame.build(template(), size)
    buffer = bytearray(frame.data)
    frame.stamp_into(buffer, 0, flow, sequence, due_ns)
    payload = memoryview(buffer)[frame.payload_offset :]
    assert len(payload) == size
    assert payloads.read(payload) == payloads.Stamp(flow, sequence, due_ns)


def test_a_payload_with_any_bit_changed_is_not_read():
    sound = datagram(7, size=60)
    for bit in range(len(sound) * 8):
        changed = bytearray(sound)
        changed[bit // 8] ^= 1 << bit % 8
        # Byte 5 is padding that nobody reads, but the checksum covers it.
        assert payloads.read(memoryview(changed)) is None


@pytest.mark.parametrize("length", [0, 1, payloads.MIN_SIZE - 1, payloads.MIN_SIZE, 99])
def test_a_payload_cut_short_is_not_read(length):
    assert payloads.read(memoryview(datagram(7)[:length])) is None


def test_a_payload_with_something_appended_is_not_read():
    assert payloads.read(memoryview(datagram(7) + b"\0")) is None


# --- frame ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 33, 1316, 1317])
@pytest.mark.parametrize(
    "headers",
    [
        template(),
        template(vlan=7, ttl=1, ip_id=4711),
        template() / Raw(b"replaced"),
        template() / Padding(b"after the datagram"),
        template() / Raw(b"replaced") / Padding(b"after the datagram"),
        Ether() / IP(dst="239.1.1.1", src="198.18.1.1", options=[]) / UDP(sport=1, dport=2),
    ],
)
def test_every_stamp_leaves_the_udp_checksum_as_scapy_would_compute_it(headers, size):
    frame = Frame.build(headers, size)
    buffer = bytearray(frame.data)
    for sequence in range(200):
        frame.stamp_into(buffer, 0, 0xDEADBEEF, sequence, sequence * 123_456_789)
        sent = Ether(bytes(buffer))
        expected = sent.copy()
        del expected[UDP].chksum
        assert sent[UDP].chksum == Ether(bytes(expected))[UDP].chksum


@pytest.mark.parametrize("checksum", [0, 0x1234])
def test_a_udp_checksum_that_is_set_stays_as_set(checksum):
    headers = template()
    headers[UDP].chksum = checksum
    frame = Frame.build(headers, 100)
    buffer = bytearray(frame.data)
    frame.stamp_into(buffer, 0, 1, 2, 3)
    assert Ether(bytes(buffer))[UDP].chksum == checksum


def test_headers_are_as_asked_and_the_template_stays_as_it_was():
    headers = template(vlan=7, ttl=3, ip_id=4711)
    before = bytes(headers)
    built = Ether(Frame.build(headers, 64).data)
    assert built.dst == "01:00:5e:01:01:01"
    assert (built[Dot1Q].vlan, built[IP].ttl, built[IP].id, built[UDP].dport) == (7, 3, 4711, 5001)
    assert built[UDP].len == 8 + 64
    assert bytes(headers) == before


@pytest.mark.parametrize("size", [-1, 0, 31, 65_508])
def test_a_payload_that_cannot_be_is_refused(size):
    with pytest.raises(UsageError, match=f"Invalid payload size: {size}"):
        Frame.build(template(), size)


# --- schedule ------------------------------------------------------------------------------------------------------


@given(st.floats(0.1, 1e7), st.integers(0, 10**15), st.integers(0, 10**11))
def test_what_is_due_is_what_has_a_due_time_that_passed(rate, start_ns, after_ns):
    schedule = Paced(rate, start_ns)
    due = schedule.due_by(start_ns + after_ns)
    assert schedule.due_ns(due - 1) <= start_ns + after_ns
    assert schedule.due_ns(due) >= start_ns + after_ns


@pytest.mark.parametrize("rate", [1, 999, 4000, 20_000, 99_999.5, 1_000_000])
def test_the_rate_is_kept_in_the_long_run_and_bursts_stay_short(rate):
    schedule = Paced(rate, 0)
    for index in (0, 1, 10, 1000, 1_000_003):
        late_ns = index * 1e9 / rate - schedule.due_ns(index)
        assert -1 <= late_ns <= 250_000 + 1  # a packet leaves with its burst: early by a burst at most, never late


# --- latency -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-100, 10_000), min_size=1, max_size=2000))
def test_percentiles_are_the_nearest_ranks_of_the_sorted_list(latencies):
    ordered = sorted(latencies)
    ranks = [-(-len(ordered) * permille // 1000) - 1 for permille in (500, 900, 990, 999, 1000)]
    assert summarize(Counter(latencies)) == LatencySummary(*(ordered[rank] for rank in ranks))


def test_no_packets_have_no_percentiles():
    assert summarize(Counter()) is None


# --- judge ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 12)))
def test_the_judge_agrees_with_the_definitions(arrivals):
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


def test_flows_of_one_socket_are_judged_apart():
    judge = SocketJudge({"a": 2, "b": 1})
    for sequence, flow in ((0, "a"), (0, "b"), (1, "a"), (0, "c")):
        judge.take(memoryview(datagram(sequence, flow=flow)), 0)
    judge.take(memoryview(b"not ours"), 0)
    tally, flows = judge.report()
    assert tally == Tally(expected=3, received=5, unique=3, corrupted=1, foreign=1)
    assert {flow.name: flow.tally.unique for flow in flows} == {"a": 2, "b": 1}


def test_flows_nobody_named_are_judged_by_what_is_seen_of_them():
    judge = SocketJudge({}, any_flow=2)
    for sequence, flow in ((0, "a"), (1, "a"), (0, "b")):
        judge.take(memoryview(datagram(sequence, flow=flow)), 0)
    tally, flows = judge.report()
    assert tally == Tally(expected=4, received=3, unique=3, lost=1)
    assert len(flows) == 2


def test_a_socket_where_any_flow_is_expected_and_none_comes_has_lost_one():
    judge = SocketJudge({}, any_flow=2)
    assert not judge.complete
    assert judge.report()[0] == Tally(expected=2, lost=2)


def test_latency_is_from_when_the_packet_was_due():
    judge = SocketJudge({"a": 1})
    judge.take(memoryview(datagram(0, due_ns=5_000_000)), 5_042_999)
    assert judge.latencies == Counter({42: 1})


# --- system calls --------------------------------------------------------------------------------------------------


def test_messages_go_through_the_buffers_whole_and_in_order():
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        out = MessageBuffers([1, 2, 3])
        out.memory[:] = b"abbccc"
        assert out.send(sender, 1, 2) == 2
        assert out.send(sender, 0, 1) == 1
        assert [bytes(view) for view in MessageBuffers([16] * 8).receive(receiver)] == [b"bb", b"ccc", b"a"]
        with pytest.raises(BlockingIOError):
            MessageBuffers([16]).receive(receiver)


# --- command line --------------------------------------------------------------------------------------------------


def test_flows_are_read():
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
def test_a_flow_that_makes_no_sense_is_refused(text):
    with pytest.raises(McrError, match="Invalid"):
        parse_sent_flow(text)
    with pytest.raises(McrError, match="Invalid"):
        parse_subscription(text, 1)


def test_a_flow_to_a_host_is_not_sent():
    with pytest.raises(UsageError, match=r"Invalid flow: 198\.18\.1\.1 is not a multicast group"):
        parse_sent_flow("198.18.1.1:5001")


@pytest.mark.parametrize("text", ["239.1.1.1:5001=,", "239.1.1.1:5001=a/x", "239.1.1.1:5001=/3"])
def test_a_list_of_flows_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="Invalid flow"):
        parse_subscription(text, 1)


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("arguments", "error", "hint", "status"),
    [
        (("receive", "--flow", "x", "--count", "1"), "Error: Invalid flow: 'x'", "239.1.1.1:5001", 2),
        (("receive", "--count", "1"), "Error: Missing option '--flow'", "receive --help", 2),
        (
            ("receive", "--flow", "239.1.1.1:5001@nosuch0", "--count", "1"),
            "Error: Cannot receive 239.1.1.1:5001@nosuch0: no interface nosuch0",
            "ip link show",
            2,
        ),
        (
            ("receive", "--flow", "198.19.255.255:5001", "--count", "1"),
            "Error: Cannot receive 198.19.255.255:5001: no such address on this host",
            "ip address show",
            2,
        ),
        (
            ("send", "--interface", "nosuch0", "--flow", "239.1.1.1:5001", "--count", "1", "--rate", "1"),
            "Error: No such interface: nosuch0",
            "ip link show",
            2,
        ),
    ],
)
def test_an_error_names_the_input_and_the_remedy(arguments, error, hint, status):
    done = run_program(*arguments)
    assert done.returncode == status
    assert done.stdout == ""
    first, *hints = done.stderr.splitlines()
    assert first == error
    assert hint in hints[0]
    assert all(line.startswith("hint: ") for line in hints)


# --- receiving on this host: needs no privileges --------------------------------------------------------------------


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((str(LOOPBACK), 0))
        return int(sock.getsockname()[1])


def deliver(port: int, messages: Sequence[bytes]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for message in messages:
            sock.sendto(message, (str(LOOPBACK), port))


def test_a_datagram_to_this_host_is_received_and_the_end_is_seen():
    port = free_port()
    report = receive(
        [Subscription(LOOPBACK, port, None, {"a": 3})],
        idle_timeout_s=20,
        on_ready=lambda: deliver(port, [datagram(sequence) for sequence in range(3)]),
    )
    assert report.ok
    assert report.tally == Tally(expected=3, received=3, unique=3)


def test_what_comes_after_the_last_expected_packet_is_judged_too():
    port = free_port()
    report = receive(
        [Subscription(LOOPBACK, port, None, {"a": 1})],
        on_ready=lambda: deliver(port, [datagram(0), datagram(0), b"x" * 100, datagram(0, flow="b")]),
    )
    assert not report.ok
    assert report.tally == Tally(expected=1, received=4, unique=1, duplicated=1, corrupted=1, foreign=1)


def test_a_receiver_gives_up_when_nothing_new_comes():
    report = receive([Subscription(LOOPBACK, free_port(), None, {"a": 3})], idle_timeout_s=0.1)
    assert report.tally == Tally(expected=3, lost=3)
    assert report.latency_us is None


def test_a_receiver_that_is_told_to_stop_reports_what_it_saw():
    port = free_port()
    stop = threading.Event()
    report = receive(
        [Subscription(LOOPBACK, port, None, {"a": 10})],
        idle_timeout_s=20,
        stop=stop,
        on_ready=lambda: deliver(port, [datagram(0), datagram(2)]),
        on_progress=lambda progress: stop.set() if progress.received == 2 else None,
    )
    assert report.tally == Tally(expected=10, received=2, unique=2, lost=8)


def test_drops_at_the_receiving_socket_are_told_apart():
    port = free_port()
    report = receive(
        [Subscription(LOOPBACK, port, None, {"a": 500})],
        idle_timeout_s=0.1,
        rcvbuf=20_000,
        on_ready=lambda: deliver(port, [datagram(sequence, size=1316) for sequence in range(500)]),
    )
    assert report.kernel_drops > 0
    assert report.kernel_drops == report.tally.lost == 500 - report.tally.unique


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_says_ready_and_reports_when_it_is_stopped(number):
    port = free_port()
    command = [sys.executable, PROGRAM, "receive", "--flow", f"127.0.0.1:{port}=a", "--count", "9"]
    with subprocess.Popen(
        [*command, "--json", "--progress"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr
        assert program.stdout
        assert program.stderr.readline() == "ready\n"
        deliver(port, [datagram(0), datagram(2)])
        for line in program.stderr:
            if line == "progress received=2 missing=1\n":
                break
        program.send_signal(number)
        report = json.load(program.stdout)
    assert program.returncode == 1
    assert report["ok"] is False
    assert (report["received"], report["lost"], report["sockets"][0]["flows"][0]["name"]) == (2, 7, "a")


# --- over a cable --------------------------------------------------------------------------------------------------


@pytest.fixture
def cable() -> Iterator[tuple[Namespace, Namespace]]:
    """A source (src0) and a receiver (rcv0)."""
    with Lab() as lab:
        source, receiver = lab.namespace("source"), lab.namespace("receiver")
        lab.link(source, "src0", receiver, "rcv0", a_address="198.18.1.1/24", b_address="198.18.1.2/24", mtu=9000)
        yield source, receiver


@contextmanager
def receiving(namespace: Namespace, *flows: str, count: int, seconds: float = 5) -> Iterator[list[ReceiveReport]]:
    """Have a thread receive in a namespace during the block; its report is in the list after it."""
    ready = threading.Event()
    reports: list[ReceiveReport] = []

    def run() -> None:
        with namespace.entered():
            subscriptions = [parse_subscription(flow, count) for flow in flows]
            reports.append(receive(subscriptions, idle_timeout_s=seconds, on_ready=ready.set))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(10)
        yield reports
    finally:
        thread.join()


def send_flows(source: Namespace, *flows: Flow, count: int, rate: float = 0, size: int = 1316) -> SendReport:
    with source.entered():
        return send("src0", flows, count=count, rate=rate, size=size)


def test_what_is_sent_on_a_cable_is_judged_without_a_fault(cable):
    source, receiver = cable
    with receiving(receiver, "239.129.1.1:5001@rcv0=a,b", count=2000) as reports:
        sent = send_flows(source, Flow("a", template()), Flow("b", template()), count=2000, rate=20_000)
    (report,) = reports
    assert sent.ok
    assert sent.sent == 4000
    assert 19_000 < sent.pps < 21_000
    assert report.ok, report
    assert report.kernel_drops == 0
    assert report.tally.unique == 4000
    assert report.latency_us
    assert report.latency_us.p50 >= 0


@pytest.mark.parametrize("size", [32, 33, 8000])
def test_any_payload_size_crosses_a_cable(cable, size):
    source, receiver = cable
    with receiving(receiver, "239.129.1.1:5001@rcv0=a", count=50) as reports:
        send_flows(source, Flow("a", template()), count=50, size=size)
    assert reports[0].ok, reports[0]


def test_more_flows_than_a_system_call_takes_stay_in_step(cable):
    source, receiver = cable
    groups = [IPv4Address(f"239.1.2.{last}") for last in range(1, 101)]
    options = {"source": IPv4Address("198.18.1.1"), "source_mac": "02:00:00:00:00:01"}
    flows = [Flow(f"{group}:5001", multicast_template(group, 5001, **options)) for group in groups]
    subscriptions = [f"{group}:5001@rcv0={group}:5001" for group in groups]
    with receiving(receiver, *subscriptions, count=30) as reports:
        send_flows(source, *flows, count=30)
    assert reports[0].ok, reports[0]
    assert reports[0].tally.unique == 3000


def test_a_wrong_udp_checksum_is_a_drop_at_the_socket(cable):
    source, receiver = cable
    wrong = template()
    wrong[UDP].chksum = 0x1234
    with receiving(receiver, "239.129.1.1:5001@rcv0=a,b", count=10, seconds=0.5) as reports:
        send_flows(source, Flow("a", template()), Flow("b", wrong), count=10)
    (report,) = reports
    assert report.tally == Tally(expected=20, received=10, unique=10, lost=10)
    assert report.kernel_drops == 10


def test_a_socket_hears_its_group_only(cable):
    source, receiver = cable
    other = template()
    other[IP].dst = "239.1.1.1"  # the same MAC address
    with receiving(receiver, "239.129.1.1:5001@rcv0=a", "239.1.1.1:5001@rcv0=b", count=10, seconds=1) as reports:
        send_flows(source, Flow("a", template()), Flow("b", other), count=10)
    assert reports[0].ok, reports[0]


def test_the_program_sends_what_a_receiver_program_finds_well(cable):
    source, receiver = cable
    command = [sys.executable, PROGRAM, "receive", "--count", "500"]
    program = receiver.popen(
        [*command, "--flow", f"{NAME}@rcv0={NAME}", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stderr
    assert program.stderr.readline() == "ready\n"
    sent = source.run([*SEND, "--count", "500", "--rate", "5000", "--json"])
    output, _ = program.communicate(timeout=30)
    assert program.returncode == 0
    assert json.loads(sent.stdout)["sent"] == 500
    assert json.loads(output)["unique"] == 500


def test_a_sender_that_is_told_to_stop_reports_what_it_sent(cable):
    source, _ = cable
    program = source.popen(
        [*SEND, "--count", "1000000", "--rate", "100", "--json", "--progress"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stderr
    assert program.stderr.readline().startswith("progress sent=")
    program.terminate()
    output, _ = program.communicate(timeout=30)
    assert program.returncode == 1
    assert 0 < json.loads(output)["sent"] < 1_000_000


def test_a_frame_too_long_for_the_interface_is_an_error_with_a_remedy(cable):
    source, _ = cable
    with pytest.raises(SystemFault, match="Cannot send on src0: Message too long") as caught:
        send_flows(source, Flow("a", template()), count=1, size=9000)
    assert "MTU" in caught.value.hints[0]


def test_an_interface_that_is_down_is_an_error_with_a_remedy(cable):
    source, _ = cable
    source.ip("link set dev src0 down")
    with pytest.raises(SystemFault, match="Cannot send on src0: Network is down") as caught:
        send_flows(source, Flow("a", template()), count=1)
    assert "ip link set src0 up" in caught.value.hints[0]


def test_an_interface_knows_its_addresses(cable):
    source, _ = cable
    with source.entered():
        mine = interface_address("src0")
    assert mine.address == IPv4Address("198.18.1.1")
    assert mine.mac in source.ip("link show dev src0")
