"""The control server on a real unix socket, in front of actors that are played by the test."""

import errno
import json
import os
import socket
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from control_clients import LIST, PING, PONG, Actors, Client, Connect, long_reply, serve
from mcr.control import connection, wire
from mcr.control import server as control_server
from mcr.control.server import ControlServer

# Requests and replies


async def test_a_request_is_answered_with_its_id(connect: Connect) -> None:
    client = await connect()
    assert await client.ask({"jsonrpc": "2.0", "id": "x", "method": "ping"}) == PONG | {"id": "x"}


async def test_an_error_carries_code_kind_and_hints(connect: Connect) -> None:
    client = await connect()
    reply = await client.ask({"jsonrpc": "2.0", "id": 7, "method": "remove", "params": {"rule_id": "a"}})
    assert reply == {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {
            "code": -32002,
            "message": "No rule has the id 'a'",
            "data": {"kind": "rule_not_found", "hints": ["list them: mcrctl list"]},
        },
    }


async def test_replies_come_in_the_order_of_the_requests(
    connect: Connect, actors: Actors, autojump_clock: trio.testing.MockClock
) -> None:  # asked for, not used
    client = await connect()
    await client.send(LIST, PING | {"id": 2})
    await actors.asked.wait()
    with trio.move_on_after(1):
        await client.receive()
        pytest.fail("ping overtook list")
    actors.gate.set()
    assert [(await client.receive())["id"] for _ in range(2)] == [1, 2]


async def test_a_notification_is_carried_out_and_not_answered(connect: Connect, actors: Actors) -> None:
    client = await connect()
    actors.gate.set()
    await client.send({"jsonrpc": "2.0", "method": "list"}, PING)
    assert await client.receive() == PONG
    assert actors.asked.is_set()


async def test_a_bug_in_an_actor_ends_the_server(path: Path, actors: Actors) -> None:
    actors.gate.set()
    actors.failure = ZeroDivisionError()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await serve(path, actors, nursery)
            async with await trio.open_unix_socket(str(path)) as stream:
                await Client(stream).ask(LIST)
    assert not path.exists()


# Clients that misbehave


async def test_garbage_is_answered_and_the_connection_goes_on(connect: Connect) -> None:
    client = await connect()
    await client.stream.send_all(b"\xff\x00 not json\n" + b"[" * 100_000 + b"\n[1]\n{}\n\n")
    codes = [(await client.receive())["error"]["code"] for _ in range(4)]
    assert codes == [-32700, -32700, -32600, -32600]
    assert await client.ask(PING) == PONG


async def test_half_a_line_at_the_end_is_told_and_not_carried_out(connect: Connect, actors: Actors) -> None:
    client = await connect()
    await client.stream.send_all(json.dumps(LIST).encode())
    await client.stream.send_eof()
    assert "newline" in (await client.receive())["error"]["message"]
    assert await client.receive() is None
    assert not actors.asked.is_set()


async def test_replies_still_reach_a_client_that_sends_no_more(connect: Connect) -> None:
    client = await connect()
    await client.send(PING)
    await client.stream.send_eof()
    assert await client.receive() == PONG
    assert await client.receive() is None


async def test_a_client_that_hangs_up_in_the_middle_of_its_request_disturbs_nobody(
    connect: Connect, actors: Actors
) -> None:
    leaver, other = await connect(), await connect()
    await leaver.send(LIST, PING)
    await actors.asked.wait()
    leaver.stream.socket.close()
    actors.gate.set()
    assert await other.ask(PING) == PONG


async def test_a_client_that_resets_its_connection_disturbs_nobody(connect: Connect) -> None:
    leaver, other = await connect(), await connect()
    await leaver.send(PING)
    await trio.lowlevel.wait_readable(leaver.stream.socket)
    leaver.stream.socket.close()  # with an unread reply: the server's next read fails
    assert await other.ask(PING) == PONG
    assert await other.ask(PING) == PONG


async def test_a_client_that_does_not_read_is_disconnected_and_disturbs_nobody(
    connect: Connect, actors: Actors, no_threads: None, autojump_clock: trio.testing.MockClock
) -> None:  # asked for, not used
    actors.rules = long_reply()
    actors.gate.set()
    sleeper, other = await connect(), await connect()
    await sleeper.send(LIST)
    await actors.asked.wait()
    assert await other.ask(PING) == PONG
    await trio.sleep(connection.SEND_TIMEOUT + 1)
    with trio.fail_after(1), pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        while True:
            await sleeper.send(PING)


async def test_long_replies_in_progress_are_bounded(
    connect: Connect,
    actors: Actors,
    monkeypatch: pytest.MonkeyPatch,
    no_threads: None,
    autojump_clock: trio.testing.MockClock,
) -> None:  # asked for, not used
    monkeypatch.setattr(control_server, "MAX_HELD", 15_000_000)  # room for one of them
    actors.rules = long_reply()
    actors.gate.set()
    sleeper, other = await connect(), await connect()
    await sleeper.send(LIST)
    await sleeper.stream.receive_some(1)
    reply = await other.ask(LIST)
    assert reply["error"]["data"]["kind"] == "limit_reached"
    assert reply["id"] == 1


