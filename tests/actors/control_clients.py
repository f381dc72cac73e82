"""A control server with actors that answer at once, and clients of it."""

import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from api_actors import applied
from counted import moment
from mcr.actors.config_files import Application
from mcr.config.settings import settings_from
from mcr.config.table import Source
from mcr.control.listener import control_socket
from mcr.control.methods import Api
from mcr.control.server import ControlServer, run_control_server
from mcr.errors import NothingToConfirm, RuleNotFound
from mcr.model.edit import RuleEdit
from mcr.model.event import Event
from mcr.model.finding import Finding, Verdict
from mcr.model.flow import Address, Input
from mcr.model.log import Facility, Level, LogLevels, LogLine
from mcr.model.rule import OutputView, Rule, RuleState, RuleView
from mcr.model.selection import Selection
from mcr.model.setting import SettingView
from mcr.model.stats import (
    EgressStats,
    IngressStats,
    Stats,
)
from mcr.model.worker import WorkerView
from mcr.stats.moment import Moment
from mcr.tap.unmatched import Unmatched, UnmatchedFlow

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

    async def add(self, rules: tuple[Rule, ...], *, wait: bool = False) -> tuple[RuleView, ...]:  # noqa: ARG002 - as the actor
        return self.rules

    async def ensure(
        self, rules: tuple[Rule, ...], *, wait: bool = False
    ) -> tuple[tuple[RuleView, ...], frozenset[str]]:
        return await self.add(rules, wait=wait), frozenset()

    async def find(self, rule: str) -> RuleView:
        raise RuleNotFound(f"No rule has the id or name {rule!r}")

    async def change(
        self,
        *,
        rule_id: str | None,
        name: str | None,
        edit: RuleEdit,  # noqa: ARG002 - as the actor
        wait: bool,  # noqa: ARG002 - as the actor
    ) -> RuleView:
        raise RuleNotFound(f"No rule has the id {rule_id!r} or the name {name!r}")

    async def remove(self, selection: Selection) -> tuple[RuleView, ...]:
        raise RuleNotFound(f"No rule has the id {selection.rule_ids[0]!r}", "list them: mcrctl list")

    def setting(self) -> SettingView:
        return SettingView("--config", "none", "none", "default", "configuration files", "none")

    def refused(self) -> dict[str, tuple[Address, ...]]:
        return {}

    def mark(self, rules: tuple[RuleView, ...]) -> tuple[RuleView, ...]:
        return rules

    async def confirm(self) -> None:
        raise NothingToConfirm("No apply waits for confirmation")

    async def apply(self, *, dry_run: bool = False, confirm: int | None = None, reload: bool = False) -> Application:
        return applied(dry_run=dry_run, confirm=confirm, reload=reload)

    async def describe(self) -> tuple[WorkerView, ...]:
        return ()

    async def moment(self) -> Moment:
        return moment(Stats(IngressStats(), EgressStats()), ())

    async def events(self, after: int) -> tuple[Event, ...]:
        return (Event(after + 1, "2026-01-01T12:00:00.000Z", "feed_silent", "dcfca9531161", "cam", 60.0),)

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

    async def trace(self, interface: str, seconds: int) -> Unmatched:
        assert (interface, seconds) == ("eth0", 2)
        flow = UnmatchedFlow(IPv4Address("239.1.1.1"), 5001, 1_000, 500.0, 5_264_000.0)
        return Unmatched(interface, 2.0, (flow,), whole=True)


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
    return Api(actors, actors, actors, actors, actors, SETTINGS, actors)


async def serve(path: Path, actors: Actors, nursery: trio.Nursery) -> ControlServer:
    """Start a control server."""
    closing = ExitStack()
    listener = closing.enter_context(control_socket(str(path)))
    handle: ControlServer = await nursery.start(run_control_server, listener, closing, api(actors))
    return handle


@pytest.fixture
async def server(path: Path, actors: Actors, nursery: trio.Nursery) -> ControlServer:
    return await serve(path, actors, nursery)


@asynccontextmanager
async def connecting(path: Path, client: Callable[[trio.SocketStream], Any]) -> AsyncIterator[Connect]:
    """Make clients of a server until the block ends."""
    streams: list[trio.SocketStream] = []

    async def connect() -> Any:
        stream = await trio.open_unix_socket(str(path))
        streams.append(stream)
        return client(stream)

    yield connect
    for stream in streams:
        stream.socket.close()


@pytest.fixture
async def connect(path: Path, server: ControlServer) -> AsyncIterator[Connect]:
    async with connecting(path, Client) as connect:
        yield connect


def long_reply() -> tuple[RuleView, ...]:
    """Rules whose list is larger than any socket buffer (about 10 MB)."""
    view = RuleView(
        "id",
        "n" * 10_000,
        Input("eth0", IPv4Address("239.1.1.1"), 5000),
        (OutputView(IPv4Address("239.1.1.2"), 5000, "eth1"),),
        RuleState.ACTIVE,
    )
    return (view,) * 1_000


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps when all tasks wait does not know of threads: their work is done at once."""

    async def run(work: Callable[..., object], *arguments: object) -> object:
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run)
