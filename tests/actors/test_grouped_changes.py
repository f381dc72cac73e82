"""Changes that wait together are made in one step and one write; what can't be costs the others nothing."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NoReturn

import attrs
import pytest
import trio
import trio.testing

from mcr.actors import rule_changes
from mcr.actors.rule_store import RuleStore
from mcr.errors import InterfaceNotFound, McrError, RuleExists, RuleNotFound, SystemFault
from mcr.model.edit import RuleEdit
from mcr.model.rule import Rule
from mcr.model.selection import Selection
from mcr.rules.catalog import Entry
from mcr.rules.conditions import Standing
from mcr.rules.drafts import Draft
from mcr.rules.rule_table import Drop, Keep, Put
from store_world import NO_SPACE, File, Workers, refuse, rule

RULES = tuple(rule(f"239.1.1.{number}") for number in range(1, 9))
THERE = RULES[:4]
NAMED = attrs.evolve(RULES[0], name="news")

Change = Callable[[RuleStore], Awaitable[object]]


@pytest.fixture
async def store(store: RuleStore, workers: Workers, file: File) -> RuleStore:
    """With rules that are there."""
    await store.add(THERE)
    file.writes.clear()
    workers.changes.clear()
    return store


def add(*rules: Rule) -> Change:
    return lambda store: store.add(rules)


def remove(removed: Rule) -> Change:
    return lambda store: store.remove(Selection((removed.rule_id,), literal=True))


def name(named: Rule) -> Change:
    return lambda store: store.change(rule_id=named.rule_id, edit=RuleEdit(new_name=named.name))


async def make(store: RuleStore, file: File, changes: Sequence[Change], fault: McrError | None = None) -> list[type]:
    """Have these wait together, for another one; the types of what comes of each. `fault`: nothing can be saved."""
    outcomes: list[object] = [None] * (len(changes) + 1)

    async def ask(place: int, change: Change) -> None:
        try:
            outcomes[place] = await change(store)
        except McrError as error:
            outcomes[place] = error

    file.slow = trio.Event()
    async with trio.open_nursery() as clients:
        for place, change in enumerate([add(RULES[7]), *changes]):
            clients.start_soon(ask, place, change)
            await trio.testing.wait_all_tasks_blocked()
        file.fault = fault
        file.slow.set()
    return [type(each) if isinstance(each, McrError) else object for each in outcomes[1:]]


async def held(store: RuleStore) -> set[tuple[str, str | None]]:
    return {(view.rule_id, view.name) for view in await store.list()}


def same(*rules: Rule) -> set[tuple[str, str | None]]:
    return {(each.rule_id, each.name) for each in (*rules, RULES[7])}


async def test_changes_of_all_kinds_are_one_write_and_two_steps(store: RuleStore, workers: Workers, file: File) -> None:
    changes = [remove(THERE[1]), add(RULES[4]), name(NAMED), remove(THERE[2]), add(RULES[5])]
    assert await make(store, file, changes) == [object] * 5
    assert file.writes == [
        [Put(RULES[7])],
        [Put(RULES[4]), Put(RULES[5]), Put(NAMED), Drop(THERE[1].rule_id), Drop(THERE[2].rule_id)],
    ]
    assert [(each.added, each.changed, each.removed) for each in workers.changes[1:]] == [
        ((RULES[4], RULES[5]), (), ()),
        ((), (NAMED,), (THERE[1], THERE[2])),
    ]
    assert await held(store) == same(NAMED, THERE[3], RULES[4], RULES[5])


@pytest.mark.parametrize(
    ("changes", "outcomes", "after"),
    [
        ([remove(THERE[0]), add(THERE[0])], [object, object], THERE),
        ([add(RULES[4]), remove(RULES[4])], [object, object], THERE),
        ([remove(RULES[4]), add(RULES[4])], [RuleNotFound, object], (*THERE, RULES[4])),
        ([add(THERE[0]), remove(THERE[0])], [RuleExists, object], THERE[1:]),
        ([name(NAMED), remove(THERE[0])], [object, object], THERE[1:]),
        ([remove(THERE[0]), name(NAMED)], [object, RuleNotFound], THERE[1:]),
        ([name(NAMED), add(attrs.evolve(RULES[4], name="news"))], [object, RuleExists], (NAMED, *THERE[1:])),
        ([add(RULES[4]), lambda store: store.remove(Selection(all=True))], [object, object], None),
        (
            [add(RULES[4]), add(RULES[4], RULES[5]), add(RULES[6])],
            [object, RuleExists, object],
            (*THERE, *RULES[4:7:2]),
        ),
    ],
)
async def test_changes_of_the_same_rules_come_in_their_order(
    store: RuleStore, file: File, changes: Sequence[Change], outcomes: list[type], after: Sequence[Rule] | None
) -> None:
    assert await make(store, file, changes) == outcomes
    assert await held(store) == (set() if after is None else same(*after))


async def test_one_that_can_t_be_made_costs_the_others_nothing(store: RuleStore, workers: Workers, file: File) -> None:
    refuse(workers, [RULES[5], NAMED], InterfaceNotFound("Interface not found: eth0"))
    changes = [add(RULES[4]), name(NAMED), add(RULES[5]), remove(THERE[1]), add(RULES[6])]
    assert await make(store, file, changes) == [object, InterfaceNotFound, InterfaceNotFound, object, object]
    after = (THERE[0], THERE[2], THERE[3], RULES[4], RULES[6])
    assert await held(store) == same(*after)
    saved = {each.rule_id: each for each in THERE}
    for write in file.writes:
        for change in write:
            match change:
                case Put(put):
                    saved[put.rule_id] = put
                case Drop(rule_id):
                    del saved[rule_id]
    assert {(each.rule_id, each.name) for each in saved.values()} == same(*after)


async def test_when_nothing_can_be_saved_all_is_as_it_was(store: RuleStore, workers: Workers, file: File) -> None:
    changes = [add(RULES[4]), name(NAMED), remove(THERE[1]), lambda store: store.ensure((THERE[2],))]
    outcomes = await make(store, file, changes, NO_SPACE)
    assert outcomes == [SystemFault, SystemFault, SystemFault, object]
    assert await held(store) == {(each.rule_id, None) for each in THERE}
    assert [(each.added, each.changed, each.removed) for each in workers.changes] == [
        ((RULES[7],), (), ()),
        ((), (), (RULES[7],)),
        *[((RULES[4],), (), ()), ((), (), (RULES[4],))] * 3,
    ]


async def test_one_that_has_no_room_on_the_disk_costs_the_others_nothing(store: RuleStore, file: File) -> None:
    """A removal takes none, so it can be made on a full disk."""
    given = file.write

    def write(changes: Sequence[Put | Drop | Keep]) -> None:
        if Put(RULES[4]) in changes:
            raise NO_SPACE
        given(changes)

    file.write = write  # type: ignore[method-assign, assignment]
    changes = [remove(THERE[1]), add(RULES[4]), name(NAMED), remove(THERE[2])]
    assert await make(store, file, changes) == [object, SystemFault, object, object]
    assert await held(store) == same(NAMED, THERE[3])


class LookedUp(dict[str, Entry]):
    """Entries of a step, which many clients share: none may have all of them gone through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError

    def keys(self) -> NoReturn:
        raise AssertionError


def test_what_a_client_is_told_takes_as_long_as_its_own_change() -> None:
    changed, there, aside = (Entry(each, 2, ()) for each in RULES[:3])
    step = rule_changes._Step(LookedUp({changed.rule.rule_id: changed}), 2, Standing())
    about = tuple(each.rule.rule_id for each in (changed, there, aside))
    told = step.told(Draft(about, {there.rule.rule_id: there}, aside=(aside.rule,)))
    assert (told.entries, told.generation) == ((changed, there, aside), 2)
