"""`make crashes`: mcrd is killed at random moments while four clients and a file change its rules.

After each start every acknowledged rule has to be there, none that was acknowledged as removed, and none by half. One
start in five is killed as well.
"""

import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp

import click

from lab import Lab, Namespace, enter_user_namespace
from ledger import Clients, FileLedger, Ledger, RuntimeLedger, judge
from mcr_process import Mcr, wait_until

CLIENTS = 4
LIFE_S = 0.3  # that mcrd has at most, from its first answer on
START_S = 1.0  # until it answers, at most, when its start is killed
EVERY = 100  # rounds between two lines
PATIENCE_S = 120.0


class Crashes:
    """A daemon, its clients, and what was done."""

    def __init__(self, relay: Namespace, directory: Path, seed: int) -> None:
        self.mcr = Mcr(relay, directory)
        self.done: Counter[str] = Counter()
        self._relay = relay
        self._seed = seed
        self._chance = random.Random(seed)  # noqa: S311 - nobody is to be kept from guessing it
        self._config = directory / "mcr.toml"
        inputs, outputs = ("in0",), ("out0", "out1")
        self._ledgers: list[Ledger] = [
            RuntimeLedger(number, inputs, outputs, self.mcr.call) for number in range(1, CLIENTS + 1)
        ]
        self._ledgers.append(FileLedger(self._config, inputs, outputs, self.mcr.call))

    def round(self, number: int) -> list[str]:
        """Start, compare, change, kill; what is wrong, in words."""
        while self._chance.random() < 1 / 5:
            self._begin()
            time.sleep(self._chance.uniform(0, START_S))
            self._kill()
            self.done["starts killed"] += 1
        wrong = self.compare()
        if wrong:
            return wrong
        clients = Clients(self._ledgers, self._seed + number * 1000)
        time.sleep(self._chance.uniform(0, LIFE_S))
        wrong = clients.ended()
        self._kill()
        clients.join()
        self.done += clients.done
        self.done["rounds"] += 1
        return wrong + clients.failures

    def compare(self) -> list[str]:
        """Start it, and compare what it has with what it has to have; what is wrong, in words."""
        self._begin()
        wait_until(self._answers, "mcrd answers", PATIENCE_S)
        rules = self.mcr.call("list")
        self.done["rules found"] += len(rules)
        return judge(self._ledgers, rules)

    def _begin(self) -> None:
        self.mcr.begin(1, "--config", str(self._config))

    def _kill(self) -> None:
        assert self.mcr.process
        self.mcr.process.kill()
        self.mcr.process.wait()

    def _answers(self) -> bool:
        self.mcr.check()
        try:
            self.mcr.call("ping")
        except Exception:  # noqa: BLE001 - not there yet
            return False
        return True


def run(rounds: int, seed: int, directory: Path) -> list[str]:
    """Do all of it; what is wrong, in words."""
    with Lab() as lab:
        relay, other = lab.namespace("relay"), lab.namespace("other")
        for name in ("in0", "out0", "out1"):
            lab.link(relay, name, other, f"peer-{name}", a_address=f"198.18.{len(name)}.1/24")
        crashes = Crashes(relay, directory, seed)
        for number in range(rounds):
            if wrong := crashes.round(number):
                return [f"round {number}: {each}" for each in wrong]
            if (number + 1) % EVERY == 0:
                click.echo(f"{dict(crashes.done)}")
        wrong = crashes.compare()
        click.echo(f"{dict(crashes.done)}")
        crashes.mcr.wait_for_workers()
        crashes.mcr.stop()
        return wrong


@click.command(help=__doc__)
@click.option("--rounds", default=1000, show_default=True)
@click.option("--seed", type=int, help="Of an earlier run; times differ all the same.")
def main(rounds: int, seed: int | None) -> None:
    """Run, and say what was wrong; exit status 1 if anything was, and the state is left where it is."""
    enter_user_namespace()
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    click.echo(f"seed {seed}")
    directory = Path(mkdtemp(prefix="mcr-crashes-"))
    wrong = run(rounds, seed, directory)
    for each in wrong:
        click.echo(f"WRONG: {each}", err=True)
    if wrong:
        click.echo(f"state and log: {directory}", err=True)
        sys.exit(1)
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
