"""Clients that may only read: what they are refused, and that they keep nobody waiting."""

import time

import pytest
import trio
import trio.testing

from control_clients import LIST, PING, PONG, Actors, Connect, long_reply
from mcr.control import server as control_server
from mcr.control.peers import Peer, Rights
from mcr.errors import McrError
from mcr.model.log import LogLevels


@pytest.fixture
def lookers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client may read and no more."""
    monkeypatch.setattr(Rights, "may_change", lambda *_: False)


async def test_who_may_only_look_is_refused_what_changes_and_nothing_else(
    lookers: None, connect: Connect, actors: Actors
) -> None:
    client = await connect()
    for method in ("add", "change", "remove", "log_level.set"):
        reply = await client.ask({"jsonrpc": "2.0", "id": 1, "method": method, "params": {}})
        assert reply["error"]["code"] == -32007, method
    assert await client.ask(PING) == PONG
    assert actors.levels == LogLevels()


async def test_refusals_take_turns_too(lookers: None, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of users may take its time to find a name, and the daemon's threads are needed for other things."""
    asking, most = [0], [0]

    def refusal(_rights: Rights, _peer: Peer, _method: str) -> McrError:
        asking[0] += 1
        most[0] = max(most[0], asking[0])
        time.sleep(0.02)
        asking[0] -= 1
        return McrError("no")

    monkeypatch.setattr(control_server, "LOOKERS_SHARE", 1)
    monkeypatch.setattr(Rights, "refusal", refusal)
    clients = [await connect() for _ in range(8)]
    for client in clients:
        await client.send({"jsonrpc": "2.0", "id": 1, "method": "remove", "params": {}})
    for client in clients:
        assert (await client.receive())["error"]["message"] == "no"
    assert most == [1]


async def test_a_long_request_of_who_may_only_look_is_refused_before_it_is_held(
    lookers: None, connect: Connect
) -> None:
    client = await connect()
    await client.stream.send_all(b"x" * 70_000)
    assert (await client.receive())["error"]["message"] == "A request is longer than 65,536 bytes"


async def test_places_are_left_for_who_may_change_something(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "MAX_LOOKERS", 1)
    first = await connect()
    assert await first.ask(PING) == PONG
    monkeypatch.setattr(Rights, "may_change", lambda *_: False)
    refused = await connect()
    assert (await refused.receive())["error"]["message"] == "1 clients are connected to the control socket"
    monkeypatch.undo()
    admin = await connect()
    assert await admin.ask(PING) == PONG


async def test_places_are_left_for_other_users(
    lookers: None, connect: Connect, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(control_server, "MAX_LOOKERS_OF_A_USER", 2)
    peers = iter([1, 1, 1, 2, 1])
    monkeypatch.setattr(control_server, "peer_of", lambda _: Peer(1, next(peers), frozenset()))
    first, second = await connect(), await connect()
    assert await first.ask(PING) == await second.ask(PING) == PONG
    refused = (await (await connect()).receive())["error"]
    assert refused["message"] == "2 clients of your user are connected to the control socket"
    other = await connect()
    assert await other.ask(PING) == PONG
    first.stream.socket.close()
    await trio.sleep(1)  # it is missed when its turn comes
    assert await (await connect()).ask(PING) == PONG


async def test_of_a_hundred_who_look_one_is_answered_at_a_time_and_who_may_change_waits_for_none(
    connect: Connect, actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Rights, "may_change", lambda *_: False)
        lookers = [await connect() for _ in range(100)]
        for looker in lookers:
            await looker.send(LIST)
        await actors.asked.wait()
        await trio.testing.wait_all_tasks_blocked()
    assert actors.listing == 1
    admin = await connect()
    assert await admin.ask(PING) == PONG
    actors.gate.set()
    assert (await lookers[0].receive())["result"] == []


async def test_what_was_asked_by_one_who_has_left_is_not_looked_for(
    lookers: None, connect: Connect, actors: Actors, autojump_clock: trio.testing.MockClock
) -> None:
    first, *leavers = [await connect() for _ in range(20)]
    await first.send(LIST)
    await actors.asked.wait()
    for leaver in leavers:
        await leaver.send(LIST)
        leaver.stream.socket.close()
    actors.gate.set()
    assert (await first.receive())["result"] == []
    await trio.sleep(10)
    assert await first.ask(PING) == PONG
    assert actors.listed == 1


async def test_what_was_changed_is_said_also_when_long_replies_are_too_many(
    connect: Connect,
    actors: Actors,
    monkeypatch: pytest.MonkeyPatch,
    no_threads: None,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """An error would tell that it was not."""
    monkeypatch.setattr(control_server, "MAX_HELD", 1)
    actors.rules = long_reply()[:100]  # longer than a short one
    actors.gate.set()
    client = await connect()
    rule = {
        "input": {"interface": "eth0", "group": "239.1.1.1", "port": 5000},
        "outputs": [{"group": "239.2.2.2", "port": 5000, "interface": "eth1"}],
    }
    reply = await client.ask({"jsonrpc": "2.0", "id": 1, "method": "add", "params": {"rules": [rule]}})
    assert "result" in reply
    assert "error" in await client.ask(LIST)
