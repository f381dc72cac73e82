"""The rule store with rules of configuration files."""

import logging
from ipaddress import IPv4Address

import attrs
import pytest
import trio
import trio.testing

from mcr.actors.rule_store import RuleStore, run_rule_store
from mcr.errors import LimitReached, RuleExists, RuleInFile, RuleNotFound, SystemFault
from mcr.model.edit import RuleEdit
from mcr.model.rule import Origin, Output, Rule
from mcr.model.selection import Selection
from mcr.rules.rule_table import Drop, Put
from store_world import NO_SPACE, File, Network, Workers, rule, stated


async def start(nursery: trio.Nursery, workers: Workers, file: File | None, *rules: Rule) -> RuleStore:
    started: RuleStore = await nursery.start(run_rule_store, workers, Network(), file, stated(*rules))
    return started


async def origins(store: RuleStore) -> dict[str, Origin]:
    return {view.rule_id: view.origin for view in await store.list()}


A, B, C = (rule(f"239.1.1.{number}", rule_id=rule_id) for number, rule_id in enumerate("abc", 1))


async def test_rules_of_files_are_used_and_not_saved(nursery: trio.Nursery, workers: Workers) -> None:
    file = File(B)
    store = await start(nursery, workers, file, A)
    assert await origins(store) == {"a": Origin.FILE, "b": Origin.RUNTIME}
    await store.add((C,))
    await store.use(stated(rule(name="new", rule_id="a")))
    assert file.writes == [[Put(C)]]


async def test_rules_of_files_and_saved_ones_are_there_at_once(nursery: trio.Nursery, workers: Workers) -> None:
    """A range of one would take for a moment what a rule of the other is to take."""
    await start(nursery, workers, File(B, C), A)
    assert [change.added for change in workers.changes] == [(A, B, C)]


async def test_what_differs_is_one_generation(nursery: trio.Nursery, workers: Workers) -> None:
    store = await start(nursery, workers, None, A, B)
    changed = attrs.evolve(B, name="new")
    await store.use(stated(changed, C))
    change = workers.changes[-1]
    assert (change.added, change.removed, change.changed, change.wait) == ((C,), (A,), (changed,), True)
    await store.use(stated(C, changed))
    assert workers.changes[-1] is change
    assert await origins(store) == {"b": Origin.FILE, "c": Origin.FILE}


async def test_a_full_disk_allows_what_keeps_its_text(nursery: trio.Nursery, workers: Workers) -> None:
    file = File()
    store = await start(nursery, workers, file, A)
    await store.use(stated(B), "of B")
    file.fault = NO_SPACE
    with pytest.raises(SystemFault):
        await store.use(stated(C), "of C")
    await store.use(stated(C), None)
    assert (await origins(store), file.kept) == ({"c": Origin.FILE}, "of B")


async def test_rules_that_cannot_be_had_change_nothing(nursery: trio.Nursery, workers: Workers) -> None:
    store = await start(nursery, workers, None, A)
    workers.error = LimitReached("no room")
    with pytest.raises(LimitReached):
        await store.use(stated(B))
    workers.error = None
    assert await origins(store) == {"a": Origin.FILE}
    with pytest.raises(RuleInFile):
        await store.remove(Selection(rule_ids=("a",)))


async def test_a_files_rule_is_changed_in_its_file_alone(nursery: trio.Nursery, workers: Workers) -> None:
    file = File()
    store = await start(nursery, workers, file, A)
    await store.add((B,))
    with pytest.raises(RuleInFile, match=r"Rule a stands in mcr\.toml:1"):
        await store.remove(Selection(("a", "b")))
    with pytest.raises(RuleInFile, match=r"Rule a stands in mcr\.toml:1"):
        await store.change(rule_id="a", edit=RuleEdit(new_name="x"))
    with pytest.raises(RuleExists, match=r"stands in mcr\.toml:1 \(rules\[1\]\)"):
        await store.add((C, attrs.evolve(A, rule_id="other")))
    assert await origins(store) == {"a": Origin.FILE, "b": Origin.RUNTIME}
    (_, there) = await store.ensure((A, C))
    assert there == {"a"}
    assert file.writes == [[Put(B)], [Put(C)]]


