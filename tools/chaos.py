"""`make chaos`: a plant's year in ten minutes. Everything is disturbed at random, and at the end nothing may show it.

200 rules, and two streams that cross it all the time, on interfaces of their own. Beside them four interfaces go down,
are deleted and made again, renamed, moved, and lose their addresses; workers are killed and stopped; mcrd is killed;
four clients change rules; one floods the daemon with requests; the state directory is full for a while; a busy process
takes its share of the processors.

After each start of mcrd every acknowledged rule has to be there. In each life of mcrd no packet of the streams may come
twice or out of order; in the last one what is missing was in a dying worker's hand or found its ring full. At the end
all rules are active, a packet sent to each comes out of all of its outputs, every identity of the counters holds, and
mcrd holds no more descriptors, processes and shared memory than at the start, and no more memory than early on.
"""

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import attrs
import click

from flaps import Flaps, send
from holdings import GROWTH_KIB, Holdings, rested
from lab import Lab, enter_user_namespace
from ledger import Clients, RuntimeLedger, judge
from mcr_process import Mcr, Receiver, Sender, wait_until
from plant import FLAPPING, INPUTS, OUTPUTS, RULES, STREAMS, Plant, PlantRule, fixed_rules

WORKERS, CLIENTS = 2, 4
PLENTY = 10_000_000  # packets
PACKETS = 25  # to each rule at the end; in turn, so that no ring overflows
RATE = 2_000.0  # of these per second
PATIENCE_S = 20.0
BUSY = "while True: pass"
DISK = "8m"  # room in the state directory
FULL = ("Rules can't be saved in ",)
_CLONE_NEWNS = 0x00020000


class Chaos:
    """The disturbances, each in a thread of its own, until they are stopped; but for the clients."""

    def __init__(self, plant: Plant, rules: Sequence[PlantRule], mcr: Mcr, state: Path, seed: int) -> None:
        self._plant, self._rules, self._mcr = plant, rules, mcr
        self._state = state
        self._seed = seed
        self._threads: list[threading.Thread] = []
        self.stopping = threading.Event()
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()
        self.workers_in_peace = threading.Lock()

    def start(self) -> None:
        """Begin."""
        works = [self.disturb_workers, self.be_busy, self.flood, self.fill_disk, self.send]
        for name, second in (("in1", "in2"), ("in2", "in1"), ("out1", "out2"), ("out2", "out1")):
            cables = self._plant.cables
            works.append(Flaps(cables[name], cables[second], self._plant.probe(name), self.stopping, self.done).run)
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
            self.failures.append("".join(traceback.format_exception(error)))
            self.stopping.set()

    def _turns(self, chance: random.Random, low: float, high: float) -> Iterator[None]:
        while not self.stopping.wait(chance.uniform(low, high)):
            yield

    def disturb_workers(self, chance: random.Random) -> None:
        """Kill a worker; one in four times stop it, so that it hangs."""
        for _ in self._turns(chance, 0.5, 3.0):
            pids: list[int] = []
            with self.workers_in_peace:
                with contextlib.suppress(Exception):  # mcrd is away
                    pids = self._mcr.worker_pids()
                for pid in chance.sample(pids, min(1, len(pids))):
                    signum = signal.SIGSTOP if chance.random() < 1 / 4 else signal.SIGKILL
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signum)
                        self.done[signum.name] += 1

    def be_busy(self, chance: random.Random) -> None:
        """Take a share of the processors now and then."""
        for _ in self._turns(chance, 1.0, 5.0):
            hog = subprocess.Popen([sys.executable, "-c", BUSY])
            self.stopping.wait(chance.uniform(0.5, 2.0))
            hog.kill()
            hog.wait()
            self.done["busy"] += 1

    def flood(self, chance: random.Random) -> None:
        """Ask for everything, leave before the answer comes, send garbage."""
        methods = ("list", "stats", "doctor", "list_workers")
        for _ in self._turns(chance, 0.0, 0.2):
            request = f'{{"jsonrpc":"2.0","id":1,"method":"{chance.choice(methods)}"}}\n'.encode()
            with socket.socket(socket.AF_UNIX) as rude, contextlib.suppress(OSError):  # mcrd is away
                rude.connect(str(self._mcr.socket))
                rude.sendall(chance.choice([request, chance.randbytes(300)]))
            self.done["rude"] += 1

    def fill_disk(self, chance: random.Random) -> None:
        """Leave no room in the state directory for a while."""
        ballast = self._state / "ballast"
        for _ in self._turns(chance, 2.0, 8.0):
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            self.stopping.wait(chance.uniform(0.5, 3.0))
            ballast.unlink()
            self.done["disk full"] += 1

    def send(self, chance: random.Random) -> None:
        """Send to rules on interfaces that flap; what comes of it nobody judges."""
        for _ in self._turns(chance, 0.0, 0.01):
            each = chance.choice(self._rules)
            if each.source in FLAPPING:
                with contextlib.suppress(OSError), self._plant.source.entered():
                    send(self._plant.cables[each.source].end, each.group, 5000, b"anything")


