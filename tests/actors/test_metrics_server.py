"""The server of metrics on a real unix socket, in front of actors that are played by the test; and its clients."""

from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from pathlib import Path

import attrs
import h11
import pytest
import trio
import trio.testing

from control_clients import Connect, connecting
from exposition import samples, value
from mcr.errors import RuleNotFound, SystemFault
from mcr.metrics import connection, server
from mcr.metrics.exposition import Format
from mcr.metrics.listener import metrics_listener
from mcr.metrics.pages import PATIENCE, Answer, Pages
from mcr.metrics.server import MetricsServer
from mcr.model.endpoint import UnixEndpoint
from mcr.model.rule import RuleState
from mcr.model.worker import WorkerState
from metrics_clients import SMALL, Actors, Client, LongPages, serve, view


@pytest.fixture
def actors() -> Actors:
    made = Actors()
    made.gate.set()
    return made


@pytest.fixture
def pages(actors: Actors) -> Pages:
    return Pages(actors, actors, actors)


@pytest.fixture
async def serving(path: Path, pages: Pages, nursery: trio.Nursery) -> MetricsServer:
    return await serve(path, pages, nursery)


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    there = tmp_path / "no" / "metrics.sock"
    with (
        pytest.raises(SystemFault, match=f"Failed to bind to {there}: No such file or directory"),
        metrics_listener(UnixEndpoint(str(there))),
    ):
        pass
    assert [*tmp_path.iterdir()] == []


@pytest.fixture
async def connect(path: Path, serving: MetricsServer) -> AsyncIterator[Connect]:
    async with connecting(path, Client) as connect:
        yield connect


# Pages


async def test_rules_are_counted_anew_when_one_changes(connect: Connect, actors: Actors) -> None:
    client = await connect()
    for state in (RuleState.ACTIVE, RuleState.WAITING, RuleState.WAITING, RuleState.ACTIVE):
        actors.rules = (view(state),)
        found = samples((await client.get("/metrics")).text, Format.PROMETHEUS)
        assert {each: value(found, "mcr_rules", state=each) for each in RuleState if each in (state, "active")} == (
            {RuleState.ACTIVE: 0, state: 1}
        )


async def test_pages_come_one_after_the_other_on_one_connection(connect: Connect) -> None:
    client = await connect()
    for accept, chosen in (("", Format.PROMETHEUS), ("application/openmetrics-text", Format.OPEN_METRICS)):
        for target in ("/metrics", "/metrics/rules", "/metrics/rules?rule=tv", "/metrics/rules?rule=news"):
            response = await client.get(target, Accept=accept)
            assert (response.status, response.headers["content-type"]) == (200, chosen.value)
            found = samples(response.text, chosen)
            if target == "/metrics":
                assert value(found, "mcr_rules", state="active") == 1
            else:
                assert value(found, "mcr_rule_packets_total", rule="tv") == 5
                assert value(found, "mcr_rule_state", rule="tv", state="active") == 1


async def test_head_has_the_headers_of_get_and_no_body(connect: Connect) -> None:
    client = await connect()
    response = await client.get("/metrics/rules")
    head = await client.get("/metrics/rules", method="HEAD")
    assert (head.status, head.headers, head.body) == (200, response.headers, b"")
    assert int(head.headers["content-length"]) == len(response.body) > 0


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ("/status", 404, "pages: /, /metrics, "),
        ("/live?rule=tv", 400, "/live does not take rule"),
        ("/metrics/", 404, "there is no page /metrics/"),
        ("/metrics/rules?rule=x%0A", 404, "No rule has the id or name 'x\\n'\nhint: "),
        ("/metrics/rules?rule=tv&rule=tv", 400, "does not take rule='tv'&rule='tv'"),
        ("/metrics?rule=tv", 400, "/metrics does not take rule"),
        ("/healthz?rules=all", 400, "/healthz does not take rules='all'"),
        ("/metrics?x", 400, "NAME=VALUE"),
        ("/metrics?" + "&".join("x=1" for _ in range(99)), 400, "NAME=VALUE"),
        ("http://[/metrics", 400, "NAME=VALUE"),
    ],
)
async def test_what_is_not_there_is_told_with_what_is(connect: Connect, target: str, status: int, says: str) -> None:
    client = await connect()
    response = await client.get(target)
    assert response.status == status
    assert says in response.text
    assert (await client.get("/healthz")).status == 200


