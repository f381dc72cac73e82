"""`python -m bench.changes`: how fast rules change, beside a stream that must lose nothing."""

import contextlib
import json
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import click

from bench.__main__ import BUILD
from bench.measure import asking
from bench.prerequisites import check
from bench.rig import FIRST_GROUP, PORT, Rig, Sink, Traffic, output_group, start_generator
from bench.subjects import Mcr, Tools, Work, nth
from bench.sums import Spread
from bench.tables import number, table
from lab import Lab, LabError, enter_user_namespace
from mcr.cli.client import Client

RULES, ADDED, CHANGES = 10_000, 200, 960
CLIENTS = 1, 4, 16, 64  # at once, each with one change in hand
STREAM = 20_000.0  # packets per second: half to the group of the stream, half to one that rules come and go for
STREAM_SECONDS = 20.0
PING_EVERY_S = 0.005
OTHER_GROUP, OTHER_PORT = nth(FIRST_GROUP, 1), PORT + 1


@attrs.frozen
class Bed:
    """A relay with many rules, and the stream through it: out0 counts the stream, out1 has a receiver."""

    rig: Rig
    mcr: Mcr
    load_s: float
    load_ping_ms: float


def timed(work: Callable[[], object]) -> float:
    """Give the seconds that something takes."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def build(lab: Lab, tools: Tools, name: str) -> Bed:
    """Start a relay with one rule, then load the others by one command, as an operator does."""
    rig = Rig.build(lab, name, 2)
    mcr = Mcr(rig, Work(), tools, name, saves=True)
    lines = "".join(
        f"--input-interface in0 --input-group {nth(FIRST_GROUP, i)} --input-port {PORT} "
        f"--outputs {nth(output_group(0), i)}:{PORT}:out0\n"
        for i in range(2, RULES + 1)
    )
    with (
        Client(str(mcr.socket), "the benchmark") as client,
        asking({"ping": lambda: client.call("ping")}, PING_EVERY_S) as longest,
    ):
        load_s = timed(lambda: mcr.ctl("add", "--batch", "-", input=lines))
    return Bed(rig, mcr, load_s, longest["ping"])


def other_rule(client_number: int = 0) -> dict[str, Any]:
    """Make the rule that comes and goes; each client has one of its own."""
    return {
        "input": {"interface": "in0", "group": OTHER_GROUP, "port": PORT + client_number},
        "outputs": [{"group": output_group(1), "port": OTHER_PORT, "interface": "out1"}],
    }


def open_receiver(rig: Rig) -> socket.socket:
    """Join what that rule sends."""
    with rig.sink.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        index = socket.if_nametoindex("snk1")
    receiver.bind((output_group(1), OTHER_PORT))
    group = struct.pack("4s4si", socket.inet_aton(output_group(1)), bytes(4), index)
    receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    return receiver


def first_packet_ms(client: Client, receiver: socket.socket) -> float:
    """Take the time from asking for the rule until its first packet is there."""
    receiver.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            receiver.recv(2000)
    receiver.settimeout(5)
    begun = time.monotonic()
    arrived = [0.0]

    def wait() -> None:
        receiver.recv(2000)
        arrived[0] = time.monotonic()

    thread = threading.Thread(target=wait)
    thread.start()
    (added,) = client.call("add", {"rules": [other_rule()]})
    thread.join()
    client.call("remove", {"rule_id": added["rule_id"]})
    return (arrived[0] - begun) * 1000


class Changer:
    """A client that adds and removes a rule as fast as it goes, and takes next to no time of the machine itself."""

    def __init__(self, path: Path, number: int, changes: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        rule = other_rule(number) | {"rule_id": f"changing{number}"}
        both = [_line("add", {"rules": [rule]}), _line("remove", {"rule_id": rule["rule_id"]})]
        self._requests = iter(both * (changes // 2))

    def ask(self) -> bool:
        """Ask for the next change; False: there is none."""
        request = next(self._requests, b"")
        self.socket.sendall(request)
        return bool(request)

    def hear(self) -> None:
        """Take in that the last one was made.

        Raises:
            LabError: it was refused.
        """
        reply = self.socket.recv(1 << 16)
        if b'"result"' not in reply:
            raise LabError(f"a change was refused: {reply.decode()}")


def _line(method: str, params: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


def change(mcr: Mcr, clients: int) -> float:
    """Make all changes, shared out among so many clients, each one after the other; how many in a second."""
    begun, made = time.monotonic(), 0
    with contextlib.ExitStack() as stack, select.epoll() as poll:
        changers = {}
        for number in range(clients):
            changer = Changer(mcr.socket, number, CHANGES // clients)
            descriptor = stack.enter_context(changer.socket).fileno()
            changers[descriptor] = changer
            poll.register(descriptor, select.EPOLLIN)
            changer.ask()
        while changers:
            for descriptor, _ in poll.poll():
                changers[descriptor].hear()
                made += 1
                if not changers[descriptor].ask():
                    poll.unregister(descriptor)
                    del changers[descriptor]
    return made / (time.monotonic() - begun)


def measure(bed: Bed, tools: Tools) -> dict[str, float]:
    """Do all of it beside the stream."""
    sink = Sink(bed.rig.sink, tools.programs / "sink", str(PORT), "snk0")
    traffic = Traffic(STREAM, flows=2, seconds=STREAM_SECONDS)
    generator = start_generator(bed.rig, tools.programs / "gen", traffic, burst=1, spin=False)
    with open_receiver(bed.rig) as receiver, Client(str(bed.mcr.socket), "the benchmark") as client:
        generator.say()
        waits = sorted(first_packet_ms(client, receiver) for _ in range(ADDED))
        rates = {f"clients{number}": change(bed.mcr, number) for number in CLIENTS}
        report = generator.answer(STREAM_SECONDS * 2)
    time.sleep(0.2)
    lost = report["sent"] / 2 - sum(each["packets"] for each in sink.read())
    generator.end()
    sink.end()
    return {
        "median": waits[len(waits) // 2],
        "p99": waits[int(len(waits) * 0.99)],
        "lost": lost,
        **rates,
    }


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
def main(rounds: int) -> None:
    """Measure, and print a table."""
    check(BUILD)
    enter_user_namespace()
    found: list[dict[str, float]] = []
    for round_number in range(rounds):
        with Lab() as lab, TemporaryDirectory() as directory:
            tools = Tools(BUILD, Path(sys.executable).parent, Path(directory))
            bed = build(lab, tools, f"mcr{round_number}")
            found.append(measure(bed, tools) | {"load": bed.load_s, "ping": bed.load_ping_ms})
    what = {
        "load": f"{RULES:,} rules by `mcrctl add --batch`, s",
        "ping": "longest wait for `ping` meanwhile, ms",
        "median": "`add` until its first packet has arrived, median, ms",
        "p99": "99th percentile of that, ms",
        **{f"clients{each}": f"rules added or removed in a second, clients at once: {each}" for each in CLIENTS},
        "lost": "packets that the stream beside it lost",
    }
    rows = [[text, number(Spread.of(each[name] for each in found), digits=2)] for name, text in what.items()]
    click.echo("\n".join(table([f"with {RULES:,} rules", "median (lowest-highest)"], rows)))


if __name__ == "__main__":
    main()
