"""The actors behind the API, as tests of its methods play them."""

import json
from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest

from counted import Counts, moment
from mcr.actors.config_files import Application, TrialView
from mcr.config.difference import RuleDifference
from mcr.control.methods import Api
from mcr.control.wire import encode_result
from mcr.errors import InvalidParams, LimitReached, McrError, RuleNotFound, UnconfirmedApply
from mcr.model.edit import RuleEdit
from mcr.model.flow import Address, Input
from mcr.model.log import Facility, Level, LogLevels
from mcr.model.rule import Output, OutputView, Rule, RuleState, RuleView
from mcr.model.selection import Selection
from mcr.model.setting import SettingView
from mcr.model.stats import (
    EgressStats,
    IngressStats,
    Stats,
)
from mcr.model.worker import WorkerState, WorkerView
from mcr.stats.moment import Moment

RULE: dict[str, Any] = {
    "input": {"interface": "eth0", "group": "239.1.1.1", "port": 5000},
    "outputs": [{"group": "239.2.2.2", "port": 5001, "interface": "eth1", "gso": "auto"}],
}
ACTIVE_OUTPUTS = {"outputs": [RULE["outputs"][0] | {"state": "active", "reason": ""}]}
VIEW = (
    RULE
    | ACTIVE_OUTPUTS
    | {
        "rule_id": "dcfca9531161",
        "name": None,
        "state": "pending",
        "reason": "soon",
        "warnings": ["odd"],
        "origin": "runtime",
        "path": "kernel",
        "path_reason": "",
        "health": "none",
    }
)
INFO = dict.fromkeys(["supervisor", "rules", "control", "stats", "network", "worker", "ingress", "egress"], "info")


SHOWN = RuleView(
    "x",
    "n",
    Input("eth0", IPv4Address("239.1.1.1"), 5000),
    (OutputView(IPv4Address("239.2.2.2"), 5001, "eth1"),),
    RuleState.ACTIVE,
)
SHOWN_VALUES = (
    RULE
    | ACTIVE_OUTPUTS
    | {
        "rule_id": "x",
        "name": "n",
        "state": "active",
        "reason": "",
        "warnings": [],
        "origin": "runtime",
        "path": "kernel",
        "path_reason": "",
        "health": "none",
    }
)


def applied(*, dry_run: bool, confirm: int | None, reload: bool) -> Application:
    """What comes of reading the configuration files again; unless nothing is changed by it, a rule is gone."""
    if reload:
        raise UnconfirmedApply("it was taken back")
    source, sent = Input("eth0", IPv4Address("239.1.1.1"), 5000), Output(IPv4Address("239.2.2.2"), 5001, "eth1")
    cam = Rule("dcfca9531161", source, (sent,), "cam")
    gone = () if dry_run else (RuleDifference(cam.rule_id, "removed", cam, None),)
    trial = TrialView("waiting", "2026-01-01T12:02:00Z", float(confirm)) if confirm else None
    return Application(("/etc/mcr/mcr.toml",), (), gone, trial=trial)


@attrs.define
class Actors:
    """Every actor: answers, and remembers what it was asked."""

    added: tuple[Rule, ...] = ()
    removed: Selection | None = None
    changed: tuple[str | None, str | None, RuleEdit, bool] | None = None
    failure: Exception | None = None
    levels: LogLevels = attrs.field(factory=LogLevels)
    waits: bool = False
    confirmed: int = 0
    differences: tuple[RuleDifference, ...] = ()
    counted: tuple[Counts, ...] = ()
    stats: Stats = attrs.field(factory=lambda: Stats(IngressStats(), EgressStats()))
    refusing: dict[str, tuple[Address, ...]] = attrs.field(factory=dict)

    async def add(self, rules: tuple[Rule, ...], *, wait: bool) -> tuple[RuleView, ...]:
        self.waits = wait
        if self.failure:
            raise self.failure
        self.added = rules
        return await self.list()

    async def ensure(self, rules: tuple[Rule, ...], *, wait: bool) -> tuple[tuple[RuleView, ...], frozenset[str]]:
        return await self.add(rules, wait=wait), frozenset(rule.rule_id for rule in rules[1:])

    async def find(self, rule: str) -> RuleView:
        for view in await self.list():
            if rule in (view.rule_id, view.name):
                return view
        raise RuleNotFound(f"No rule has the id or name {rule!r}")

    async def change(self, *, rule_id: str | None, name: str | None, edit: RuleEdit, wait: bool) -> RuleView:
        self.changed = rule_id, name, edit, wait
        return SHOWN

    async def remove(self, selection: Selection) -> tuple[RuleView, ...]:
        self.removed = selection
        return (SHOWN,)

    async def list(self) -> tuple[RuleView, ...]:
        return tuple(
            RuleView(
                r.rule_id, r.name, r.input, tuple(map(OutputView.of, r.outputs)), RuleState.PENDING, "soon", ("odd",)
            )
            for r in self.added
        )

    def setting(self) -> SettingView:
        return SettingView("--config", "none", "none", "default", "configuration files", "none")

    def refused(self) -> dict[str, tuple[Address, ...]]:
        return self.refusing

    def mark(self, rules: tuple[RuleView, ...]) -> tuple[RuleView, ...]:
        return rules

    async def confirm(self) -> None:
        self.confirmed += 1

    async def apply(self, *, dry_run: bool = False, confirm: int | None = None, reload: bool = False) -> Application:
        done = applied(dry_run=dry_run, confirm=confirm, reload=reload)
        return attrs.evolve(done, differences=self.differences) if self.differences else done

    async def describe(self) -> tuple[WorkerView, ...]:
        return (WorkerView(0, None, 1, ("eth0",), WorkerState.WAITING, 2, 3),)

    async def moment(self) -> Moment:
        return moment(self.stats, self.added, self.counted)

    async def set_global(self, level: Level) -> LogLevels:
        self.levels = self.levels.with_global(level)
        return self.levels

    async def set_facility(self, facility: Facility, level: Level) -> LogLevels:
        self.levels = self.levels.with_facility(facility, level)
        return self.levels


async def call(api: Api, method: str, **params: Any) -> Any:
    """Call; the result as the client reads it."""
    return json.loads(encode_result(1, await api.call(method, params)))["result"]


async def refusal(api: Api, method: str, **params: Any) -> McrError:
    with pytest.raises((InvalidParams, LimitReached)) as caught:
        await api.call(method, params)
    return caught.value