async def test_a_saved_rule_gives_way_stays_saved_and_comes_back(
    nursery: trio.Nursery, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    rival = attrs.evolve(A, rule_id="saved", outputs=(Output(IPv4Address("239.2.2.9"), 6000, "eth1"),))
    file = File(rival, B)
    with caplog.at_level(logging.WARNING):
        store = await start(nursery, workers, file, A)
    assert (
        "rule saved is saved in /var/lib/mcr/rules.sqlite, but is not used: "
        "rule a has the same input, and stands in mcr.toml:1" in caplog.messages
    )
    assert await origins(store) == {"a": Origin.FILE, "b": Origin.RUNTIME}
    with pytest.raises(RuleExists, match="saved takes"):
        await store.add((attrs.evolve(C, rule_id="saved"),))
    await store.use(())
    assert await origins(store) == {"b": Origin.RUNTIME, "saved": Origin.RUNTIME}
    assert file.writes == []


async def test_all_are_the_rules_of_run_time_saved_ones_that_give_way_among_them(
    nursery: trio.Nursery, workers: Workers
) -> None:
    file = File(attrs.evolve(A, rule_id="aside"), B)
    store = await start(nursery, workers, file, A)
    removed = await store.remove(Selection(all=True))
    assert {view.rule_id: view.warnings for view in removed} == {
        "b": (),
        "aside": ("it was saved, and not in use; rule a stays, which stands in mcr.toml:1",),
    }
    assert await origins(store) == {"a": Origin.FILE}
    assert file.writes == [[Drop("b"), Drop("aside")]]
    await store.use(())
    assert await origins(store) == {}


async def test_to_remove_a_files_rule_is_refused_and_leaves_the_saved_one_where_it_is(
    nursery: trio.Nursery, workers: Workers
) -> None:
    """It has another name, and is not shown."""
    file = File(attrs.evolve(A, name="cfg9", outputs=B.outputs))
    store = await start(nursery, workers, file, attrs.evolve(A, name="onfile"))
    for asked in (Selection(names=("onfile",), literal=True), Selection(("a",), literal=True), Selection(("a", "a"))):
        with pytest.raises(RuleInFile) as refused:
            await store.remove(asked)
        assert refused.value.hints[-1].endswith("forget it: mcrctl remove --name cfg9")
    with pytest.raises(RuleNotFound) as missing:
        await store.find("cfg9")
    assert missing.value.hints[0].endswith("forget it: mcrctl remove --name cfg9")
    assert file.writes == []
    (view,) = await store.remove(Selection(names=("cfg9",), literal=True))
    assert view.warnings == ("it was saved, and not in use; rule a (onfile) stays, which stands in mcr.toml:1",)


async def test_a_saved_rule_that_gives_way_is_forgotten_by_its_id_or_name(
    nursery: trio.Nursery, workers: Workers
) -> None:
    """Also if the file's rule has the same id, as it has where both are automatic."""
    file = File(attrs.evolve(A, outputs=B.outputs), attrs.evolve(B, rule_id="other", name="tv"))
    store = await start(nursery, workers, file, A, B)
    (view,) = await store.remove(Selection(("a",), literal=True))
    assert view.warnings
    with pytest.raises(RuleInFile):
        await store.remove(Selection(("a",), literal=True))
    await store.remove(Selection(names=("tv",)))
    assert file.writes == [[Drop("a")], [Drop("other")]]
    changes = len(workers.changes)
    assert await origins(store) == {"a": Origin.FILE, "b": Origin.FILE}
    await store.use(())
    assert (len(workers.changes), await origins(store)) == (changes + 1, {})


async def test_a_removal_that_cannot_be_saved_forgets_nothing(nursery: trio.Nursery, workers: Workers) -> None:
    file = File(attrs.evolve(A, rule_id="aside"))
    store = await start(nursery, workers, file, A)
    file.fault = LimitReached("full")
    with pytest.raises(LimitReached):
        await store.remove(Selection(("aside",)))
    await store.use(())
    assert await origins(store) == {"aside": Origin.RUNTIME}
