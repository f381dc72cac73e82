"""The rule store changes rules in their places: saved and applied, or as they were."""

from functools import partial

import attrs
import pytest
import trio
import trio.testing

from mcr.actors.rule_store import RuleStore
from mcr.errors import InterfaceNotFound, InvalidParams, RuleExists, RuleNotFound, SystemFault
from mcr.model.edit import RuleEdit
from mcr.model.rule import Rule, RuleChange
from mcr.model.selection import Selection
from mcr.rules.rule_table import Drop, Put
from store_world import MORE, NO_SPACE, File, Workers, refuse, rule

GROWN = attrs.evolve(rule(name="tv"), outputs=(*rule().outputs, MORE))


async def names(store: RuleStore) -> list[tuple[str | None, int]]:
    return [(view.name, len(view.outputs)) for view in await store.list()]


async def test_a_change_is_one_generation_saved_in_the_rules_place(
    store: RuleStore, workers: Workers, file: File
) -> None:
    await store.add((rule(name="tv"), rule("239.1.1.2")))
    view = await store.change(name="tv", edit=RuleEdit(add_outputs=(MORE,)))
    assert workers.changes[-1] == RuleChange(3, changed=(GROWN,))
    assert file.writes[-1] == [Put(GROWN)]
    assert [output.destination for output in view.outputs] == [output.destination for output in GROWN.outputs]
    assert await names(store) == [("tv", 2), (None, 1)]


async def test_a_name_that_was_given_up_is_free(store: RuleStore) -> None:
    await store.add((rule(name="tv"), rule("239.1.1.2", name="radio")))
    with pytest.raises(RuleExists, match="is named 'radio'"):
        await store.change(name="tv", edit=RuleEdit(new_name="radio"))
    await store.change(name="tv", edit=RuleEdit(new_name="news"))
    await store.change(name="radio", edit=RuleEdit(new_name="tv"))
    assert await names(store) == [("news", 1), ("tv", 1)]
    with pytest.raises(RuleNotFound):
        await store.change(name="radio", edit=RuleEdit(new_name="x"))


async def test_what_is_as_it_should_be_takes_no_generation(store: RuleStore, workers: Workers, file: File) -> None:
    await store.add((rule(name="tv"),))
    view = await store.change(name="tv", edit=RuleEdit(new_name="tv", add_outputs=rule().outputs))
    assert view.name == "tv"
    assert (len(workers.changes), len(file.writes)) == (1, 1)


async def test_what_cannot_be_saved_is_not_applied(store: RuleStore, workers: Workers, file: File) -> None:
    """Not even for a moment: an output that was gone meanwhile has lost packets."""
    await store.add((rule(name="tv"),))
    file.fault = NO_SPACE
    with pytest.raises(SystemFault, match="No space left"):
        await store.change(name="tv", edit=RuleEdit(outputs=(MORE,)))
    assert len(workers.changes) == 1
    assert await names(store) == [("tv", 1)]


async def test_what_cannot_be_applied_is_saved_as_it_was(store: RuleStore, workers: Workers, file: File) -> None:
    await store.add((rule(name="tv"),))
    refuse(workers, [GROWN], InterfaceNotFound("Interface not found: eth2"))
    with pytest.raises(InterfaceNotFound):
        await store.change(name="tv", edit=RuleEdit(add_outputs=(MORE,)))
    assert file.writes[1:] == [[Put(GROWN)], [Put(rule(name="tv"))]]
    assert await names(store) == [("tv", 1)]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (RuleEdit(remove_outputs=(MORE,)), "has no output 239.9.9.8:6000:eth2"),
        (RuleEdit(remove_outputs=rule().outputs), "has no outputs then"),
        (RuleEdit(add_outputs=(MORE, attrs.evolve(MORE, gso="off"))), "added twice"),
        (RuleEdit(outputs=()), "has no outputs"),
    ],
)
async def test_a_rule_that_cannot_be_is_refused(store: RuleStore, file: File, edit: RuleEdit, words: str) -> None:
    await store.add((rule(name="tv"),))
    with pytest.raises(InvalidParams, match=words):
        await store.change(name="tv", edit=edit)
    assert len(file.writes) == 1


async def test_changes_that_wait_are_saved_together_but_those_of_one_rule_in_their_order(
    store: RuleStore, file: File
) -> None:
    rules = tuple(rule(f"239.1.1.{number}", name=f"{number}") for number in range(20))
    await store.add(rules)
    file.slow = trio.Event()
    async with trio.open_nursery() as clients:

        async def change(number: int, name: str) -> None:
            await store.change(rule_id=rules[number].rule_id, edit=RuleEdit(new_name=name))

        for number in range(20):
            clients.start_soon(change, number, f"new {number}")
        for name in ("newer", "newest"):
            await trio.testing.wait_all_tasks_blocked()
            clients.start_soon(change, 0, name)
        await trio.testing.wait_all_tasks_blocked()
        file.slow.set()
    assert [name for name, _ in await names(store)] == ["newest", *(f"new {number}" for number in range(1, 20))]
    assert len(file.writes) <= 5