async def test_health_is_that_workers_run_and_if_asked_so_that_rules_are_active(
    connect: Connect, actors: Actors
) -> None:
    client = await connect()
    actors.rules = tuple(view(RuleState.WAITING, f"reason {number}") for number in range(30))
    assert (await client.get("/healthz")).text == "ok\n"
    response = await client.get("/healthz?rules=active")
    assert response.status == 503
    assert response.text.splitlines()[0] == "rule tv (news) is waiting: reason 0"
    assert response.text.splitlines()[-1] == "and 10 more"
    actors.rules = (view(RuleState.ACTIVE),)
    assert (await client.get("/healthz?rules=active")).text == "ok\n"
    actors.worker = WorkerState.WAITING
    response = await client.get("/healthz")
    assert (response.status, response.text) == (503, "no worker runs\nworker 0: 2026-01-01T12:00:00Z killed\n")


async def test_an_actor_that_does_not_answer_is_not_well(
    connect: Connect, actors: Actors, autojump_clock: trio.testing.MockClock
) -> None:
    client = await connect()
    actors.gate = trio.Event()
    assert (await client.get("/healthz")).text == f"mcrd has not answered within {PATIENCE:.0f} s\n"


# The status page


@attrs.define
class Looker:
    """Somebody who looks at the status page."""

    client: Client
    _data: bytes = b""

    @classmethod
    async def at(cls, client: Client) -> "Looker":
        """Ask for what the page shows live."""
        request = h11.Request(method="GET", target="/live", headers=[("Host", "x")])
        await client.stream.send_all(client.http.send(request) + client.http.send(h11.EndOfMessage()))
        return cls(client)

    async def next(self) -> str | None:
        """What the page shows next; None if nothing more comes."""
        while b"\n\n" not in self._data:
            match self.client.http.next_event():
                case h11.NEED_DATA:
                    received = await self.client.stream.receive_some()
                    if not received:
                        return None
                    self.client.http.receive_data(received)
                case h11.Response(headers=headers):
                    assert (b"content-type", b"text/event-stream") in headers
                    assert (b"x-accel-buffering", b"no") in headers, "a proxy in front passes each event on at once"
                case h11.Data(data=data):
                    self._data += data
                case other:
                    pytest.fail(f"{other}")
        event, _, self._data = self._data.partition(b"\n\n")
        return event.decode().removeprefix("data: ")


async def test_status_page_is_a_document_that_allows_its_own_script_only(connect: Connect) -> None:
    response = await (await connect()).get("/")
    assert (response.status, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]
    assert "1 rule, all active." in response.text
    assert int(response.headers["content-length"]) == len(response.body)


async def test_status_goes_on_live_once_for_everybody_who_looks(
    connect: Connect, actors: Actors, autojump_clock: trio.testing.MockClock
) -> None:
    looking = [await Looker.at(await connect()) for _ in range(3)]
    for number in (1, 2, 3):
        shown = {await each.next() or "" for each in looking}
        assert all(f"<small>{number} received</small>" in each for each in shown)
        assert actors.reads == number
        assert trio.current_time() == pytest.approx(autojump_clock.current_time())
        actors.rules = (view(RuleState.WAITING, f"reason {number}"),)
    assert all("reason 2" in each for each in shown)


async def test_who_leaves_or_reads_nothing_is_followed_no_more(
    connect: Connect, actors: Actors, serving: MetricsServer, autojump_clock: trio.testing.MockClock
) -> None:
    """So its place is free, and nothing is put together for nobody."""
    leaves, stays = await Looker.at(await connect()), await Looker.at(await connect())
    await leaves.next()
    await leaves.client.stream.aclose()
    actors.rules = (view(RuleState.WAITING, "x" * 10_000_000),)
    await stays.next()  # and reads no more
    await trio.sleep(connection.SEND_SECONDS + 10)
    reads = actors.reads
    await trio.sleep(100)
    assert actors.reads == reads


