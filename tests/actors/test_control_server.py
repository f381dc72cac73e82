"""The control server on a real unix socket, in front of actors that are played by the test."""

import errno
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from mcr import errors
from mcr.config.settings import settings_from
from mcr.config.table import Source
from mcr.control import connection
from mcr.control import server as control_server
from mcr.control.methods import Api
from mcr.control.peers import Peer, Rights
from mcr.control.server import ControlServer, run_control_server
from mcr.errors import McrError, RuleNotFound, UsageError
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import Input
from mcr.model.log import Facility, Level, LogLevels, LogLine
from mcr.model.rule import OutputView, Rule, RuleState, RuleView
from mcr.model.stats import (
    EgressStats,
    IngressStats,
    InterfaceStats,
    OutputStats,
    RuleStats,
    SendError,
    Stats,
    WorkerStats,
)
from mcr.model.worker import WorkerState, WorkerView

LIST = {"jsonrpc": "2.0", "id": 1, "method": "list"}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
PONG = {"jsonrpc": "2.0", "id": 1, "result": {"pong": True}}


@attrs.define
class Actors:
    """Every actor behind the API. While `gate` is shut, `list` does not answer."""

    gate: trio.Event = attrs.field(factory=trio.Event)
    asked: trio.Event = attrs.field(factory=trio.Event)
    failure: Exception | None = None
    rules: tuple[RuleView, ...] = ()
    levels: LogLevels = attrs.field(factory=LogLevels)
    listing: int = 0
    listed: int = 0

    async def list(self) -> tuple[RuleView, ...]:
        self.asked.set()
        self.listing += 1
        self.listed += 1
        await self.gate.wait()
        self.listing -= 1
        if self.failure:
            raise self.failure
        return self.rules

    async def add(self, rules: tuple[Rule, ...]) -> tuple[RuleView, ...]:  # noqa: ARG002 - as the actor
        return self.rules

    async def remove(self, *, rule_id: str | None, name: str | None) -> RuleView:
        raise RuleNotFound(f"No rule has the id {rule_id!r} or the name {name!r}", "list them: mcrctl list")

    async def describe(self) -> tuple[WorkerView, ...]:
        return ()

    async def read(self) -> Stats:
        return Stats(IngressStats(), EgressStats())

    def recent(self) -> tuple[LogLine, ...]:
        return (LogLine("2026-01-01T12:00:00.000Z", "error", "supervisor", "a worker died"),)

    async def doctor(self) -> tuple[Finding, ...]:
        return (Finding("kernel", Verdict.OK, "Linux", "uname -r"),)

    async def set_global(self, level: Level) -> LogLevels:
        return self.levels.with_global(level)

    async def set_facility(self, facility: Facility, level: Level) -> LogLevels:
        return self.levels.with_facility(facility, level)

    async def why(self, rule: str) -> tuple[Finding, ...]:
        raise NotImplementedError


class Client:
    """A client that speaks in whole lines, or in bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, *messages: dict[str, Any]) -> None:
        await self.stream.send_all(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    async def receive(self) -> dict[str, Any] | None:
        """The next reply, None at the end of the stream."""
        while b"\n" not in self._received:
            with trio.fail_after(30):
                data = await self.stream.receive_some()
            if not data:
                assert not self._received
                return None
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        reply: dict[str, Any] = json.loads(line)
        return reply

    async def ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        await self.send(message)
        return await self.receive()


Connect = Callable[[], Any]

ALL_SETTINGS = settings_from({Source.ENVIRONMENT: {"MCR_BUFFER_POOL_SMALL": "3000"}})
SETTINGS = attrs.evolve(ALL_SETTINGS, views=tuple(each for each in ALL_SETTINGS.views if each.source == "environment"))


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mcr") as directory:  # tmp_path is too long for a unix socket
        yield Path(directory, "control.sock")


@pytest.fixture
def actors() -> Actors:
    return Actors()


def api(actors: Actors) -> Api:
    return Api(actors, actors, actors, actors, actors, SETTINGS)


@pytest.fixture
async def server(path: Path, actors: Actors, nursery: trio.Nursery) -> ControlServer:
    handle: ControlServer = await nursery.start(run_control_server, str(path), api(actors))
    return handle


@pytest.fixture
async def connect(path: Path, server: ControlServer) -> AsyncIterator[Connect]:
    assert server.path == str(path)
    streams: list[trio.SocketStream] = []

    async def connect() -> Client:
        stream = await trio.open_unix_socket(str(path))
        streams.append(stream)
        return Client(stream)

    yield connect
    for stream in streams:
        stream.socket.close()


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
            "message": "No rule has the id 'a' or the name None",
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
            await nursery.start(run_control_server, str(path), api(actors))
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


def long_reply() -> tuple[RuleView, ...]:
    """Rules whose list is larger than any socket buffer (about 10 MB)."""
    view = RuleView(
        "id",
        "n" * 1_000,
        Input("eth0", IPv4Address("239.1.1.1"), 5000),
        (OutputView(IPv4Address("239.1.1.2"), 5000, "eth1"),),
        RuleState.ACTIVE,
    )
    return (view,) * 10_000


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps when all tasks wait does not know of threads: their work is done at once."""

    async def run(work: Callable[..., object], *arguments: object) -> object:
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run)


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


