"""The rule store with workers that the test plays."""

import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Interface, ip_address
from types import FrameType

import attrs
import pytest
import trio
import trio.testing

from mcr.actors.rule_store import ACTIVATION_SECONDS, RuleStore, run_rule_store
from mcr.errors import InterfaceNotFound, LimitReached, RuleExists, RuleNotFound
from mcr.logs.asker import set_asker
from mcr.model.edit import RuleEdit
from mcr.model.flow import Input
from mcr.model.rule import Output, Rule, RuleChange, RuleState, automatic_rule_id
from mcr.model.selection import Selection
from mcr.net import network
from mcr.rules import hop_cache
from mcr.rules.conditions import Attachment
from store_world import Network, Workers, rule, stated


@pytest.fixture
def machine() -> Network:
    return Network()


@pytest.fixture
async def store(nursery: trio.Nursery, workers: Workers, machine: Network) -> RuleStore:
    started: RuleStore = await nursery.start(run_rule_store, workers, machine, None)
    return started


async def test_added_rule_is_active_and_listed(store: RuleStore, workers: Workers) -> None:
    views = await store.add((rule(name="tv"),))
    assert views == await store.list()
    assert [(view.name, view.state) for view in views] == [("tv", RuleState.ACTIVE)]
    assert [change.generation for change in workers.changes] == [2]


