"""What the rule store saves: it is on the disk before anybody is told that it is done."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from mcr.actors.rule_store import RuleStore, run_rule_store
from mcr.errors import InterfaceNotFound, McrError, RuleNotFound, SystemFault
from mcr.model.rule import Rule, RuleChange
from mcr.model.selection import Selection
from mcr.rules.conditions import Standing
from mcr.rules.store import Change, Drop, Keep, Put
from test_rule_store import Network, Workers, rule

NO_SPACE = SystemFault("Rules can't be saved in /var/lib/mcr", 28)


class File:
    """In place of `RuleFile`: a disk that is slow, or full, when the test says so."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules
        self.notices: list[str] = []
        self.path = Path("/var/lib/mcr/rules.sqlite")
        self.kept = ""
        self.owes_text = False
        self.writes: list[list[Change]] = []
        self.fault: McrError | None = None
        self.slow: trio.Event | None = None

    def write(self, changes: Iterable[Change]) -> None:
        if self.slow is not None:
            trio.from_thread.run(self.slow.wait)
        if self.fault:
            raise self.fault
        self.writes.append([*changes])
        for change in self.writes[-1]:
            if isinstance(change, Keep):
                self.kept = change.text


@pytest.fixture
def workers() -> Workers:
    return Workers()


async def start(nursery: trio.Nursery, workers: Workers, file: File) -> RuleStore:
    started: RuleStore = await nursery.start(run_rule_store, workers, Network(), file)
    return started


async def test_saved_rules_are_in_use_again(nursery: trio.Nursery, workers: Workers) -> None:
    saved = rule(name="tv"), rule("239.1.1.2")
    store = await start(nursery, workers, File(*saved))
    assert [view.rule_id for view in await store.list()] == [each.rule_id for each in saved]
    (change,) = workers.changes
    assert (change.added, change.wait) == (saved, True)


async def test_one_that_can_t_be_had_costs_the_others_nothing_and_stays_saved(
    nursery: trio.Nursery, workers: Workers
) -> None:
    saved = [rule(f"239.1.1.{number}") for number in range(1, 6)]

    async def apply(change: RuleChange, given: Any = workers.apply) -> Standing:
        if saved[3] in change.added:
            raise SystemFault("socket", 24)
        standing: Standing = await given(change)
        return standing

    workers.apply = apply  # type: ignore[method-assign]
    file = File(*saved)
    store = await start(nursery, workers, file)
    assert [view.rule_id for view in await store.list()] == [each.rule_id for each in saved if each is not saved[3]]
    assert file.writes == []


async def test_a_change_is_saved_before_it_is_acknowledged(nursery: trio.Nursery, workers: Workers) -> None:
    file = File()
    store = await start(nursery, workers, file)
    await store.add((rule(),))
    assert file.writes == [[Put(rule())]]
    await store.remove(Selection((rule().rule_id,)))
    assert file.writes[1:] == [[Drop(rule().rule_id)]]


async def test_what_can_t_be_saved_is_not_added(nursery: trio.Nursery, workers: Workers) -> None:
    file = File()
    store = await start(nursery, workers, file)
    file.fault = NO_SPACE
    with pytest.raises(SystemFault, match="No space left"):
        await store.add((rule(), rule("239.1.1.2")))
    assert await store.list() == ()
    assert workers.changes[-1].removed == (rule(), rule("239.1.1.2"))
    file.fault = None
    await store.add((rule(),))


async def test_a_removal_that_can_t_be_saved_touches_nothing(nursery: trio.Nursery, workers: Workers) -> None:
    file = File()
    store = await start(nursery, workers, file)
    await store.add((rule(),))
    applied = len(workers.changes)
    file.fault = NO_SPACE
    with pytest.raises(SystemFault, match="No space left"):
        await store.remove(Selection((rule().rule_id,)))
    assert len(workers.changes) == applied
    assert len(await store.list()) == 1


async def test_what_was_refused_is_not_saved(nursery: trio.Nursery, workers: Workers) -> None:
    file = File()
    store = await start(nursery, workers, file)
    workers.error = InterfaceNotFound("Interface not found: eth0")
    with pytest.raises(InterfaceNotFound):
        await store.add((rule(),))
    assert file.writes == []


async def test_changes_that_wait_are_written_together_while_others_look(
    nursery: trio.Nursery, workers: Workers
) -> None:
    file = File()
    store = await start(nursery, workers, file)
    file.slow = trio.Event()
    async with trio.open_nursery() as clients:
        for number in range(20):
            clients.start_soon(store.add, (rule(f"239.1.1.{number}"),))
        await trio.testing.wait_all_tasks_blocked()
        assert len(await store.list()) >= 1
        file.slow.set()
    assert len(await store.list()) == 20
    assert len(file.writes) <= 3
    file.slow = None
    async with trio.open_nursery() as clients:
        for number in range(20):
            clients.start_soon(partial(store.remove, Selection((rule(f"239.1.1.{number}").rule_id,))))
    assert sum(map(len, file.writes)) == 40
    assert await store.list() == ()


async def test_a_rule_that_two_remove_is_removed_once(nursery: trio.Nursery, workers: Workers) -> None:
    file = File()
    store = await start(nursery, workers, file)
    await store.add((rule(),))
    outcomes: list[object] = []

    async def remove() -> None:
        try:
            outcomes.append(await store.remove(Selection((rule().rule_id,))))
        except RuleNotFound as error:
            outcomes.append(error)

    async with trio.open_nursery() as clients:
        clients.start_soon(remove)
        clients.start_soon(remove)
    assert sorted(type(each).__name__ for each in outcomes) == ["RuleNotFound", "tuple"]
