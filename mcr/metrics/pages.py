"""The pages, by their paths: what is asked of the actors for each, and what is made of it."""

import math
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import parse_qs, urlsplit

import attrs
import trio

from mcr.errors import McrError, RuleNotFound
from mcr.metrics.exposition import Format
from mcr.metrics.rules import RulesPage, one_rule
from mcr.metrics.status import POLICY, Status, content, event, page
from mcr.metrics.totals import totals_page
from mcr.model.rule import RuleState, RuleView
from mcr.model.worker import WorkerState, WorkerView
from mcr.process.garbage import seek_later
from mcr.stats.moment import Moment

PAGES: Final = "pages: /, /metrics, /metrics/rules, /metrics/rules?rule=ID, /healthz, /healthz?rules=active"

STATUS_SECONDS: Final = 1.0
"""Between two states that the status page shows; whoever looks in between sees the last one."""

PATIENCE: Final = 2.0
"""Seconds for actors to answer; one that does not is not well."""

_TEXT = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_EVENTS = "text/event-stream"
_UNHELD = (("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"))  # nginx waits for 4 KiB, unless told otherwise
_MOST_NAMED = 20  # rules that are not active, by name
_MOST_PARAMETERS = 4
_MANY_RULES = 200  # beyond that, others get their turn while the status page is put together


class Rules(Protocol):
    """The owner of the rules."""

    async def list(self) -> tuple[RuleView, ...]:
        """Every rule."""

    async def find(self, rule: str) -> RuleView:
        """One, by its id or its name."""


class Workers(Protocol):
    """The owner of the worker processes."""

    async def describe(self) -> tuple[WorkerView, ...]:
        """Every worker."""


class Statistics(Protocol):
    """The owner of the counters."""

    async def moment(self) -> Moment:
        """All counters, as of now."""


Following = Callable[[], Awaitable[bytes]]
"""What comes next in an answer without an end."""


@attrs.frozen
class Answer:
    """An answer to a request.

    Attributes:
        following: gives what comes after the body, one piece after the other, as long as the client stays.
    """

    status: HTTPStatus
    body: Sequence[bytes]
    media_type: str = _TEXT
    headers: Sequence[tuple[str, str]] = ()
    following: Following | None = None

    @classmethod
    def of(cls, status: HTTPStatus, *lines: str) -> "Answer":
        """One for people."""
        return cls(status, ["".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")])

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.body))