async def test_long_requests_in_progress_are_bounded_and_short_ones_pass(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "MAX_HELD", 1_000_000)
    hog, other, short = await connect(), await connect(), await connect()
    await hog.stream.send_all(b" " * 990_000)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.RaisesGroup(trio.BrokenResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.stream.send_all, b" " * 5_000_000)
            assert (await other.receive())["error"]["data"]["kind"] == "limit_reached"
    await short.stream.send_all(b" " * 50_000)
    await trio.testing.wait_all_tasks_blocked()
    assert await short.ask(PING) == PONG


async def test_long_requests_that_are_being_parsed_are_bounded(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads parse several at once."""
    parsed, parse, parsing = threading.Event(), wire.parse_long_request, trio.Event()

    def wait(line: bytes) -> wire.Request | wire.Rejection:
        trio.from_thread.run_sync(parsing.set)
        assert parsed.wait(60)
        return parse(line)

    monkeypatch.setattr(wire, "parse_long_request", wait)
    monkeypatch.setattr(control_server, "MAX_HELD", 150_000)  # room for one of them
    first, second = await connect(), await connect()
    try:
        await first.send(PING | {"padding": "x" * 100_000})
        await parsing.wait()
        await second.send(PING | {"padding": "x" * 100_000})
        assert (await second.receive())["error"]["data"]["kind"] == "limit_reached"
    finally:
        parsed.set()
    assert await first.receive() == PONG
    assert await second.ask(PING) == PONG


async def test_an_overlong_line_is_dropped_and_the_connection_goes_on(connect: Connect) -> None:
    client = await connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.stream.send_all, b"x" * 20_000_000 + b"\n")
        assert "16,777,216 bytes" in (await client.receive())["error"]["message"]
    assert await client.ask(PING) == PONG


async def test_one_client_too_many_is_told_so_and_the_others_stay(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "MAX_CLIENTS", 2)
    first, second, third = await connect(), await connect(), await connect()
    assert await first.ask(PING) == await second.ask(PING) == PONG
    reply = await third.receive()
    assert reply["id"] is None
    assert reply["error"]["message"] == "2 clients are connected to the control socket"
    assert await third.receive() is None
    first.stream.socket.close()
    await trio.testing.wait_all_tasks_blocked()
    assert await (await connect()).ask(PING) == PONG


async def test_running_out_of_descriptors_is_survived(
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:  # asked for, not used
    before = await connect()
    assert await before.ask(PING) == PONG
    accept, failures = socket.socket.accept, 100

    def starved(listener: socket.socket) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", starved)
    assert await (await connect()).ask(PING) == PONG
    assert await before.ask(PING) == PONG
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["Cannot accept a client: Too many open files (os error 24)"]


# Stopping


async def test_stop_lets_the_request_in_progress_finish_and_refuses_the_next(
    path: Path, connect: Connect, server: ControlServer, actors: Actors, nursery: trio.Nursery
) -> None:
    busy, idle = await connect(), await connect()
    await busy.send(LIST, PING | {"id": 2})
    await actors.asked.wait()
    nursery.start_soon(server.stop)
    assert await idle.receive() is None
    assert not path.exists()
    actors.gate.set()
    assert await busy.receive() == {"jsonrpc": "2.0", "id": 1, "result": []}
    assert (await busy.receive())["error"]["data"]["kind"] == "shutting_down"
    assert await busy.receive() is None


async def test_stop_does_not_wait_for_ever(
    connect: Connect, server: ControlServer, actors: Actors, autojump_clock: trio.testing.MockClock
) -> None:  # asked for, not used
    client = await connect()
    await client.send(LIST)
    await actors.asked.wait()
    started = trio.current_time()
    with trio.fail_after(60):
        await server.stop()
    assert trio.current_time() - started == pytest.approx(control_server.STOP_GRACE)
    assert await client.receive() is None


# The documentation


# Progress


async def test_who_wants_to_know_is_told_that_a_long_request_is_carried_out(
    connect: Connect, actors: Actors, autojump_clock: trio.testing.MockClock
) -> None:
    asker, other = await connect(), await connect()
    await asker.send(LIST | {"id": 7, "progress": True})
    await other.send(LIST)
    for seconds in (1.0, 2.0):
        told = {"jsonrpc": "2.0", "method": "progress", "params": {"id": 7, "seconds": seconds}}
        assert await asker.receive() == told
    actors.gate.set()
    assert await asker.receive() == {"jsonrpc": "2.0", "id": 7, "result": []}
    assert await other.receive() == {"jsonrpc": "2.0", "id": 1, "result": []}


async def test_who_is_answered_at_once_hears_of_no_progress(connect: Connect) -> None:
    client = await connect()
    assert await client.ask(PING | {"progress": True}) == PONG


# Who may only look
