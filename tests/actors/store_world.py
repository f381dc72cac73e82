"""The neighbours of a rule store, played by a test: workers, the machine's network, the file."""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mcr.actors.rule_store import RuleStore, run_rule_store
from mcr.config.document import read_document
from mcr.config.file import FileRule, Place
from mcr.errors import McrError, SystemFault
from mcr.model.flow import Input
from mcr.model.rule import NO_RULES, Output, Rule, RuleChange, automatic_rule_id
from mcr.net import network
from mcr.rules.conditions import Attachment, Standing
from mcr.rules.rule_table import Change, Keep

NO_SPACE = SystemFault("Rules can't be saved in /var/lib/mcr", 28)
MORE = Output(ip_address("239.9.9.8"), 6000, "eth2")
_DOCUMENT = read_document("[[rule]]\n" * 20)


class Workers:
    """Applies everything, or fails; acknowledges at once, or when told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.changes: list[RuleChange] = []
        self.error: McrError | None = None
        self.acknowledges = True
        self.stale = False
        self.inputs: dict[str, Attachment] = {}
        self.outputs: dict[str, Attachment] = {}

    async def apply(self, change: RuleChange) -> Standing:
        await trio.lowlevel.checkpoint()
        self.asked.append("apply")
        if self.error:
            raise self.error
        self.stale &= not change.renew
        before = self._stand()
        self.changes.append(change)
        return before

    async def settled(self, generation: int) -> int:
        self.asked.append("settled")
        newest = self.changes[-1].generation if self.changes else NO_RULES
        assert generation <= newest
        if not self.acknowledges:
            await trio.sleep_forever()
        return newest

    async def standing(self) -> Standing:
        await trio.lowlevel.checkpoint()
        self.asked.append("standing")
        return self._stand()

    def _stand(self) -> Standing:
        generation = self.changes[-1].generation if self.acknowledges and self.changes else 1
        return Standing(generation, self.inputs, self.outputs, stale=self.stale)


class Network:
    """A machine's network that changes when the test says so."""

    def __init__(self) -> None:
        self.now = network.Network(version=1)
        self.changes = trio.Event()

    async def snapshot(self) -> network.Network:
        await trio.lowlevel.checkpoint()
        return self.now

    async def changed(self, since: int) -> network.Network:
        while self.now.version <= since:
            await self.changes.wait()
        return self.now

    def change(self) -> None:
        """Add an interface."""
        self.become(links={1: network.Link(1, f"eth{self.now.version + 1}")})

    def become(self, **changes: Any) -> None:
        """Be another, and tell of it."""
        self.now = attrs.evolve(self.now, version=self.now.version + 1, **changes)
        self.changes.set()
        self.changes = trio.Event()


def rule(group: str = "239.1.1.1", port: int = 5000, name: str | None = None, rule_id: str | None = None) -> Rule:
    source = Input("eth0", ip_address(group), port)
    output = Output(ip_address("239.9.9.9"), 6000, "eth1")
    return Rule(rule_id or automatic_rule_id(source), source, (output,), name)


class File:
    """In place of `RuleFile`: a disk that is slow, or full, when the test says so."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules
        self.notices: list[str] = []
        self.path = Path("/var/lib/mcr/rules.sqlite")
        self.kept = ""
        self.owes_text = False
        self.writes: list[list[Change]] = []
        self.fault: McrError | None = None
        self.slow: trio.Event | None = None

    def write(self, changes: Iterable[Change]) -> None:
        if self.slow is not None:
            trio.from_thread.run(self.slow.wait)
        if self.fault:
            raise self.fault
        self.writes.append([*changes])
        for change in self.writes[-1]:
            if isinstance(change, Keep):
                self.kept = change.text


def stated(*rules: Rule) -> tuple[FileRule, ...]:
    """As a configuration file says them."""
    return tuple(FileRule(each, Place("mcr.toml", _DOCUMENT, ("rule", index))) for index, each in enumerate(rules))


def refuse(workers: Workers, those: Sequence[Rule], error: McrError) -> None:
    """Have changes that contain one of these refused."""
    given = workers.apply

    async def apply(change: RuleChange) -> Standing:
        if any(each in change.added + change.changed for each in those):
            raise error
        return await given(change)

    workers.apply = apply  # type: ignore[method-assign]


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def file() -> File:
    return File()


@pytest.fixture
async def store(nursery: trio.Nursery, workers: Workers, file: File) -> RuleStore:
    """One that saves its rules."""
    started: RuleStore = await nursery.start(run_rule_store, workers, Network(), file)
    return started