@attrs.define
class Pages:
    """All of them."""

    _rules: Rules
    _workers: Workers
    _stats: Statistics
    _started: float = attrs.field(factory=time.time, init=False)
    _rules_page: RulesPage = attrs.field(factory=RulesPage, init=False)
    _counted: tuple[RuleView, ...] = attrs.field(default=(), init=False)
    _states: Mapping[RuleState, int] = attrs.field(factory=Counter, init=False)
    _shown: str = attrs.field(default="", init=False)
    _shown_until: float = attrs.field(default=-math.inf, init=False)

    async def get(self, target: str, accept: str) -> Answer:
        """Answer a GET. One at a time.

        Args:
            target: path and query.
            accept: the header of that name.
        """
        try:
            parts = urlsplit(target)
            query = parse_qs(
                parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), max_num_fields=_MOST_PARAMETERS
            )
        except ValueError:
            return Answer.of(HTTPStatus.BAD_REQUEST, "Error: what follows the ? is not NAME=VALUE", PAGES)
        try:
            return await self._answer(parts.path, query, Format.chosen(accept))
        except McrError as error:
            missing = isinstance(error, RuleNotFound)
            status = HTTPStatus.NOT_FOUND if missing else HTTPStatus.SERVICE_UNAVAILABLE
            return Answer.of(status, f"Error: {error.message}", *(f"hint: {hint}" for hint in error.hints))

    async def _answer(self, path: str, query: dict[str, list[str]], chosen: Format) -> Answer:
        match path, [*query.items()]:
            case "/", []:
                document = page(socket.gethostname(), await self._content())
                return Answer(HTTPStatus.OK, [document], _HTML, [("Content-Security-Policy", POLICY)])
            case "/live", []:
                return Answer(HTTPStatus.OK, [await self._event()], _EVENTS, _UNHELD, self._event)
            case "/metrics", []:
                body = await self._totals(chosen)
            case "/metrics/rules", []:
                body = await self._all_rules(chosen)
            case "/metrics/rules", [("rule", [rule])]:
                body = await self._one_rule(rule, chosen)
            case "/healthz", [] | [("rules", ["active"])]:
                return await self._health(active=bool(query))
            case "/" | "/live" | "/metrics" | "/metrics/rules" | "/healthz", _:
                return Answer.of(HTTPStatus.BAD_REQUEST, f"Error: {path} does not take {_shown(query)}", PAGES)
            case _:
                return Answer.of(HTTPStatus.NOT_FOUND, f"Error: there is no page {path}", PAGES)
        return Answer(HTTPStatus.OK, body, chosen.value)

    async def _event(self) -> bytes:
        return event(await self._content())

    async def _content(self) -> str:
        """What the status page shows. It is put together once for everybody who looks."""
        if not self._shown or trio.current_time() >= self._shown_until:
            moment, rules, workers = (
                await self._stats.moment(),
                await self._rules.list(),
                await self._workers.describe(),
            )
            show = partial(_show, self._started, moment, rules, workers)
            self._shown = await trio.to_thread.run_sync(show) if len(rules) > _MANY_RULES else show()
            self._shown_until = trio.current_time() + STATUS_SECONDS
        return self._shown

    async def _totals(self, chosen: Format) -> list[bytes]:
        moment, states = await self._stats.moment(), self._count(await self._rules.list())
        return totals_page(moment.stats, await self._workers.describe(), states, self._started, chosen)

    def _count(self, rules: tuple[RuleView, ...]) -> Mapping[RuleState, int]:
        """Rules in each state. While none changes, many are the same tuple."""
        if rules is not self._counted:
            self._counted, self._states = rules, Counter(each.state for each in rules)
        return self._states

    async def _all_rules(self, chosen: Format) -> list[bytes]:
        states = {each.rule_id: each.state for each in await self._rules.list()}
        moment = await self._stats.moment()
        readings = moment.now, moment.rules, states, chosen, moment.health
        return await trio.to_thread.run_sync(self._rules_page.make, *readings)

    async def _one_rule(self, rule: str, chosen: Format) -> list[bytes]:
        view, moment = await self._rules.find(rule), await self._stats.moment()
        placed = tuple(each for each in moment.rules if each.rule.rule_id == view.rule_id)
        only = attrs.evolve(moment, rules=placed)
        return one_rule(moment.now, placed, {view.rule_id: view.state}, chosen, only.health)

    async def _health(self, *, active: bool) -> Answer:
        """Whether mcrd does its work; and, if asked so, whether every rule is active."""
        with trio.move_on_after(PATIENCE):
            workers, rules = await self._workers.describe(), await self._rules.list()
            ill = _fault_of(workers) or (_faults_of(rules) if active else [])
            return Answer.of(HTTPStatus.SERVICE_UNAVAILABLE, *ill) if ill else Answer.of(HTTPStatus.OK, "ok")
        return Answer.of(HTTPStatus.SERVICE_UNAVAILABLE, f"mcrd has not answered within {PATIENCE:.0f} s")


def _show(started: float, moment: Moment, rules: tuple[RuleView, ...], workers: tuple[WorkerView, ...]) -> str:
    """What the status page shows. Counters of single rules are made here, and freed, as that takes long, too."""
    with seek_later():
        return _content(started, moment, rules, workers)


def _content(started: float, moment: Moment, rules: tuple[RuleView, ...], workers: tuple[WorkerView, ...]) -> str:
    stats = attrs.evolve(moment.stats, rules=moment.of_rules())
    return content(Status(socket.gethostname(), started, stats, rules, workers))


def _shown(query: dict[str, list[str]]) -> str:
    return "&".join(f"{name}={value!r}" for name, values in query.items() for value in values)


def _fault_of(workers: Sequence[WorkerView]) -> list[str]:
    if any(each.state is WorkerState.RUNNING for each in workers):
        return []
    return ["no worker runs", *(f"worker {each.worker_id}: {each.last_exit}" for each in workers if each.last_exit)]


def _faults_of(rules: Sequence[RuleView]) -> list[str]:
    failing = [each for each in rules if each.state is not RuleState.ACTIVE]
    lines = [
        f"rule {each.rule_id}{f' ({each.name})' if each.name else ''} is {each.state}: {each.reason}"
        for each in failing[:_MOST_NAMED]
    ]
    more = len(failing) - len(lines)
    return [*lines, f"and {more:,} more"] if more else lines
