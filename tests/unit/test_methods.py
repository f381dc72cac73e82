"""The methods: their parameters, their results, and the words for what is wrong with a request."""

import errno
import json
import os
import time
import tracemalloc
from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest

import mcr
from mcr.actors.config_files import Application
from mcr.config.difference import RuleDifference
from mcr.config.settings import Settings
from mcr.control.methods import Api
from mcr.errors import InvalidParams, LimitReached, McrError, MethodNotFound, RuleExists, RuleNotFound
from mcr.model.edit import RuleEdit
from mcr.model.flow import Input
from mcr.model.log import Facility, Level, LogLevels
from mcr.model.rule import Output, OutputView, Rule, RuleState, RuleView
from mcr.model.selection import Selection
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
    | {"rule_id": "x", "name": "n", "state": "active", "reason": "", "warnings": [], "origin": "runtime"}
)


@attrs.define
class Actors:
    """Every actor: answers, and remembers what it was asked."""

    added: tuple[Rule, ...] = ()
    removed: Selection | None = None
    changed: tuple[str | None, str | None, RuleEdit, bool] | None = None
    failure: Exception | None = None
    levels: LogLevels = attrs.field(factory=LogLevels)
    waits: bool = False
    stats: Stats = attrs.field(factory=lambda: Stats(IngressStats(), EgressStats()))

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

    async def apply(self, *, dry_run: bool = False) -> Application:
        cam = {
            "name": "cam",
            "input": {"interface": "eth0", "group": "239.1.1.1", "port": 5000},
            "outputs": ["239.2.2.2:5001:eth1"],
        }
        gone = () if dry_run else (RuleDifference("dcfca9531161", "removed", cam, None),)
        return Application(("/etc/mcr/mcr.toml",), (), gone)

    async def describe(self) -> tuple[WorkerView, ...]:
        return (WorkerView(0, None, 1, ("eth0",), WorkerState.WAITING, 2, 3),)

    async def read(self) -> Stats:
        return self.stats

    async def set_global(self, level: Level) -> LogLevels:
        self.levels = self.levels.with_global(level)
        return self.levels

    async def set_facility(self, facility: Facility, level: Level) -> LogLevels:
        self.levels = self.levels.with_facility(facility, level)
        return self.levels


@pytest.fixture
def actors() -> Actors:
    return Actors()


@pytest.fixture
def api(actors: Any) -> Api:
    return Api(actors, actors, actors, actors, actors, Settings("/run/mcr/control.sock", 1, LogLevels()), actors)


async def call(api: Api, method: str, **params: Any) -> Any:
    """Call, and prove that the result is made of nothing but what JSON knows."""
    result = await api.call(method, params)
    assert json.loads(json.dumps(result)) == result
    return result


async def refusal(api: Api, method: str, **params: Any) -> McrError:
    with pytest.raises((InvalidParams, LimitReached)) as caught:
        await api.call(method, params)
    return caught.value


# add


async def test_add_gives_the_rule_to_its_owner_with_its_automatic_id(api: Api, actors: Actors) -> None:
    assert await call(api, "add", rules=[RULE]) == [VIEW]
    assert actors.added == (
        Rule(
            "dcfca9531161",
            Input("eth0", IPv4Address("239.1.1.1"), 5000),
            (Output(IPv4Address("239.2.2.2"), 5001, "eth1"),),
        ),
    )


async def test_add_takes_an_id_and_a_name(api: Api) -> None:
    added = await call(api, "add", rules=[RULE | {"rule_id": "x", "name": "cam"}])
    assert added == [VIEW | {"rule_id": "x", "name": "cam"}]


async def test_add_takes_null_for_an_id_or_a_name_that_is_not_given(api: Api) -> None:
    assert await call(api, "add", rules=[RULE | {"rule_id": None, "name": None}]) == [VIEW]


