"""`make chaos`: a relay under load whose workers, rules, interfaces and processors are disturbed at random.

Two streams cross it all the time. Beside them workers are killed and stopped, an input interface is deleted and made
again, four clients add and remove rules, one floods the daemon with requests, and a busy process takes its share of the
processors. At the end every packet has to be accounted for: none came twice or out of order, what is missing was in a
dying worker's hand or found its ring full, every identity of the counters holds, and the daemon holds no more
descriptors, processes and memory than after its first minute.
"""

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import click

from lab import Lab, Namespace, enter_user_namespace
from mcr_process import Mcr, Receiver, Sender, children_of, wait_until

WORKERS, CLIENTS = 2, 4
STREAMS = ("239.1.1.1:5000", "239.1.1.2:5000")
PROBE = ("239.1.2.1", 5000)  # through the interface that is made again and again
PATIENCE_S = 10.0
REST_S = 3.0
GROWTH_KIB = 16384  # of resident memory: Python collects garbage every 100,000 objects, and keeps what it had at most
BUSY = "while True: pass"


@attrs.frozen
class Plant:
    """source src0, src1 ── in0, in1 relay out0, out1 ── rx0, rx1 receiver."""

    lab: Lab
    source: Namespace
    relay: Namespace
    receiver: Namespace

    @classmethod
    def build(cls, lab: Lab) -> "Plant":
        """Make it."""
        plant = cls(lab, *(lab.namespace(name) for name in ("source", "relay", "receiver")))
        plant.link_input(0)
        plant.link_input(1)
        for i in range(2):
            a, b = f"198.18.{10 + i}.1/24", f"198.18.{10 + i}.2/24"
            lab.link(plant.relay, f"out{i}", plant.receiver, f"rx{i}", a_address=a, b_address=b)
        return plant

    def link_input(self, number: int) -> None:
        """Make an input interface."""
        a, b = f"198.18.{number}.1/24", f"198.18.{number}.2/24"
        self.lab.link(self.source, f"src{number}", self.relay, f"in{number}", a_address=a, b_address=b)


@attrs.frozen
class Holdings:
    """What the daemon and its workers hold."""

    descriptors: int
    processes: int
    resident_kib: int

    @classmethod
    def of(cls, mcr: Mcr) -> "Holdings":
        """As it is now; of workers only their number."""
        assert mcr.process is not None
        pid = mcr.process.pid
        status = Path(f"/proc/{pid}/status").read_text()
        resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return cls(len([*Path(f"/proc/{pid}/fd").iterdir()]), len(children_of(pid)), int(resident))


def rule(rule_id: str, interface: str, group: str, port: int, *outputs: tuple[str, int, str]) -> dict[str, Any]:
    """Make a rule as the control protocol has it."""
    return {
        "rule_id": rule_id,
        "input": {"interface": interface, "group": group, "port": port},
        "outputs": [{"group": to, "port": to_port, "interface": out} for to, to_port, out in outputs],
    }


