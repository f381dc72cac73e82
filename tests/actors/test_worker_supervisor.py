"""The supervisor, with a worker's process and the relay played by the test."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from mcr.actors import worker_supervisor
from mcr.actors.network_watch import NetworkWatch
from mcr.actors.predecessors import Predecessors
from mcr.actors.stats_aggregator import StatsAggregator, run_stats_aggregator
from mcr.actors.worker_process import Post, WorkerStarted
from mcr.actors.worker_supervisor import WorkerSupervisor, run_worker_supervisor
from mcr.config.settings import Settings
from mcr.control.structure import check_rules
from mcr.model.log import LogLevels
from mcr.model.rule import RuleChange
from mcr.net.network import Network
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.kernel_path import KernelRules
from mcr.relay.placement import LeavingOutput, OutputSlot, PlacedRule
from mcr.relay.relay import Relay, Step
from mcr.shm import records
from mcr.shm.kept import Kept

VALUE = {
    "input": {"interface": "eth0", "group": "239.1.1.1", "port": 5000},
    "outputs": [{"interface": "eth1", "group": "239.1.1.1", "port": 5000}],
}


class Process:
    """A worker's, as the supervisor knows it."""

    def __init__(self) -> None:
        self.post: Post | None = None
        self.told: list[tuple[int, tuple[records.Command, ...]]] = []

    async def run(self, post: Post, *, task_status: trio.TaskStatus[Any]) -> None:
        self.post = post
        task_status.started(self)
        await trio.sleep_forever()

    def deliver(self, incarnation: int, commands: tuple[records.Command, ...]) -> None:
        self.told.append((incarnation, commands))

    async def start(self, incarnation: int) -> None:
        assert self.post
        with trio.fail_after(5):
            await self.post.owner.send(WorkerStarted(0, incarnation, 1))
        await trio.testing.wait_all_tasks_blocked()


class QuietNetwork:
    async def snapshot(self) -> Network:
        return Network()

    async def changed(self, _version: int) -> Network:
        await trio.sleep_forever()
        raise AssertionError


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    @asynccontextmanager
    async def no_workshop() -> AsyncGenerator[None]:
        yield None

    made = Process()
    monkeypatch.setattr(worker_supervisor, "run_worker_process", made.run)
    monkeypatch.setattr(worker_supervisor, "open_workshop", no_workshop)
    return made


@pytest.fixture
def kept() -> Iterator[Kept]:
    with Kept.open(DescriptorStore(), 1) as made:
        yield made


@pytest.fixture
async def supervisor(nursery: trio.Nursery, kept: Kept, process: Process) -> WorkerSupervisor:
    assert process
    settings = Settings("", 1, LogLevels(), absorb=False, raw_send=False)
    stats = await nursery.start(run_stats_aggregator, kept)
    network: NetworkWatch = QuietNetwork()  # type: ignore[assignment]
    started: WorkerSupervisor = await nursery.start(
        partial(
            run_worker_supervisor,
            kept,
            stats,
            settings,
            network,
            Predecessors(kept.store),
            kernel=KernelRules(None),
        )
    )
    return started


async def test_an_output_is_forgotten_when_its_sums_are_noted(
    supervisor: WorkerSupervisor, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a next mcrd would find neither, if this one is killed."""
    done: list[str] = []
    save = StatsAggregator.save

    async def apply(_relay: Relay, _change: RuleChange) -> Step:
        return Step((), (), (), (LeavingOutput(OutputSlot(3, 7), 1),))

    async def note(stats: StatsAggregator) -> None:
        await save(stats)
        done.append("noted")

    monkeypatch.setattr(Relay, "apply", apply)
    monkeypatch.setattr(Relay, "forget", lambda _relay, leaving: done.append(f"forgot {leaving[0].slot}"))
    monkeypatch.setattr(StatsAggregator, "save", note)
    await process.start(1)
    await supervisor.apply(RuleChange(2))
    assert done == ["noted", "forgot 3"]


async def test_workers_forward_by_thousands_of_rules_before_the_kernel_path_has_them(
    supervisor: WorkerSupervisor, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel path takes of so many is a fifth of all, and would be waited for."""
    told_before: list[int] = []
    rule = records.rule_drop(3)

    async def apply(_relay: Relay, _change: RuleChange) -> Step:
        return Step((), (), (rule,), later=(PlacedRule(check_rules([VALUE])[0], 1, 0, (), (), ()),))

    monkeypatch.setattr(Relay, "apply", apply)
    monkeypatch.setattr(KernelRules, "use", lambda *_: told_before.append(len(process.told)))
    await process.start(1)
    process.told.clear()
    await supervisor.apply(RuleChange(2))
    assert process.told == [(1, (rule, records.generation(2)))]
    assert told_before == [1]


async def test_worker_that_starts_does_not_wait_for_a_long_change(
    supervisor: WorkerSupervisor, process: Process, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told the rules as they were before the change, and then the change."""
    rule = records.rule_drop(3)
    gate = trio.Event()

    async def apply(_relay: Relay, change: RuleChange) -> Step:
        if change.generation == 3:
            await gate.wait()
        return Step((), (), (rule,))

    monkeypatch.setattr(Relay, "apply", apply)
    await process.start(1)
    await supervisor.apply(RuleChange(2))
    nursery.start_soon(supervisor.apply, RuleChange(3))
    await trio.testing.wait_all_tasks_blocked()
    process.told.clear()
    await process.start(2)
    ((incarnation, commands),) = process.told
    assert incarnation == 2
    assert commands[-1] == records.generation(2)
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert process.told[1:] == [(2, (rule, records.generation(3)))]