async def test_the_log_names_who_asked_for_a_change(store: RuleStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mcr.rules")
    set_asker(1000, 42)
    (added,) = await store.add((rule(),))
    await store.change(rule_id=added.rule_id, edit=RuleEdit(new_name="x"))
    await store.remove(Selection((added.rule_id,), literal=True))
    lines = [each.message for each in caplog.records if added.rule_id in each.message]
    assert [line.endswith(" (uid 1000, process 42)") for line in lines] == [True] * 3


async def test_generations_are_numbered_without_gaps(store: RuleStore, workers: Workers) -> None:
    first, second = rule("239.1.1.1"), rule("239.1.1.2")
    await store.add((first,))
    await store.add((second,))
    await store.remove(Selection((first.rule_id,)))
    with pytest.raises(RuleNotFound):
        await store.remove(Selection(("nothing",)))
    await store.add((first,))
    assert [change.generation for change in workers.changes] == [2, 3, 4, 5]


async def test_change_takes_two_questions_and_an_addition_one_more_for_names(
    store: RuleStore, workers: Workers
) -> None:
    await trio.testing.wait_all_tasks_blocked()
    workers.asked.clear()
    (view,) = await store.add((rule(),))
    assert workers.asked == ["standing", "apply", "settled"]
    workers.asked.clear()
    await store.remove(Selection((view.rule_id,)))
    assert workers.asked == ["apply", "settled"]


@pytest.mark.parametrize(
    "second",
    [rule(rule_id="other"), rule("239.1.1.2", rule_id="tv-1"), rule("239.1.1.3", name="tv")],
    ids=["same input", "same id", "same name"],
)
async def test_duplicate_is_refused_with_the_id_that_exists(store: RuleStore, second: Rule) -> None:
    await store.add((rule(name="tv", rule_id="tv-1"),))
    with pytest.raises(RuleExists, match="Rule already exists: tv-1"):
        await store.add((second,))
    assert len(await store.list()) == 1


async def test_batch_is_all_or_none(store: RuleStore, workers: Workers) -> None:
    """One bad rule in the middle, or a duplicate within the batch: nothing is added, nothing applied."""
    await store.add((rule("239.1.1.5"),))
    batch = tuple(rule(f"239.1.1.{i}") for i in range(1, 9))
    with pytest.raises(RuleExists, match=r"\(rules\[4\]\)$"):
        await store.add(batch)
    with pytest.raises(RuleExists, match=r"rules\[1\] has the same input as rules\[0\]"):
        await store.add((rule("239.2.1.1"), rule("239.2.1.1")))
    assert len(await store.list()) == 1
    assert len(workers.changes) == 1


async def test_refusal_of_the_system_leaves_the_rules_as_they_were(store: RuleStore, workers: Workers) -> None:
    workers.error = InterfaceNotFound("Interface not found: eth0")
    with pytest.raises(InterfaceNotFound):
        await store.add((rule(),))
    assert await store.list() == ()
    workers.error = None
    await store.add((rule(),))  # and the input tuple is still free


async def test_rule_is_found_by_name(store: RuleStore) -> None:
    await store.add((rule(name="tv"), rule("239.1.1.2", name="radio")))
    (removed,) = await store.remove(Selection(names=("tv",)))
    assert removed.name == "tv"
    assert [view.name for view in await store.list()] == ["radio"]
    with pytest.raises(RuleNotFound, match="No rule has the name 'radoi'") as caught:
        await store.remove(Selection(names=("radoi",)))
    assert caught.value.hints[0] == "did you mean radio?"


async def test_list_is_made_anew_only_if_something_has_changed(
    store: RuleStore, workers: Workers, machine: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcr.rules.views.MANY", 1)
    added = await store.add((rule("239.1.1.1"), rule("239.1.1.2"), rule("239.1.1.3")))
    listed = await store.list()
    await store.find(added[0].rule_id)
    machine.become(neighbours={(2, IPv4Address("198.18.2.1")): network.Neighbour(0x02)}, routes=1)
    assert await store.list() is listed
    await store.change(rule_id=added[1].rule_id, edit=RuleEdit(new_name="tv"))
    assert [each.name for each in await store.list()] == [None, "tv", None]
    workers.inputs = {"eth0": Attachment("eth0", 1, lost=True)}
    assert {each.state for each in await store.list()} == {RuleState.WAITING}
    workers.inputs = {}
    assert {each.state for each in await store.list()} == {RuleState.ACTIVE}
    await store.remove(Selection((added[0].rule_id,)))
    assert [each.rule_id for each in await store.list()] == [each.rule_id for each in added[1:]]


async def test_many_rules_are_left_alone_when_garbage_is_looked_for(
    store: RuleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few are not: what is in a circle then stays for ever."""
    left: list[int] = []
    monkeypatch.setattr("mcr.actors.rule_changes.MANY", 2)
    monkeypatch.setattr("mcr.actors.rule_changes.leave_what_is_there", lambda: left.append(1))
    await store.add((rule("239.1.1.1"), rule("239.1.1.2")))
    assert not left
    await store.add((rule("239.1.2.1"), rule("239.1.2.2"), rule("239.1.2.3")))
    assert len(left) == 1
    await store.remove(Selection(all=True))
    assert len(left) == 2


class LongestStep(trio.abc.Instrument):
    """Calls of functions that one step of the event loop has made: others wait meanwhile."""

    def __init__(self) -> None:
        self.calls = self._now = 0

    @asynccontextmanager
    async def measured(self) -> AsyncIterator[None]:
        """Measure the steps of what is done in here."""
        self.calls = 0
        trio.lowlevel.add_instrument(self)
        try:
            yield
            await trio.lowlevel.checkpoint()  # the last step counts, too
        finally:
            trio.lowlevel.remove_instrument(self)
            sys.setprofile(None)  # trio tells it of the end of this step no more

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._now = 0
        sys.setprofile(self._note)

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        sys.setprofile(None)
        self.calls = max(self.calls, self._now)

    def _note(self, _frame: FrameType, event: str, _argument: object) -> None:
        self._now += event == "call"


@pytest.mark.slow
async def test_no_step_of_the_event_loop_goes_through_many_rules(store: RuleStore) -> None:
    rules = tuple(rule(f"239.1.{number >> 8}.{number & 0xFF}") for number in range(2000))
    longest = LongestStep()
    async with longest.measured():
        views = await store.add(rules)
    assert len(views) == len(rules)
    assert longest.calls < len(rules) // 4
    in_files = stated(*rules)
    async with longest.measured():
        foreseen = await store.foresee(in_files)
    assert [each.change for each in foreseen] == ["moved"] * len(rules)
    assert longest.calls < len(rules) // 4
    async with longest.measured():
        gone = await store.remove(Selection(all=True))
    assert len(gone) == len(rules)
    assert longest.calls < len(rules) // 4
    for some in (rules, rules[:1000]):
        async with longest.measured():
            await store.use(stated(*some))
        assert len(await store.list()) == len(some)
        assert longest.calls < len(rules) // 4
    assert sys.getprofile() is None


async def test_rule_that_workers_do_not_acknowledge_is_pending(
    store: RuleStore, workers: Workers, autojump_clock: trio.testing.MockClock
) -> None:
    """A client waits a bounded time; then it is told the truth."""
    workers.acknowledges = False
    before = trio.current_time()
    (view,) = await store.add((rule(),))
    assert view.state is RuleState.PENDING
    assert trio.current_time() - before == pytest.approx(ACTIVATION_SECONDS)
    workers.acknowledges = True
    assert [view.state for view in await store.list()] == [RuleState.ACTIVE]


@pytest.mark.parametrize(
    "change", [Network.change, lambda machine: machine.become(addresses6={1: (IPv6Interface("fe80::1/64"),)})]
)
async def test_interfaces_that_are_back_are_used_again_in_a_generation_of_their_own(
    store: RuleStore, workers: Workers, machine: Network, change: Callable[[Network], None]
) -> None:
    """Or have an address of IPv6 again, without which no group of it can be joined."""
    await store.add((rule(),))
    await trio.testing.wait_all_tasks_blocked()
    workers.stale = True
    change(machine)
    await trio.testing.wait_all_tasks_blocked()
    assert workers.changes[1:] == [RuleChange(3, renew=True)]
    assert [view.state for view in await store.list()] == [RuleState.ACTIVE]


async def test_rule_that_is_added_finds_interfaces_used_again(store: RuleStore, workers: Workers) -> None:
    """The addition may be here before the news."""
    await store.add((rule(),))
    workers.stale = True
    await store.add((rule("239.1.1.2"),))
    assert [(change.generation, change.renew) for change in workers.changes] == [(2, False), (3, True), (4, False)]


async def test_interfaces_that_cannot_be_used_again_yet_end_nothing(
    store: RuleStore,
    workers: Workers,
    machine: Network,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are tried again, also if nothing changes meanwhile; why not is logged once."""
    await store.add((rule(),))
    workers.stale, workers.error = True, LimitReached("No room for more input interfaces")
    machine.change()
    await trio.sleep(20)
    assert len(await store.list()) == 1
    assert caplog.text.count("cannot be used yet: No room for more input interfaces") == 1
    workers.error = None
    await trio.sleep(10)
    assert workers.changes[1:] == [RuleChange(3, renew=True)]


@pytest.fixture
def hosts(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every host is on the link."""

    def find(asked: Iterable[tuple[IPv4Address, int]]) -> list[tuple[IPv4Address, bool]]:
        return [(host, True) for host, _ in asked]

    workers.outputs = {"eth1": Attachment("eth1", 2)}
    monkeypatch.setattr(hop_cache, "find_next_hops", find)


def to_host(number: int) -> Rule:
    source = Input("eth0", ip_address("239.1.1.1"), 5000 + number)
    return Rule(automatic_rule_id(source), source, (Output(ip_address(f"198.18.2.{number}"), 6000, "eth1"),))


@pytest.mark.usefixtures("hosts")
async def test_kernel_that_takes_its_time_holds_nobody_up(store: RuleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    others_went_on = threading.Event()

    def find(hosts: Iterable[tuple[int, IPv4Address]]) -> set[tuple[int, IPv4Address]]:
        assert others_went_on.wait(1), "all others wait for the kernel, too"
        return set(hosts) & set()

    monkeypatch.setattr(hop_cache, "find_unanswered", find)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.add, (to_host(1),))
        await trio.sleep(0.05)
        others_went_on.set()


@pytest.mark.usefixtures("hosts")
async def test_hosts_of_rules_that_are_gone_are_forgotten(store: RuleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop_cache, "find_unanswered", lambda _: set())
    monkeypatch.setattr(hop_cache, "_MOST", 8)
    for number in range(1, 40):
        (view,) = await store.add((to_host(number),))
        await store.remove(Selection((view.rule_id,)))
    assert 0 < len(store._hops._hops) <= 8


@pytest.mark.usefixtures("hosts")
async def test_next_hops_are_asked_for_anew_when_routes_have_changed(
    store: RuleStore, machine: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[IPv4Address] = []

    def find(hosts: Iterable[tuple[IPv4Address, int]]) -> list[tuple[IPv4Address, bool]]:
        asked.extend(host for host, _ in hosts)
        return [(host, True) for host in asked[-1:]]

    monkeypatch.setattr(hop_cache, "find_unanswered", lambda _: set())
    monkeypatch.setattr(hop_cache, "find_next_hops", find)
    await store.add((to_host(1),))
    await store.list()
    assert len(asked) == 1
    machine.now = attrs.evolve(machine.now, routes=machine.now.routes + 1)
    await store.list()
    await store.list()
    assert len(asked) == 2


@pytest.mark.usefixtures("hosts")
async def test_hosts_that_stop_answering_are_logged(
    store: RuleStore,
    machine: Network,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    caplog.set_level(logging.DEBUG, "mcr.network")
    monkeypatch.setattr(hop_cache, "find_unanswered", lambda _: set())
    await store.add((to_host(1), to_host(2)))
    for neighbour in (network.Neighbour(0x20, silent=True), network.Neighbour(0x02)):
        machine.become(neighbours={(2, IPv4Address("198.18.2.1")): neighbour})
        await trio.sleep(1.5)
    assert [each.message for each in caplog.records if "198.18.2.1 on eth1" in each.message] == [
        "198.18.2.1 on eth1 does not answer ARP: 1 output waits",
        "198.18.2.1 on eth1 answers again: 1 output goes on",
    ]
