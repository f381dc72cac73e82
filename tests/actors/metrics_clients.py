"""What a server of metrics needs: actors that are played by the test, and clients of it."""

from contextlib import ExitStack
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path

import attrs
import h11
import trio
import trio.testing

from mcr.errors import RuleNotFound
from mcr.metrics.listener import metrics_listener
from mcr.metrics.pages import Answer, Pages
from mcr.metrics.server import MetricsServer, run_metrics_server
from mcr.model.endpoint import UnixEndpoint
from mcr.model.flow import Input
from mcr.model.rule import Output, OutputView, Rule, RuleState, RuleView
from mcr.model.stats import EgressStats, IngressStats, Stats
from mcr.model.worker import WorkerState, WorkerView
from mcr.relay.placement import OutputSlot, PlacedRule
from mcr.shm.segment import Segment
from mcr.stats.moment import Moment
from mcr.stats.readings import Reading

RULE = Rule(
    "tv", Input("eth0", ip_address("239.1.1.1"), 5000), (Output(ip_address("239.9.9.1"), 6000, "eth1"),), "news"
)
PLACED = PlacedRule(RULE, 7, 0, (OutputSlot(0, 7),), (None,), (None,))
SMALL = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def view(state: RuleState, reason: str = "") -> RuleView:
    return RuleView(RULE.rule_id, RULE.name, RULE.input, tuple(map(OutputView.of, RULE.outputs)), state, reason)


@attrs.define
class Actors:
    """Every actor behind the pages. While `gate` is shut, `list` does not answer."""

    gate: trio.Event = attrs.field(factory=trio.Event)
    failure: Exception | None = None
    rules: tuple[RuleView, ...] = (view(RuleState.ACTIVE),)
    worker: WorkerState = WorkerState.RUNNING
    listed: int = 0
    reads: int = 0
    seconds: float = 0

    async def list(self) -> tuple[RuleView, ...]:
        self.listed += 1
        await self.gate.wait()
        await trio.sleep(self.seconds)
        if self.failure:
            raise self.failure
        return self.rules

    async def find(self, rule: str) -> RuleView:
        for each in self.rules:
            if rule in (each.rule_id, each.name):
                return each
        raise RuleNotFound(f"No rule has the id or name {rule!r}", "list them: mcrctl list")

    async def describe(self) -> tuple[WorkerView, ...]:
        return (WorkerView(0, 42, 0, (), self.worker, 1, 1, "2026-01-01T12:00:00Z killed"),)

    async def moment(self) -> Moment:
        self.reads += 1
        if self.failure:
            raise self.failure
        with Segment(0) as segment:
            segment.shared.rules[0].tag, segment.shared.rules[0].matched = 7, 5
            now = Reading(0.0, (segment.read(1, 1),), 0)
        return Moment(Stats(IngressStats(recv=self.reads), EgressStats()), now, now, (PLACED,), {}, {})


class LongPages(Pages):
    """More than any buffer of a socket takes."""

    async def get(self, _target: str, _accept: str) -> Answer:
        return Answer(HTTPStatus.OK, [b"x" * 1_000_000] * 10)


@attrs.frozen
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Client:
    """A client that speaks HTTP, or bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def get(self, target: str, method: str = "GET", **headers: str) -> Response:
        request = h11.Request(method=method, target=target, headers=[("Host", "x"), *headers.items()])
        await self.stream.send_all(self.http.send(request) + self.http.send(h11.EndOfMessage()))
        response = await self.response()
        self.http.start_next_cycle()
        return response

    async def response(self) -> Response:
        body = bytearray()
        head: h11.Response | None = None
        with trio.fail_after(200):
            while True:
                match self.http.next_event():
                    case h11.NEED_DATA:
                        self.http.receive_data(await self.stream.receive_some())
                    case h11.Response() as response:
                        head = response
                    case h11.Data(data=data):
                        body += data
                    case h11.EndOfMessage():
                        assert head is not None
                        named = {name.decode(): each.decode() for name, each in head.headers}
                        return Response(head.status_code, named, bytes(body))

    async def raw(self, data: bytes) -> bytes:
        """Send bytes; everything that comes until the end of the stream."""
        with trio.fail_after(200):
            try:
                await self.stream.send_all(data)
                return b"".join([each async for each in self.stream])
            except trio.BrokenResourceError:
                return b""

    async def is_disconnected(self) -> bool:
        with trio.fail_after(1):
            try:
                return not await self.stream.receive_some()
            except trio.BrokenResourceError:
                return True


async def serve(path: Path, pages: Pages, nursery: trio.Nursery) -> MetricsServer:
    closing = ExitStack()
    listener = closing.enter_context(metrics_listener(UnixEndpoint(str(path))))
    handle: MetricsServer = await nursery.start(run_metrics_server, listener, closing, pages)
    return handle
