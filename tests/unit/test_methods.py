"""The methods: their parameters, their results, and the words for what is wrong with a request."""

import errno
import os
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

import mcr
from api_actors import INFO, RULE, SHOWN, SHOWN_VALUES, VIEW, Actors, call, refusal
from mcr.config.difference import RuleDifference
from mcr.config.settings import Settings
from mcr.control.methods import Api
from mcr.errors import MethodNotFound, RuleExists, RuleNotFound, UnconfirmedApply
from mcr.model.edit import RuleEdit
from mcr.model.flow import Input
from mcr.model.log import LogLevels
from mcr.model.rule import Output, Rule
from mcr.model.selection import Selection
from mcr.model.stats import (
    EgressStats,
    IngressStats,
    InterfaceStats,
    Stats,
    WorkerStats,
)
from mcr.shm.segment import OutputCounters


@pytest.fixture
def actors() -> Actors:
    return Actors()


@pytest.fixture
def api(actors: Any) -> Api:
    return Api(actors, actors, actors, actors, actors, Settings("/run/mcr/control.sock", 1, LogLevels()), actors)


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
    actors.counted = ((3, ()), (5, ()))
    for which in ("b", "other"):
        (listed,) = await call(api, "list", rule=which)
        (read,) = (await call(api, "stats", rule=which))["rules"]
        assert listed["rule_id"] == read["rule_id"] == "other"
        assert read["matched"] == 5
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
    await call(api, "add", rules=[RULE])
    actors.counted = ((9, (OutputCounters(9, 8, 1, 0, 700, 8_500_000 << 16 | errno.ENETDOWN),)),)
    actors.stats = Stats(
        IngressStats(recv=10, matched=9, no_match=1, pps=1.5),
        EgressStats(submitted=9, sent=8, errors=1, bytes=700, pps=1.5),
        workers=(WorkerStats(0, 10, 9, 0, 1, 0, 0, 9, 8, 1, 700, 0),),
        interfaces=(InterfaceStats("eth0", 10, 0),),
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
        *("pps", "bps", "error_pps", "last_error", "last_error_ago"),
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
    told = await call(api, "version")
    started = datetime.fromisoformat(told.pop("started"))
    network = Path("/proc/self/ns/net").stat().st_ino
    assert told == {"version": mcr.__version__, "protocol": 1, "pid": os.getpid(), "network_namespace": network}
    assert 0 <= (datetime.now(UTC) - started).total_seconds() < 600


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


# The configuration files


async def test_a_reload_is_told_from_an_apply(api: Api) -> None:
    assert (await call(api, "config.apply"))["faults"] == []
    with pytest.raises(UnconfirmedApply):
        await call(api, "config.apply", reload=True)


async def test_an_apply_tells_of_new_rules_that_are_not_active(api: Api, actors: Actors) -> None:
    added = (Rule("a", SHOWN.input, SHOWN.outputs), Rule("other", SHOWN.input, SHOWN.outputs))
    await actors.add(added, wait=True)
    rule = added[0]
    actors.differences = (RuleDifference("a", "added", None, rule), RuleDifference("gone", "changed", rule, rule))
    applied = await call(api, "config.apply")
    assert applied["not_active"] == [{"rule_id": "a", "name": None, "state": "pending", "reason": "soon"}]


# Methods


@pytest.mark.parametrize("method", ["list_workers", "ping", "version", "log_level.get"])
async def test_a_method_without_parameters_takes_none(api: Api, method: str) -> None:
    error = await refusal(api, method, verbose=True)
    assert (error.message, error.hints) == ("Unknown parameter: verbose", ("parameters: none",))


async def test_an_unknown_method_is_told_with_the_known_ones(api: Api) -> None:
    with pytest.raises(MethodNotFound, match="Unknown method: 'lst'") as caught:
        await api.call("lst", {})
    assert "list_workers" in caught.value.hints[0]
