"""The traffic generator's receiver, on this host: needs no privileges."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from mcr.errors import UsageError
from traffic import LOOPBACK, datagram
from trafficgen.mmsg import MessageBuffers
from trafficgen.receive import receive
from trafficgen.report import Tally
from trafficgen.subscription import Subscription

PROGRAM = Path(__file__).parents[2] / "tools" / "traffic_gen.py"


def test_messages_go_through_the_buffers_whole_and_in_order() -> None:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        out = MessageBuffers([1, 2, 3])
        out.memory[:] = b"abbccc"
        assert out.send(sender, 1, 2) == 2
        assert out.send(sender, 0, 1) == 1
        assert [bytes(view) for view in MessageBuffers([16] * 8).receive(receiver)] == [b"bb", b"ccc", b"a"]
        with pytest.raises(BlockingIOError):
            MessageBuffers([16]).receive(receiver)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((str(LOOPBACK), 0))
        return int(sock.getsockname()[1])


def deliver(port: int, messages: Sequence[bytes]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for message in messages:
            sock.sendto(message, (str(LOOPBACK), port))


def test_a_datagram_to_this_host_is_received_and_the_end_is_seen() -> None:
    port = free_port()
    report = receive(
        [Subscription(LOOPBACK, port, None, {"a": 3})],
        idle_timeout_s=20,
        on_ready=lambda: deliver(port, [datagram(sequence) for sequence in range(3)]),
    )
    assert report.ok
    assert report.tally == Tally(expected=3, received=3, unique=3)


def test_what_comes_after_the_last_expected_packet_is_judged_too() -> None:
    port = free_port()
    report = receive(
        [Subscription(LOOPBACK, port, None, {"a": 1})],
        on_ready=lambda: deliver(port, [datagram(0), datagram(0), b"x" * 100, datagram(0, flow="b")]),
    )
    assert not report.ok
    assert report.tally == Tally(expected=1, received=4, unique=1, duplicated=1, corrupted=1, foreign=1)


def test_a_receiver_gives_up_when_nothing_new_comes() -> None:
    report = receive([Subscription(LOOPBACK, free_port(), None, {"a": 3})], idle_timeout_s=0.1)
    assert report.tally == Tally(expected=3, lost=3)
    assert report.latency_us is None


def test_a_receiver_that_is_told_to_stop_reports_what_it_saw() -> None:
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


def test_a_receiver_is_told_later_how_many_were_sent() -> None:
    port = free_port()
    reading, writing = os.pipe()
    with open(reading) as total, open(writing, "w") as teller:  # noqa: PTH123 - descriptors

        def tell() -> None:
            deliver(port, [datagram(sequence) for sequence in (0, 1, 3)])
            print(3, file=teller, flush=True)

        subscriptions = [Subscription(LOOPBACK, port, None, {"a": 100})]
        report = receive(subscriptions, idle_timeout_s=20, total=total, on_ready=tell)
    assert report.tally == Tally(expected=3, received=3, unique=3)  # those that are not among them may have been lost


def test_a_total_that_is_no_number_is_refused() -> None:
    port = free_port()
    reading, writing = os.pipe()
    with open(reading) as total:  # noqa: PTH123 - a descriptor
        os.write(writing, b"many\n")
        os.close(writing)
        with pytest.raises(UsageError, match="Invalid number of packets: 'many'"):
            receive([Subscription(LOOPBACK, port, None, {"a": 100})], total=total)


def test_drops_at_the_receiving_socket_are_told_apart() -> None:
    port = free_port()
    report = receive(
        [Subscription(LOOPBACK, port, None, {"a": 100})],
        idle_timeout_s=0.1,
        rcvbuf=20_000,
        on_ready=lambda: deliver(port, [datagram(sequence, size=1316) for sequence in range(100)]),
    )
    assert report.kernel_drops > 0
    assert report.kernel_drops == report.tally.lost == 100 - report.tally.unique


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_says_ready_and_reports_when_it_is_stopped(number: signal.Signals) -> None:
    port = free_port()
    command: list[str | Path] = [sys.executable, PROGRAM, "receive", "--flow", f"127.0.0.1:{port}=a", "--count", "9"]
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