async def test_no_rules_id_is_another_ones_name(store: RuleStore, file: File) -> None:
    """A command that takes either could mean both. Also if the two come together."""
    news, other = rule(name="news", rule_id="a"), rule("239.1.1.2", rule_id="b")
    await store.add((news, other))
    for refused, words in (
        (rule("239.1.1.3", rule_id="news"), "a is named 'news', so no other rule can have that id"),
        (rule("239.1.1.3", name="b"), "'b' is the id of rule b, so no other rule can be named that"),
    ):
        with pytest.raises(RuleExists, match=words):
            await store.add((refused,))
        with pytest.raises(RuleExists, match=words + r" \(rules\[1\]\)"):
            await store.add((rule("239.1.1.4", rule_id="d"), refused))
    with pytest.raises(RuleExists, match="'a' is the id of rule a"):
        await store.change(rule_id="b", edit=RuleEdit(new_name="a"))
    with pytest.raises(RuleExists, match=r"'e' is the id of rule e, .* \(rules\[0\]\)"):
        await store.add((rule("239.1.1.3", name="e"), rule("239.1.1.4", rule_id="e")))
    file.slow, outcomes = trio.Event(), list[str]()

    async def add(added: Rule) -> None:
        try:
            await store.add((added,))
        except RuleExists as error:
            outcomes.append(error.message)

    async with trio.open_nursery() as clients:
        for each in (rule("239.1.1.3"), rule("239.1.1.4", name="e"), rule("239.1.1.5", rule_id="e")):
            clients.start_soon(add, each)
        await trio.testing.wait_all_tasks_blocked()
        file.slow.set()
    assert len(outcomes) == 1
    file.slow = None
    await store.add((rule("239.1.1.6", rule_id="own", name="own"),))
    await store.change(rule_id="own", edit=RuleEdit(new_name="new"))


async def test_two_that_want_one_name_do_not_both_get_it(store: RuleStore, file: File) -> None:
    first, second, third = rule(name="a"), rule("239.1.1.2", name="b"), rule("239.1.1.3")
    await store.add((first, second, third))
    file.slow = trio.Event()
    outcomes: list[object] = []

    async def change(rule_id: str) -> None:
        try:
            outcomes.append(await store.change(rule_id=rule_id, edit=RuleEdit(new_name="c")))
        except RuleExists as error:
            outcomes.append(error)

    async with trio.open_nursery() as clients:
        clients.start_soon(partial(store.change, rule_id=third.rule_id, edit=RuleEdit(new_name="first of all")))
        await trio.testing.wait_all_tasks_blocked()
        clients.start_soon(change, first.rule_id)
        clients.start_soon(change, second.rule_id)
        await trio.testing.wait_all_tasks_blocked()
        file.slow.set()
    assert sorted(type(each).__name__ for each in outcomes) == ["RuleExists", "RuleView"]
    assert sum(map(len, file.writes[1:])) == 2


# Several at once


async def test_several_are_removed_together_or_none(store: RuleStore, workers: Workers, file: File) -> None:
    rules = [rule(f"239.1.1.{number}", name=name) for number, name in enumerate(["studio-1", "studio-2", "tv", "[x]"])]
    await store.add(tuple(rules))
    for wrong, said in {
        Selection(names=("studio-*", "radio-*")): "No rule has a name like 'radio-\\*'",
        Selection(names=("tv", "tw")): "No rule has the name 'tw'",
        Selection((rules[0].rule_id, "nothing")): "No rule has the id 'nothing'",
        Selection(names=("studio-*",), literal=True): "No rule has the name 'studio-\\*'",
    }.items():
        with pytest.raises(RuleNotFound, match=said):
            await store.remove(wrong)
    assert len(await store.list()) == 4
    removed = await store.remove(Selection((rules[0].rule_id,), ("studio-*", "[x]")))
    assert [view.name for view in removed] == ["studio-1", "studio-2", "[x]"]
    assert len(workers.changes) == 2
    assert file.writes[-1] == [Drop(each.rule_id) for each in (rules[0], rules[1], rules[3])]
    assert [view.name for view in await store.remove(Selection(all=True))] == ["tv"]
    assert await store.remove(Selection(all=True)) == ()


async def test_one_rule_is_found_by_its_id_or_its_name(store: RuleStore) -> None:
    await store.add((rule(name="tv"), rule("239.1.1.2", name="radio")))
    assert (await store.find("radio")).name == "radio"
    assert (await store.find(rule().rule_id)).name == "tv"
    with pytest.raises(RuleNotFound, match="No rule has the id or name 'radoi'") as caught:
        await store.find("radoi")
    assert caught.value.hints[0] == "did you mean radio?"


async def test_rules_that_are_there_are_no_error_if_that_is_wanted(
    store: RuleStore, workers: Workers, file: File
) -> None:
    """Whatever their ids. One that differs is, and so is a fault of the others, named by its place among all."""
    there, others = rule(name="tv", rule_id="x"), [rule(f"239.1.1.{number}") for number in (2, 3)]
    await store.add((there,))
    views, known = await store.ensure((others[0], rule(name="tv")))
    assert [view.rule_id for view in views] == [others[0].rule_id, "x"]
    assert known == {"x"}
    assert file.writes[-1] == [Put(others[0])]
    changes = len(workers.changes)
    assert (await store.ensure((others[0], there)))[1] == {"x", others[0].rule_id}
    assert len(workers.changes) == changes
    with pytest.raises(RuleExists, match=r"\(rules\[1\]\)"):
        await store.ensure((others[0], rule(name="other"), others[1]))
    refuse(workers, others[1:], InterfaceNotFound("Interface not found: eth0 (rules[0])"))
    fourth = rule("239.1.1.4")
    for rules, place in (((there, others[1], fourth), 1), ((there, others[0], others[1]), 2)):
        with pytest.raises(InterfaceNotFound) as caught:
            await store.ensure(rules)
        assert f"rules[{place}]" in caught.value.message
    assert len(await store.list()) == 2


async def test_what_was_there_stays_if_the_rest_cannot_be_saved(store: RuleStore, workers: Workers, file: File) -> None:
    await store.add((rule(),))
    file.fault = NO_SPACE
    with pytest.raises(SystemFault, match="No space left"):
        await store.ensure((rule(), rule("239.1.1.2")))
    assert [view.rule_id for view in await store.list()] == [rule().rule_id]
    assert workers.changes[-1].removed == (rule("239.1.1.2"),)
