"""The rule store when another mcrd takes over: nothing that it has acknowledged is lost."""

import pytest
import trio
import trio.testing

from mcr.actors.rule_store import RuleStore, run_rule_store
from mcr.errors import ShuttingDown
from mcr.model.rule import Rule
from mcr.model.selection import Selection
from mcr.rules.rule_table import Put
from store_world import File, Network, Workers, rule, stated

A, B, C = (rule(f"239.1.1.{number}", rule_id=rule_id) for number, rule_id in enumerate("abc", 1))


@pytest.fixture
async def store(nursery: trio.Nursery, workers: Workers) -> RuleStore:
    started: RuleStore = await nursery.start(run_rule_store, workers, Network(), None, stated(B))
    await started.add((A,))
    return started


async def listed(store: RuleStore) -> list[str]:
    return [view.rule_id for view in await store.list()]


async def test_no_rule_is_changed_until_the_other_has_them_or_has_gone(store: RuleStore) -> None:
    async with trio.open_nursery() as clients, store.held() as held:
        assert held.rules == (A,)
        clients.start_soon(store.add, (C,))
        await trio.testing.wait_all_tasks_blocked()
        assert await listed(store) == ["b", "a"]
    assert await listed(store) == ["b", "a", "c"]


async def test_no_rule_is_changed_once_the_other_has_them(store: RuleStore) -> None:
    refused = list[str]()

    async def remove() -> None:
        with pytest.raises(ShuttingDown):
            await store.remove(Selection(("a",)))
        refused.append("a")

    async with trio.open_nursery() as clients:
        async with store.held() as held:
            clients.start_soon(remove)
            await trio.testing.wait_all_tasks_blocked()
            held.take()
        await trio.testing.wait_all_tasks_blocked()
        assert refused == ["a"]
        await remove()
    assert await listed(store) == ["b", "a"]


async def test_rules_that_give_way_are_handed_over_too(store: RuleStore) -> None:
    await store.use(stated(Rule("a", B.input, B.outputs)))
    async with store.held() as held:
        assert held.rules == (A,)


async def test_what_is_handed_over_is_used_and_saved_beside_what_was_saved(
    nursery: trio.Nursery, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    """What the two disagree on stays as it was saved, and is told."""
    other = Rule("other", A.input, C.outputs)
    file = File(A)
    store = await nursery.start(run_rule_store, workers, Network(), file, (), (A, other, B))
    assert await listed(store) == ["a", "b"]
    assert file.writes == [[Put(B)]]
    (told,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
    assert told.startswith("rule other of the mcrd before this one (239.1.1.1:5000 on eth0 to ")
    assert "is not used: rule a is saved" in told