async def test_head_of_the_live_page_ends(connect: Connect) -> None:
    client = await connect()
    assert (await client.get("/live", method="HEAD")).body == b""
    assert (await client.get("/healthz")).status == 200


async def test_who_looks_makes_room_for_others(connect: Connect) -> None:
    first = await Looker.at(await connect())
    await first.next()
    for _ in range(server.MAX_CLIENTS_OF_A_PEER - 1):
        await (await connect()).get("/healthz")
    assert (await (await connect()).get("/healthz")).status == 200
    while await first.next() is not None:  # where a second has passed by then, the next state was sent
        pass


async def test_page_ends_with_mcrd(connect: Connect, actors: Actors, autojump_clock: trio.testing.MockClock) -> None:
    looker = await Looker.at(await connect())
    await looker.next()
    actors.failure = RuleNotFound("mcrd is stopping")
    assert await looker.next() is None


# Clients that misbehave


@pytest.mark.parametrize(
    ("sent", "first"),
    [
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"HTTP/1.1 405 "),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 405 "),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"HTTP/1.1 400 "),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /metrics\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50 + b"\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /" + b"x" * 9_000, b"HTTP/1.1 431 "),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 2_000, b"HTTP/1.1 431 "),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200 "),
    ],
)
async def test_what_is_no_good_request_is_told_and_the_connection_ends(
    connect: Connect, sent: bytes, first: bytes
) -> None:
    bad, other = await connect(), await connect()
    answered = await bad.raw(sent)
    assert answered.startswith(first)
    assert answered.count(b"HTTP/1.1 ") <= 1
    assert (await other.get("/healthz")).status == 200


