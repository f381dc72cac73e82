"""The rule store when an interface gets an altname late, and two rules know it by two names."""

import socket

import attrs
import pytest
import trio

from mcr.actors.rule_store import RuleStore, run_rule_store
from mcr.model.rule import Rule
from mcr.rules.conditions import Attachment
from store_world import Network, Workers, rule, stated


@pytest.fixture
def indexes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the kernel knows interfaces by."""
    indexes = {"eth0": 2, "eth1": 3}

    def index_of(name: str) -> int:
        if name not in indexes:
            raise OSError
        return indexes[name]

    monkeypatch.setattr(socket, "if_nametoindex", index_of)
    monkeypatch.setattr(socket, "if_indextoname", {2: "eth0", 3: "eth1"}.__getitem__)
    return indexes


@pytest.fixture
def workers() -> Workers:
    workers = Workers()
    workers.inputs = {"eth0": Attachment("eth0", 2)}
    return workers


def on(interface: str, rule: Rule) -> Rule:
    return attrs.evolve(rule, input=attrs.evolve(rule.input, interface=interface))


async def test_an_input_is_known_by_its_own_name_whatever_an_output_is_called(
    nursery: trio.Nursery, workers: Workers, indexes: dict[str, int]
) -> None:
    store: RuleStore = await nursery.start(run_rule_store, workers, Network(), None)
    await store.add((rule(),))
    indexes["uplink"] = 2
    workers.outputs = {"uplink": Attachment("uplink", 2)}
    await store.add((rule("239.1.1.2"),))
    assert workers.changes[-1].added == (rule("239.1.1.2"),)
    assert (await store.ensure((rule(),)))[1] == {rule().rule_id}


async def test_a_files_rule_keeps_the_input_that_it_was_added_with(
    nursery: trio.Nursery, workers: Workers, indexes: dict[str, int]
) -> None:
    """A change finds it by that: a new name would be an input that nobody has opened."""
    before = on("uplink", rule(rule_id="a"))
    store: RuleStore = await nursery.start(run_rule_store, workers, Network(), None, stated(before))
    indexes["uplink"] = 2
    workers.inputs["uplink"] = Attachment("uplink", -1, lost=True, fault="eth0 is open already")
    after = attrs.evolve(before, name="new")
    await store.use(stated(after))
    assert workers.changes[-1].changed == (after,)
    await store.use(())
    assert workers.changes[-1].removed == (after,)