async def test_an_overlong_line_is_dropped_and_the_connection_goes_on(connect: Connect) -> None:
    client = await connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.stream.send_all, b"x" * 50_000_000 + b"\n")
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


DOCUMENT = Path(__file__).parents[2] / "docs" / "control-protocol.md"


def shape(value: Any) -> Any:
    """A reply without what differs from run to run: the types of its leaves, and its errors in full."""
    match value:
        case {"error": error}:
            return error
        case dict():
            return {name: shape(member) for name, member in value.items()}
        case list():
            return [shape(item) for item in value]
        case _:
            return type(value)


@attrs.define
class RelayOfOneRule(Actors):
    """Actors that answer as the documentation has it."""

    async def add(self, rules: tuple[Rule, ...]) -> tuple[RuleView, ...]:
        self.rules = tuple(
            RuleView(r.rule_id, r.name, r.input, tuple(map(OutputView.of, r.outputs)), RuleState.ACTIVE) for r in rules
        )
        return self.rules

    async def remove(self, *, rule_id: str | None, name: str | None) -> RuleView:
        if rule_id:
            raise RuleNotFound(f"No rule has the id {rule_id!r}", "see the rules: mcrctl list")
        assert name == self.rules[0].name
        return self.rules[0]

    async def why(self, rule: str) -> tuple[Finding, ...]:
        assert rule == self.rules[0].name
        return (Finding("input_up", Verdict.FAULT, "eth0 is down", "ip link show dev eth0", "ip link set dev eth0 up"),)

    async def describe(self) -> tuple[WorkerView, ...]:
        return (WorkerView(0, 1, 0, ("eth0",), WorkerState.RUNNING, 0, 1, "x"),)

    async def read(self) -> Stats:
        (output,) = self.rules[0].outputs
        outputs = (
            OutputStats(output.group, output.port, output.interface, 0, 0, 0, 0, 0, SendError(errno.ENETDOWN, 3.5)),
        )
        rules = (RuleStats("id", "cam", 0, 0, 0, 0, 0.0, 0.0, outputs),)
        workers = (WorkerStats(*[0] * 12),)
        return Stats(IngressStats(), EgressStats(), rules, workers, (InterfaceStats("eth0", 0, 0),))


async def test_every_documented_request_gets_the_documented_reply(path: Path, nursery: trio.Nursery) -> None:
    actors = RelayOfOneRule()
    actors.gate.set()
    await nursery.start(run_control_server, str(path), api(actors))
    pairs = re.findall(r"^--> (.*)\n<-- (.*)$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(pairs) > 10
    async with await trio.open_unix_socket(str(path)) as stream:
        for request, reply in pairs:
            await stream.send_all(request.encode() + b"\n")
            assert shape(await Client(stream).receive()) == shape(json.loads(reply)), request


def test_every_error_code_is_documented() -> None:
    documented = {
        (int(code), kind) for code, kind in re.findall(r"^\| (-\d+) \| `(\w+)`", DOCUMENT.read_text(), re.MULTILINE)
    }
    travelling: list[type[McrError]] = [
        error for error in vars(errors).values() if isinstance(error, type) and error.__base__ is McrError
    ]
    travelling.remove(UsageError)
    names = [re.sub(r"(.)([A-Z])", r"\1_\2", error.__name__).lower() for error in travelling]
    assert documented == {(error.code, name) for error, name in zip(travelling, names, strict=True)}


async def test_the_documented_program_works(
    server: ControlServer, actors: Actors, capsys: pytest.CaptureFixture[str]
) -> None:
    actors.rules = long_reply()[:1]
    actors.gate.set()
    (program,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    program = program.replace("/run/mcr/control.sock", server.path)
    await trio.to_thread.run_sync(exec, program, {})
    assert capsys.readouterr().out == "id active\n"


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


@pytest.fixture
def lookers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client may read and no more."""
    monkeypatch.setattr(Rights, "may_change", lambda *_: False)


async def test_who_may_only_look_is_refused_what_changes_and_nothing_else(
    lookers: None, connect: Connect, actors: Actors
) -> None:
    client = await connect()
    for method in ("add", "remove", "log_level.set"):
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
    actors.rules = long_reply()
    actors.gate.set()
    client = await connect()
    rule = {
        "input": {"interface": "eth0", "group": "239.1.1.1", "port": 5000},
        "outputs": [{"group": "239.2.2.2", "port": 5000, "interface": "eth1"}],
    }
    reply = await client.ask({"jsonrpc": "2.0", "id": 1, "method": "add", "params": {"rules": [rule]}})
    assert "result" in reply
    assert "error" in await client.ask(LIST)