async def test_what_the_owner_refuses_reaches_the_client(api: Api, actors: Actors) -> None:
    actors.failure = RuleExists("Rule already exists: x")
    with pytest.raises(RuleExists):
        await api.call("add", {"rules": [RULE]})


async def test_a_bug_passes_through(api: Api, actors: Actors) -> None:
    actors.failure = KeyError("bug")
    with pytest.raises(KeyError):
        await api.call("add", {"rules": [RULE]})


def edited(*path: Any, **members: Any) -> dict[str, Any]:
    """RULE with members of the object at the path replaced, or left out where the value is `...`."""
    rule: dict[str, Any] = json.loads(json.dumps(RULE))
    target = rule
    for step in path:
        target = target[step]
    target.update(members)
    for name in [name for name, value in target.items() if value is ...]:
        del target[name]
    return rule


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (..., "Missing parameter: rules"),
        ({}, "rules must be an array, not an object"),
        ("eth0", "rules must be an array, not a string"),
        (None, "rules must be an array, not null"),
        ([], "No rules to add"),
        ([1], "rules[0] must be an object, not a whole number"),
        ([RULE, edited(input=...)], "Missing parameter: rules[1].input"),
        ([RULE, edited(input=[])], "rules[1].input must be an object, not an array"),
        ([edited("input", port=...)], "Missing parameter: rules[0].input.port"),
        ([edited("input", port="5000")], "rules[0].input.port must be a whole number, not a string"),
        ([edited("input", port=True)], "rules[0].input.port must be a whole number, not a boolean"),
        ([edited("input", port=5.5)], "rules[0].input.port must be a whole number, not a fraction"),
        ([edited("input", group=5)], "rules[0].input.group must be a string, not a whole number"),
        ([edited("outputs", 0, interface=None)], "rules[0].outputs[0].interface must be a string, not null"),
        ([edited("outputs", 0, prot=1)], "Unknown parameter: rules[0].outputs[0].prot"),
        ([edited(nam="cam")], "Unknown parameter: rules[0].nam"),
        ([edited(rule_id=7)], "rules[0].rule_id must be a string, not a whole number"),
        ([edited(outputs="239.2.2.2:5001:eth1")], "rules[0].outputs must be an array, not a string"),
    ],
)
async def test_a_parameter_of_the_wrong_shape_is_named_by_its_path(api: Api, rules: Any, words: str) -> None:
    params = {} if rules is ... else {"rules": rules}
    assert (await refusal(api, "add", **params)).message == words


@pytest.mark.parametrize(
    ("rule", "words", "path"),
    [
        (edited("input", group="10.0.0.1"), "Invalid input group: '10.0.0.1' is not a multicast address", ".input"),
        (edited("input", group="x"), "Invalid input group: 'x' is not an IP address", ".input.group"),
        (edited("outputs", 0, group="x"), "Invalid output group: 'x' is not an IP address", ".outputs[0].group"),
        (edited("outputs", 0, port=0), "Invalid output port: 0 is not a port", ".outputs[0]"),
        (edited(outputs=[]), "The rule for 239.1.1.1:5000 on eth0 has no outputs", ""),
        (edited(name=""), "Invalid rule name: ''", ""),
    ],
)
async def test_a_wrong_value_is_told_with_its_path_if_there_are_several_rules(
    api: Api, rule: Any, words: str, path: str
) -> None:
    assert (await refusal(api, "add", rules=[rule])).message == words
    assert (await refusal(api, "add", rules=[RULE, rule])).message == f"{words} (rules[1]{path})"


async def test_a_wrong_value_keeps_its_hints(api: Api) -> None:
    error = await refusal(api, "add", rules=[edited("input", group="10.0.0.1")])
    assert error.hints == ("groups are 224.0.0.0 to 239.255.255.255",)


async def test_an_unknown_parameter_is_told_with_the_known_ones(api: Api) -> None:
    error = await refusal(api, "add", rules=[edited("outputs", 0, prot=1)])
    assert error.hints == ("parameters of rules[0].outputs[0]: group, port, interface, gso",)


