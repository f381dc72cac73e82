"""docs/control-protocol.md is true."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from control_clients import Actors, Client, long_reply, serve
from counted import moment
from mcr import errors
from mcr.control.server import ControlServer
from mcr.errors import McrError, RuleNotFound, UsageError
from mcr.model.edit import RuleEdit
from mcr.model.finding import Finding, Verdict
from mcr.model.rule import Output, OutputView, Rule, RuleState, RuleView
from mcr.model.selection import Selection
from mcr.model.stats import (
    EgressStats,
    IngressStats,
    InterfaceStats,
    Stats,
    WorkerStats,
)
from mcr.model.worker import WorkerState, WorkerView
from mcr.shm.segment import OutputCounters
from mcr.stats.moment import Moment

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


def plain(output: Output) -> Output:
    return Output(output.group, output.port, output.interface, output.gso)


@attrs.define
class RelayOfOneRule(Actors):
    """Actors that answer as the documentation has it."""

    async def add(self, rules: tuple[Rule, ...], *, wait: bool = False) -> tuple[RuleView, ...]:  # noqa: ARG002 - as the actor
        self.rules = tuple(
            RuleView(r.rule_id, r.name, r.input, tuple(map(OutputView.of, r.outputs)), RuleState.ACTIVE) for r in rules
        )
        return self.rules

    async def find(self, rule: str) -> RuleView:
        assert rule == self.rules[0].name
        return self.rules[0]

    async def change(self, *, rule_id: str | None, name: str | None, edit: RuleEdit, wait: bool) -> RuleView:
        assert (rule_id, wait) == (None, False)
        assert name == self.rules[0].name
        (before,) = self.rules
        rule = edit.of(Rule(before.rule_id, before.input, tuple(map(plain, before.outputs)), before.name))
        return attrs.evolve(before, name=rule.name, outputs=tuple(map(OutputView.of, rule.outputs)))

    async def remove(self, selection: Selection) -> tuple[RuleView, ...]:
        if selection.rule_ids:
            raise RuleNotFound(f"No rule has the id {selection.rule_ids[0]!r}", "see the rules: mcrctl list")
        assert selection.names in ((self.rules[0].name,), ("studio-*",))
        return self.rules

    async def why(self, rule: str) -> tuple[Finding, ...]:
        assert rule == self.rules[0].name
        return (Finding("input_up", Verdict.FAULT, "eth0 is down", "ip link show dev eth0", "ip link set dev eth0 up"),)

    async def describe(self) -> tuple[WorkerView, ...]:
        return (WorkerView(0, 1, 0, ("eth0",), WorkerState.RUNNING, 0, 1, "x"),)

    async def moment(self) -> Moment:
        (shown,) = self.rules
        rule = Rule(shown.rule_id, shown.input, tuple(map(plain, shown.outputs)), shown.name)
        failed = OutputCounters(1, 0, 1, 0, 0, 8_500_000 << 16 | errno.ENETDOWN)
        rest = WorkerStats(*[0] * 12), InterfaceStats("eth0", 0, 0)
        stats = Stats(IngressStats(), EgressStats(), workers=rest[:1], interfaces=rest[1:])
        return moment(stats, [rule], [(1, [failed])], {1: 1.6})


async def test_every_documented_request_gets_the_documented_reply(path: Path, nursery: trio.Nursery) -> None:
    actors = RelayOfOneRule()
    actors.gate.set()
    await serve(path, actors, nursery)
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
    path: Path, server: ControlServer, actors: Actors, capsys: pytest.CaptureFixture[str]
) -> None:
    actors.rules = long_reply()[:1]
    actors.gate.set()
    (program,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    program = program.replace("/run/mcr/control.sock", str(path))
    await trio.to_thread.run_sync(exec, program, {})
    assert capsys.readouterr().out == "id active\n"
