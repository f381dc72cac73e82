"""What the rule store saves: it is on the disk before anybody is told that it is done."""

from functools import partial

import attrs
import pytest
import trio
import trio.testing

from mcr.actors.rule_store import RuleStore, run_rule_store
from mcr.errors import InterfaceNotFound, LimitReached, RuleExists, RuleNotFound, SystemFault
from mcr.model.edit import RuleEdit
from mcr.model.rule import Rule, RuleChange
from mcr.model.selection import Selection
from mcr.rules.conditions import Standing
from mcr.rules.rule_table import Drop, Put
from store_world import NO_SPACE, File, Network, Workers, rule, stated


async def start(nursery: trio.Nursery, workers: Workers, file: File) -> RuleStore:
    started: RuleStore = await nursery.start(run_rule_store, workers, Network(), file)
    return started


async def test_saved_rules_are_in_use_again(nursery: trio.Nursery, workers: Workers) -> None:
    saved = rule(name="tv"), rule("239.1.1.2")
    store = await start(nursery, workers, File(*saved))
    assert [view.rule_id for view in await store.list()] == [each.rule_id for each in saved]
    (change,) = workers.changes
    assert (change.added, change.wait) == (saved, True)


class Refusing(Workers):
    """Refuses some rules, however often they come."""

    def __init__(self, *refused: Rule) -> None:
        super().__init__()
        self.refused = {*refused}

    async def apply(self, change: RuleChange) -> Standing:
        if self.refused & {*change.added}:
            raise SystemFault("socket", 24)
        return await super().apply(change)


async def pass_time(clock: trio.testing.MockClock) -> None:
    """Until what could not be used is tried once more."""
    clock.jump(6)
    await trio.testing.wait_all_tasks_blocked()


async def test_one_that_can_t_be_had_costs_the_others_nothing_and_is_used_once_it_can(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays saved, is shown, and keeps nobody from changing other rules. The log has it once."""
    saved = [rule(f"239.1.1.{number}") for number in range(1, 6)]
    workers, file = Refusing(saved[3]), File(*saved)
    store = await start(nursery, workers, file)
    views = {view.rule_id: view for view in await store.list()}
    refused = views[saved[3].rule_id]
    assert [*views] == [each.rule_id for each in (*saved[:3], saved[4], saved[3])]
    assert (refused.state, refused.reason) == (
        "waiting",
        "it cannot be used: socket: Too many open files (os error 24)",
    )
    assert await store.find(saved[3].rule_id) == refused
    with pytest.raises(LimitReached, match="cannot be changed, as it cannot be used: socket"):
        await store.change(rule_id=saved[3].rule_id, edit=RuleEdit(new_name="new"))
    with pytest.raises(RuleExists, match="and is saved"):
        await store.add((saved[3],))
    await store.use(stated(rule("239.1.1.9")))
    for _ in range(10):
        await pass_time(mock_clock)
    assert sum("cannot be used" in each.getMessage() for each in caplog.records) == 1
    assert file.writes == []
    workers.refused.clear()
    await pass_time(mock_clock)
    one = views[saved[0].rule_id]
    assert await store.find(saved[3].rule_id) == attrs.evolve(
        one, rule_id=refused.rule_id, name=refused.name, input=refused.input
    )
    changes = len(workers.changes)
    await pass_time(mock_clock)
    assert len(workers.changes) == changes


async def test_one_that_can_t_be_had_can_be_removed(nursery: trio.Nursery) -> None:
    saved = rule()
    workers, file = Refusing(saved), File(saved)
    store = await start(nursery, workers, file)
    await store.remove(Selection((saved.rule_id,)))
    assert file.writes == [[Drop(saved.rule_id)]]
    assert await store.list() == ()


async def test_one_of_a_file_that_can_t_be_had_is_used_once_it_can(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """Also if others were removed meanwhile. Until then it keeps nobody from applying other rules."""
    saved, in_file, other = rule(), rule("239.1.1.2", rule_id="b"), rule("239.1.1.3", rule_id="c")
    workers = Refusing(saved, in_file)
    store = await nursery.start(run_rule_store, workers, Network(), File(saved), stated(in_file))
    await store.remove(Selection((saved.rule_id,)))
    (view,) = await store.list()
    assert (view.rule_id, view.state, view.origin) == ("b", "waiting", "file")
    await store.use(stated(in_file, other))
    assert [(view.rule_id, view.state) for view in await store.list()] == [("c", "active"), ("b", "waiting")]
    await store.use(stated(in_file))
    workers.refused.clear()
    await pass_time(mock_clock)
    (view,) = await store.list()
    assert (view.rule_id, view.state, view.origin) == ("b", "active", "file")


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