class Chaos:
    """The disturbances, each in a thread of its own, until they are stopped."""

    def __init__(self, plant: Plant, mcr: Mcr, seed: int) -> None:
        self._plant, self._mcr = plant, mcr
        self._seed = seed
        self.stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failures: list[BaseException] = []
        self.done: Counter[str] = Counter()

    def start(self) -> None:
        """Begin."""
        works: list[Callable[[random.Random], None]] = [self.disturb_workers, self.remake_interface, self.be_busy]
        works += [self._client(number) for number in range(CLIENTS)] + [self.flood]
        for number, work in enumerate(works):
            chance = random.Random(self._seed + number)  # noqa: S311 - nobody is to be kept from guessing it
            thread = threading.Thread(target=self._run, args=(work, chance))
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End, and wait until everything is as it was."""
        self.stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            work(chance)
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the run's, told at the end
            self.failures.append(error)
            self.stopping.set()

    def _turns(self, chance: random.Random, low: float, high: float) -> Iterator[None]:
        while not self.stopping.wait(chance.uniform(low, high)):
            yield

    def disturb_workers(self, chance: random.Random) -> None:
        """Kill a worker; one in four times stop it, so that it hangs."""
        for _ in self._turns(chance, 0.5, 3.0):
            for pid in chance.sample(pids := self._mcr.worker_pids(), min(1, len(pids))):
                signum = signal.SIGSTOP if chance.random() < 1 / 4 else signal.SIGKILL
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)
                    self.done[signum.name] += 1

    def remake_interface(self, chance: random.Random) -> None:
        """Delete in1 and make it again; what is sent through it then arrives."""
        with self._plant.receiver.entered():
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            index = socket.if_nametoindex("rx1")
        receiver.bind(("239.2.2.9", 6000))
        mreqn = struct.pack("4s4si", socket.inet_aton("239.2.2.9"), bytes(4), index)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
        receiver.settimeout(0.05)
        with receiver:
            for _ in self._turns(chance, 1.0, 4.0):
                self._plant.relay.ip("link del in1")
                self._plant.link_input(1)
                wait_until(lambda: self._probe(receiver), "a packet through the new interface", PATIENCE_S)
                self.done["interfaces"] += 1

    def _probe(self, receiver: socket.socket) -> bool:
        with self._plant.source.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            index = socket.if_nametoindex("src1")
        with sender:
            mreqn = struct.pack("4s4si", bytes(4), bytes(4), index)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
            sender.sendto(b"probe", PROBE)
        with contextlib.suppress(TimeoutError):
            return receiver.recv(100) == b"probe"
        return False

    def be_busy(self, chance: random.Random) -> None:
        """Take a share of the processors now and then."""
        for _ in self._turns(chance, 1.0, 5.0):
            hog = subprocess.Popen([sys.executable, "-c", BUSY])
            self.stopping.wait(chance.uniform(0.5, 2.0))
            hog.kill()
            hog.wait()
            self.done["busy"] += 1

    def _client(self, number: int) -> Callable[[random.Random], None]:
        def change(chance: random.Random) -> None:
            mine: list[str] = []
            for _ in self._turns(chance, 0.0, 0.02):
                if mine and chance.random() < 1 / 2:
                    self._mcr.call("remove", {"rule_id": mine.pop(chance.randrange(len(mine)))})
                elif len(mine) < 20:  # noqa: PLR2004 - so many rules a client
                    port = chance.randrange(7000, 60000)
                    rule_id = f"client-{number}-{port}"
                    to = (f"239.3.{number}.{chance.randrange(1, 255)}", port, f"out{chance.randrange(2)}")
                    if rule_id not in mine:
                        self._mcr.call("add", {"rules": [rule(rule_id, "in0", f"239.4.{number}.1", port, to)]})
                        mine.append(rule_id)
                self.done["changes"] += 1
            for rule_id in mine:
                self._mcr.call("remove", {"rule_id": rule_id})

        return change

    def flood(self, chance: random.Random) -> None:
        """Ask for everything, leave before the answer comes, send garbage."""
        for _ in self._turns(chance, 0.0, 0.2):
            with socket.socket(socket.AF_UNIX) as rude:
                rude.connect(str(self._mcr.socket))
                rude.sendall(chance.choice([b'{"jsonrpc":"2.0","id":1,"method":"list"}\n', chance.randbytes(300)]))
            self.done["rude"] += 1


def judge(mcr: Mcr, sent: int, verdict: dict[str, Any]) -> list[str]:
    """What is not as it has to be, in words."""
    stats = mcr.check_counters()
    (counts,) = (each for each in stats["interfaces"] if each["interface"] == "in0")
    streams = [each for each in stats["rules"] if each["rule_id"].startswith("stream-")]
    doubt = sum(output["in_doubt"] for each in streams for output in each["outputs"])
    errors = sum(each["errors"] for each in streams)
    wrong = [f"{verdict[name]} {name}" for name in ("duplicated", "reordered", "corrupted", "foreign") if verdict[name]]
    if counts["recv"] + counts["kernel_drops"] != sent:
        wrong.append(f"{sent} sent to in0, but {counts['recv']} received and {counts['kernel_drops']} dropped")
    if errors != doubt:
        wrong.append(f"{errors} errors, {doubt} of them in doubt")
    if verdict["lost"] > doubt + counts["kernel_drops"] + verdict["kernel_drops"]:
        wrong.append(f"{verdict['lost']} lost, {doubt} in doubt, {counts['kernel_drops']} found the ring full")
    click.echo(
        f"{sent:,} sent, {verdict['lost']:,} lost: {doubt:,} in doubt, {counts['kernel_drops']:,} found the ring full, "
        f"{verdict['kernel_drops']:,} found the receiver's buffer full"
    )
    return wrong


def add_rules(mcr: Mcr) -> None:
    """Add those that stay."""
    for number, stream in enumerate(STREAMS):
        group, port = stream.split(":")
        to = (f"239.2.2.{number + 1}", 6000, f"out{number}")
        mcr.call("add", {"rules": [rule(f"stream-{number}", "in0", group, int(port), to)]})
    mcr.call("add", {"rules": [rule("probe", "in1", *PROBE, ("239.2.2.9", 6000, "out1"))]})


def rested(mcr: Mcr) -> Holdings:
    """What it holds once nothing has moved for some seconds: a standby process, eBPF programs come a little later."""
    last, since = Holdings.of(mcr), time.monotonic()

    def rests() -> bool:
        nonlocal last, since
        now = Holdings.of(mcr)
        if (now.descriptors, now.processes) != (last.descriptors, last.processes):
            since = time.monotonic()
        last = now
        return time.monotonic() - since > REST_S

    wait_until(rests, "the daemon rests", PATIENCE_S * 2)
    return last


def compare(before: Holdings, early: Holdings, mcr: Mcr) -> list[str]:
    """What the daemon holds more than it did, in words: descriptors and processes as before, memory as early on."""
    last, wrong = rested(mcr), []
    click.echo(f"held before: {before}\nheld early:  {early}\nheld after:  {last}")
    if (last.descriptors, last.processes) != (before.descriptors, before.processes):
        wrong.append("the daemon holds other descriptors or processes than before")
    if last.resident_kib > early.resident_kib + GROWTH_KIB:
        wrong.append(f"resident memory grew from {early.resident_kib} to {last.resident_kib} KiB")
    return wrong


def run(seconds: float, rate: float, seed: int, directory: Path) -> list[str]:
    """Do all of it; what is wrong at the end, in words."""
    with Lab() as lab:
        plant = Plant.build(lab)
        mcr = Mcr(plant.relay, directory).start(WORKERS)
        add_rules(mcr)
        before = early = rested(mcr)
        count = int(seconds * rate / len(STREAMS))
        flows = [f"239.2.2.{number + 1}:6000@rx{number}={stream}" for number, stream in enumerate(STREAMS)]
        receiver = Receiver(plant.receiver, *flows, count=count, idle=PATIENCE_S)
        sender = Sender(plant.source, "src0", *STREAMS, count=count, rate=rate)
        chaos = Chaos(plant, mcr, seed)
        chaos.start()
        chaos.stopping.wait(min(60, seconds / 2))
        early = Holdings.of(mcr)
        while sender.process.poll() is None and not chaos.stopping.wait(1):
            pass
        chaos.stop()
        click.echo(f"done: {dict(chaos.done)}")
        wrong = [repr(failure) for failure in chaos.failures]
        if not wrong:
            sender.finish()
            mcr.wait_for_workers()
            wrong = judge(mcr, sender.total, receiver.verdict()) + compare(before, early, mcr)
        mcr.stop()
        return wrong


@click.command(help=__doc__)
@click.option("--seconds", default=600.0, show_default=True)
@click.option("--rate", default=20_000.0, show_default=True, help="Packets per second of both streams together.")
@click.option("--seed", default=1, show_default=True)
def main(seconds: float, rate: float, seed: int) -> None:
    """Run, and say what was wrong; exit status 1 if anything was."""
    enter_user_namespace()
    with TemporaryDirectory() as directory:
        wrong = run(seconds, rate, seed, Path(directory))
        if wrong:
            click.echo((Path(directory) / "mcr.log").read_text()[-4000:], err=True)
    for each in wrong:
        click.echo(f"WRONG: {each}", err=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