async def test_all_faults_are_one_error(api: Api) -> None:
    error = await refusal(api, "add", rules=[edited("outputs", 0, port=..., prot=1), edited("input", group="x")])
    assert error.message == (
        "Missing parameter: rules[0].outputs[0].port; Unknown parameter: rules[0].outputs[0].prot; "
        "Invalid input group: 'x' is not an IP address (rules[1].input.group)"
    )


async def test_of_many_faults_the_first_are_told(api: Api) -> None:
    error = await refusal(api, "add", rules=[{}] * 100)
    assert error.message.endswith("Missing parameter: rules[1].input; and more faults")


HUGE = [
    pytest.param("ping", {str(n): n for n in range(1_000_000)}, id="unknown parameters"),
    pytest.param("add", {"rules": [1] * 1_000_000}, id="entries that are not rules"),
    pytest.param("add", {"rules": [{}] * 16_000}, id="rules without anything"),
    pytest.param("add", {"rules": [{"input": {}, "outputs": [1] * 1_000_000}]}, id="outputs"),
    pytest.param("add", {"rules": [RULE | {"outputs": RULE["outputs"] * 512}] * 16_000}, id="outputs of many rules"),
    pytest.param("add", {"rules": [RULE | {"name": "." * 10_000_000}]}, id="a name"),
    pytest.param("add", {"rules": [RULE | {"input": RULE["input"] | {"group": "." * 10_000_000}}]}, id="an address"),
    pytest.param("remove", {"rule_id": "x" * 10_000_000}, id="an id"),
    pytest.param("log_level.set", {"level": "x" * 10_000_000}, id="a level"),
    pytest.param("why", {"rule": [[]] * 1_000_000}, id="another type"),
]


@pytest.mark.parametrize(("method", "params"), HUGE)
async def test_what_is_huge_and_wrong_is_refused_at_once(api: Api, method: str, params: Any) -> None:
    """By its length, or after the first faults: in little time, with little memory, in a few words."""
    tracemalloc.start()
    try:
        before = time.perf_counter()
        with pytest.raises((InvalidParams, LimitReached)) as caught:
            await api.call(method, params)
        took = time.perf_counter() - before
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{took * 1_000:.0f} ms, {most / 1e6:.0f} MB: {caught.value}")
    assert len(caught.value.message) < 200
    assert took < 0.5  # tracing takes most of it
    assert most < 1e6


async def test_limits_are_told_with_the_place(api: Api) -> None:
    outputs = RULE["outputs"] * 513
    error = await refusal(api, "add", rules=[RULE, RULE | {"outputs": outputs}])
    assert isinstance(error, LimitReached)
    assert (error.message, *error.hints) == (
        "513 are too many (rules[1].outputs)",
        "a rule has at most 512 outputs",
    )


# remove


@pytest.mark.parametrize(
    ("params", "asked"),
    [
        ({"rule_id": "x*"}, Selection(("x*",), literal=True)),
        ({"name": "n*"}, Selection(names=("n*",), literal=True)),
    ],
)
async def test_remove_takes_an_id_or_a_name_and_returns_the_rule(
    api: Api, actors: Actors, params: dict[str, str], asked: Selection
) -> None:
    """As they are: neither is a pattern."""
    assert await call(api, "remove", **params) == SHOWN_VALUES
    assert actors.removed == asked


@pytest.mark.parametrize(
    ("params", "asked"),
    [
        ({"rule_ids": ["x", "y"], "names": ["n*"]}, Selection(("x", "y"), ("n*",))),
        ({"all": True}, Selection(all=True)),
    ],
)
async def test_remove_takes_several_and_returns_them(
    api: Api, actors: Actors, params: dict[str, Any], asked: Selection
) -> None:
    assert await call(api, "remove", **params) == [SHOWN_VALUES]
    assert actors.removed == asked


