"""MCR's main job, where you can watch it: one multicast stream goes in, two come out, and every packet is counted.

Source, relay and receiver live in network namespaces of their own; the host's network is not touched, and nothing is
left behind. Exit status 0: every packet arrived, once and in order; or the relay lost none, and what is missing, at
most one of twenty, was dropped at the receiver, where this machine was too busy.
"""

import io
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TextIO

import attrs
import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from daemon_process import DaemonProcess
from lab import Lab, LabError, Namespace, enter_user_namespace
from mcr.cli.failure import run
from trafficgen.receive import DEFAULT_RCVBUF
from trafficgen.subscription import granted_receive_buffer

INPUT = "239.10.1.1:5001"
OUTPUTS = ("239.20.1.1:6001", "239.20.1.2:6002")
PAYLOAD = 1316  # bytes: seven MPEG-TS packets, as television sends them
RATE = 20_000  # packets per second
SECONDS = 8

PICTURE = f"""
  source                        relay                          receiver
  src0 ── {INPUT} ──▶ in0  mcrd  out0 ─┬─ {OUTPUTS[0]} ──▶ rcv0
                                               └─ {OUTPUTS[1]} ──▶
"""

SOCKET_BYTES_PER_PACKET = 2304  # what the kernel counts for one in a receive buffer
EXCUSED = 0.05  # of all packets: what a busy machine may drop at the receiver
LONGEST_PAUSE_S = 0.04  # what a busy machine may take until it runs the receiver again

NEXT_STEPS = """
What to try next
  sudo .venv/bin/mcrd supervisor        relay on the networks of this machine
  sudo .venv/bin/mcrctl add --help      say what (in another terminal)
  sudo .venv/bin/mcrctl stats --watch   see what comes in, goes out, is lost
  make test                             put all that MCR promises to the test"""

PROGRAMS = Path(sys.executable).parent
TRAFFIC_GEN = Path(__file__).with_name("traffic_gen.py")
START_TIMEOUT_S = 10.0
REPORT_S = 0.5  # source and receiver report twice in this time

ON_THE_WAY = """Each packet leaves the relay twice. Counters are read one after the other, the receiver's first:
those of the source are newer, by up to half a second."""


