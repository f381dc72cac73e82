"""The traffic generator counts every datagram once, under the right name; nothing it reports is a guess."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP

import traffic_gen
from lab import Lab, Namespace
from mcr.cli.failure import run
from mcr.errors import SystemFault
from mcr_process import PATIENCE
from traffic import NAME, template
from traffic_gen import parse_subscription
from trafficgen.frame import multicast_template
from trafficgen.interface import interface_address
from trafficgen.receive import receive
from trafficgen.report import ReceiveReport, SendReport, Tally
from trafficgen.schedule import Paced
from trafficgen.send import Flow, send

SOURCE = IPv4Address("198.18.1.1")
PROGRAM = Path(__file__).parents[2] / "tools" / "traffic_gen.py"
SEND: list[str | Path] = [sys.executable, PROGRAM, "send", "--interface", "src0", "--flow", NAME]


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("receive", "--flow", "x", "--count", "1"), "Error: Invalid flow: 'x'", "239.1.1.1:5001"),
        (("receive", "--count", "1"), "Error: Missing option '--flow'", "receive --help"),
        (
            ("receive", "--flow", "239.1.1.1:5001@nosuch0", "--count", "1"),
            "Error: Cannot receive 239.1.1.1:5001@nosuch0: no interface nosuch0",
            "ip link show",
        ),
        (
            ("receive", "--flow", "198.19.255.255:5001", "--count", "1"),
            "Error: Cannot receive 198.19.255.255:5001: no such address on this host",
            "ip address show",
        ),
        (
            ("send", "--interface", "nosuch0", "--flow", "239.1.1.1:5001", "--count", "1", "--rate", "1"),
            "Error: No such interface: nosuch0",
            "ip link show",
        ),
    ],
)
def test_an_error_names_the_input_and_the_remedy(
    arguments: tuple[str, ...],
    error: str,
    hint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", [str(PROGRAM), *arguments])
    monkeypatch.setattr(traffic_gen, "_stopped_by_signals", threading.Event)
    assert run(traffic_gen.main, "traffic_gen.py") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    first, *hints = printed.err.splitlines()
    assert first == error
    assert hint in hints[0]
    assert all(line.startswith("hint: ") for line in hints)


@pytest.fixture
def cable() -> Iterator[tuple[Namespace, Namespace]]:
    """A source (src0) and a receiver (rcv0)."""
    with Lab() as lab:
        source, receiver = lab.namespace("source"), lab.namespace("receiver")
        lab.link(source, "src0", receiver, "rcv0", a_address="198.18.1.1/24", b_address="198.18.1.2/24", mtu=9000)
        yield source, receiver


@contextmanager
def receiving(namespace: Namespace, *flows: str, count: int) -> Iterator[list[ReceiveReport]]:
    """Have a thread receive in a namespace during the block; its report is in the list after it."""
    ready = threading.Event()
    reports: list[ReceiveReport] = []

    def run() -> None:
        with namespace.entered():
            subscriptions = [parse_subscription(flow, count) for flow in flows]
            reports.append(receive(subscriptions, idle_timeout_s=PATIENCE, on_ready=ready.set))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield reports
    finally:
        thread.join()


def send_flows(source: Namespace, *flows: Flow, count: int, rate: float = 0, size: int = 1316) -> SendReport:
    with source.entered():
        return send("src0", flows, count=count, rate=rate, size=size)


def test_what_is_sent_on_a_cable_is_judged_without_a_fault(cable: tuple[Namespace, Namespace]) -> None:
    source, receiver = cable
    with receiving(receiver, "239.129.1.1:5001@rcv0=a,b", count=2000) as reports:
        sent = send_flows(source, Flow("a", template()), Flow("b", template()), count=2000, rate=20_000)
    (report,) = reports
    assert sent.ok
    assert sent.sent == 4000
    assert sent.late_us
    due = Paced(20_000, 0).due_ns(3999) / 1e9
    # Never ahead of its schedule; what is behind it, as it may be on a busy machine, is owned up to.
    assert due <= sent.seconds < due + sent.late_us.max / 1e6 + 1
    assert report.ok, report
    assert report.kernel_drops == 0
    assert report.tally.unique == 4000
    assert report.latency_us
    assert report.latency_us.p50 >= 0


def test_any_payload_size_crosses_a_cable(cable: tuple[Namespace, Namespace]) -> None:
    source, receiver = cable
    sizes = {"a": 32, "b": 33, "c": 8000}
    with receiving(receiver, f"239.129.1.1:5001@rcv0={','.join(sizes)}", count=50) as reports:
        for name, size in sizes.items():
            send_flows(source, Flow(name, template()), count=50, size=size)
    assert reports[0].ok, reports[0]


@pytest.mark.slow
def test_more_flows_than_a_system_call_takes_stay_in_step(cable: tuple[Namespace, Namespace]) -> None:
    source, receiver = cable
    groups = [IPv4Address(f"239.1.2.{last}") for last in range(1, 101)]
    flows = [
        Flow(f"{group}:5001", multicast_template(group, 5001, source=SOURCE, source_mac="02:00:00:00:00:01"))
        for group in groups
    ]
    subscriptions = [f"{group}:5001@rcv0={group}:5001" for group in groups]
    with receiving(receiver, *subscriptions, count=30) as reports:
        send_flows(source, *flows, count=30)
    assert reports[0].ok, reports[0]
    assert reports[0].tally.unique == 3000


def test_a_wrong_udp_checksum_is_a_drop_at_the_socket(cable: tuple[Namespace, Namespace]) -> None:
    source, receiver = cable
    wrong = template()
    wrong[UDP].chksum = 0x1234

    def send_all() -> None:
        send_flows(source, Flow("a", template()), Flow("b", wrong), count=10)

    with receiver.entered():  # the time without anything new is counted from when all is sent
        subscription = parse_subscription("239.129.1.1:5001@rcv0=a,b", 10)
        report = receive([subscription], idle_timeout_s=0.5, on_ready=send_all)
    assert report.tally == Tally(expected=20, received=10, unique=10, lost=10)
    assert report.kernel_drops == 10


def test_a_socket_hears_its_group_only(cable: tuple[Namespace, Namespace]) -> None:
    source, receiver = cable
    other = template()
    other[IP].dst = "239.1.1.1"  # the same MAC address
    with receiving(receiver, "239.129.1.1:5001@rcv0=a", "239.1.1.1:5001@rcv0=b", count=10) as reports:
        send_flows(source, Flow("a", template()), Flow("b", other), count=10)
    assert reports[0].ok, reports[0]


@pytest.mark.slow
def test_the_program_sends_what_a_receiver_program_finds_well(cable: tuple[Namespace, Namespace]) -> None:
    source, receiver = cable
    command: list[str | Path] = [sys.executable, PROGRAM, "receive", "--count", "500", "--idle-timeout", "60"]
    program = receiver.popen(
        [*command, "--flow", f"{NAME}@rcv0={NAME}", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stderr
    assert program.stderr.readline() == "ready\n"
    sent = source.run([*SEND, "--count", "500", "--rate", "5000", "--json"])
    output, _ = program.communicate(timeout=PATIENCE)
    assert program.returncode == 0
    assert json.loads(sent.stdout)["sent"] == 500
    assert json.loads(output)["unique"] == 500


@pytest.mark.slow
def test_a_sender_that_is_told_to_stop_reports_what_it_sent(cable: tuple[Namespace, Namespace]) -> None:
    source, _ = cable
    program = source.popen(
        [*SEND, "--count", "1000000", "--rate", "100", "--json", "--progress"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stderr
    assert program.stderr.readline().startswith("progress sent=")
    program.terminate()
    output, _ = program.communicate(timeout=PATIENCE)
    assert program.returncode == 1
    assert 0 < json.loads(output)["sent"] < 1_000_000


def test_a_frame_too_long_for_the_interface_is_an_error_with_a_remedy(cable: tuple[Namespace, Namespace]) -> None:
    source, _ = cable
    with pytest.raises(SystemFault, match="Cannot send on src0: Message too long") as caught:
        send_flows(source, Flow("a", template()), count=1, size=9000)
    assert "MTU" in caught.value.hints[0]


def test_an_interface_that_is_down_is_an_error_with_a_remedy(cable: tuple[Namespace, Namespace]) -> None:
    source, _ = cable
    source.ip("link set dev src0 down")
    with pytest.raises(SystemFault, match="Cannot send on src0: Network is down") as caught:
        send_flows(source, Flow("a", template()), count=1)
    assert "ip link set src0 up" in caught.value.hints[0]


def test_an_interface_knows_its_addresses(cable: tuple[Namespace, Namespace]) -> None:
    source, _ = cable
    with source.entered():
        mine = interface_address("src0")
    assert mine.address == IPv4Address("198.18.1.1")
    assert mine.mac in source.ip("link show dev src0")
