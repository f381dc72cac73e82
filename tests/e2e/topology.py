"""The networks of the end-to-end tests, and daemons in them."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lab import Lab, Namespace
from mcr_process import IS_ROOT, Mcr

MakeMcr = Callable[..., Mcr]

needs_root = pytest.mark.skipif(not IS_ROOT, reason="takes root outside of any user namespace")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory that is on no disk: who saves something there waits for none."""
    shared = "/dev/shm"
    with TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as made:
        yield Path(made)


@pytest.fixture
def daemons(memory: Path) -> Iterator[list[Mcr]]:
    """All of a test. Those that still run at the end must have exact counters, and stop as they should."""
    made: list[Mcr] = []
    yield made
    for each in made:
        if each.running:
            each.check_counters()
            each.stop()


@pytest.fixture
def make_mcr(daemons: list[Mcr], memory: Path, tmp_path: Path, request: pytest.FixtureRequest) -> MakeMcr:
    """Make daemons. Where nothing runs beside them they start workers as ever, and have to stop within two seconds.

    Their state is on no disk, unless what a disk takes is a part of the claim (`on_disk`).
    """
    alone = request.node.get_closest_marker("alone") is not None

    def make(namespace: Namespace, name: str = "mcr", *, on_disk: bool = False, **options: object) -> Mcr:
        made = Mcr(namespace, tmp_path, name, **{"executes_workers": alone} | options)  # type: ignore[arg-type]
        if not on_disk:
            made.state = memory / made.state.name
        if alone:
            made.stop_seconds = 2.0
        daemons.append(made)
        return made

    return make


@pytest.fixture
def worker_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is claimed of the workers: they forward everything, and not the kernel what it can."""
    monkeypatch.setenv("MCR_KERNEL_PATH", "off")


def need_tcx(mcr: Mcr) -> None:
    """Skip what is claimed of the kernel path where there is none, which its first rule says."""
    mcr.wait_for_path("kernel")


class Plant:
    """source src0 ── in0 relay out0..out2 ── rx0..rx2 receiver: the topology of most tests."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.source, self.relay, self.receiver = (lab.namespace(name) for name in ("source", "relay", "receiver"))
        lab.link(self.source, "src0", self.relay, "in0", a_address="198.18.0.1/24", b_address="198.18.0.2/24")
        for i in range(3):
            lab.link(
                self.relay,
                f"out{i}",
                self.receiver,
                f"rx{i}",
                a_address=f"198.18.{i + 1}.1/24",
                b_address=f"198.18.{i + 1}.2/24",
            )


@pytest.fixture
def plant(lab: Lab) -> Plant:
    return Plant(lab)


def forwarded_to(switch: Namespace, port: str) -> set[str]:
    """Groups that the switch forwards to a port because somebody there asked for them."""
    (table,) = json.loads(switch.run(["bridge", "-json", "mdb", "show", "dev", "br0"]).stdout)
    return {entry["grp"] for entry in table["mdb"] if entry["port"] == port}