@pytest.mark.parametrize("params", [{"name": "n", "names": ["m"]}, {"all": True, "rule_ids": ["x"]}])
async def test_remove_takes_one_or_several_or_all(api: Api, actors: Actors, params: dict[str, Any]) -> None:
    assert (await refusal(api, "remove", **params)).message == "Give rule_ids and names, or all, or one rule_id or name"
    assert actors.removed is None


@pytest.mark.parametrize("params", [{}, {"rule_id": "x", "name": "n"}, {"rule_id": None}])
async def test_remove_takes_exactly_one_of_them(
    api: Api, actors: Actors, params: dict[str, None] | dict[str, str]
) -> None:
    assert (await refusal(api, "remove", **params)).message == "Give either rule_id or name"
    assert actors.removed is None


# change


async def test_change_takes_outputs_and_a_name(api: Api, actors: Actors) -> None:
    output = Output(IPv4Address("239.2.2.2"), 5001, "eth1")
    given = {"group": "239.2.2.2", "port": 5001, "interface": "eth1"}
    changed = await call(api, "change", name="n", add_outputs=[given], remove_outputs=[given], new_name="m")
    assert changed == SHOWN_VALUES
    edit = RuleEdit(add_outputs=(output,), remove_outputs=(output,), new_name="m")
    assert actors.changed == (None, "n", edit, False)


async def test_change_may_wait_for_interfaces(api: Api, actors: Actors) -> None:
    output = Output(IPv4Address("239.2.2.2"), 5001, "eth1", "off")
    await call(api, "change", rule_id="x", outputs=[RULE["outputs"][0] | {"gso": "off"}], wait=True)
    assert actors.changed == ("x", None, RuleEdit(outputs=(output,)), True)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"new_name": "m"}, "Give either rule_id or name"),
        ({"rule_id": "x"}, "Nothing to change"),
        (
            {"rule_id": "x", "outputs": [], "add_outputs": [RULE["outputs"][0]]},
            "Give either outputs, or add_outputs and remove_outputs",
        ),
        (
            {"rule_id": "x", "add_outputs": [{"group": "239.2.2.2", "port": "1", "interface": "eth1"}]},
            "add_outputs[0].port must be a whole number, not a string",
        ),
    ],
)
async def test_a_change_that_cannot_be_meant_is_refused(
    api: Api, actors: Actors, params: dict[str, Any], words: str
) -> None:
    assert (await refusal(api, "change", **params)).message == words
    assert actors.changed is None


# What is shown


async def test_list_and_stats_of_one_rule(api: Api, actors: Actors) -> None:
    await call(api, "add", rules=[RULE | {"name": "a"}, RULE | {"name": "b", "rule_id": "other"}])
    actors.stats = Stats(
        IngressStats(),
        EgressStats(),
        tuple(RuleStats(rule.rule_id, rule.name, 0, 0, 0, 0, 0.0, 0.0, ()) for rule in actors.added),
    )
    for which in ("b", "other"):
        (listed,) = await call(api, "list", rule=which)
        (read,) = (await call(api, "stats", rule=which))["rules"]
        assert listed["rule_id"] == read["rule_id"] == "other"
    for method in ("list", "stats"):
        with pytest.raises(RuleNotFound):
            await api.call(method, {"rule": "nothing"})


async def test_add_tells_which_rules_were_there(api: Api) -> None:
    added = await call(api, "add", rules=[RULE, RULE | {"rule_id": "other"}], idempotent=True)
    assert [rule["added"] for rule in added] == [True, False]


async def test_list_has_the_shape_scripts_rely_on(api: Api) -> None:
    assert await call(api, "list") == []
    await call(api, "add", rules=[RULE])
    assert await call(api, "list") == [VIEW]