@click.command(help=__doc__)
@click.option("--svg", type=click.File("w", lazy=False), help="Save a picture of the closing summary.")
def main(svg: TextIO | None) -> int:
    """Set up, relay, sum up."""
    enter_user_namespace()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)  # so that they end it as Ctrl-C does: tidily
    console = Console(highlight=False)
    console.print(PICTURE)
    rate = affordable_rate(console)
    count = rate * SECONDS
    with TemporaryDirectory(prefix="mcr-demo-") as directory, Lab() as lab:
        network = Network.build(lab)
        mcr = Mcr(network.relay, Path(directory), console)
        mcr.start()
        mcr.add_rule()
        receiver = Generator.receive(network.receiver, count)
        source = Generator.send(network.source, count, rate)
        watch(source, mcr, receiver, console, count)
        sent, received = source.report(), receiver.report()
        received["wrong_checksums"] = network.receiver.counter("Udp", "InCsumErrors")
        relay_lost_none = is_complete(sent, mcr.ask("stats"))
        summary = Group(*summarize(sent, received, mcr, relay_lost_none=relay_lost_none))
    console.print(summary)
    if svg:
        svg.write(picture(summary, console.width))
    well = received["ok"] or (relay_lost_none and is_explained(received))
    return 0 if sent["ok"] and well else 1


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def affordable_rate(console: Console) -> int:
    """Return the packets per second at which the receiver's buffers last for a pause of this machine."""
    buffer = granted_receive_buffer(DEFAULT_RCVBUF)
    rate = min(RATE, int(buffer / SOCKET_BYTES_PER_PACKET / LONGEST_PAUSE_S) // 100 * 100)
    if rate < RATE:
        console.print(
            f"{rate:,} packets per second: an ordinary user's sockets hold no more of them than "
            f"net.core.rmem_max allows. As root: {RATE:,}."
        )
    return rate


@attrs.frozen
class Network:
    """The namespaces, and the cables between them."""

    source: Namespace
    relay: Namespace
    receiver: Namespace

    @classmethod
    def build(cls, lab: Lab) -> "Network":
        """Lay the cables: source (src0) to relay (in0), relay (out0) to receiver (rcv0)."""
        source, relay, receiver = (lab.namespace(name) for name in ("source", "relay", "receiver"))
        lab.link(source, "src0", relay, "in0", a_address="198.18.1.1/24", b_address="198.18.1.2/24")
        lab.link(relay, "out0", receiver, "rcv0", a_address="198.18.2.1/24", b_address="198.18.2.2/24")
        return cls(source, relay, receiver)


class Mcr:
    """The relay: `mcrd`, and `mcrctl` to talk to it."""

    def __init__(self, namespace: Namespace, directory: Path, console: Console) -> None:
        self._daemon = DaemonProcess(namespace, PROGRAMS, directory / "control.sock", directory / "mcrd.log")
        self._console = console

    def start(self) -> None:
        """Start the daemon, and return when it answers."""
        for name in ("mcrd", "mcrctl"):
            program(name)
        self._show("export", f"MCR_CONTROL_SOCKET={self._daemon.socket}")
        self._show("mcrd", "supervisor")
        self._daemon.launch()
        self._daemon.wait_until_it_answers(START_TIMEOUT_S)
        ready = next((line for line in self._daemon.log().splitlines() if " is ready: " in line), "")
        self._console.print(Text(ready), soft_wrap=True)

    def add_rule(self) -> None:
        """Add the rule, and return when it is active."""
        group, _, port = INPUT.partition(":")
        outputs = ",".join(f"{output}:out0" for output in OUTPUTS)
        add = ("add", "--name", "demo", "--input-interface", "in0", "--input-group", group, "--input-port", port)
        self._show("mcrctl", *add, "--outputs", outputs)
        self._console.print(self._mcrctl(*add, "--outputs", outputs).stdout.rstrip())
        deadline = time.monotonic() + START_TIMEOUT_S
        while [rule["state"] for rule in self.ask("list")] != ["active"]:
            if time.monotonic() > deadline:
                raise LabError(f"The rule did not become active within {START_TIMEOUT_S:g} s")

    def ask(self, command: str) -> Any:
        """Return what ``mcrctl COMMAND --json`` says."""
        self.check()
        return json.loads(self._mcrctl(command, "--json").stdout)

    def show(self, command: str) -> str:
        """Return what ``mcrctl COMMAND`` shows people."""
        return self._mcrctl(command).stdout.rstrip()

    def check(self) -> None:
        """Raise `LabError` if the daemon has exited."""
        self._daemon.check()

    def _mcrctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._daemon.ctl(*arguments, env=os.environ | {"COLUMNS": str(self._console.width)})

    def _show(self, *words: str) -> None:
        self._console.print(Text(f"$ {shlex.join(words)}", style="bold"), soft_wrap=True)


def program(name: str) -> Path:
    """Return the path of one of MCR's programs: it is installed where this Python is."""
    path = PROGRAMS / name
    if not path.exists():
        raise LabError(f"No such program: {path}", "build it: make setup", "then: make demo")
    return path


class Generator:
    """One end of the traffic: `traffic_gen.py`, sending or receiving."""

    def __init__(self, namespace: Namespace, *arguments: str) -> None:
        self._name = f"traffic_gen.py {arguments[0]}"
        self._process = namespace.popen(
            [sys.executable, TRAFFIC_GEN, *arguments, "--json", "--progress"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._said: list[str] = []

    @classmethod
    def receive(cls, namespace: Namespace, count: int) -> "Generator":
        """Receive every output, and return when the groups are joined.

        Raises:
            LabError: it failed.
        """
        flows = [word for output in OUTPUTS for word in ("--flow", f"{output}@rcv0={INPUT}")]
        receiver = cls(namespace, "receive", *flows, "--count", str(count), "--idle-timeout", str(START_TIMEOUT_S))
        receiver._listen(START_TIMEOUT_S)
        if receiver._said[:1] != ["ready"]:
            raise receiver._failure()
        return receiver

    @classmethod
    def send(cls, namespace: Namespace, count: int, rate: int) -> "Generator":
        """Send the input."""
        options = ("--flow", INPUT, "--count", str(count), "--rate", str(rate), "--size", str(PAYLOAD))
        return cls(namespace, "send", "--interface", "src0", *options)

    def progress(self, wait_s: float = 0.0) -> Counter[str]:
        """The newest counters that it has reported; with `wait_s` those of its next report, if it comes in time."""
        self._listen(0)
        if wait_s:
            self._listen(wait_s)
        news = next((line for line in reversed(self._said) if line.startswith("progress ")), "")
        return Counter({name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", news)})

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end, but no longer than that; return whether it has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def report(self) -> dict[str, Any]:
        """Wait for its end and return what it found.

        Raises:
            LabError: it failed.
        """
        assert self._process.stdout
        text = self._process.stdout.read()
        if not text:
            raise self._failure()
        report: dict[str, Any] = json.loads(text)
        return report

    def _listen(self, seconds: float) -> None:
        """Read its progress from stderr; if there is none, wait so long for some."""
        assert self._process.stderr
        if select.select([self._process.stderr], [], [], seconds)[0]:
            self._said += os.read(self._process.stderr.fileno(), 65536).decode().splitlines()

    def _failure(self) -> LabError:
        self._listen(0)
        return LabError(f"{self._name} failed", *self._said[-3:])


@attrs.frozen
class Reading:
    """All counters on the way of the packets, at one moment."""

    sent: int
    relay: dict[str, Any]
    received: int
    missing: int

    @classmethod
    def take(cls, source: Generator, mcr: Mcr, receiver: Generator) -> "Reading":
        """Read them against the way of the packets: so none seems to have arrived that was not sent."""
        received = receiver.progress()
        relay = mcr.ask("stats")
        return cls(source.progress(REPORT_S)["sent"], relay, received["received"], received["missing"])

    def by_place(self) -> dict[str, dict[str, int]]:
        """Group them, along the way of the packets."""
        ingress, egress = self.relay["ingress"], self.relay["egress"]
        return {
            "source": {"sent": self.sent},
            "relay in": {name: ingress[name] for name in ("recv", "matched", "kernel_drops")},
            "relay out": {name: egress[name] for name in ("sent", "errors")},
            "receiver": {"received": self.received, "missing": self.missing},
        }

    def as_line(self) -> str:
        """Draw them for a log."""
        return " | ".join(
            f"{place}: " + ", ".join(f"{name} {value:,}" for name, value in counters.items())
            for place, counters in self.by_place().items()
        )

    def as_table(self, count: int) -> RenderableType:
        """Draw them for a terminal, and how much of `count` packets was sent."""
        table = Table.grid(padding=(0, 3, 0, 0))
        for place, counters in self.by_place().items():
            table.add_row(Text(place, style="bold"), *(f"{name} {value:>7,}" for name, value in counters.items()))
        return Group("", table, ON_THE_WAY, "", ProgressBar(count, self.sent, width=72))


def watch(source: Generator, mcr: Mcr, receiver: Generator, console: Console, count: int) -> None:
    """Show the counters until the receiver is done: 4 times per second on a terminal, otherwise a line per second."""
    if not console.is_terminal:
        console.print(ON_THE_WAY, soft_wrap=True)
        before = ""
        while not receiver.ends_within(1.0):
            reading = Reading.take(source, mcr, receiver)
            line = reading.as_line()
            if reading.sent and line != before:  # it waits some seconds for what is missing
                console.print(line, soft_wrap=True)
            before = line
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not receiver.ends_within(0.25):
            live.update(Reading.take(source, mcr, receiver).as_table(count), refresh=True)


def is_complete(sent: dict[str, Any], relay: dict[str, Any]) -> bool:
    """Whether the relay took in all that was sent, and sent all of that, as its counters say."""
    ingress, egress = relay["ingress"], relay["egress"]
    took_all = ingress["matched"] == sent["sent"] and not ingress["kernel_drops"]
    return took_all and egress["sent"] == sent["sent"] * len(OUTPUTS) and not egress["errors"]


def is_explained(received: dict[str, Any]) -> bool:
    """Whether nothing is wrong at the receiver but what its own kernel had no room for, and that little.

    What a socket dropped is what there was no room for, and what had a wrong checksum: which the relay may have made.
    """
    others = ("duplicated", "reordered", "corrupted", "foreign", "wrong_checksums")
    is_little = received["lost"] <= received["expected"] * EXCUSED
    return is_little and received["lost"] == received["kernel_drops"] and not any(received[fault] for fault in others)


def summarize(
    sent: dict[str, Any], received: dict[str, Any], mcr: Mcr, *, relay_lost_none: bool
) -> Iterator[RenderableType]:
    """Yield the results, in the order in which a person wants to know them."""
    table = Table(box=None, padding=(0, 4, 0, 0))
    table.add_column("", no_wrap=True)
    for name in ("packets", "lost", "duplicated", "reordered"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(f"sent      {INPUT}", f"{sent['sent']:,}")
    for output, found in zip(OUTPUTS, received["sockets"], strict=True):
        counts = (f"{found[name]:,}" for name in ("unique", "lost", "duplicated", "reordered"))
        table.add_row(f"received  {output}", *counts)
    yield from ("", table, "")
    if latency := received["latency_us"]:
        yield f"Latency, source to receiver: median {latency['p50']:,} µs, 99 % within {latency['p99']:,} µs."
    yield verdict(received, relay_lost_none=relay_lost_none)
    for command in ("list-workers", "stats"):
        yield from ("", Text(f"$ mcrctl {command}", style="bold"), Text(mcr.show(command)))
    yield Text(NEXT_STEPS)


def verdict(received: dict[str, Any], *, relay_lost_none: bool) -> Text:
    """Say in a sentence whether all is well and, if not, where to look."""
    if received["ok"]:
        return Text(f"All {received['expected']:,} packets arrived, each once and in order.", style="bold green")
    if relay_lost_none and is_explained(received):
        text = f"The relay lost none: this machine was too busy to take in {received['lost']:,} of "
        return Text(f"{text}{received['expected']:,} packets at the receiver.", style="bold green")
    faults = ("lost", "duplicated", "reordered", "corrupted", "foreign")
    found = ", ".join(f"{received[fault]:,} {fault}" for fault in faults if received[fault])
    text = f"Of {received['expected']:,} packets: {found}."
    if received["wrong_checksums"]:
        text += f" {received['wrong_checksums']:,} reached the receiver with a wrong UDP checksum."
    elif received["kernel_drops"]:
        text += f" {received['kernel_drops']:,} of the lost reached the receiver, but this machine was too busy there."
    return Text(f"{text} mcrctl stats accounts for every packet that reached the relay.", style="bold red")


def picture(summary: RenderableType, width: int) -> str:
    """Draw the summary as it looks on a terminal of that many columns, as SVG."""
    recorder = Console(record=True, file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    recorder.print(summary)
    # Without the web font that it would load from elsewhere: the viewer has a monospaced one.
    return re.sub(r"@font-face \{.*?\}", "", recorder.export_svg(title="make demo"), flags=re.DOTALL)


if __name__ == "__main__":
    sys.exit(run(main, "demo.py"))
