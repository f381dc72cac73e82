"""A change that was saved and then refused does not come back, even if the disk is full when it is taken back."""

import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from mcr.actors.rule_store import RuleStore, run_rule_store
from mcr.diagnosis.saving_findings import judge_saving
from mcr.errors import InterfaceNotFound, McrError, SystemFault
from mcr.model.edit import RuleEdit
from mcr.model.finding import Verdict
from mcr.model.rule import RuleChange
from mcr.model.selection import Selection
from mcr.rules import rule_table
from mcr.rules import store as rule_file
from mcr.rules.conditions import Standing
from mcr.rules.store import RuleFile
from store_world import MORE, Network, Workers, rule, stated

THERE, OTHER = rule(name="tv"), rule("239.1.1.2")

Change = Callable[[RuleStore], Awaitable[object]]


class Disk:
    """That of the file, full when the test says so."""

    full = False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk, write = Disk(), rule_table.write_all

    def write_all(*arguments: Any) -> None:
        if disk.full:
            error = sqlite3.OperationalError("full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        write(*arguments)

    monkeypatch.setattr(rule_file, "write_all", write_all)
    return disk


@pytest.fixture
def file(tmp_path: Path) -> Iterator[RuleFile]:
    file = RuleFile.open(tmp_path)
    yield file
    file.close()


class Refusing(Workers):
    """Refuses changes and removals, and fills the disk with that, when the test says so."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self.disk = disk
        self.refuses = False

    async def apply(self, change: RuleChange) -> Standing:
        if self.refuses and (change.changed or change.removed):
            self.disk.full = True
            raise InterfaceNotFound("Interface not found: eth2")
        return await super().apply(change)


@pytest.fixture
def workers(disk: Disk) -> Refusing:
    return Refusing(disk)


@pytest.fixture
async def store(nursery: trio.Nursery, workers: Refusing, file: RuleFile) -> RuleStore:
    started: RuleStore = await nursery.start(run_rule_store, workers, Network(), file)
    await started.add((THERE,))
    return started


def again(file: RuleFile) -> RuleFile:
    """As the next mcrd finds it."""
    file.close()
    opened = RuleFile.open(file.path.parent)
    opened.close()
    return opened


async def grow(store: RuleStore) -> object:
    return await store.change(name="tv", edit=RuleEdit(add_outputs=(MORE,)))


async def remove(store: RuleStore) -> object:
    return await store.remove(Selection(names=("tv",)))


async def refuse(store: RuleStore, workers: Refusing, change: Change) -> McrError:
    workers.refuses = True
    with pytest.raises(InterfaceNotFound) as caught:
        await change(store)
    workers.refuses = False
    return caught.value


@pytest.mark.parametrize("change", [grow, remove])
async def test_it_is_taken_back_with_what_is_saved_next(
    store: RuleStore, workers: Refusing, disk: Disk, file: RuleFile, change: Change
) -> None:
    error = await refuse(store, workers, change)
    assert "a refused change is still saved" in error.hints[-1]
    assert "No space left" in error.hints[-1]
    for _ in range(2):
        found = judge_saving(file.saving)
        assert (found.verdict, "a refused change is still saved" in found.evidence) == (Verdict.FAULT, True)
        with pytest.raises(SystemFault) as caught:
            await store.add((OTHER,))
        assert any("a refused change is still saved" in hint for hint in caught.value.hints)
    disk.full = False
    await store.add((OTHER,))
    assert file.saving.trouble == ""
    assert {*again(file).rules} == {THERE, OTHER}


async def test_it_is_taken_back_at_the_latest_when_mcrd_ends(
    store: RuleStore, workers: Refusing, disk: Disk, file: RuleFile
) -> None:
    await refuse(store, workers, grow)
    disk.full = False
    assert again(file).rules == (THERE,)


async def test_so_is_the_text_of_a_trial_that_was_refused(
    nursery: trio.Nursery, workers: Refusing, disk: Disk, file: RuleFile
) -> None:
    """And as long as it is on the disk nothing is applied that it would take back."""
    store: RuleStore = await nursery.start(run_rule_store, workers, Network(), file, stated(THERE))
    workers.refuses = True
    with pytest.raises(InterfaceNotFound) as caught:
        await store.use((), "trial")
    assert "a refused change is still saved" in caught.value.hints[-1]
    workers.refuses = False
    with pytest.raises(SystemFault, match="No space left"):
        await store.use(())
    disk.full = False
    await store.use(())
    assert again(file).kept == ""