async def test_workers_have_the_shape_scripts_rely_on(api: Api) -> None:
    assert await call(api, "list_workers") == [
        {
            "worker_id": 0,
            "pid": None,
            "core": 1,
            "interfaces": ["eth0"],
            "state": "waiting",
            "restarts": 2,
            "generation": 3,
            "last_exit": None,
            "io": None,
        }
    ]


async def test_stats_have_the_shape_scripts_rely_on(api: Api, actors: Actors) -> None:
    output = OutputStats(IPv4Address("239.2.2.2"), 5001, "eth1", 9, 8, 1, 0, 700, SendError(errno.ENETDOWN, 3.5))
    actors.stats = Stats(
        IngressStats(recv=10, matched=9, no_match=1, pps=1.5),
        EgressStats(submitted=9, sent=8, errors=1, bytes=700, pps=1.5),
        (RuleStats("x", None, 9, 8, 1, 700, 1.5, 99.5, (output,)),),
        (WorkerStats(0, 10, 9, 0, 1, 0, 0, 9, 8, 1, 700, 0),),
        (InterfaceStats("eth0", 10, 0),),
    )
    stats = await call(api, "stats")
    assert stats["ingress"].keys() >= {
        "recv",
        "matched",
        "parse_err",
        "no_match",
        "buf_exhaust",
        "kernel_drops",
        "pps",
    }
    assert stats["egress"].keys() >= {"submitted", "sent", "errors", "bytes", "pps"}
    (rule,) = stats["rules"]
    assert rule.keys() >= {"rule_id", "matched", "sent", "errors", "bytes", "pps", "bps"}
    (told,) = rule["outputs"]
    assert list(told) == [
        *("group", "port", "interface", "submitted", "sent", "errors", "in_doubt", "bytes"),
        *("last_error", "last_error_ago"),
    ]
    assert (told["group"], told["last_error"], told["last_error_ago"]) == (
        "239.2.2.2",
        "Network is down (os error 100)",
        3.5,
    )
    (worker,) = stats["workers"]
    assert (worker["worker_id"], worker["recv"]) == (0, 10)


async def test_ping_answers(api: Api) -> None:
    assert await call(api, "ping") == {"pong": True}


async def test_version_names_the_process(api: Api) -> None:
    assert await call(api, "version") == {"version": mcr.__version__, "protocol": 1, "pid": os.getpid()}


# Log levels


async def test_levels_are_shown_by_label(api: Api) -> None:
    assert await call(api, "log_level.get") == INFO


async def test_every_facility_is_set(api: Api) -> None:
    assert await call(api, "log_level.set", level="trace") == dict.fromkeys(INFO, "trace")
    assert await call(api, "log_level.get") == dict.fromkeys(INFO, "trace")


async def test_one_facility_is_set(api: Api) -> None:
    assert await call(api, "log_level.set", level="debug", facility="egress") == INFO | {"egress": "debug"}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "Missing parameter: level"),
        ({"level": "loud"}, "Unknown level: 'loud'"),
        ({"level": 3}, "level must be a string, not a whole number"),
        ({"level": "info", "facility": "radio"}, "Unknown facility: 'radio'"),
    ],
)
async def test_a_wrong_level_or_facility_is_told(
    api: Api, actors: Actors, params: dict[str, int] | dict[str, str], words: str
) -> None:
    assert (await refusal(api, "log_level.set", **params)).message == words
    assert actors.levels == LogLevels()


# Methods


@pytest.mark.parametrize("method", ["list_workers", "ping", "version", "log_level.get"])
async def test_a_method_without_parameters_takes_none(api: Api, method: str) -> None:
    error = await refusal(api, method, verbose=True)
    assert (error.message, error.hints) == ("Unknown parameter: verbose", ("parameters: none",))


async def test_an_unknown_method_is_told_with_the_known_ones(api: Api) -> None:
    with pytest.raises(MethodNotFound, match="Unknown method: 'lst'") as caught:
        await api.call("lst", {})
    assert "list_workers" in caught.value.hints[0]
