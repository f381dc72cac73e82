"""Parameters that are wrong: each fault is told with its path."""

import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from api_actors import RULE, Actors, refusal
from mcr.config.settings import Settings
from mcr.control.methods import Api
from mcr.errors import InvalidParams, LimitReached
from mcr.model.log import LogLevels


@pytest.fixture
def actors() -> Actors:
    return Actors()


@pytest.fixture
def api(actors: Any) -> Api:
    return Api(actors, actors, actors, actors, actors, Settings("/run/mcr/control.sock", 1, LogLevels()), actors)


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
        ([edited("outputs", 0, ttl="8")], "Invalid ttl: '8'"),
        ([edited("outputs", 0, ttl=8.5)], "rules[0].outputs[0].ttl must be a whole number, not a fraction"),
        ([edited("outputs", 0, dscp=True)], "rules[0].outputs[0].dscp must be a whole number, not a boolean"),
        ([edited("outputs", 0, source=8)], "rules[0].outputs[0].source must be a string, not a whole number"),
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
        (
            edited("input", group="240.0.0.1"),
            "Invalid input group: '240.0.0.1' is not an address that datagrams are sent to",
            ".input",
        ),
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


async def test_a_wrong_value_names_its_output_if_there_are_several(api: Api) -> None:
    words = "Invalid ttl: 0"
    rule = edited(outputs=[*RULE["outputs"], {"group": "ff15::2", "port": 5001, "interface": "eth1", "ttl": 0}])
    assert (await refusal(api, "add", rules=[rule])).message == f"{words} (outputs[1]: [ff15::2]:5001:eth1)"
    several = await refusal(api, "add", rules=[RULE, rule])
    assert several.message == f"{words} (rules[1].outputs[1]: [ff15::2]:5001:eth1)"
    change = await refusal(api, "change", rule_id="cam", add_outputs=rule["outputs"])
    assert change.message == f"{words} (add_outputs[1]: [ff15::2]:5001:eth1)"
    rule["outputs"][1] = {"group": "x" * 200, "port": None}
    assert (await refusal(api, "add", rules=[rule])).faults[0].message.endswith(f"(outputs[1]: {'x' * 100})")


async def test_a_wrong_value_keeps_its_hints(api: Api) -> None:
    error = await refusal(api, "add", rules=[edited("input", group="240.0.0.1")])
    assert error.hints == ("a group such as 239.1.1.1 or ff15::1, an address of this machine, or a broadcast address",)


async def test_an_unknown_parameter_is_told_with_the_known_ones(api: Api) -> None:
    error = await refusal(api, "add", rules=[edited("outputs", 0, prot=1)])
    assert error.hints == (
        (
            "parameters of rules[0].outputs[0]: "
            "group, port, interface, gso, ttl, dscp, source, source_port, vlan, prefix, last_port"
        ),
    )


async def test_all_faults_are_one_error(api: Api) -> None:
    error = await refusal(api, "add", rules=[edited("outputs", 0, port=..., prot=1), edited("input", group="x")])
    assert error.message == (
        "Missing parameter: rules[0].outputs[0].port; Unknown parameter: rules[0].outputs[0].prot; "
        "Invalid input group: 'x' is not an IP address (rules[1].input.group)"
    )


async def test_of_many_faults_the_first_are_told(api: Api) -> None:
    error = await refusal(api, "add", rules=[{}] * 100)
    assert error.message.endswith("Missing parameter: rules[1].input; and more faults")
    assert error.faults[-1].message == "Missing parameter: rules[9].outputs"


HUGE: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "unknown parameters": ("ping", lambda: {str(number): 0 for number in range(200_000)}),
    "entries that are not rules": ("add", lambda: {"rules": [1] * 1_000_000}),
    "rules without anything": ("add", lambda: {"rules": [{}] * 16_000}),
    "outputs": ("add", lambda: {"rules": [{"input": {}, "outputs": [1] * 1_000_000}]}),
    "outputs of many rules": ("add", lambda: {"rules": [RULE | {"outputs": RULE["outputs"] * 512}] * 16_000}),
    "a name": ("add", lambda: {"rules": [RULE | {"name": "." * 10_000_000}]}),
    "an address": ("add", lambda: {"rules": [RULE | {"input": RULE["input"] | {"group": "." * 10_000_000}}]}),
    "an id": ("remove", lambda: {"rule_id": "x" * 10_000_000}),
    "a level": ("log_level.set", lambda: {"level": "x" * 10_000_000}),
    "another type": ("why", lambda: {"rule": [[]] * 1_000_000}),
}


@pytest.mark.parametrize("case", HUGE)
async def test_what_is_huge_and_wrong_is_refused_at_once(api: Api, case: str) -> None:
    """By its length, or after the first faults: in little time, with little memory, in a few words."""
    method, make = HUGE[case]
    params = make()
    tracemalloc.start()
    try:
        before = time.process_time()  # what others take is not its own
        with pytest.raises((InvalidParams, LimitReached)) as caught:
            await api.call(method, params)
        took = time.process_time() - before
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