class Streams:
    """Two streams that are judged."""

    def __init__(self, plant: Plant, rate: float) -> None:
        """Begin."""
        flows = [f"239.2.2.{number + 1}:6000@rx0={stream}" for number, stream in enumerate(STREAMS)]
        self._receiver = Receiver(plant.receiver, *flows, count=PLENTY, idle=PATIENCE_S)
        self._sender = Sender(plant.source, "src0", *STREAMS, count=PLENTY, rate=rate)

    def stop(self) -> int:
        """End sending; return how many were sent."""
        return self._sender.stop()

    def verdict(self, sent: int) -> dict[str, Any]:
        """Nothing more comes: the judgement."""
        time.sleep(1.0)  # the receiver takes in what it has
        self._receiver.process.send_signal(signal.SIGTERM)
        verdict = self._receiver.verdict()
        verdict["lost"] -= PLENTY * len(STREAMS) - sent
        return verdict


def misjudged(verdict: dict[str, Any]) -> list[str]:
    """What must not come, whatever happens."""
    return [f"{verdict[name]} {name}" for name in ("duplicated", "reordered", "corrupted", "foreign") if verdict[name]]


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has stopped it; what waits for it is not counted yet."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "State:\tT" in Path(f"/proc/{pid}/status").read_text()
    return False


@attrs.frozen
class Account:
    """What the relay says of the streams."""

    received: int
    kernel_drops: int
    errors: int
    doubt: int

    @classmethod
    def of(cls, stats: dict[str, Any]) -> "Account":
        """By its counters."""
        (counts,) = (each for each in stats["interfaces"] if each["interface"] == "in0")
        streams = [each for each in stats["rules"] if each["rule_id"].startswith("stream-")]
        doubt = sum(output["in_doubt"] for each in streams for output in each["outputs"])
        return cls(counts["recv"], counts["kernel_drops"], sum(each["errors"] for each in streams), doubt)

    def __sub__(self, other: "Account") -> "Account":
        return Account(*(a - b for a, b in zip(attrs.astuple(self), attrs.astuple(other), strict=True)))

    @classmethod
    def at_rest(cls, mcr: Mcr) -> "Account":
        """Once nothing of the streams is on its way; the workers are in peace."""
        wait_until(lambda: not any(map(is_stopped, mcr.worker_pids())), "workers that hang are replaced", PATIENCE_S)
        mcr.wait_for_workers()
        last: list[Account] = []

        def rests() -> bool:
            last.append(cls.of(mcr.stats()))
            return len(last) > 10 and len({*last[-10:]}) == 1  # noqa: PLR2004

        wait_until(rests, "the streams have come to an end", PATIENCE_S)
        return last[-1]

    def judge(self, sent: int, verdict: dict[str, Any]) -> list[str]:
        """What is not as it has to be, in words."""
        wrong = misjudged(verdict)
        if self.received + self.kernel_drops != sent:
            wrong.append(f"{sent} sent to in0, but {self.received} received and {self.kernel_drops} dropped")
        if self.errors != self.doubt:
            wrong.append(f"{self.errors} errors, {self.doubt} of them in doubt")
        if verdict["lost"] > self.doubt + self.kernel_drops + verdict["kernel_drops"]:
            wrong.append(f"{verdict['lost']} lost, {self.doubt} in doubt, {self.kernel_drops} found the ring full")
        click.echo(
            f"{sent:,} sent, {verdict['lost']:,} lost: {self.doubt:,} in doubt, "
            f"{self.kernel_drops:,} found the ring full, {verdict['kernel_drops']:,} found the receiver's buffer full"
        )
        return wrong