async def test_requests_that_come_together_are_answered_in_order(connect: Connect) -> None:
    client = await connect()
    answered = await client.raw(SMALL + SMALL.replace(b"healthz", b"x") + SMALL.replace(b"1.1", b"1.0"))
    assert [each[:3] for each in answered.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


async def test_who_trickles_or_says_nothing_is_disconnected_and_disturbs_nobody(
    connect: Connect, autojump_clock: trio.testing.MockClock
) -> None:
    idle, slow, endless, other = [await connect() for _ in range(4)]
    started = trio.current_time()
    await slow.stream.send_all(SMALL[:-2])
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        while True:
            await endless.stream.send_all(b"GET / HTTP/1.1\r\n" if trio.current_time() == started else b"a: b\r\n")
            await trio.sleep(0.5)
            assert (await other.get("/healthz")).status == 200
    assert trio.current_time() - started < connection.REQUEST_SECONDS + 3
    assert await slow.is_disconnected()
    await trio.sleep(connection.IDLE_SECONDS / 2)
    assert (await other.get("/healthz")).status == 200
    await trio.sleep(connection.IDLE_SECONDS / 2)
    assert await idle.is_disconnected()
    assert (await other.get("/healthz")).status == 200


async def test_who_leaves_while_it_waits_costs_nothing(
    connect: Connect, actors: Actors, autojump_clock: trio.testing.MockClock
) -> None:
    first, leaver, last = [await connect() for _ in range(3)]
    actors.seconds = 0.1
    for each in (first, leaver, last):
        await each.stream.send_all(SMALL)
        await trio.testing.wait_all_tasks_blocked()
    leaver.stream.socket.close()
    assert (await last.response()).status == 200
    assert actors.listed == 2


async def test_who_asks_all_the_time_gets_a_share_and_no_more(
    connect: Connect, actors: Actors, autojump_clock: trio.testing.MockClock
) -> None:
    """A page takes a second. Three clients ask for a minute: 12 pages, and who waits too long is told so."""
    actors.seconds = 1
    statuses = []

    async def ask() -> None:
        client = await connect()
        while True:
            statuses.append((await client.get("/healthz")).status)

    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
    assert actors.listed == pytest.approx(60 * server.SHARE, abs=1)
    assert set(statuses) == {200, 503}


@pytest.fixture
def long_pages(actors: Actors) -> Pages:
    return LongPages(actors, actors, actors)


async def test_who_does_not_read_is_disconnected_and_what_it_holds_is_bounded(
    path: Path,
    long_pages: Pages,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "MAX_HELD", 25_000_000)
    peers = iter((1, 1, 2, 3))
    monkeypatch.setattr(server, "_peer", lambda _: next(peers))
    await serve(path, long_pages, nursery)
    sleeper, same, other, third = [Client(await trio.open_unix_socket(str(path))) for _ in range(4)]
    await sleeper.stream.send_all(SMALL)
    await trio.sleep(0.1)
    assert (await same.get("/")).status == 503  # half of it for one peer
    await other.stream.send_all(SMALL)
    await trio.sleep(0.1)
    assert (await third.get("/")).status == 503
    await trio.sleep(connection.SEND_SECONDS)
    for _ in range(2):
        assert len((await same.get("/")).body) == 10_000_000
    with pytest.raises(trio.BrokenResourceError):
        await sleeper.stream.send_all(SMALL)
    for each in (sleeper, same, other, third):
        each.stream.socket.close()


class Read(list[bytes]):
    """A body that counts its pieces that are asked for."""

    taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for each in super().__iter__():
            self.taken += 1
            yield each


async def test_a_long_answer_is_copied_no_faster_than_it_is_read(
    path: Path, actors: Actors, pages: Pages, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = Read([bytes(100_000)] * 100)

    async def get(_target: str, _accept: str) -> Answer:
        body.taken = 0
        return Answer(HTTPStatus.OK, body)

    monkeypatch.setattr(Pages, "get", lambda _self, *arguments: get(*arguments))
    monkeypatch.setattr(Answer, "size", 10_000_000)
    await serve(path, pages, nursery)
    client = Client(await trio.open_unix_socket(str(path)))
    await client.stream.send_all(SMALL)
    with trio.fail_after(5):
        while not body.taken:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert 0 < body.taken < 50
    client.stream.socket.close()


async def test_a_flood_of_connections_leaves_room_for_a_scraper(
    connect: Connect, actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one peer, or of many: those that have been idle the longest leave, and who is being answered stays."""
    numbers = iter(range(10_000))
    busy = await connect()
    await busy.get("/healthz")
    actors.gate = trio.Event()
    await busy.stream.send_all(SMALL)
    await trio.testing.wait_all_tasks_blocked()
    flood = [await connect() for _ in range(2 * server.MAX_CLIENTS_OF_A_PEER)]
    scraper = await connect()
    await trio.testing.wait_all_tasks_blocked()
    assert await flood[0].is_disconnected()
    actors.gate.set()
    assert (await busy.response()).status == 200
    assert (await scraper.get("/healthz")).status == 200
    monkeypatch.setattr(server, "_peer", lambda _: next(numbers))
    flood = [await connect() for _ in range(2 * server.MAX_CLIENTS)]
    await trio.testing.wait_all_tasks_blocked()
    assert (await (await connect()).get("/healthz")).status == 200
    assert await flood[0].is_disconnected()


# Its end


async def test_a_bug_in_an_actor_ends_the_server(path: Path, actors: Actors, pages: Pages) -> None:
    actors.failure = ZeroDivisionError()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await serve(path, pages, nursery)
            async with await trio.open_unix_socket(str(path)) as stream:
                await Client(stream).raw(SMALL)
    assert not path.exists()


async def test_stop_closes_everything_at_once(
    path: Path, connect: Connect, actors: Actors, serving: MetricsServer
) -> None:
    actors.gate = trio.Event()
    idle, busy = await connect(), await connect()
    await busy.stream.send_all(SMALL)
    await trio.testing.wait_all_tasks_blocked()
    await serving.stop()
    assert not path.exists()
    assert await idle.is_disconnected()
    assert await busy.is_disconnected()