class Year:
    """Lives of mcrd, one after the other."""

    def __init__(self, lab: Lab, directory: Path, state: Path, rate: float, seed: int) -> None:
        self._plant = Plant.build(lab)
        self._rules = [PlantRule.make(self._plant, number) for number in range(RULES)]
        self._mcr = Mcr(self._plant.relay, directory)
        self._rate, self._seed = rate, seed
        self._chaos = Chaos(self._plant, self._rules, self._mcr, state, seed)
        self._ledgers = [
            RuntimeLedger(number, INPUTS, OUTPUTS, self._mcr.call, FULL) for number in range(1, CLIENTS + 1)
        ]
        self._lives = 0
        self._changes: Counter[str] = Counter()
        self._fixed = fixed_rules(self._plant, self._rules)

    def run(self, seconds: float, kills: int) -> list[str]:
        """All of it; what is wrong, in words. A third of the time is for the last life."""
        mcr, chaos = self._mcr, self._chaos
        mcr.start(WORKERS)
        mcr.call("add", {"rules": self._fixed})  # some of what the first rule takes is kept for others
        before = self._without_rules()
        mcr.call("add", {"rules": self._fixed})
        chaos.start()
        chance = random.Random(self._seed)  # noqa: S311
        wrong: list[str] = []
        for _ in range(kills):
            wrong += self._live(seconds * 2 / 3 / kills * chance.uniform(0.1, 1.9))
            if wrong or chaos.stopping.is_set():
                break
        early = before
        if not wrong:
            early, wrong = self._live_on(seconds / 3 if kills else seconds)
        chaos.stop()
        wrong += chaos.failures
        click.echo(f"done: {dict(chaos.done)}, {self._lives} killed mcrd, {dict(self._changes)}")
        wrong = wrong or self._settle() or self._compare(before, early)
        if not wrong:
            mcr.stop()
        return wrong

    def _live(self, seconds: float) -> list[str]:
        """Kill it in the middle of all, start it again, and compare; the streams flow over that."""
        streams, clients = Streams(self._plant, self._rate), self._clients()
        if self._chaos.stopping.wait(seconds):
            clients.join(stop=True)
            return clients.failures
        wrong = clients.ended()
        assert self._mcr.process
        self._mcr.process.kill()
        self._mcr.process.wait()
        clients.join()
        self._lives += 1
        self._changes += clients.done
        self._mcr.start(WORKERS)
        wrong += clients.failures + self._missing()
        sent = streams.stop()
        return wrong + misjudged(streams.verdict(sent))

    def _live_on(self, seconds: float) -> tuple[Holdings, list[str]]:
        """The last life, to be accounted for exactly; what it held early on, and what is wrong."""
        with self._chaos.workers_in_peace:
            before = Account.at_rest(self._mcr)
        streams, clients = Streams(self._plant, self._rate), self._clients()
        self._chaos.stopping.wait(min(60, seconds / 2))
        early = Holdings.of(self._mcr)
        self._chaos.stopping.wait(seconds - min(60, seconds / 2))
        clients.join(stop=True)
        self._changes += clients.done
        wrong = clients.failures + clients.ended()
        if wrong or self._chaos.failures:
            return early, wrong
        self._chaos.stop()
        sent = streams.stop()
        after = Account.at_rest(self._mcr)
        return early, (after - before).judge(sent, streams.verdict(sent)) + self._missing()

    def _clients(self) -> Clients:
        return Clients(self._ledgers, self._seed + 1000 * self._lives, 0.04)

    def _missing(self) -> list[str]:
        """What is not there and ought to be, in words."""
        rules = self._mcr.call("list")
        known = {each["rule_id"] for each in rules}
        missing = [f"rule {each['rule_id']} is lost" for each in self._fixed if each["rule_id"] not in known]
        return missing + judge(self._ledgers, rules)

    def _settle(self) -> list[str]:
        """Everything is as it was: all rules are active, and forward; what is wrong, in words."""
        for ledger in self._ledgers:
            self._mcr.call("remove", {"rule_ids": [f"{ledger.prefix}*"]})
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self._inactive(), "all rules are active", PATIENCE_S)
        if inactive := self._inactive():
            return inactive
        flows = [flow for each in self._rules for flow in each.flows(self._plant)]
        receiver = Receiver(self._plant.receiver, *flows, count=PACKETS)
        for name in INPUTS:
            sources = [f"{each.group}:5000" for each in self._rules if each.source == name]
            Sender(self._plant.source, self._plant.cables[name].end, *sources, count=PACKETS, rate=RATE).finish()
        verdict = receiver.verdict()
        self._mcr.check_counters()
        return [] if verdict["ok"] else [f"not every rule forwards: {verdict}"]

    def _inactive(self) -> list[str]:
        rules = self._mcr.call("list")
        if len(rules) != len(self._fixed):
            return [f"{len(rules)} rules instead of {len(self._fixed)}"]
        return [
            f"{each['rule_id']} is {each['state']}: {each['reason']}" for each in rules if each["state"] != "active"
        ]

    def _without_rules(self) -> Holdings:
        """What it holds then: memberships share sockets, which may be one more than so many groups would need."""
        self._mcr.call("remove", {"all": True})
        return rested(self._mcr)

    def _compare(self, before: Holdings, early: Holdings) -> list[str]:
        """What the daemon holds more than it did, in words; memory as early on."""
        last, wrong = self._without_rules(), []
        click.echo(f"held before: {before}\nheld early:  {early}\nheld after:  {last}")
        if not last.is_like(before):
            wrong.append("the daemon holds other descriptors, processes or shared memory than before")
        if last.resident_kib > early.resident_kib + GROWTH_KIB:
            wrong.append(f"resident memory grew from {early.resident_kib} to {last.resident_kib} KiB")
        return wrong


def make_disk(directory: Path) -> None:
    """Have a small file system there, which only this process and those that it starts see."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "none", directory], check=True)


@click.command(help=__doc__)
@click.option("--seconds", default=600.0, show_default=True)
@click.option("--rate", default=20_000.0, show_default=True, help="Packets per second of both streams together.")
@click.option("--kills", default=10, show_default=True, help="Of mcrd, in two thirds of the time.")
@click.option("--seed", type=int, help="Of an earlier run; times differ all the same.")
def main(seconds: float, rate: float, kills: int, seed: int | None) -> None:
    """Run, and say what was wrong; exit status 1 if anything was, and the log is left where it is."""
    enter_user_namespace()
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    click.echo(f"seed {seed}")
    directory = Path(mkdtemp(prefix="mcr-chaos-"))
    state = directory / "mcr.state"
    make_disk(state)
    with Lab() as lab:
        wrong = Year(lab, directory, state, rate, seed).run(seconds, kills)
    for each in wrong:
        click.echo(f"WRONG: {each}", err=True)
    if wrong:
        click.echo(f"log: {directory}", err=True)
        sys.exit(1)
    subprocess.run(["umount", state], check=True)
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
